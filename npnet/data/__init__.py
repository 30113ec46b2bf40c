"""Datasets: CIFAR-10 and CIFAR-100 from files, `shapes` drawn on the spot, and their batches."""

from pathlib import Path

from npnet.data.dataset import Dataset
from npnet.errors import NpnetError

DATASETS = ("shapes", "cifar10", "cifar100")


def open_dataset(name: str, data_dir: Path | None = None) -> Dataset:
    """The dataset called `name`; for CIFAR, looked for in `data_dir` or the usual places.

    Raises NpnetError if there is no such dataset, or if its files cannot be found.
    """
    if name == "shapes":
        from npnet.data.shapes import Shapes

        return Shapes()
    if name in DATASETS:
        from npnet.data.cifar import find

        return find(name, data_dir)
    raise NpnetError(f"unknown dataset {name!r}: choose one of {', '.join(DATASETS)}")
