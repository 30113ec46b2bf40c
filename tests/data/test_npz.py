"""An .npz as Keras has it is a dataset, packed or not; any other is refused in a line."""

import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npnet.data import open_dataset
from npnet.errors import NpnetError

DRAW = np.random.default_rng(0)
GOOD: dict[str, Any] = {
    "x_train": DRAW.integers(0, 256, (20, 8, 8, 3), np.uint8),
    "y_train": np.arange(20, dtype=np.uint8)[:, None] % 4,
    "x_test": DRAW.integers(0, 256, (6, 8, 8, 3), np.uint8),
    "y_test": np.arange(6, dtype=np.uint8)[:, None] % 4,
}
SAVERS = pytest.mark.parametrize("save", [np.savez, np.savez_compressed], ids=["stored", "packed"])


@SAVERS
@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.int32])
def test_colours(tmp_path: Path, save, dtype) -> None:
    arrays = GOOD | {"y_train": GOOD["y_train"].astype(dtype)}
    save(tmp_path / "mine.npz", **arrays)
    mine = open_dataset(tmp_path / "mine.npz")
    assert (mine.name, mine.image_size, mine.resident) == ("mine", 8, True)
    assert list(mine.classes) == ["0", "1", "2", "3"]
    assert [mine.size(split) for split in ("train", "val", "test")] == [20, 0, 6]
    for split in ("train", "test"):
        for rows in ([3, 0, 5, 3], [], list(range(mine.size(split)))):
            images = mine.read(split, np.array(rows, np.int64))
            np.testing.assert_array_equal(images.pixels, GOOD[f"x_{split}"][rows])
            assert images.labels.tolist() == GOOD[f"y_{split}"][rows, 0].tolist()
    with pytest.raises(IndexError):
        mine.read("test", np.array([6]))


@SAVERS
@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1)])
def test_grey_as_mnist(tmp_path: Path, save, shape) -> None:
    grey = {
        name: value[..., 0].reshape(-1, *shape) if name[0] == "x" else value[:, 0]
        for name, value in GOOD.items()
    }
    save(tmp_path / "grey.npz", **grey)
    pixels = open_dataset(tmp_path / "grey.npz").read("train", np.arange(20)).pixels
    for colour in range(3):
        np.testing.assert_array_equal(pixels[..., colour], GOOD["x_train"][..., 0])


def test_images_over_several_blocks(tmp_path: Path) -> None:
    """And memory is that of what is read."""
    x = np.arange(300, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 120, 120, 3), np.uint8)
    arrays = {"x_train": x, "y_train": np.arange(300) % 2}
    np.savez_compressed(tmp_path / "many.npz", **arrays)
    assert (tmp_path / "many.npz").stat().st_size < x.nbytes / 20
    tracemalloc.start()
    try:
        many = open_dataset(tmp_path / "many.npz")
        pixels = many.read("train", np.array([299, 7, 150])).pixels
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert pixels[:, 60, 60, 1].tolist() == [43, 7, 150]
    assert peak < x.nbytes / 2


def test_the_digest_is_of_what_it_holds(tmp_path: Path) -> None:
    for name, save in (("a", np.savez), ("b", np.savez_compressed)):
        save(tmp_path / f"{name}.npz", **GOOD)
    np.savez(tmp_path / "c.npz", **GOOD | {"x_test": 255 - GOOD["x_test"]})
    a, b, c = (open_dataset(tmp_path / f"{name}.npz").digest() for name in "abc")
    assert a == b != c


