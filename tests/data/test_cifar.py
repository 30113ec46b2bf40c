"""CIFAR files of a few images: found, read by index, and refused with one line if not right."""

import os
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from npnet.data import cifar, unpickle
from npnet.data.cifar import VARIANTS, Cifar, find
from npnet.data.dataset import Dataset, Split
from npnet.errors import NpnetError

TRAIN_FILES = 5


def planes(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(n, 32, 32, 3) as CIFAR stores it: (n, 3072), plane after plane."""
    stored = np.empty((len(images), 3, 1024), np.uint8)
    for channel in range(3):
        stored[:, channel] = images[..., channel].reshape(-1, 1024)
    return stored.reshape(-1, 3072)


def write(path: Path, content: object, protocol: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol))


def random_images(count: int, classes: int, seed: int) -> tuple[NDArray[np.uint8], list[int]]:
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 256, (count, 32, 32, 3), np.uint8)
    return images, draw.integers(0, classes, count).tolist()


def write_cifar10(folder: Path, rows: int = 4) -> dict[Split, tuple[Any, list[int]]]:
    """Write a dataset of `rows` images a file; returns the images and labels of each split."""
    train = [random_images(rows + number, 10, number) for number in range(1, TRAIN_FILES + 1)]
    test = random_images(rows, 10, 0)
    for number, (images, labels) in enumerate(train, start=1):
        write(folder / f"data_batch_{number}", {b"data": planes(images), b"labels": labels})
    write(folder / "test_batch", {b"data": planes(test[0]), b"labels": test[1]})
    write(folder / "batches.meta", {b"label_names": [f"class {n}".encode() for n in range(10)]})
    joined = np.concatenate([images for images, _ in train])
    return {"train": (joined, [label for _, labels in train for label in labels]), "test": test}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "cifar-10-batches-py"
    write_cifar10(folder)
    return folder


def error(function: Any, *args: Any) -> str:
    with pytest.raises(NpnetError) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def changed(path: Path) -> str:
    return f"{path} was changed since this run began: start it again"


def test_reads_rows_in_the_order_asked_for(tmp_path: Path) -> None:
    expected = write_cifar10(tmp_path)
    dataset: Dataset = Cifar("cifar10", tmp_path)
    assert dataset.name == "cifar10"
    assert dataset.location == str(tmp_path)
    assert dataset.image_size == 32
    assert list(dataset.classes) == [f"class {n}" for n in range(10)]
    for split in ("train", "test"):
        images, labels = expected[split]
        assert dataset.size(split) == len(labels)
        order = np.random.default_rng(7).permutation(len(labels))
        for indices in (order, order[:3], order[:0], np.array([2, 0, 2])):
            result = dataset.read(split, indices)
            assert result.pixels.dtype == np.uint8
            assert result.labels.dtype == np.int64
            np.testing.assert_array_equal(result.pixels, images[indices])
            np.testing.assert_array_equal(result.labels, np.array(labels)[indices])


def test_one_colour_is_where_it_belongs(folder: Path) -> None:
    stored = np.zeros((1, 3072), np.uint8)
    stored[0, 1024 + 5 * 32 + 9] = 200  # green, row 5, column 9
    write(folder / "test_batch", {b"data": stored, b"labels": [3]})
    pixels = Cifar("cifar10", folder).read("test", np.array([0])).pixels
    assert np.argwhere(pixels).tolist() == [[0, 5, 9, 1]]


def test_cifar100_with_text_keys(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-python"
    images, labels = random_images(6, 100, 1)
    for split in ("train", "test"):
        batch = {"data": planes(images), "fine_labels": labels, "coarse_labels": [0] * 6}
        write(folder / split, batch, protocol=5)
    write(folder / "meta", {"fine_label_names": [f"fine {n}" for n in range(100)]})
    dataset = find("cifar100", tmp_path)
    assert dataset.name == "cifar100"
    assert dataset.classes[99] == "fine 99"
    result = dataset.read("train", np.array([5, 1]))
    np.testing.assert_array_equal(result.pixels, images[[5, 1]])
    assert result.labels.tolist() == [labels[5], labels[1]]


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("kind", ["array", "column", "numbers", "tuple"])
def test_labels_as_others_pickle_them(folder: Path, kind: str, protocol: int) -> None:
    pixels, numbers = random_images(3, 10, 5)
    labels = {
        "array": np.array(numbers, np.uint8),
        "column": np.array(numbers)[:, None],
        "numbers": [np.int64(number) for number in numbers],
        "tuple": tuple(numbers),
    }[kind]
    write(folder / "test_batch", {"data": planes(pixels), "labels": labels}, protocol)
    result = Cifar("cifar10", folder).read("test", np.arange(3))
    np.testing.assert_array_equal(result.pixels, pixels)
    assert result.labels.tolist() == numbers


def test_index_outside_of_the_split(folder: Path) -> None:
    dataset = Cifar("cifar10", folder)
    for index in (-1, dataset.size("test")):
        with pytest.raises(IndexError, match="0 <= index < 4"):
            dataset.read("test", np.array([0, index]))


def test_opens_only_the_files_it_needs(folder: Path) -> None:
    dataset = Cifar("cifar10", folder)
    size = dataset.size("train")
    (folder / "data_batch_2").unlink()
    assert len(dataset.read("train", np.array([0, size - 1]))) == 2
    assert "data_batch_2" in error(dataset.read, "train", np.array([5]))


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_file_that_changes_after_it_was_read(folder: Path, split: Split) -> None:
    """As under a run, before its test. The same images in another file do no harm."""
    dataset = Cifar("cifar10", folder)
    dataset.digest()
    path = folder / ("data_batch_2" if split == "train" else "test_batch")
    batch, rows = pickle.loads(path.read_bytes()), np.arange(dataset.size(split))
    write(path, batch, protocol=4)
    dataset.read(split, rows)
    write(path, batch | {b"labels": [9 - label for label in batch[b"labels"]]})
    assert error(dataset.read, split, rows) == changed(path)


def test_memory_is_one_file_and_the_result(tmp_path: Path) -> None:
    rows = 400
    write_cifar10(tmp_path, rows)
    for path in tmp_path.glob("data_batch_*"):  # Python 3's protocol 2 needs a second copy
        write(path, pickle.loads(path.read_bytes()), protocol=4)
    dataset = Cifar("cifar10", tmp_path)
    few = np.arange(0, dataset.size("train"), 100)
    tracemalloc.start()
    try:
        result = dataset.read("train", few)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    largest = (tmp_path / "data_batch_5").stat().st_size
    assert peak < result.pixels.nbytes + 1.3 * largest
    assert kept < result.pixels.nbytes + 0.3 * largest


def test_the_authors_files_are_in_memory_once(tmp_path: Path) -> None:
    """As Python 2 wrote them: a large string lies in pages that tracemalloc does not see."""
    pixels = np.random.default_rng(0).integers(0, 256, (400, 3072), np.uint8)
    path = tmp_path / "data_batch_1"
    path.write_bytes(as_python_2({"data": pixels, "labels": [0] * len(pixels)}))
    tracemalloc.start()
    try:
        planes = unpickle.load(path)[b"data"]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(planes, pixels)
    assert peak < 0.3 * pixels.nbytes


LARGE = 400  # images in a file, whose pixels have pages of their own


def write_large(path: Path, batch: dict[bytes, Any], protocol: int) -> None:
    if protocol == 0:  # stands for Python 2
        path.write_bytes(as_python_2({"data": batch[b"data"], "labels": batch[b"labels"]}))
    else:
        write(path, batch, protocol)


def read_once(folder: Path) -> tuple[NDArray[np.uint8], dict[bytes, Any], Cifar]:
    """A dataset whose files were checked: the images of its test file, and what that holds."""
    images, labels = write_cifar10(folder, LARGE)["test"]
    batch = {b"data": planes(images), b"labels": labels}
    write_large(folder / "test_batch", batch, 0)
    dataset = Cifar("cifar10", folder)
    dataset.digest()
    return images, batch, dataset


@pytest.mark.parametrize("protocol", [0, 2, 3, 4, 5])
def test_rows_are_read_where_they_stand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    """Once a file was checked no more than an image of it is read at a time; but for Python 3's
    protocol 2, where images stand as text."""
    images, labels = write_cifar10(tmp_path, LARGE)["test"]
    path, rows = tmp_path / "test_batch", np.array([LARGE - 1, 0, 17, 17])
    write_large(path, {b"data": planes(images), b"labels": labels}, protocol)
    dataset = Cifar("cifar10", tmp_path)
    dataset.digest()
    loaded: list[Path] = []
    monkeypatch.setattr(cifar, "load", lambda path: loaded.append(path) or unpickle.load(path))
    found = dataset.read("test", rows)
    np.testing.assert_array_equal(found.pixels, images[rows])
    np.testing.assert_array_equal(found.labels, np.array(labels)[rows])
    assert loaded == ([path] if protocol == 2 else [])


def test_images_that_stand_elsewhere_later_or_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images, batch, dataset = read_once(tmp_path)
    path, rows = tmp_path / "test_batch", np.arange(LARGE)
    write_large(path, {b"note": b"longer", **batch}, 4)
    np.testing.assert_array_equal(dataset.read("test", rows).pixels, images)
    write_large(path, batch | {b"data": planes(images[::-1])}, 4)
    assert error(dataset.read, "test", rows) == changed(path)
    write_large(path, batch, 4)
    dataset.read("test", rows)
    stamp = cifar._stamp(path)
    path.write_bytes(path.read_bytes()[: 300 * 3072])
    monkeypatch.setattr(cifar, "_stamp", lambda _: stamp)  # as if it was cut while it is read
    dataset.read("test", rows[:200])
    assert error(dataset.read, "test", rows) == changed(path)
    path.unlink()
    assert "No such file" in error(dataset.read, "test", rows)


def test_a_file_that_is_replaced_while_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the same images, which stand elsewhere in it: each look finds the other file."""
    images, batch, dataset = read_once(tmp_path)
    path, rows = tmp_path / "test_batch", np.arange(LARGE)
    look = cifar._stamp

    def replaced_after(looks: int) -> None:
        def stamp(path: Path) -> tuple[int, int, int]:
            nonlocal looks
            found = look(path)
            looks -= 1
            if looks >= 0:
                write_large(tmp_path / "new", {b"note": b"x" * 8 * looks, **batch}, 4)
                os.replace(tmp_path / "new", path)
            return found

        monkeypatch.setattr(cifar, "_stamp", stamp)

    replaced_after(1)
    np.testing.assert_array_equal(dataset.read("test", rows).pixels, images)
    replaced_after(2)
    np.testing.assert_array_equal(dataset.read("test", rows).pixels, images)
    replaced_after(100)
    assert error(dataset.read, "test", rows) == changed(path)


def test_a_pipe_in_the_place_of_a_file_is_refused_at_once(folder: Path) -> None:
    path = folder / "data_batch_2"
    path.unlink()
    os.mkfifo(path)
    assert "a pipe or a device" in error(Cifar("cifar10", folder).size, "train")


def as_python_2(batch: dict[str, Any]) -> bytes:
    """A pickle with an array as BINSTRING."""
    pixels = batch["data"]
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\0\x85U\x01btR"
        b"(K\x01J" + struct.pack("<i", len(pixels)) + b"M\0\x0c\x86"
        b"cnumpy\ndtype\n(U\x02u1K\0K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
        b"\x89T" + struct.pack("<i", pixels.nbytes) + pixels.tobytes() + b"tb"
    )
    labels = b"](" + b"".join(b"K" + bytes([label]) for label in batch["labels"]) + b"e"
    return b"\x80\x02}(U\x04data" + array + b"U\x06labels" + labels + b"u."


