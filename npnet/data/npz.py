"""A dataset in one .npz: x_train, y_train, x_test, y_test, as Keras has them.

Images are uint8, (n,S,S), (n,S,S,1) or (n,S,S,3); labels whole numbers from 0, (n,) or (n,1). There
may be x_val and y_val. What is packed (`numpy.savez_compressed`) is unpacked on the way, block by
block, at each read: no more is in memory than the images that were asked for.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from npnet.archive import ArrayArchive, ArrayFile
from npnet.data.dataset import MOST_CLASSES, SPLITS, Images, Split, classes_without
from npnet.errors import NpnetError
from npnet.untrusted import Refused, open_file, stamp_of

BLOCK = 2**20  # bytes
MOST_IMAGES = 10**7
LARGEST = 2**12  # pixels across
MOST_UNPACKED = 100  # times what a packed array takes in the file, which no photographs reach
_INTEGERS = {f"{order}{kind}{width}" for order in "<|" for kind in "iu" for width in "1248"}


class KerasArrays:
    """A `Dataset` in an .npz. Raises NpnetError, here and from `read`, if it is not as above."""

    resident = True

    def __init__(self, path: Path) -> None:
        self.name, self.location, self._path = path.stem, str(path), path
        try:
            with open_file(path) as file:
                self._stamp = stamp_of(os.fstat(file.fileno()))
                self._read_all(_archive(file))
        except OSError as error:
            raise NpnetError(f"cannot read {path}: {error.strerror or error}") from error
        except Refused as error:
            raise NpnetError(
                f"{path} is no dataset: {error}; give an .npz with x_train, y_train, x_test and "
                "y_test as Keras has them, or a folder of images"
            ) from error

    def _read_all(self, archive: ArrayArchive) -> None:
        """Check everything, and keep the labels."""
        self._images: dict[Split, ArrayFile] = {}
        self._labels: dict[Split, NDArray[np.int64]] = {}
        digest, sizes = hashlib.sha256(), set[int]()
        for split in SPLITS:
            names = (f"x_{split}.npy", f"y_{split}.npy")
            present = [name in archive.members for name in names]
            if not any(present):
                continue
            if not all(present):
                raise Refused(f"it has one of {names[0]} and {names[1]}")
            for name in names:
                member = archive.members[name]
                if member.size > MOST_UNPACKED * max(member.packed, BLOCK):
                    raise Refused(f"{name} would unpack to {member.size:,} bytes")
            images = _checked_images(names[0], archive.header(names[0]))
            self._images[split] = images
            self._labels[split] = _read_labels(archive, names[1], images.shape[0])
            sizes.add(images.shape[1])
            for name in names:
                archive.check_sum(name)
                member = archive.members[name]
                digest.update(f"{name} {member.size} {member.crc} ".encode())
        if len(sizes) > 1:
            raise Refused("its images have several sizes")
        (self.image_size,) = sizes
        self._digest = digest.hexdigest()[:16]
        count = 1 + max(int(labels.max()) for labels in self._labels.values())
        self.classes: Sequence[str] = [str(label) for label in range(count)]
        without = classes_without(self._labels["train"], count)
        if len(without):
            raise Refused(f"no training image is of class {without[0]}, of {count}")
        if count < 2:
            raise Refused("it has one class: there is nothing to tell apart")

    def size(self, split: Split) -> int:
        return len(self._labels[split]) if split in self._labels else 0

    def digest(self) -> str:
        """A hash of the arrays' checksums."""
        return self._digest

    def labels(self, split: Split) -> NDArray[np.int64]:
        """All labels of a split (n,)."""
        return self._labels[split]

    def read(self, split: Split, indices: NDArray[np.int64]) -> Images:
        """The images at `indices` (n,), in that order; grey ones in three equal colours."""
        size = self.size(split)
        if len(indices) and not (indices.min() >= 0 and indices.max() < size):
            raise IndexError(f"indices reach outside of 0 <= index < {size}")
        colours = self._images[split].shape[3] if len(self._images[split].shape) == 4 else 1
        shape = (self.image_size, self.image_size, colours)
        pixels = np.empty((len(indices), self.image_size, self.image_size, 3), np.uint8)
        order = np.argsort(indices, kind="stable")
        try:
            with open_file(self._path) as file:
                if stamp_of(os.fstat(file.fileno())) != self._stamp:
                    raise NpnetError(f"{self._path} was changed since this run began: start again")
                _copy(_archive(file).blocks(f"x_{split}.npy", BLOCK), shape, indices, order, pixels)
        except (OSError, Refused) as error:
            raise NpnetError(f"cannot read {self.location}: {error}") from error
        return Images(pixels, self._labels[split][indices])


def _checked_images(name: str, found: ArrayFile) -> ArrayFile:
    shape = found.shape
    if (
        found.dtype != "|u1"
        or found.fortran
        or len(shape) not in (3, 4)
        or not 1 <= shape[0] <= MOST_IMAGES
        or not 1 <= shape[1] == shape[2] <= LARGEST
        or shape[3:] not in ((), (1,), (3,))
    ):
        raise Refused(
            f"{name} holds {found.dtype} {shape}, where uint8 (n,S,S), (n,S,S,1) or (n,S,S,3) was "
            "expected, from 0 to 255"
        )
    return found


def _read_labels(archive: ArrayArchive, name: str, count: int) -> NDArray[np.int64]:
    found = archive.header(name)
    if found.dtype not in _INTEGERS or found.shape not in ((count,), (count, 1)):
        raise Refused(
            f"{name} holds {found.dtype} {found.shape}, where {count:,} whole numbers were expected"
        )
    labels = np.frombuffer(b"".join(archive.blocks(name, BLOCK)), found.dtype)
    if not (labels.min() >= 0 and labels.max() < MOST_CLASSES):
        raise Refused(f"{name} has labels outside of 0 to {MOST_CLASSES - 1}")
    return labels.astype(np.int64)


def _copy(
    blocks: Iterator[bytes],
    shape: tuple[int, int, int],
    indices: NDArray[np.int64],
    order: NDArray[np.int64],
    pixels: NDArray[np.uint8],
) -> None:
    """pixels[order] = the images at indices[order], which ascend."""
    one, start, held, wanted = int(np.prod(shape)), 0, bytearray(), 0
    for block in blocks:
        held += block
        count = len(held) // one
        images = np.frombuffer(held, np.uint8, count * one).reshape(count, *shape)
        while wanted < len(order) and indices[order[wanted]] < start + count:
            pixels[order[wanted]] = images[indices[order[wanted]] - start]
            wanted += 1
        if wanted == len(order):
            return
        del images  # which holds the bytes in their place
        del held[: count * one]
        start += count


def _archive(file: BinaryIO) -> ArrayArchive:
    return ArrayArchive(
        file,
        os.fstat(file.fileno()).st_size,
        0,
        ("x_train.npy", "y_train.npy"),
        optional=[f"{letter}_{split}.npy" for split in ("val", "test") for letter in "xy"],
        packed=True,
    )
