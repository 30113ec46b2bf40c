"""npnet's own checkpoints as weights, and weights as a checkpoint that a run has not begun."""

from pathlib import Path

import numpy as np

import npnet
from npnet.model.weights import Weights
from npnet.training import checkpoint
from npnet.training.checkpoint import VERSION, Checkpoint, Header
from npnet.training.recipe import MODERN

NO_DATASET = "unknown"  # of weights that come from elsewhere


def read_npz(path: Path) -> Weights:
    """The network of a checkpoint. Raises NpnetError."""
    return checkpoint.load(path).weights()


def write_npz(weights: Weights, path: Path) -> None:
    """A checkpoint of no epoch, to be tested, asked and fine-tuned. Raises NpnetError.

    Classes without names are called by their numbers.
    """
    header = Header(
        version=VERSION,
        npnet=npnet.__version__,
        model=weights.config,
        classes=weights.classes or tuple(map(str, range(weights.config.classes))),
        dataset=NO_DATASET,
        recipe=MODERN,
        seed=42,  # as that of a run which says nothing: --val-split then holds out the same
        epoch=0,
        epochs=0,
        world=1,
    )
    velocity = np.zeros_like(weights.values)
    checkpoint.save(path, Checkpoint(header, weights.values, weights.statistics, velocity))
