"""Weights of other programs, read and written: their names, layouts and preprocessing."""

from pathlib import Path

from npnet.model.weights import Weights
from npnet.training.checkpoint import load


def read_weights(path: Path) -> Weights:
    """The weights in a file. Raises NpnetError for a file that holds none."""
    return load(path).weights()
