"""A part of each class is held out to validate on: the same for everyone, never trained on."""

from pathlib import Path

import numpy as np
import pytest

from npnet.data import open_dataset
from npnet.data.dataset import Images
from npnet.data.held_out import HeldOut, file_of, labels_of
from npnet.data.packing import open_folder
from npnet.data.shapes import Shapes
from npnet.errors import NpnetError
from tests.cifar_files import write_cifar
from tests.data.image_folders import SIZE, greys, write_folder
from tests.datasets import Toy


class Uneven(Toy):
    """60 dark, 30 middle and 10 bright images, each with its number in its first pixel."""

    def __init__(self) -> None:
        super().__init__()
        labels = np.repeat(np.arange(3), (60, 30, 10))
        pixels = np.zeros((100, 32, 32, 3), np.uint8)
        pixels[:, 0, 0, 0] = np.arange(100)
        self._splits["train"] = pixels, labels


def numbers(dataset, split) -> list[int]:
    return dataset.read(split, np.arange(dataset.size(split))).pixels[:, 0, 0, 0].tolist()


def test_a_part_of_each_class() -> None:
    whole = HeldOut(Uneven(), 0.1, seed=1)
    assert [whole.size(split) for split in ("train", "val", "test")] == [90, 10, 9]
    assert np.bincount(whole.labels("val")).tolist() == [6, 3, 1]
    assert np.bincount(whole.labels("train")).tolist() == [54, 27, 9]
    train, val = numbers(whole, "train"), numbers(whole, "val")
    assert sorted(train + val) == list(range(100))
    assert train == sorted(train)
    some = whole.read("val", np.array([3, 1]))
    assert isinstance(some, Images)
    assert some.pixels[:, 0, 0, 0].tolist() == [val[3], val[1]]
    assert some.labels.tolist() == whole.labels("val")[[3, 1]].tolist()
    assert numbers(whole, "test") == numbers(Uneven(), "test")


def test_the_seed_decides_and_nothing_else() -> None:
    parts = [numbers(HeldOut(Uneven(), 0.2, seed), "val") for seed in (7, 7, 8)]
    assert parts[0] == parts[1] != parts[2]
    digests = {HeldOut(Uneven(), part, seed).digest() for part in (0.1, 0.2) for seed in (1, 2)}
    assert len(digests) == 4
    assert HeldOut(Uneven(), 0.1, 1).digest() in digests


def test_one_image_of_a_class_at_least() -> None:
    assert np.bincount(HeldOut(Uneven(), 0.001, 0).labels("val")).tolist() == [1, 1, 1]


@pytest.mark.parametrize("part", [0, 1, -0.5, 1.5, float("nan")])
def test_parts_that_are_none(part: float) -> None:
    with pytest.raises(NpnetError, match=r"`val_split` .* is not usable"):
        HeldOut(Uneven(), part, 0)


def test_a_class_that_is_too_small(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", train=1)
    with pytest.raises(NpnetError, match="has 1 training images of 'cat': too few to hold out"):
        HeldOut(open_folder(root, SIZE), 0.1, 0)


def test_a_dataset_that_has_a_part_to_validate_on(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", train=2, val=1)
    with pytest.raises(NpnetError, match="leave `val_split` out"):
        open_dataset(root, stored_size=SIZE, val_split=0.5)


def test_of_a_folder(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "pets", train=4, test=1)
    pets = open_dataset(root, stored_size=SIZE, val_split=0.25, split_seed=3)
    assert [pets.size(split) for split in ("train", "val", "test")] == [6, 2, 2]
    assert not pets.resident
    files = [file_of(pets, "val", index) for index in range(2)]
    assert [name.rpartition("/")[0] for name in files] == ["train/cat", "train/dog"]
    values = [10 + int(files[0][-5]), 14 + int(files[1][-5])]
    assert greys(pets, "val") == values


def test_of_cifar_and_of_shapes(tmp_path: Path) -> None:
    write_cifar(tmp_path)
    cifar = open_dataset("cifar10", tmp_path)
    labels = labels_of(cifar, "train")
    assert labels.tolist() == cifar.read("train", np.arange(30)).labels.tolist()
    shapes = HeldOut(Shapes(train=100, test=10), 0.1, 5)
    assert np.bincount(shapes.labels("val")).tolist() == [1] * 10
    assert file_of(shapes, "val", 0) == ""
