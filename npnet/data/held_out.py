"""A part of the training images, held out to validate on."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from npnet.data.dataset import Dataset, Images, Split
from npnet.data.seeds import HELD_OUT, generator
from npnet.errors import NpnetError

BYTES_AT_ONCE = 32 * 2**20  # of images that are read for their labels


class HeldOut:
    """A dataset whose `val` is a part of another's `train`; the rest of it is `train`.

    Of each class that part is `fraction`, rounded, and one image at least: drawn by `seed` and by
    the labels alone, so that all ranks, and a run that goes on with others, hold out the same.
    Raises NpnetError if the dataset has a `val` of its own, or a class would be left without.
    """

    def __init__(self, dataset: Dataset, fraction: float, seed: int) -> None:
        if not 0 < fraction < 1:
            raise NpnetError(f"`val_split` {fraction} is not usable: give a part such as 0.1")
        if dataset.size("val"):
            raise NpnetError(
                f"{dataset.name} in {dataset.location} has images to validate on: leave "
                "`val_split` out"
            )
        self.dataset, self.name, self.location = dataset, dataset.name, dataset.location
        self.classes: Sequence[str] = dataset.classes
        self.image_size, self.resident = dataset.image_size, dataset.resident
        self._said = f"val {fraction} of seed {seed}"
        held = _draw(labels_of(dataset, "train"), dataset, fraction, seed)
        self._rows: dict[Split, NDArray[np.int64]] = {
            "train": np.flatnonzero(~held),
            "val": np.flatnonzero(held),
        }

    def size(self, split: Split) -> int:
        return len(self._rows[split]) if split in self._rows else self.dataset.size(split)

    def digest(self) -> str:
        return hashlib.sha256(f"{self.dataset.digest()} {self._said}".encode()).hexdigest()[:16]

    def read(self, split: Split, indices: NDArray[np.int64]) -> Images:
        return self.dataset.read(*self._there(split, indices))

    def labels(self, split: Split) -> NDArray[np.int64]:
        """All labels of a split (n,)."""
        there, rows = self._there(split, np.arange(self.size(split)))
        return labels_of(self.dataset, there)[rows]

    def file(self, split: Split, index: int) -> str:
        """The name of an image's file; "" where it has none."""
        there, rows = self._there(split, np.array([index]))
        return file_of(self.dataset, there, int(rows[0]))

    def _there(self, split: Split, indices: NDArray[np.int64]) -> tuple[Split, NDArray[np.int64]]:
        """Where the dataset itself has these images."""
        if split not in self._rows:
            return split, indices
        return "train", self._rows[split][indices]


def _draw(
    labels: NDArray[np.int64], dataset: Dataset, fraction: float, seed: int
) -> NDArray[np.bool_]:
    """Which images are held out."""
    held = np.zeros(len(labels), np.bool_)
    for label, name in enumerate(dataset.classes):
        rows = np.flatnonzero(labels == label)
        count = max(round(fraction * len(rows)), 1)
        if count >= len(rows):
            raise NpnetError(
                f"{dataset.name} has {len(rows)} training images of {name!a}: too few to hold "
                f"out `val_split` {fraction} of them"
            )
        held[generator(seed, HELD_OUT, label).permutation(rows)[:count]] = True
    return held


def labels_of(dataset: Dataset, split: Split) -> NDArray[np.int64]:
    """All labels of a split (n,). A dataset without a method `labels` has its images read."""
    own = getattr(dataset, "labels", None)
    if own is not None:
        found: NDArray[np.int64] = own(split)
        return found
    size, rows = dataset.size(split), max(BYTES_AT_ONCE // (3 * dataset.image_size**2), 1)
    parts = [
        dataset.read(split, np.arange(start, min(start + rows, size))).labels
        for start in range(0, size, rows)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.int64)


def file_of(dataset: Dataset, split: Split, index: int) -> str:
    """The name of an image's file, of a dataset that has such; else ""."""
    own = getattr(dataset, "file", None)
    return str(own(split, index)) if own is not None else ""