GOOD = {b"data": np.zeros((3, 3072), np.uint8), b"labels": [0, 9, 1]}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({b"data": None}, "no array called data"),
        ({b"data": [[0] * 3072] * 3}, "no array called data"),
        ({b"data": np.zeros((3, 3072), np.int16)}, "data is int16 (3, 3072), not uint8 (n, 3072)"),
        ({b"data": np.zeros((3, 3071), np.uint8)}, "data is uint8 (3, 3071), not"),
        ({b"data": np.zeros(3 * 3072, np.uint8)}, "data is uint8 (9216,), not"),
        ({b"data": np.zeros((3, 3, 1024), np.uint8)}, "data is uint8 (3, 3, 1024), not"),
        ({b"labels": None}, "no list of numbers called labels"),
        ({b"labels": b"\0\1\2"}, "no list of numbers called labels"),
        ({b"labels": [0, 1]}, "3 images but 2 labels"),
        ({b"labels": [0, 1, 2, 3]}, "3 images but 4 labels"),
        ({b"labels": [0, 10, 1]}, "labels[1] is 10, outside of 0 <= label < 10"),
        ({b"labels": [0, 1, -1]}, "labels[2] is -1, outside"),
        ({b"labels": [10**600, 1, 2]}, "labels[0] is 1000"),
        ({b"labels": [0, 1.0, 1]}, "labels[1] is a float, not an int"),
        ({b"labels": [True, 1, 1]}, "labels[0] is a bool, not an int"),
        ({b"labels": [[], 1, 1]}, "labels[0] is a list, not an int"),
        ({b"labels": np.array([0, 10, 1])}, "labels[1] is 10, outside of 0 <= label < 10"),
        ({b"labels": np.array([0.0, 1, 1])}, "labels[0] is a float, not an int"),
        ({b"labels": np.zeros((3, 10), int)}, "no list of numbers called labels"),
        ({b"labels": np.array(3)}, "no list of numbers called labels"),
    ],
)
def test_batch_that_is_not_right(folder: Path, change: dict[bytes, object], reason: str) -> None:
    path = folder / "data_batch_3"
    write(path, GOOD)
    Cifar("cifar10", folder).size("train")
    write(path, {**GOOD, **change})
    for call in (
        lambda: Cifar("cifar10", folder).size("train"),
        lambda: Cifar("cifar10", folder).read("train", np.array([0])),
    ):
        message = error(call)
        assert message.startswith(f"{path}: ")
        assert reason in message
        assert "fetch it again" in message
        assert "remove" not in message
        assert len(message) < 300 + len(str(path))


