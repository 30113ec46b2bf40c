"""Zip files and arrays that somebody else may have made: .npy, .npz as `numpy.savez` writes it.

Of a zip file each member lies there once, where its directory says, stored as it is or, where a
caller takes such, deflated: that comes in blocks, which take no more memory than the caller keeps.
The header of an array says how much memory it wants: here just what lies behind it, and the shape
that the caller expects. So a small file cannot ask for much. Nothing of it is evaluated.
"""

import io
import re
import struct
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from npnet.untrusted import Refused

# --- .npy: magic, version, length of the header, and the header, a line of Python that says dtype,
# order and shape. Source: numpy.lib.format.
_MAGIC = re.compile(rb"\x93NUMPY([\x01-\x03])\x00")
_HEADER = re.compile(
    r"\{'descr': '([^']{1,40})', 'fortran_order': (True|False), 'shape': \(([0-9, ]*)\), ?\} *\n"
)
_LONGEST_HEADER = 4096  # bytes; NumPy writes 128
_LONGEST_NPY_HEADER = 12 + _LONGEST_HEADER  # with what stands before it
_MOST_AXES = 32


@dataclass(frozen=True)
class ArrayFile:
    """What the header of a .npy says, and how long it is, bytes."""

    dtype: str  # as NumPy writes it, such as <f4
    fortran: bool
    shape: tuple[int, ...]
    start: int

    def read(self, file: BinaryIO) -> NDArray[Any]:
        """The array, from a file that stands at its first byte. `dtype` must be a number's."""
        array: NDArray[Any] = np.empty(prod(self.shape), self.dtype)
        if _fill(file, array.view(np.uint8).data) < array.nbytes:
            raise Refused("it was cut short")
        return array.reshape(self.shape, order="F" if self.fortran else "C")


def _fill(file: BinaryIO, view: memoryview) -> int:
    """Read until `view` is full or the file ends; how many bytes that were."""
    done = 0
    while done < len(view) and (count := file.readinto(view[done:])):  # type: ignore[attr-defined]
        done += count
    return done


def array_header(file: BinaryIO, size: int) -> ArrayFile:
    """The header of a .npy of numbers that is `size` bytes in all and begins here.

    Raises Refused unless its array takes just the bytes that are there.
    """
    magic = _MAGIC.fullmatch(file.read(8))
    if magic is None:
        raise Refused("it is no array of NumPy's")
    width = 2 if magic[1] == b"\1" else 4
    length = int.from_bytes(file.read(width), "little")
    if length > _LONGEST_HEADER:
        raise Refused(f"its header has {length} bytes")
    found = _HEADER.fullmatch(file.read(length).decode("latin-1"))
    if found is None:
        raise Refused("its header is not as NumPy writes it")
    dtype, fortran, axes = found.groups()
    if not re.fullmatch("[<>|=]?[biufc][0-9]{1,2}", dtype):
        raise Refused(f"it is no array of numbers but of {dtype!r}")
    try:
        itemsize = np.dtype(dtype).itemsize
    except TypeError as error:
        raise Refused(f"there are no numbers called {dtype!r}") from error
    words = axes.removesuffix(",").split(", ") if axes else []
    if len(words) > _MOST_AXES or not all(re.fullmatch("[0-9]{1,18}", word) for word in words):
        raise Refused(f"its shape is ({axes:.40})")
    shape, start = tuple(map(int, words)), 8 + width + length
    if start + prod(shape) * itemsize != size:
        raise Refused(f"its shape {_short(shape)} does not fit the {size:,} bytes that it has")
    return ArrayFile(dtype, fortran == "True", shape, start)


def _short(shape: tuple[int, ...]) -> str:
    text = str(shape)
    return text if len(text) <= 40 else f"{text[:39]}…"


# --- Zip files. Source: PKWARE's APPNOTE.TXT, sections 4.3.7, 4.3.12, 4.3.14 to 4.3.16.
_LOCAL, _CENTRAL, _END = "<4s5H3L2H", "<4s6H3L5H2L", "<4s4H2LH"
_END_64 = 56 + 20  # bytes: the same record with 64 bits, and its locator, which PyTorch adds
_UTF8, _SIZES_BEHIND = 0x800, 0x8  # the flags that a member may have; the directory has its sizes
_NEWEST = 45  # version 4.5 of the format, which numpy.savez writes
_DEFLATED = 8  # a method
_BLOCK = 1 << 20  # bytes


@dataclass(frozen=True)
class Member:
    """Where the bytes of a member lie, and their checksum. `packed`: how many they are there."""

    start: int
    size: int
    crc: int
    packed: int
    deflated: bool = False