def test_a_part_is_held_out(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", **GOOD)
    mine = open_dataset(tmp_path / "mine.npz", val_split=0.2)
    assert [mine.size(split) for split in ("train", "val", "test")] == [16, 4, 6]


def changed(**arrays: Any) -> dict[str, Any]:
    return {name: value for name, value in (GOOD | arrays).items() if value is not None}


@SAVERS
@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        (changed(x_train=None), "members|lacks"),
        (changed(y_test=None), "one of x_test.npy and y_test.npy"),
        (changed(more=np.zeros(3)), "members|'more.npy'"),
        (changed(x_train=GOOD["x_train"] / 255), "x_train.npy holds <f8"),
        (changed(x_train=GOOD["x_train"][:, :4]), "x_train.npy holds .u1 .20, 4, 8, 3."),
        (changed(x_train=GOOD["x_train"][:0]), "x_train.npy holds"),
        (changed(x_train=np.asfortranarray(GOOD["x_train"])), "x_train.npy holds"),
        (changed(x_train=np.zeros((20, 8, 8, 4), np.uint8)), "x_train.npy holds"),
        (changed(y_train=GOOD["y_train"][:-1]), "y_train.npy holds .* 20 whole numbers"),
        (changed(y_train=np.eye(4)[GOOD["y_train"][:, 0]]), "y_train.npy holds <f8"),
        (changed(y_train=GOOD["y_train"].astype(object)), "no array of numbers"),
        (changed(y_train=GOOD["y_train"].astype(int) - 1), "labels outside"),
        (changed(y_train=GOOD["y_train"].astype(int) * 10**9), "labels outside"),
        (changed(y_train=GOOD["y_train"] + 1), "no training image is of class 0"),
        (changed(y_test=GOOD["y_test"] + 1), "no training image is of class 4"),
        (changed(y_train=GOOD["y_train"] * 0, y_test=GOOD["y_test"] * 0), "one class"),
        (changed(x_test=np.zeros((6, 9, 9, 3), np.uint8)), "several sizes"),
    ],
)
def test_arrays_that_are_no_dataset(tmp_path: Path, save, arrays, words: str) -> None:
    save(tmp_path / "bad.npz", **arrays)
    with pytest.raises(NpnetError, match=words) as caught:
        open_dataset(tmp_path / "bad.npz")
    assert str(caught.value).startswith(f"{tmp_path}/bad.npz is no dataset: ")
    assert "\n" not in str(caught.value)


@SAVERS
def test_damage_is_refused(tmp_path: Path, save) -> None:
    """Each bit of the arrays counts; what is between them may not."""
    path = tmp_path / "bad.npz"
    save(path, **GOOD)
    data = path.read_bytes()
    for place in range(200, len(data) - 600, 97):
        path.write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
        try:
            found = open_dataset(path)
        except NpnetError:
            continue
        np.testing.assert_array_equal(found.read("train", np.arange(20)).pixels, GOOD["x_train"])
    for length in (0, 20, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(NpnetError):
            open_dataset(path)


def test_a_bomb_takes_no_memory(tmp_path: Path) -> None:
    """A thousandth of what it unpacks to."""
    images = np.zeros((10_000, 64, 64, 3), np.uint8)
    bomb = changed(x_train=images, y_train=np.arange(10_000) % 4)
    np.savez_compressed(tmp_path / "bomb.npz", **bomb)
    tracemalloc.start()
    try:
        with pytest.raises(NpnetError, match=r"x_train\.npy would unpack to 122,880,128 bytes"):
            open_dataset(tmp_path / "bomb.npz")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4e6


def test_a_file_that_changes_under_a_run(tmp_path: Path) -> None:
    np.savez(tmp_path / "mine.npz", **GOOD)
    mine = open_dataset(tmp_path / "mine.npz")
    os.utime(tmp_path / "mine.npz", (1, 1))
    with pytest.raises(NpnetError, match="was changed since this run began"):
        mine.read("train", np.array([0]))


def test_paths_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(NpnetError, match=r"there is no .*/nothing\.npz"):
        open_dataset(tmp_path / "nothing.npz")
    with pytest.raises(NpnetError, match=r"unknown dataset 'mnist'.*path of a folder"):
        open_dataset("mnist")
    (tmp_path / "text.pack").write_text("no images")
    with pytest.raises(NpnetError, match=r"text\.pack is no file of packed images"):
        open_dataset(tmp_path / "text.pack")
    np.savez(tmp_path / "mine.npz", **GOOD)
    with pytest.raises(NpnetError, match="images of 8 pixels across, not of `stored_size` 9"):
        open_dataset(tmp_path / "mine.npz", stored_size=9)
    with pytest.raises(NpnetError, match="`stored_size` is for folders"):
        open_dataset("shapes", stored_size=9)
