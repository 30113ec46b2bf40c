"""What every dataset offers: a name, its classes, and images read by index."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
MOST_CLASSES = 2**16  # the last layer grows with them


@dataclass(frozen=True)
class Images:
    """Labelled images as they are stored, one byte a sample.

    `pixels`: uint8 (n, H, W, 3), red, green, blue; of training/features.py, vectors (n, C) instead.
    `labels`: int64 (n,), 0 <= label < classes.
    """

    pixels: NDArray[Any]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)


def classes_without(labels: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Those of `count` classes that no label is of."""
    return np.flatnonzero(np.bincount(labels, minlength=count) == 0)


class Dataset(Protocol):
    """A source of labelled images; `read` returns just the rows asked for, in their order.

    It may have a method `labels(split)`, which gives all of them without any pixels, and
    `file(split, index)`, the name of an image's file: see `labels_of` and `file_of`.
    """

    @property
    def name(self) -> str: ...

    @property
    def location(self) -> str:
        """Where it lies: a folder, or words such as "drawn from seed 0"."""

    @property
    def classes(self) -> Sequence[str]: ...

    @property
    def image_size(self) -> int:
        """Height and width of a stored image, pixels."""

    @property
    def resident(self) -> bool:
        """Whether a rank keeps its shard in memory; else each batch is read when its turn comes."""

    def size(self, split: Split) -> int:
        """Number of images in a split; 0 of `val` where nothing is held out."""

    def digest(self) -> str:
        """A hash of all that it holds: two ranks with the same one read the same images."""

    def read(self, split: Split, indices: NDArray[np.int64]) -> Images:
        """Read the images at `indices`. Raises NpnetError if the data are not as they should be."""
