"""Packing a folder of images: once, by one process of a host, into a file beside them.

The file grows under another name (`.NAME.part`), and gets its own when it is whole. A packing that
was killed goes on: each image that the file says is done is compared with its checksum. Where files
have changed since, only those are read again, and the others are copied from the file before.
Pictures are read by threads, for Pillow decodes and scales outside of Python's lock.
"""

import errno
import hashlib
import os
import shutil
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from npnet.data.dataset import classes_without
from npnet.data.folder import Listing, scan
from npnet.data.packed import (
    DONE,
    LARGEST,
    MAGIC,
    REFUSED,
    SUFFIX,
    TO_DO,
    Front,
    OpenFile,
    PackedImages,
    Places,
    seal,
)
from npnet.data.pictures import check_pillow, quiet, read_square
from npnet.errors import NpnetError
from npnet.files import flush_folder
from npnet.kernels.home import chosen_home, home
from npnet.locks import Held, Lock
from npnet.machine.telemetry import node_cores
from npnet.untrusted import Refused, open_file

T = TypeVar("T")

SHOWN = 700  # characters of a message for the files that are no images
SECONDS_BETWEEN_WORDS = 0.1
SECONDS_OF_A_TRY = 0.5  # to get the lock, and then to tell how far its holder is
WAITING = 8  # pictures for each thread
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Packing(Protocol):
    """Is told of a packing. The engine itself prints nothing."""

    def said(self, line: str) -> None: ...

    def progress(self, done: int, total: int) -> None:
        """Images so far, ten times a second at most; the last call has done == total."""


class Silent:
    """A `Packing` that tells nothing."""

    def said(self, line: str) -> None: ...

    def progress(self, done: int, total: int) -> None: ...


class UnusableFiles(NpnetError):
    """Files of a folder that are no usable images. `not_shown`: those beyond a message's length."""

    def __init__(self, root: Path, each: Sequence[str], total: int) -> None:
        """`each`: a line for each of them."""
        lengths = list(accumulate(len(line) + 2 for line in each))
        shown = max(sum(length <= SHOWN for length in lengths), 1)
        more = f"; and {len(each) - shown:,} more, which npnet data pack names" * (
            shown < len(each)
        )
        one = len(each) == 1
        super().__init__(
            f"{root}: {len(each):,} of {total:,} files {'is' if one else 'are'} no usable "
            f"image{'' if one else 's'}: {'; '.join(each[:shown])}{more}: mend or remove "
            f"{'it' if one else 'them'}, or leave {'it' if one else 'them'} out with `skip_damaged`"
        )
        self.not_shown = tuple(each[shown:])


def open_folder(
    root: Path,
    size: int,
    skip_damaged: bool = False,
    packing: Packing | None = None,
    out: Path | None = None,
    check: bool = False,
) -> PackedImages:
    """A folder's images, `size` pixels across: packed before they are, or where files have changed.

    The file lies in the folder, or where that cannot be written in the user's cache; or it is
    `out`. Where another process packs, it is waited for. `check`: every image of a file that is
    there is compared with its checksum. Raises NpnetError if the folder is not as it should be
    (see folder.py); UnusableFiles if files are no images, unless `skip_damaged`.
    """
    if not 1 <= size <= LARGEST:
        raise NpnetError(f"`stored_size` {size} is not usable: give 1 to {LARGEST} pixels")
    packing = packing or Silent()
    path = _up_to_date(root, size, skip_damaged, packing, out, check)
    images = PackedImages(path, root)
    if images.left_out:
        packing.said(f"{images.left_out:,} files that are no usable images are left out")
    return images


def _up_to_date(
    root: Path, size: int, skip_damaged: bool, packing: Packing, out: Path | None, check: bool
) -> Path:
    """The packed file of a folder as it is now, which is made where there is none."""
    listing = scan(root)
    front = Front.of(listing, size)
    head = front.head()
    places = [out] if out is not None else _places(root, size)
    found = None
    for path in places:
        found = _packed_before(path, head)
        if found is not None:
            break
    else:
        path = places[0]
    work = _Work(listing, front, path, packing, chosen=out is not None)
    if found is not None and path != places[0]:  # where it may be that nothing can be written
        whole = not check or _is_whole(found, packing)
        if whole and work.suffices(found, skip_damaged):
            return path
        path, found = places[0], None
        work = _Work(listing, front, path, packing, chosen=False)
    if found is None or check or not work.suffices(found, skip_damaged):
        with _alone(work):
            found = _packed_before(path, head)  # by another process meanwhile
            broken = found is not None and check and not _is_whole(found, packing)
            if found is None or broken or not work.suffices(found, skip_damaged):
                work.make(skip_damaged)
    return path


def _places(root: Path, size: int) -> list[Path]:
    """Where a folder's packed file may lie, the place for a new one first."""
    beside = root / f".npnet-{size}{SUFFIX}"
    where = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:24]
    cached = (chosen_home() or home()) / "images" / f"{where}-{size}{SUFFIX}"
    return [beside, cached] if os.access(root, os.W_OK) else [cached, beside]


