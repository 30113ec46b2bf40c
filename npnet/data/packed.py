"""A file of packed images, uint8 squares of one size, read one by one where they lie.

    head      magic, length and SHA-256 of the front
    front     JSON (classes, images of each split, size), names, stamps, labels of the n files
    results   n bytes: TO_DO, DONE or REFUSED; n CRC-32 of the images' bytes
    images    (n, size, size, 3), from a multiple of ALIGNED on; of a refused file a hole
    seal      SHA-256 of head and results, written last

Numbers are little-endian. The front is known before the first image is read, so a file under way
has the same places; it lacks the seal. What tells two packed files apart (`digest`) needs no image:
each has its CRC, which is checked when the image is read.
"""

import hashlib
import json
import os
import struct
import weakref
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npnet.data.dataset import MOST_CLASSES, SPLITS, Images, Split, classes_without
from npnet.data.folder import Listing, is_text
from npnet.data.source import name_of
from npnet.errors import NpnetError
from npnet.untrusted import LARGEST_OBJECT, Refused, parse_json

MAGIC = b"npnet images 1\n\0"
SUFFIX = ".pack"
TO_DO, DONE, REFUSED = range(3)
LARGEST = 2**12  # pixels across
LARGEST_FRONT = 2**28  # bytes: some three million files
ALIGNED = 4096  # bytes
_HEAD = struct.Struct("<16sQ32s")
_SEAL = 32  # bytes


@dataclass(frozen=True)
class Front:
    """What is known before any image is read, and where all lies. `digest` is of its bytes."""

    classes: tuple[str, ...]
    counts: tuple[int, int, int]  # of train, val and test, refused files among them
    size: int  # pixels across
    names: bytes | bytearray | memoryview  # see Listing
    stamps: NDArray[np.int64]
    labels: NDArray[np.int32]

    @classmethod
    def of(cls, listing: Listing, size: int) -> "Front":
        return cls(
            listing.classes,
            listing.counts,
            size,
            listing.names,
            listing.stamps,
            listing.labels,
        )

    @classmethod
    def parsed(cls, data: bytes) -> "Front":
        """Raises Refused for bytes that no packing has written."""
        (length,) = struct.unpack_from("<Q", data) if len(data) >= 8 else (0,)
        if length > LARGEST_OBJECT:
            raise Refused("the JSON of its front is too long")
        found = parse_json(data[8 : 8 + length])
        classes, counts, size = _checked(found)
        n, names = sum(counts), found["names"]
        if 8 + length + names + 20 * n != len(data):
            raise Refused("the lengths of its parts do not fit")
        start = 8 + length + names
        front = cls(
            classes,
            counts,
            size,
            memoryview(data)[8 + length : start],  # a copy would be in memory beside it
            np.frombuffer(data, "<i8", 2 * n, start).reshape(n, 2),
            np.frombuffer(data, "<i4", n, start + 16 * n),
        )
        if data.count(b"\0", 8 + length, start) != n:
            raise Refused("it has not a name for each image")
        if n and not (front.labels.min() >= 0 and front.labels.max() < len(classes)):
            raise Refused("a label is of no class")
        return front

    def paths(self) -> list[str]:
        """Of all files, below the folder, in their order."""
        return [os.fsdecode(each) for each in bytes(self.names).split(b"\0")[:-1]]

    def parts(self) -> Iterator[bytes | bytearray | memoryview]:
        """Its bytes."""
        about = {
            "classes": self.classes,
            "counts": self.counts,
            "size": self.size,
            "names": len(self.names),
        }
        text = json.dumps(about).encode()
        yield struct.pack("<Q", len(text)) + text
        yield self.names
        yield self.stamps.astype("<i8").tobytes()
        yield self.labels.astype("<i4").tobytes()

    def head(self) -> bytes:
        digest, length = hashlib.sha256(), 0
        for part in self.parts():
            digest.update(part)
            length += len(part)
        return _HEAD.pack(MAGIC, length, digest.digest())