class Archive:
    """The members of a zip file that is `size` bytes long, its comment of `comment` bytes included.

    Each must be there once, and stored as it is or, where `packed`, deflated. Raises Refused for
    anything else.
    """

    def __init__(self, file: BinaryIO, size: int, comment: int = 0, packed: bool = False) -> None:
        self.file, self.size, self.methods = file, size, (0, _DEFLATED) if packed else (0,)
        end = size - comment - struct.calcsize(_END)
        fields = self._unpack(_END, end)
        mark, disk, first, here, entries, length, start, note = fields
        if mark != b"PK\5\6" or note != comment:
            raise Refused("it is no archive, or was cut short")
        if disk or first or here != entries:
            raise Refused("its directory is in parts")
        if start + length not in (end, end - _END_64):
            raise Refused("its directory is not where it should be")
        self.members: dict[str, Member] = {}
        for _ in range(entries):
            name, member, start = self._entry(start, end)
            if name in self.members:
                raise Refused(f"it has the member {name!r:.40} twice")
            self.members[name] = member
        taken = sorted((each.start, each.start + each.packed) for each in self.members.values())
        if any(before[1] > after[0] for before, after in pairwise(taken)):
            raise Refused("its members lie over each other")

    def _unpack(self, layout: str, at: int) -> Any:
        length = struct.calcsize(layout)
        if not 0 <= at <= self.size - length:
            raise Refused("it is no archive, or was cut short")
        self.file.seek(at)
        return struct.unpack(layout, self.file.read(length))

    def _entry(self, at: int, end: int) -> tuple[str, Member, int]:
        """An entry of the directory, which begins at `at`: its name, and where the next begins."""
        fields = self._unpack(_CENTRAL, at)
        mark, flags, method = fields[0], fields[3], fields[4]
        crc, packed, size, letters, extra, note = fields[7:13]
        name = self.file.read(letters).decode("latin-1")
        after = at + struct.calcsize(_CENTRAL) + letters + extra + note
        if mark != b"PK\1\2" or after > end:
            raise Refused("its directory is broken")
        if (
            fields[2] & 0xFF > _NEWEST
            or method not in self.methods
            or flags & ~(_UTF8 | _SIZES_BEHIND)
            or (packed != size and not method)
        ):
            raise Refused(f"its member {name!r:.40} is packed, encrypted or of a newer zip")
        local = fields[-1]
        mark, _, flags, here, *_, letters, extra = self._unpack(_LOCAL, local)
        start = local + struct.calcsize(_LOCAL) + letters + extra
        if (
            mark != b"PK\3\4"
            or here != method
            or flags & ~(_UTF8 | _SIZES_BEHIND)
            or start + packed > self.size
        ):
            raise Refused(f"its member {name!r:.40} is not where its directory says")
        return name, Member(start, size, crc, packed, method == _DEFLATED), after

    def content(self, name: str, most: int) -> bytes:
        """The bytes of a member of `most` bytes or less."""
        member = self.members[name]
        if member.size > most:
            raise Refused(f"{name} has {member.size:,} bytes, {most:,} at most were expected")
        self.check_sum(name)
        self.file.seek(member.start)
        return self.file.read(member.size)

    def check_sum(self, name: str) -> None:
        """Raise Refused unless a member has the bytes and the checksum that its directory says."""
        member, crc, size = self.members[name], 0, 0
        for block in self._bytes(member, _BLOCK):
            crc, size = zlib.crc32(block, crc), size + len(block)
        if size != member.size:
            raise Refused("it was cut short")
        if crc != member.crc:
            raise Refused(f"the checksum of {name} does not fit")

    def _bytes(self, member: Member, most: int) -> Iterator[bytes]:
        """A member's bytes as they were before it was packed, in blocks of `most` or fewer."""
        if member.deflated:
            yield from self._inflated(member, most)
            return
        done = 0
        while done < member.size:
            self.file.seek(member.start + done)  # others may have read meanwhile
            block = self.file.read(min(most, member.size - done))
            if not block:
                return
            done += len(block)
            yield block

    def _inflated(self, member: Member, most: int) -> Iterator[bytes]:
        inflater, done, left = zlib.decompressobj(-zlib.MAX_WBITS), 0, member.packed
        waiting = b""
        while done < member.size and not inflater.eof:
            if not waiting:
                self.file.seek(member.start + member.packed - left)
                waiting = self.file.read(min(_BLOCK, left))
                left -= len(waiting)
            try:
                block = inflater.decompress(waiting, min(most, member.size - done))
            except zlib.error as error:
                raise Refused(f"it is damaged ({error})") from error
            if not block and not waiting:
                return  # it was cut short
            waiting = inflater.unconsumed_tail
            done += len(block)
            if block:
                yield block


class ArrayArchive(Archive):
    """An .npz whose members are the `names`, perhaps with some of the `optional` ones."""

    def __init__(
        self,
        file: BinaryIO,
        size: int,
        comment: int,
        names: Collection[str],
        optional: Collection[str] = (),
        packed: bool = False,
    ) -> None:
        super().__init__(file, size, comment, packed)
        for name in self.members:
            if name not in (*names, *optional):
                raise Refused(f"it has a member {name!r:.40}, which is not expected")
        for name in names:
            if name not in self.members:
                raise Refused(f"it lacks the member {name!r}")

    def header(self, name: str) -> ArrayFile:
        """What a member says of itself."""
        member = self.members[name]
        if member.deflated:
            first = next(self._inflated(member, _LONGEST_NPY_HEADER), b"")
            return array_header(io.BytesIO(first), member.size)
        self.file.seek(member.start)
        return array_header(self.file, member.size)

    def blocks(self, name: str, most: int) -> Iterator[bytes]:
        """The bytes of a member's array, in blocks of `most` or fewer."""
        left = self.header(name).start
        for block in self._bytes(self.members[name], most):
            rest = block[left:]
            left -= len(block) - len(rest)
            if rest:
                yield rest

    def read(
        self,
        name: str,
        dtypes: Collection[str],
        shape: tuple[int, ...] | None,
        most: int | None = None,
    ) -> NDArray[Any]:
        """A member's array: of one of `dtypes`, of `shape` and of `most` bytes, unless None."""
        member, found = self.members[name], self.header(name)
        if most is not None and member.size > most:
            raise Refused(f"{name} has {member.size:,} bytes, {most:,} at most were expected")
        if found.dtype not in dtypes:
            raise Refused(f"{name} holds {found.dtype}, where {' or '.join(dtypes)} was expected")
        if shape is not None and found.shape != shape:
            raise Refused(f"{name} has the shape {_short(found.shape)}, where {shape} was expected")
        self.check_sum(name)
        self.file.seek(member.start + found.start)
        return found.read(self.file)