def test_batch_without_a_key_or_a_dict(folder: Path) -> None:
    path = folder / "test_batch"
    for content, reason in (
        ({b"labels": [1]}, "no array called data"),
        ({b"data": GOOD[b"data"]}, "no list of numbers called labels"),
        ([GOOD], "it holds a list, not a dict"),
    ):
        write(path, content)
        message = error(Cifar("cifar10", folder).size, "test")
        assert message.startswith(f"{path}: ")
        assert reason in message


def test_missing_and_truncated_files(folder: Path) -> None:
    path = folder / "data_batch_4"
    path.write_bytes(path.read_bytes()[:-100])
    message = error(Cifar("cifar10", folder).size, "train")
    assert message.startswith(f"{path}: not a whole pickle")
    path.unlink()
    message = error(Cifar("cifar10", folder).size, "train")
    assert message.startswith(f"{path}: No such file or directory")
    assert Cifar("cifar10", folder).size("test") == 4  # the other split does not suffer


def test_names_of_the_classes_that_are_not_right(folder: Path) -> None:
    path = folder / "batches.meta"
    for content in (
        {},
        {b"label_names": [b"class"] * 9},
        {b"label_names": [1] * 10},
        {b"label_names": b"0123456789"},
    ):
        write(path, content)
        message = error(find, "cifar10", folder)
        assert message.startswith(f"{path}: label_names is not a list of 10 names")
    path.unlink()
    assert error(find, "cifar10", folder).startswith(f"{path}: No such file")


