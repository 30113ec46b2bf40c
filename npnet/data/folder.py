"""Folders of images: which files they hold, and of which class each is.

    PATH/train/<class>/*  and PATH/val/<class>/*, PATH/test/<class>/*, or one of these two
    PATH/<class>/*        where a part is held out to validate

Classes are the names of folders, in their order by code point. Whatever lies in a class's folder,
also in folders of its own, counts as an image of it; but for names that begin with a dot, and the
notes that other systems leave. Links are followed.
"""

import os
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from npnet.data.dataset import MOST_CLASSES, SPLITS, Split
from npnet.errors import NpnetError

FOLDERS: dict[Split, tuple[str, ...]] = {
    "train": ("train",),
    "val": ("val", "valid", "validation"),
    "test": ("test",),
}
LEFT_ASIDE = {"Thumbs.db", "desktop.ini", "__MACOSX"}


@dataclass(frozen=True)
class Listing:
    """The n files of a folder, split by split in the order of SPLITS, each class by class."""

    root: Path
    classes: tuple[str, ...]
    counts: tuple[int, int, int]  # of each split
    names: bytes | bytearray  # paths below `root`, each with a zero byte behind it
    stamps: NDArray[np.int64]  # (n,2): bytes, and the time of the last change, ns; -1 for no file
    labels: NDArray[np.int32]  # (n,)

    def __len__(self) -> int:
        return len(self.labels)


class _Files:
    """A listing under way. Arrays, not objects: a rank that only compares should stay small."""

    def __init__(self, root: Path) -> None:
        self.root, self.names = root, bytearray()
        self.stamps, self.labels = array("q"), array("i")

    def add_class(self, folder: Path, label: int) -> None:
        """Raises NpnetError if there is no file in the folder of a class."""
        before = len(self.labels)
        for name, size, changed in _walk(str(folder), str(folder.relative_to(self.root)), ()):
            self.names += os.fsencode(name) + b"\0"
            self.stamps.extend((size, changed))
            self.labels.append(label)
        if len(self.labels) == before:
            raise NpnetError(
                f"the class {folder} has no images: put some there, or remove the folder"
            )


def scan(root: Path) -> Listing:
    """List a folder's images. None is opened.

    Raises NpnetError if the folder cannot be read, or is not laid out as above; if a class is
    empty or there is one alone, or if two are told apart by upper and lower case alone.
    """
    folders = _split_folders(root)
    classes = tuple(_classes(folders["train"]))
    _check_classes(classes, folders["train"])
    found, counts = _Files(root), dict.fromkeys(SPLITS, 0)
    for split in SPLITS:
        if split not in folders:
            continue
        before = len(found.labels)
        for name in classes if split == "train" else _classes(folders[split]):
            if name not in classes:
                raise NpnetError(
                    f"{folders[split] / name} is a class that {folders['train']} lacks: "
                    "give both the same names, by upper and lower case too"
                )
            found.add_class(folders[split] / name, classes.index(name))
        counts[split] = len(found.labels) - before
    return Listing(
        root,
        classes,
        (counts["train"], counts["val"], counts["test"]),
        found.names,
        np.array(found.stamps, np.int64).reshape(-1, 2),
        np.array(found.labels, np.int32),
    )


def _split_folders(root: Path) -> dict[Split, Path]:
    """Where each split lies; `train` is the folder itself where it has one level of classes."""
    names = _classes(root)
    known = {name for of_split in FOLDERS.values() for name in of_split}
    # "train" may be a class: among others, and with images in it.
    splits = set(names) <= known or ("train" in names and _classes(root / "train"))
    layout = f"{root}/train/CLASS and {root}/test/CLASS, or {root}/CLASS"
    if not names:
        raise NpnetError(f"{root} has no folders of classes: lay images out as {layout}")
    if not splits:
        return {"train": root}
    if "train" not in names:
        raise NpnetError(f"{root} has {', '.join(names)} but no train: lay images out as {layout}")
    found: dict[Split, Path] = {}
    for split in SPLITS:
        here = [name for name in FOLDERS[split] if name in names]
        if len(here) > 1:
            raise NpnetError(f"{root} has {' and '.join(here)}, which mean the same: keep one")
        for name in here:
            found[split] = root / name
            if not _classes(found[split]):
                raise NpnetError(
                    f"{found[split]} has no folders of classes: lay images out as {layout}"
                )
    return found


def _check_classes(classes: Sequence[str], folder: Path) -> None:
    if len(classes) < 2:
        raise NpnetError(
            f"{folder} has one class, {classes[0]!a}: there is nothing to tell apart; "
            "give a folder for each of two or more"
        )
    if len(classes) > MOST_CLASSES:
        raise NpnetError(
            f"{folder} has {len(classes):,} folders of classes: give {MOST_CLASSES:,} at most"
        )
    before: dict[str, str] = {}
    for name in classes:
        if not is_text(name):
            raise NpnetError(f"{folder} has a class {name!a}, which is no text: rename that folder")
        # Some disks take such names for one, and accents may be written in two ways.
        key = unicodedata.normalize("NFC", name).casefold()
        if key in before:
            raise NpnetError(
                f"{folder} has the classes {before[key]!a} and {name!a}, which differ by case "
                "alone: give one of them another name, or put their images together"
            )
        before[key] = name


def is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8: Python stands surrogates for bytes that are none."""
    return not any("\ud800" <= each <= "\udfff" for each in name)


def _classes(folder: Path) -> list[str]:
    """The folders in a folder."""
    return [entry.name for entry in _entries(str(folder)) if _is_folder(entry)]


def _entries(folder: str) -> list[os.DirEntry[str]]:
    """What counts in a folder, in the order of names."""
    try:
        with os.scandir(folder) as found:
            every = sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise NpnetError(
            f"cannot read the folder {folder}: {error.strerror}; give one of images that you may "
            "read, with one folder for each class"
        ) from error
    return [each for each in every if not each.name.startswith(".") and each.name not in LEFT_ASIDE]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads to itself: told when it is read as a file
        return False


def _walk(
    folder: str, name: str, above: tuple[tuple[int, int], ...]
) -> Iterator[tuple[str, int, int]]:
    """Each file below a folder: its name behind the folder's own, bytes, time of change, ns."""
    try:
        status = os.stat(folder)
    except OSError as error:
        raise NpnetError(f"cannot read the folder {folder}: {error.strerror}") from error
    here = (status.st_dev, status.st_ino)
    if here in above:
        raise NpnetError(f"{folder} leads back, by a link, to a folder above it: remove that link")
    for entry in _entries(folder):
        inner = f"{name}/{entry.name}"
        if _is_folder(entry):
            yield from _walk(entry.path, inner, (*above, here))
            continue
        try:
            status = entry.stat()
            yield inner, status.st_size, status.st_mtime_ns
        except OSError:  # told with all others that cannot be read
            yield inner, -1, -1
