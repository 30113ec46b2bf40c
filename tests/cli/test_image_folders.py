"""`--data`: a folder of images, an .npz or a packed file, from the command line and on ranks."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from npnet.data.packed import PackedImages
from npnet.training.checkpoint import load
from tests.data.image_folders import write_folder, write_picture
from tests.launch import SERIAL_AND_MPI, TINY, npnet_run

TRAIN = ("train", *TINY, "--batch-per-rank", 2, "--evaluate", "never")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder to run in; it has the folder `pets`, 4 images of each class to train on."""
    write_folder(tmp_path / "pets", train=4, test=2)
    return tmp_path


def run(place: Path, *arguments, **how):
    outcome = npnet_run(*arguments, cwd=place, **how)
    assert outcome.status == 0, outcome.stderr
    return outcome


def files(place: Path) -> list[str]:
    return sorted(str(path.relative_to(place)) for path in place.rglob("*"))


@SERIAL_AND_MPI
def test_a_run_on_a_folder(place: Path, ranks: int | None) -> None:
    """One rank packs, all train; what was held out is in no shard; and the run goes on."""
    outcome = run(place, *TRAIN, "--data", "pets", "--val-split", 0.25, "--out", "run", ranks=ranks)
    assert outcome.stdout.count("12 images are packed in") == 1
    shard = 6 // (ranks or 1)
    assert outcome.stdout.count(f"shard={shard} samples") == (ranks or 1)
    source = {
        "name": str(place / "pets"),
        "stored_size": 37,  # 32 / 0.875
        "val_split": 0.25,
        "split_seed": 42,
        "skip_damaged": False,
    }
    config = json.loads((place / "run/config.json").read_text())
    assert config["dataset"] == {
        "name": "pets",
        "location": str(place / "pets"),
        "source": source,
    }
    header = load(place / "run/final.npz").header
    assert (header.source, header.classes) == (source, ("cat", "dog"))
    assert header.model.stored_size == 37

    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    again = ("train", "--resume", place / "run", "--epochs", 2, "--no-progress")
    outcome = run(elsewhere, *again, ranks=ranks)
    assert f"shard={shard} samples" in outcome.stdout
    assert "packed" not in outcome.stdout

    shutil.move(place / "pets", place / "moved")
    again = ("train", "--resume", place / "run", "--epochs", 3, "--no-progress")
    line = npnet_run(*again, cwd=place, ranks=ranks).error
    assert line.endswith(f"there is no {place}/pets: give --data the path of a folder of images")
    run(place, *again, "--data", "moved", ranks=ranks)
    write_picture(place / "moved/train/cat/0.png", 200)
    again = ("train", "--resume", place / "run", "--epochs", 4, "--data", "moved", "--no-progress")
    line = npnet_run(*again, cwd=place, ranks=ranks).error
    assert "holds other images" in line
    assert line.endswith("give their folder to --data")


def damaged(place: Path) -> list[str]:
    (place / "pets/train/cat/0.png").write_bytes(b"")
    (place / "pets/test/dog/notes.txt").write_text("two dogs")
    return ["pets: 2 of 13 files are no usable images", "train/cat/0.png: it is empty", "notes.txt"]


def empty_class(place: Path) -> list[str]:
    (place / "pets/train/fox").mkdir()
    return ["the class", "pets/train/fox has no images"]


def nothing_to_test(place: Path) -> list[str]:
    shutil.rmtree(place / "pets/test")
    return ["no images to test or to validate on: give --val-split 0.1"]


def by_case(place: Path) -> list[str]:
    shutil.copytree(place / "pets/train/cat", place / "pets/train/Cat")
    return ["'Cat' and 'cat', which differ by case alone"]