def test_find_searches_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NPNET_DATA", str(tmp_path / "env"))
    name = "cifar-10-batches-py"
    keras = tmp_path / "home/.keras/datasets"
    for folder in (  # each goes before those that are there already
        keras / f"{name}-target" / name,
        keras / name,
        tmp_path / "data" / name,
        tmp_path / "env",
        tmp_path / "env" / name,
    ):
        write_cifar10(folder, 1)
        assert find("cifar10").location == str(folder)
    monkeypatch.delenv("NPNET_DATA")
    assert find("cifar10").location == str(tmp_path / "data" / name)


def test_find_names_the_places_and_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NPNET_DATA", str(tmp_path / "env"))
    message = error(find, "cifar10")
    places = [tmp_path / place for place in ("env", "data", "home/.keras/datasets")]
    assert message == (
        f"cifar10 is not in {', '.join(map(str, places))}; fetch it with: npnet data fetch cifar10"
    )


def test_find_with_data_dir_looks_nowhere_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_cifar10(tmp_path / "data" / "cifar-10-batches-py", 1)
    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other place"
    message = error(find, "cifar10", other)
    assert message.startswith(f"cifar10 is not in {other}; ")
    assert message.endswith(f"npnet data fetch cifar10 --data-dir '{other}'")
    assert str(tmp_path / "data") not in message
    other.mkdir()
    write_cifar10(other, 1)  # the folder itself, whatever its name
    assert find("cifar10", other).location == str(other)


def test_unknown_name(tmp_path: Path) -> None:
    assert error(find, "cifar\n11", tmp_path).endswith("choose cifar10 or cifar100")


def test_every_file_of_a_variant_is_listed_once() -> None:
    assert [len(set(v.files)) for v in VARIANTS.values()] == [7, 3]