def _checked(found: Any) -> tuple[tuple[str, ...], tuple[int, int, int], int]:
    """Classes, images of each split, and size, from a front's JSON."""
    if not isinstance(found, dict) or {*found} != {"classes", "counts", "size", "names"}:
        raise Refused("its front has other fields")
    classes, counts, size = found["classes"], found["counts"], found["size"]
    numbers = [size, found["names"], *(counts if isinstance(counts, list) else [])]
    if len(numbers) != 2 + len(SPLITS) or not all(
        type(each) is int and 0 <= each < 2**40 for each in numbers
    ):
        raise Refused("a number of its front is none")
    if not 1 <= size <= LARGEST:
        raise Refused(f"its images are {size} pixels across")
    if not (
        isinstance(classes, list)
        and all(isinstance(each, str) for each in classes)
        and len({*classes}) == len(classes) > 1
    ):
        raise Refused("its classes are no names, or fewer than two")
    if len(classes) > MOST_CLASSES:
        raise Refused(f"it has {len(classes):,} classes, {MOST_CLASSES:,} is the most")
    for each in classes:
        if not is_text(each):
            raise Refused(f"its class {each!a} is no text")
    return tuple(classes), (counts[0], counts[1], counts[2]), size


@dataclass(frozen=True)
class Places:
    """Where the parts of a file of n images lie, bytes."""

    n: int
    image: int  # bytes of one
    states: int
    crcs: int
    images: int
    seal: int

    @classmethod
    def of(cls, front_bytes: int, n: int, size: int) -> "Places":
        states = _HEAD.size + front_bytes
        crcs = states + n
        images = -(-(crcs + 4 * n) // ALIGNED) * ALIGNED
        return cls(n, 3 * size * size, states, crcs, images, images + n * 3 * size * size)

    def slot(self, index: int) -> int:
        return self.images + index * self.image

    @property
    def end(self) -> int:
        return self.seal + _SEAL


def seal(head: bytes, states: bytes, crcs: bytes) -> bytes:
    return hashlib.sha256(head + states + crcs).digest()


class OpenFile:
    """A packed file, or one under way. Raises Refused unless it is one; OSError as `os.open`."""

    def __init__(self, path: Path, writable: bool = False, sealed: bool = True) -> None:
        flags = os.O_RDWR if writable else os.O_RDONLY
        self.descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
        self.close = weakref.finalize(self, os.close, self.descriptor)
        self.path, size = path, os.fstat(self.descriptor).st_size
        self.head = os.pread(self.descriptor, _HEAD.size, 0)
        if len(self.head) < _HEAD.size or not self.head.startswith(MAGIC):
            raise Refused("it is none of npnet")
        _, length, digest = _HEAD.unpack(self.head)
        if length > size:
            raise Refused("it was cut short")
        if length > LARGEST_FRONT:
            raise Refused(f"its front takes {length:,} bytes, {LARGEST_FRONT:,} is the most")
        data = os.pread(self.descriptor, length, _HEAD.size)
        if hashlib.sha256(data).digest() != digest:
            raise Refused("its front is damaged")
        self.front = Front.parsed(data)
        self.places = Places.of(length, len(self.front.labels), self.front.size)
        if size != self.places.end:
            raise Refused(f"it has {size:,} bytes instead of {self.places.end:,}")
        self.states = np.frombuffer(self._part(self.places.states, 1), np.uint8)
        self.crcs = np.frombuffer(self._part(self.places.crcs, 4), "<u4")
        if sealed:
            found = os.pread(self.descriptor, _SEAL, self.places.seal)
            if found != seal(self.head, self.states.tobytes(), self.crcs.tobytes()):
                raise Refused("its seal does not fit")
            if not np.isin(self.states, (DONE, REFUSED)).all():
                raise Refused("a file of it is neither read nor refused")
            self._check_classes()

    def _check_classes(self) -> None:
        """Raise Refused if there is a class without an image to train on."""
        trained, count = self.front.counts[0], len(self.front.classes)
        labels = self.front.labels[:trained][self.states[:trained] == DONE]
        without = classes_without(labels, count)
        if len(without):
            raise Refused(f"no training image is of class {without[0]}, of {count}")

    def _part(self, start: int, width: int) -> bytes:
        return os.pread(self.descriptor, width * self.places.n, start)

    def front_again(self) -> Front:
        """What was known before any image was read; an open dataset does not keep all of it."""
        _, length, _ = _HEAD.unpack(self.head)
        return Front.parsed(os.pread(self.descriptor, length, _HEAD.size))

    def read_into(self, row: NDArray[np.uint8], index: int) -> bool:
        """Fill a row (size,size,3) with an image; whether it is whole."""
        count = os.preadv(self.descriptor, [row.data], self.places.slot(index))
        return count == self.places.image and zlib.crc32(row.data) == self.crcs[index]


class PackedImages:
    """A `Dataset` in a packed file, of which a few bytes an image are kept in memory.

    `folder`: that which was packed, if it was opened by that. Raises NpnetError, here and from
    `read`, if the file is damaged, or is no packed file.
    """

    resident = False

    def __init__(self, path: Path, folder: Path | None = None) -> None:
        self.path, self.location = path, str(folder or path)
        self.name = name_of(folder or path)
        try:
            file = OpenFile(path)
        except OSError as error:
            raise NpnetError(f"cannot read the images in {path}: {error.strerror}") from error
        except Refused as error:
            raise NpnetError(
                f"{path} is no file of packed images, or is damaged: {error}; pack them again with "
                "npnet data pack"
            ) from error
        front = file.front
        self.classes: Sequence[str] = front.classes
        self.image_size = front.size
        self.left_out = int((file.states == REFUSED).sum())  # files that are no usable image
        self._slots: dict[Split, NDArray[np.int64]] = {}  # of the images of each split
        ends = np.cumsum((0, *front.counts))
        for split, start, end in zip(SPLITS, ends[:-1], ends[1:], strict=True):
            self._slots[split] = start + np.flatnonzero(file.states[start:end] == DONE)
        self._labels, self._file = front.labels.copy(), file
        self._digest = self._hash()
        del file.front  # its names and dates, the most of what it takes

    def size(self, split: Split) -> int:
        return len(self._slots[split])

    def digest(self) -> str:
        """A hash of classes, labels and the images' checksums; not of names and dates of files."""
        return self._digest

    def _hash(self) -> str:
        about = {"classes": self.classes, "size": self.image_size}
        digest = hashlib.sha256(json.dumps(about).encode())
        for slots in self._slots.values():
            digest.update(len(slots).to_bytes(8, "little"))
            digest.update(self._labels[slots].astype("<i4").tobytes())
            digest.update(self._file.crcs[slots].astype("<u4").tobytes())
        return digest.hexdigest()[:16]

    def labels(self, split: Split) -> NDArray[np.int64]:
        """All labels of a split (n,)."""
        return self._labels[self._slots[split]].astype(np.int64)

    def file(self, split: Split, index: int) -> str:
        """The path of an image's file, below the folder that was packed."""
        return self._file.front_again().paths()[int(self._slots[split][index])]

    def read(self, split: Split, indices: NDArray[np.int64]) -> Images:
        """The images at `indices` (n,), in that order, read in the order in which they lie."""
        slots = self._slots[split][indices]
        pixels = np.empty((len(slots), self.image_size, self.image_size, 3), np.uint8)
        for row in np.argsort(slots, kind="stable"):
            if not self._file.read_into(pixels[row], int(slots[row])):
                raise NpnetError(
                    f"{self.path} is damaged in its image {slots[row]}: npnet data pack, with "
                    "the folder of the images, mends it"
                )
        return Images(pixels, self._labels[slots].astype(np.int64))
