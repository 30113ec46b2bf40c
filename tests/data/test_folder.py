"""Which files of a folder are images of which class; every layout that is none is one line."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from npnet.data import folder
from npnet.data.folder import scan
from npnet.errors import NpnetError


def files(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"?")
    return root


def names(root: Path) -> list[str]:
    return scan(root).names.decode().split("\0")[:-1]


def refusal(root: Path) -> str:
    with pytest.raises(NpnetError) as caught:
        scan(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_splits_and_classes(tmp_path: Path) -> None:
    files(tmp_path, "train/b/2", "train/a/1", "train/b/10", "test/b/3", "test/a/4", "val/a/5")
    found = scan(tmp_path)
    assert found.classes == ("a", "b")
    assert found.counts == (3, 1, 2)
    assert names(tmp_path) == [
        *("train/a/1", "train/b/10", "train/b/2", "val/a/5", "test/a/4", "test/b/3")
    ]
    assert found.labels.tolist() == [0, 1, 1, 0, 0, 1]
    status = (tmp_path / "train/a/1").stat()
    assert found.stamps[0].tolist() == [1, status.st_mtime_ns]


def test_one_level_of_classes(tmp_path: Path) -> None:
    files(tmp_path, "car/1", "train/2", "bus/3", "notes.txt")
    found = scan(tmp_path)
    assert found.classes == ("bus", "car", "train")  # of which one is called as a split
    assert found.counts == (3, 0, 0)


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_what_lies_beside_is_left_aside(tmp_path: Path, val: str) -> None:
    files(tmp_path, "train/a/1", "train/b/1", f"{val}/a/1", f"{val}/b/1")
    files(tmp_path, "train/.hidden/1", "train/a/.DS_Store", "train/a/Thumbs.db", ".npnet-4.pack")
    files(tmp_path, "labels.csv", "train/labels.csv", "more/x/1")
    assert scan(tmp_path).counts == (2, 2, 0)


def test_folders_in_a_class_and_links(tmp_path: Path) -> None:
    files(tmp_path, "a/2020/1", "a/0", "b/1", "elsewhere/x/1")
    (tmp_path / "data").mkdir()
    for name in ("a", "b"):
        (tmp_path / "data" / name).symlink_to(tmp_path / name)
    (tmp_path / "a/linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "a/gone").symlink_to(tmp_path / "nothing")
    found = scan(tmp_path / "data")
    assert names(tmp_path / "data") == ["a/0", "a/2020/1", "a/gone", "a/linked/x/1", "b/1"]
    assert found.stamps[2].tolist() == [-1, -1]


def no_folder(root: Path) -> None:
    root.rmdir()


def two_names(root: Path) -> None:
    files(root, "train/a/1", "train/b/1", "val/a/1", "valid/a/1")


def a_loop(root: Path) -> None:
    files(root, "a/1", "b/1")
    (root / "a/again").symlink_to(root)


def not_text(root: Path) -> None:
    files(root, "a/1")
    os.mkdir(os.fsencode(root) + b"/\xff")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (no_folder, ["cannot read the folder", "No such file", "one folder for each class"]),
        (lambda root: None, ["no folders of classes", "/train/CLASS"]),
        (lambda root: files(root, "1.jpg"), ["no folders of classes"]),
        (lambda root: files(root, "a/1"), ["one class, 'a'"]),
        (lambda root: files(root, "train/a/1", "test/a/1"), ["/train has one class, 'a'"]),
        (lambda root: files(root, "train/1.jpg", "test/2.jpg"), ["/train has no folders of"]),
        (lambda root: files(root, "val/a/1", "test/a/1"), ["test, val but no train"]),
        (two_names, ["val and valid, which mean the same"]),
        (lambda root: files(root, "a/1", "b/.hidden"), ["/b has no images"]),
        (lambda root: files(root, "train/a/1", "train/b/1", "test/a/.x"), ["test/a has no images"]),
        (lambda root: files(root, "train/a/1", "train/b/1", "test/c/1"), ["test/c is a class"]),
        (lambda root: files(root, "train/a/1", "train/b/1", "test/A/1"), ["test/A is a class"]),
        (lambda root: files(root, "cat/1", "Cat/1"), ["'Cat' and 'cat'", "by case alone"]),
        (lambda root: files(root, "\u00e9/1", "e\u0301/1"), ["by case alone"]),
        (a_loop, ["/a/again/a leads back", "remove that link"]),
        (not_text, ["'\\udcff', which is no text"]),
    ],
)
def test_a_layout_that_is_none(
    tmp_path: Path, make: Callable[[Path], object], words: list[str]
) -> None:
    root = tmp_path / "images"
    root.mkdir()
    make(root)
    line = refusal(root)
    assert str(root) in line
    assert not [word for word in words if word not in line], line


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files(tmp_path, "a/1", "b/1")
    scandir = os.scandir

    def refuse(path: str):
        if str(path).endswith("/b"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)  # root may read everything
    assert f"cannot read the folder {tmp_path}/b: Permission denied" in refusal(tmp_path)


def test_too_many_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder, "MOST_CLASSES", 2)
    for name in "abc":
        (tmp_path / name).mkdir()
    with pytest.raises(NpnetError, match="has 3 folders of classes: give 2 at most"):
        folder.scan(tmp_path)