def _packed_before(path: Path, head: bytes | None = None) -> OpenFile | None:
    """The packed file at `path`, if it is whole; with a `head`, of just these files as they are."""
    with suppress(OSError, Refused):
        found = OpenFile(path)
        if head is None or found.head == head:
            return found
    return None


def _is_whole(file: OpenFile, packing: Packing) -> bool:
    """Whether each image fits its checksum."""
    size, done = file.front.size, np.flatnonzero(file.states == DONE)
    row, words = np.empty((size, size, 3), np.uint8), _Words(packing, len(done))
    for count, index in enumerate(done, 1):
        if not file.read_into(row, int(index)):
            packing.said(f"{file.path} is damaged: it is mended")
            return False
        words.show(count)
    return True


@contextmanager
def _alone(work: "_Work") -> Iterator[None]:
    """While no other process packs the same file."""
    path = work.path
    place = path.with_name(f".{path.name.removeprefix('.')}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            try:
                lock = Lock(place, str(path), SECONDS_OF_A_TRY)
                break
            except Held:
                work.packing.progress(_images_in(work.part), len(work.listing))
    except OSError as error:
        raise _refused(path, error) from error
    try:
        yield
    finally:
        lock.release()


def _images_in(part: Path) -> int:
    """How many images another process has packed so far."""
    with suppress(OSError, Refused):
        return int((OpenFile(part, sealed=False).states != TO_DO).sum())
    return 0


def _refused(path: Path, error: OSError) -> NpnetError:
    return NpnetError(
        f"cannot write {path}: {error.strerror}; pack the images elsewhere with npnet data pack "
        "and `out`, and give that file to `data`"
    )


def _bytes(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


class _Words:
    """Tells how far something is, not too often."""

    def __init__(self, packing: Packing, total: int) -> None:
        self.packing, self.total, self.next = packing, total, 0.0

    def show(self, done: int) -> None:
        now = time.monotonic()
        if now >= self.next or done == self.total:
            self.packing.progress(done, self.total)
            self.next = now + SECONDS_BETWEEN_WORDS


class _Work:
    """What makes one packed file."""

    def __init__(
        self, listing: Listing, front: Front, path: Path, packing: Packing, chosen: bool
    ) -> None:
        self.listing, self.front, self.path, self.packing = listing, front, path, packing
        self.part = path.with_name(f".{path.name.removeprefix('.')}.part")
        self.head = front.head()
        self.chosen = chosen  # by the user, whose other files are not replaced

    @cached_property
    def names(self) -> list[str]:
        return self.front.paths()

    def suffices(self, file: OpenFile, skip_damaged: bool) -> bool:
        """Whether a packed file has all that can be read. Raises UnusableFiles."""
        if skip_damaged or not (file.states == REFUSED).any():
            return True
        row = np.empty((self.front.size, self.front.size, 3), np.uint8)
        with quiet():
            reasons = [self._read(int(i), row) for i in np.flatnonzero(file.states == REFUSED)]
        if all(reasons):
            raise UnusableFiles(self.listing.root, reasons, len(self.listing))
        return False

    def make(self, skip_damaged: bool) -> None:
        """Pack. Raises UnusableFiles, unless they are to be left out, when the rest is packed."""
        check_pillow(self.listing.root)
        before = self._before()
        try:
            file = self._begun()
            with quiet():
                reasons = self._fill(file, before)
            self._finish(file)
        except OSError as error:
            if error.errno in _FULL:
                self.part.unlink(missing_ok=True)
            raise _refused(self.path, error) from error
        except NpnetError:
            self.part.unlink(missing_ok=True)
            raise
        if reasons and not skip_damaged:
            raise UnusableFiles(self.listing.root, reasons, len(self.listing))

    def _before(self) -> OpenFile | None:
        """The packed file that is to be replaced, if there is one that can be read."""
        if self.chosen and os.path.lexists(self.path) and not self._is_ours():
            raise NpnetError(f"{self.path} is another kind of file: choose another `out`")
        before = _packed_before(self.path)
        if before is None and os.path.lexists(self.path):
            self.packing.said(f"{self.path} is damaged: the images are packed again")
        if before is not None and before.head != self.head:
            self.packing.said(f"{self.listing.root} has changed since it was packed")
        return before

    def _is_ours(self) -> bool:
        with suppress(OSError), open_file(self.path) as file:
            return file.read(len(MAGIC)) == MAGIC
        return False

    def _begun(self) -> OpenFile:
        """The file under way: one that was left, or a new one."""
        with suppress(OSError, Refused):
            file = OpenFile(self.part, writable=True, sealed=False)
            if file.head == self.head:
                self.packing.said(f"Goes on with {self.part}")
                return file
        self.part.unlink(missing_ok=True)
        data = b"".join(self.front.parts())
        places = Places.of(len(data), len(self.listing), self.front.size)
        free = shutil.disk_usage(self.path.parent).free
        if places.end > free:
            raise NpnetError(
                f"the packed images take {_bytes(places.end)}, {self.path.parent} has "
                f"{_bytes(free)} free: free some, give a smaller `stored_size`, or pack "
                "elsewhere with npnet data pack and `out`"
            )
        with open(self.part, "xb") as new:
            new.truncate(places.end)
            new.write(self.head + data)
        try:
            return OpenFile(self.part, writable=True, sealed=False)
        except Refused as error:  # it holds too much
            raise NpnetError(
                f"{self.listing.root} cannot be packed: {error}; give fewer images or shorter names"
            ) from error

    def _fill(self, file: OpenFile, before: OpenFile | None) -> list[str]:
        """Bring every image that can be read into the file; a line for each that cannot."""
        states, crcs, known = file.states.copy(), file.crcs.copy(), self._known(before)
        words, reasons = _Words(self.packing, len(states)), dict[int, str]()

        def one(index: int) -> tuple[int, str]:
            """The checksum of an image that is now in its place, or why there is none."""
            row = np.empty((self.front.size, self.front.size, 3), np.uint8)
            if states[index] == DONE and file.read_into(row, index):
                return int(crcs[index]), ""
            there = known.get((self.names[index], *self.listing.stamps[index].tolist()))
            if before is None or there is None or not before.read_into(row, there):
                reason = self._read(index, row)
                if reason:
                    return 0, reason
            os.pwrite(file.descriptor, row.data, file.places.slot(index))
            return zlib.crc32(row.data), ""

        for done, (index, (crc, reason)) in enumerate(in_threads(one, len(states)), 1):
            crcs[index], states[index] = crc, REFUSED if reason else DONE
            os.pwrite(file.descriptor, crcs[index].tobytes(), file.places.crcs + 4 * index)
            os.pwrite(file.descriptor, states[index].tobytes(), file.places.states + index)
            if reason:
                reasons[index] = reason
            words.show(done)
        in_order = [reasons[index] for index in sorted(reasons)]
        self._check_classes(states, in_order)
        file.states, file.crcs = states, crcs
        return in_order

    def _known(self, before: OpenFile | None) -> dict[tuple[str, int, int], int]:
        """Where images of an older file lie that are as they were, by name and stamp."""
        if before is None or before.front.size != self.front.size:
            return {}
        stamps = before.front.stamps.tolist()
        return {
            (name, *stamp): index
            for index, (name, stamp) in enumerate(zip(before.front.paths(), stamps, strict=True))
            if before.states[index] == DONE
        }

    def _read(self, index: int, row: NDArray[np.uint8]) -> str:
        """Read a picture into `row`; why that fails, or ""."""
        path = self.listing.root / self.names[index]
        try:
            row[:] = read_square(path, self.front.size)
        except NpnetError as error:
            said = str(error).removeprefix("cannot read the picture ")
            return said.replace(str(path), self.names[index], 1)
        except MemoryError:
            return f"{self.names[index]}: it takes more memory than there is"
        return ""

    def _check_classes(self, states: NDArray[np.uint8], reasons: list[str]) -> None:
        """Raise NpnetError if no image of a class is left to train on."""
        trained = self.listing.labels[: self.listing.counts[0]]
        left = trained[states[: len(trained)] == DONE]
        if len(classes_without(left, len(self.listing.classes))):
            raise UnusableFiles(self.listing.root, reasons, len(states))

    def _finish(self, file: OpenFile) -> None:
        """Seal the file, flush it, and give it its name."""
        words = seal(file.head, file.states.tobytes(), file.crcs.tobytes())
        os.pwrite(file.descriptor, words, file.places.seal)
        os.fsync(file.descriptor)
        os.replace(self.part, self.path)
        flush_folder(self.path.parent)
        done, megabytes = int((file.states == DONE).sum()), file.places.end / 1e6
        self.packing.said(f"{done:,} images are packed in {self.path}, {megabytes:,.1f} MB")


def in_threads(function: Callable[[int], T], count: int) -> Iterator[tuple[int, T]]:
    """(i, function(i)) for each i below `count`, in order, on all cores of this host."""
    threads = node_cores()
    waiting: deque[tuple[int, Future[T]]] = deque()
    with ThreadPoolExecutor(threads, initializer=_use_cores) as pool:
        try:
            for index in range(count):
                waiting.append((index, pool.submit(function, index)))
                if len(waiting) > WAITING * threads:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        finally:
            for _, future in waiting:
                future.cancel()


def _use_cores() -> None:
    """Let this thread run where the launcher may: it binds ranks, of which one packs alone."""
    with suppress(AttributeError, OSError):  # not every system has affinities
        os.sched_setaffinity(0, os.sched_getaffinity(0) | os.sched_getaffinity(os.getppid()))
