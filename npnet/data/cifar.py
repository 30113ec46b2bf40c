"""CIFAR-10 and CIFAR-100, read from the files that their authors publish for Python."""

import hashlib
import os
import reprlib
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from npnet.data.dataset import Images, Split
from npnet.data.unpickle import damaged, load, place
from npnet.errors import NpnetError
from npnet.untrusted import open_file, stamp_of

_SPLITS: tuple[Split, ...] = ("train", "test")  # that its files hold
_SIDE = 32  # height and width, pixels
_TRIES = 3  # to read a file that others replace
_SAMPLES = 3 * _SIDE * _SIDE  # of an image: all red, then all green, then all blue, row by row


@dataclass(frozen=True)
class Variant:
    """What differs between the two datasets. Splits and `meta` are file names in `folder`."""

    folder: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    meta: str
    labels_key: str
    classes_key: str
    classes: int
    url: str
    size: int  # bytes of the archive there
    md5: str

    @property
    def files(self) -> tuple[str, ...]:
        """Every file that a complete folder holds."""
        return (self.meta, *self.train, *self.test)


VARIANTS = {
    "cifar10": Variant(
        folder="cifar-10-batches-py",
        train=tuple(f"data_batch_{number}" for number in range(1, 6)),
        test=("test_batch",),
        meta="batches.meta",
        labels_key="labels",
        classes_key="label_names",
        classes=10,
        url="https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
        size=170_498_071,
        md5="c58f30108f718f92721af3b95e74349a",
    ),
    "cifar100": Variant(
        folder="cifar-100-python",
        train=("train",),
        test=("test",),
        meta="meta",
        labels_key="fine_labels",
        classes_key="fine_label_names",
        classes=100,
        url="https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
        size=169_001_437,
        md5="eb9058c3a382ffc7106e4002c42a8d85",
    ),
}


def variant(name: str) -> Variant:
    """The dataset called `name`. Raises NpnetError if there is none."""
    if name not in VARIANTS:
        raise NpnetError(f"there is no dataset {name!a}: choose {' or '.join(VARIANTS)}")
    return VARIANTS[name]


@dataclass(frozen=True)
class _Content:
    """What a file of images holds. `digest`: a hash of its images and labels; `place`: where its
    images begin in it, one after another, None where they do not; `stamp`: of the file read."""

    labels: NDArray[np.int64]
    digest: bytes
    place: int | None
    stamp: tuple[int, int, int]


class Cifar:
    """One of the two datasets, in `folder`; classes and labels of it are kept in memory.

    A `Dataset`. Raises NpnetError, here and from `size` and `read`, if a file is missing, damaged
    or not as its authors made it.
    """

    image_size, resident = _SIDE, True

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.location = str(folder)
        self._folder = folder
        self._variant = variant(name)
        self._known: dict[Split, list[_Content]] = {}  # of each file, once it was read
        self.classes: Sequence[str] = _read_classes(folder / self._variant.meta, self._variant)

    def size(self, split: Split) -> int:
        """Number of images in a split. The first call reads and checks every file of it."""
        return sum(len(content.labels) for content in self._contents(split))

    def digest(self) -> str:
        """A hash of images and labels, not of the files: they can be pickled in several ways."""
        digests = [content.digest for split in _SPLITS for content in self._contents(split)]
        return hashlib.sha256(b"".join(digests)).hexdigest()[:16]

    def read(self, split: Split, indices: NDArray[np.int64]) -> Images:
        """The images at `indices` (n,), in that order, file after file.

        Memory: the result; and the largest file while that is read, if its images cannot be found
        in place. Raises IndexError for an index outside of the split, NpnetError if a file was
        changed since `size` read it.
        """
        size = self.size(split)
        if len(indices) and not (indices.min() >= 0 and indices.max() < size):
            raise IndexError(f"indices reach outside of 0 <= index < {size}")
        pixels = np.empty((len(indices), _SIDE, _SIDE, 3), np.uint8)
        labels = np.empty(len(indices), np.int64)
        start, contents = 0, self._contents(split)
        for number, path in enumerate(self._paths(split)):
            end = start + len(contents[number].labels)
            here = np.flatnonzero((start <= indices) & (indices < end))
            if len(here):
                rows = indices[here] - start
                contents[number] = self._copy(path, contents[number], rows, pixels, here)
                labels[here] = contents[number].labels[rows]
            start = end
        return Images(pixels, labels)

    def _copy(
        self,
        path: Path,
        known: _Content,
        rows: NDArray[np.int64],
        pixels: NDArray[np.uint8],
        to: NDArray[np.int64],
    ) -> _Content:
        """pixels[to] = images `rows` of a file, which holds what is returned.

        The same images and labels in another file, put there even meanwhile, do no harm.
        """
        for _ in range(_TRIES):
            if known.stamp != _stamp(path):
                now = self._content(path)
                if now.digest != known.digest:
                    break
                known = now
            found = 0
            for planes in self._rows(path, known, rows):
                pixels[to[found]] = planes.reshape(3, _SIDE, _SIDE).transpose(1, 2, 0)
                found += 1
            if found == len(rows) and known.stamp == _stamp(path):
                return known
        raise NpnetError(f"{path} was changed since this run began: start it again")

    def _rows(
        self, path: Path, content: _Content, rows: NDArray[np.int64]
    ) -> Iterator[NDArray[np.uint8]]:
        """The planes (3072,) of images of a file; those up to its end, if it has been cut since.

        No more than one is read at a time, if they have a place.
        """
        if content.place is None:
            planes, _ = _read_batch(path, self._variant)
            yield from (planes[row] for row in rows if row < len(planes))
            return
        try:
            with open_file(path) as file:
                for row in rows:
                    file.seek(content.place + _SAMPLES * int(row))
                    data = file.read(_SAMPLES)
                    if len(data) != _SAMPLES:
                        return
                    yield np.frombuffer(data, np.uint8)
        except OSError as error:
            raise damaged(path, error.strerror or str(error)) from error

    def _paths(self, split: Split) -> list[Path]:
        names = {"train": self._variant.train, "val": (), "test": self._variant.test}[split]
        return [self._folder / name for name in names]

    def _contents(self, split: Split) -> list[_Content]:
        if split not in self._known:
            self._known[split] = [self._content(path) for path in self._paths(split)]
        return self._known[split]

    def _content(self, path: Path) -> _Content:
        stamp = _stamp(path)  # before it is read
        data, labels = _read_batch(path, self._variant)
        digest = hashlib.sha256(np.ascontiguousarray(data).data)
        digest.update(labels.data)
        return _Content(labels, digest.digest(), place(data), stamp)