@SERIAL_AND_MPI
@pytest.mark.parametrize("spoil", [damaged, empty_class, nothing_to_test, by_case])
def test_a_folder_that_is_not_right(place: Path, spoil, ranks: int | None) -> None:
    """One line, a status that is not 0 on every rank, and no run; images are left as they are."""
    words = spoil(place)
    before = files(place)
    outcome = npnet_run("train", *TINY, "--data", "pets", "--out", "run", cwd=place, ranks=ranks)
    assert not [word for word in words if word not in outcome.error], outcome.error
    assert set(outcome.statuses) == {2}
    # What can be used is packed, whole; there is nothing else.
    assert set(files(place)) - set(before) <= {"pets/.npnet-37.pack"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "pets", "--dataset", "shapes"], ["--dataset and --data name two datasets"]),
        (["--dataset", "shapes", "--stored-size", "40"], ["--stored-size", "for a folder"]),
        (["--dataset", "shapes", "--skip-damaged"], ["--skip-damaged are for a folder"]),
        (["--data", "nothing"], ["there is no", "nothing: give --data the path of a folder"]),
        (["--data", "pets", "--stored-size", "9999"], ["--stored-size 9999", "1 to 4096"]),
        (["--data", "pets", "--val-split", "1"], ["--val-split", "0<x<1"]),
        (["--data", "pets", "--val-split", "0.9"], ["too few to hold out --val-split 0.9"]),
    ],
    ids=" ".join,
)
def test_options_that_do_not_fit(place: Path, arguments: list[str], words: list[str]) -> None:
    outcome = npnet_run(*TRAIN, *arguments, "--out", "run", cwd=place)
    assert not [word for word in words if word not in outcome.error], outcome.error
    assert not (place / "run").exists()


def test_what_was_held_out_cannot_change(place: Path) -> None:
    run(place, *TRAIN, "--data", "pets", "--val-split", 0.25, "--out", "run")
    for option, value in (("--val-split", 0.5), ("--stored-size", 40)):
        again = ("train", "--resume", "run", "--epochs", 2, option, value)
        line = npnet_run(*again, cwd=place).error
        assert "run was trained with" in line
        assert "--val-split 0.25" in line or "--stored-size 37" in line


def test_pack_and_train_on_the_file(place: Path) -> None:
    (place / "pets/train/cat/broken.png").write_text("none")
    pack = ("data", "pack", "pets", "--stored-size", 40, "--out", "here.pack")
    assert "broken.png" in npnet_run(*pack, cwd=place).error
    outcome = run(place, *pack, "--skip-damaged")
    assert "here.pack: 2 classes, train=8 val=0 test=4, 40 pixels across" in outcome.stdout
    assert "1 files that are no usable image" in outcome.stdout
    shutil.rmtree(place / "pets")
    run(place, *TRAIN, "--data", "here.pack", "--out", "run")
    assert load(place / "run/final.npz").header.dataset == "here"
    outcome = run(place, "evaluate", "run/final.npz", "--backend", "reference", "--json")
    assert json.loads(outcome.stdout)["test_acc"] in (0, 0.25, 0.5, 0.75, 1)


def test_pack_names_every_damaged_file(place: Path) -> None:
    for number in range(60):
        (place / f"pets/train/dog/x{number}.png").touch()
    outcome = npnet_run("data", "pack", "pets", cwd=place)
    assert outcome.status == 2
    assert all(f"train/dog/x{number}.png: it is empty" in outcome.stderr for number in range(60))
    assert outcome.errors[-1].startswith("pets: 60 of 72 files are no usable images")


def test_an_npz(place: Path) -> None:
    draw, labels = np.random.default_rng(0), np.arange(8) % 2
    x = draw.integers(0, 256, (8, 28, 28), np.uint8)
    np.savez_compressed(place / "m.npz", x_train=x, y_train=labels, x_test=x, y_test=labels)
    run(place, *TRAIN, "--data", "m.npz", "--out", "run")
    header = load(place / "run/final.npz").header
    assert (header.dataset, header.model.stored_size, header.classes) == ("m", 28, ("0", "1"))


def test_evaluate_on_another_folder(place: Path) -> None:
    run(place, *TRAIN, "--data", "pets", "--out", "run")
    write_folder(place / "more", train=2, test=3)
    outcome = run(place, "evaluate", "run/final.npz", "--data", "more", "--backend", "reference")
    assert "test acc" in outcome.stdout
    assert PackedImages(place / "more/.npnet-37.pack").size("test") == 6


def test_a_preview(place: Path) -> None:
    pytest.importorskip("matplotlib", reason="the plots extra")
    run(place, "data", "preview", "--data", "pets")
    assert (place / "pets.png").stat().st_size > 1000