def _stamp(path: Path) -> tuple[int, int, int]:
    """What tells that a file was written to or replaced; zeros where there is none."""
    try:
        return stamp_of(path.stat())
    except OSError:
        return (0, 0, 0)


def find(name: str, data_dir: Path | None = None) -> Cifar:
    """The dataset `name` ("cifar10" or "cifar100") in the first place that has it.

    The places are `data_dir` if given, and otherwise $NPNET_DATA, ./data and ~/.keras/datasets;
    each may hold the dataset's folder or be that folder. Raises NpnetError if no place has it.
    """
    expected = variant(name)
    roots = [data_dir] if data_dir else _default_roots()
    for root in roots:
        for folder in (
            root / expected.folder,
            root / f"{expected.folder}-target" / expected.folder,  # as Keras 3 unpacks it
            root,
        ):
            # One file is enough: what is missing is then reported by its name.
            if any(os.path.isfile(folder / file) for file in expected.files):
                return Cifar(name, folder)
    places = ", ".join(map(str, roots))
    option = f" --data-dir {shlex.quote(str(data_dir))}" if data_dir else ""
    raise NpnetError(f"{name} is not in {places}; fetch it with: npnet data fetch {name}{option}")


def _default_roots() -> list[Path]:
    home = os.environ.get("NPNET_DATA")
    return [
        *([Path(os.path.expanduser(home))] if home else []),
        Path("data").absolute(),
        Path(os.path.expanduser("~/.keras/datasets")),
    ]


def _read_dict(path: Path) -> dict[str, object]:
    """A file's dict. Its keys are bytes as Python 2 wrote them, text if Python 3 rewrote it."""
    content = load(path)
    if not isinstance(content, dict):
        raise damaged(path, f"it holds a {type(content).__name__}, not a dict")
    return {_decode(key): value for key, value in content.items()}


def _decode(text: str | bytes) -> str:
    return text.decode("latin-1") if isinstance(text, bytes) else text


def _read_classes(path: Path, expected: Variant) -> list[str]:
    names = _read_dict(path).get(expected.classes_key)
    if not (
        isinstance(names, list)
        and len(names) == expected.classes
        and all(isinstance(name, str | bytes) for name in names)
    ):
        raise damaged(path, f"{expected.classes_key} is not a list of {expected.classes} names")
    return [_decode(name) for name in names]


def _read_batch(path: Path, expected: Variant) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """A file's images, uint8 (n, 3072) with the planes one after another, and labels (n,)."""
    batch = _read_dict(path)
    data = batch.get("data")
    if not isinstance(data, np.ndarray):
        raise damaged(path, "it has no array called data")
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != _SAMPLES:
        raise damaged(path, f"data is {data.dtype} {data.shape}, not uint8 (n, {_SAMPLES})")
    labels = batch.get(expected.labels_key)
    if isinstance(labels, np.ndarray) and labels.shape in ((len(data),), (len(data), 1)):
        labels = labels.ravel().tolist()  # as others may have pickled them
    if not isinstance(labels, list | tuple):
        raise damaged(path, f"it has no list of numbers called {expected.labels_key}")
    if len(labels) != len(data):
        raise damaged(path, f"it has {len(data)} images but {len(labels)} {expected.labels_key}")
    for index, label in enumerate(labels):
        if type(label) is not int:
            kind = type(label).__name__
            raise damaged(path, f"{expected.labels_key}[{index}] is a {kind}, not an int")
        if not 0 <= label < expected.classes:
            raise damaged(
                path,
                f"{expected.labels_key}[{index}] is {reprlib.repr(label)}, "
                f"outside of 0 <= label < {expected.classes}",
            )
    return data, np.array(labels, np.int64)
