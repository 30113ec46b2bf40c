"""`--data`: a folder of images, an .npz or a packed file, from the command line and on ranks."""

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest

from npnet.cli.main import cli
from npnet.data.packed import PackedImages
from npnet.errors import NpnetError
from npnet.training.checkpoint import load, save
from tests.data.image_folders import write_folder, write_picture
from tests.launch import TINY, npnet_run

TRAIN = ("train", *TINY, "--batch-per-rank", 2, "--evaluate", "never")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder to run in; it has the folder `pets`, 4 images of each class to train on."""
    write_folder(tmp_path / "pets", train=4, test=2)
    return tmp_path


@pytest.fixture
def npnet(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., str]]:
    """Runs a command in this process, in `place`, and returns what it printed."""
    monkeypatch.chdir(place)
    monkeypatch.setattr("npnet.cli.options.limit_threads", lambda threads=None: 1)
    before = signal.getsignal(signal.SIGUSR1)

    def run(*arguments: object) -> str:
        cli.main([str(each) for each in arguments], standalone_mode=False)
        return capsys.readouterr().out

    yield run
    signal.signal(signal.SIGUSR1, before)


def refusal(npnet: Callable[..., str], *arguments: object) -> str:
    with pytest.raises(NpnetError) as caught:
        npnet(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def files(place: Path) -> set[str]:
    return {str(path.relative_to(place)) for path in place.rglob("*")}


@pytest.mark.mpi
def test_ranks_share_one_file(place: Path) -> None:
    """One packs, all train; what was held out is in no shard; and the run goes on elsewhere."""
    run = (*TRAIN, "--data", "pets", "--val-split", 0.25, "--out", "run")
    outcome = npnet_run(*run, cwd=place, ranks=2)
    assert outcome.status == 0, outcome.stderr
    assert outcome.stdout.count("12 images are packed in") == 1
    assert outcome.stdout.count("shard=3 samples") == 2
    shutil.move(place / "pets", place / "moved")
    again = ("train", "--resume", "run", "--epochs", 2, "--data", "moved", "--no-progress")
    outcome = npnet_run(*again, cwd=place, ranks=2)
    assert outcome.status == 0, outcome.stderr
    assert outcome.stdout.count("shard=3 samples") == 2


def test_a_run_goes_on(place: Path, npnet: Callable[..., str]) -> None:
    said = npnet(*TRAIN, "--data", "pets", "--val-split", 0.25, "--out", "run")
    assert "12 images are packed in" in said
    assert "shard=6 samples" in said
    source = {
        "name": str(place / "pets"),
        "stored_size": 37,  # 32 / 0.875
        "val_split": 0.25,
        "split_seed": 42,
        "skip_damaged": False,
    }
    config = json.loads((place / "run/config.json").read_text())
    location = str(place / "pets")
    assert config["dataset"] == {"name": "pets", "location": location, "source": source}
    header = load(place / "run/final.npz").header
    assert header.source is not None
    assert (asdict(header.source), header.classes) == (source, ("cat", "dog"))
    assert header.model.stored_size == 37

    again = ("train", "--resume", "run", "--no-progress", "--epochs")
    said = npnet(*again, 2, "--seed", 7)  # what is held out stays so
    assert "shard=6 samples" in said
    assert "packed" not in said
    for option, value in (("--val-split", 0.5), ("--stored-size", 40)):
        line = refusal(npnet, *again, 3, option, value)
        assert "run was trained with" in line
        assert "`val_split` 0.25" in line or "`stored_size` 37" in line

    shutil.move(place / "pets", place / "moved")
    line = refusal(npnet, *again, 3)
    assert line == f"there is no {place}/pets: give `data` the path of a folder of images"
    npnet(*again, 3, "--data", "moved")
    write_picture(place / "moved/train/cat/0.png", 200)
    line = refusal(npnet, *again, 4, "--data", "moved")
    assert "holds other images" in line
    assert line.endswith("give their folder to `data`")


def damaged(place: Path) -> list[str]:
    (place / "pets/train/cat/0.png").write_bytes(b"")
    (place / "pets/test/dog/notes.txt").write_text("two dogs")
    return ["pets: 2 of 13 files are no usable images", "train/cat/0.png: it is empty", "notes.txt"]


def empty_class(place: Path) -> list[str]:
    (place / "pets/train/fox").mkdir()
    return ["the class", "pets/train/fox has no images"]


def nothing_to_test(place: Path) -> list[str]:
    shutil.rmtree(place / "pets/test")
    return ["no images to test or to validate on: give `val_split` 0.1"]


@pytest.mark.parametrize("spoil", [damaged, empty_class, nothing_to_test])
def test_a_folder_that_is_not_right(place: Path, npnet: Callable[..., str], spoil) -> None:
    words = spoil(place)
    before = files(place)
    line = refusal(npnet, "train", *TINY, "--data", "pets", "--out", "run")
    assert not [word for word in words if word not in line], line
    # What can be used is packed, whole; there is nothing else.
    assert files(place) - before <= {"pets/.npnet-37.pack"}


@pytest.mark.mpi
def test_a_damaged_file_is_one_line_on_every_rank(place: Path) -> None:
    words = damaged(place)
    before = files(place)
    outcome = npnet_run("train", *TINY, "--data", "pets", "--out", "run", cwd=place, ranks=2)
    assert not [word for word in words if word not in outcome.error], outcome.error
    assert outcome.error.endswith("or leave them out with --skip-damaged")
    assert set(outcome.statuses) == {2}
    assert files(place) - before <= {"pets/.npnet-37.pack"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "pets", "--dataset", "shapes"], ["`dataset` and `data` name two datasets"]),
        (["--dataset", "shapes", "--stored-size", "40"], ["`stored_size`", "for a folder"]),
        (["--dataset", "shapes", "--skip-damaged"], ["`skip_damaged` are for a folder"]),
        (["--data", "nothing"], ["there is no", "nothing: give `data` the path of a folder"]),
        (["--data", "cifar10"], ["a folder of images, or `dataset` the name cifar10"]),
        (["--data", "pets", "--stored-size", "9999"], ["`stored_size` 9999", "1 to 4096"]),
        (["--data", "pets", "--val-split", "0.9"], ["too few to hold out `val_split` 0.9"]),
    ],
    ids=" ".join,
)
def test_options_that_do_not_fit(
    place: Path, npnet: Callable[..., str], arguments: list[str], words: list[str]
) -> None:
    line = refusal(npnet, *TRAIN, *arguments, "--out", "run")
    assert not [word for word in words if word not in line], line
    assert not (place / "run").exists()


def test_pack_then_train_and_evaluate_on_the_file(place: Path, npnet: Callable[..., str]) -> None:
    (place / "pets/train/cat/broken.png").write_text("none")
    pack = ("data", "pack", "pets", "--stored-size", 40, "--out", "here.pack")
    assert "broken.png" in refusal(npnet, *pack)
    said = npnet(*pack, "--skip-damaged")
    assert "here.pack: 2 classes, train=8 val=0 test=4, 40 pixels across" in said
    assert "1 files that are no usable image" in said
    shutil.rmtree(place / "pets")
    npnet(*TRAIN, "--data", "here.pack", "--out", "run")
    assert load(place / "run/final.npz").header.dataset == "here"
    said = npnet("evaluate", "run/final.npz", "--backend", "reference", "--json")
    assert json.loads(said)["test_acc"] in (0, 0.25, 0.5, 0.75, 1)


def test_a_pack_among_the_images_of_a_class_is_refused(
    place: Path, npnet: Callable[..., str]
) -> None:
    before = files(place)
    line = refusal(npnet, "data", "pack", "pets", "--out", "pets/train/cat/cats.pack")
    assert "lies in the folder of the images, pets" in line
    assert files(place) == before
    assert "pets/all.pack: 2 classes" in npnet("data", "pack", "pets", "--out", "pets/all.pack")


def test_pack_names_every_damaged_file(
    place: Path, npnet: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(60):
        (place / f"pets/train/dog/x{number}.png").touch()
    line = refusal(npnet, "data", "pack", "pets")
    assert line.startswith("pets: 60 of 72 files are no usable images")
    told = line + capsys.readouterr().err
    assert all(f"train/dog/x{number}.png: it is empty" in told for number in range(60))


def test_an_npz_and_another_folder_to_evaluate_on(place: Path, npnet: Callable[..., str]) -> None:
    draw, labels = np.random.default_rng(0), np.arange(8) % 2
    x = draw.integers(0, 256, (8, 28, 28), np.uint8)
    np.savez_compressed(place / "m.npz", x_train=x, y_train=labels, x_test=x, y_test=labels)
    npnet(*TRAIN, "--data", "m.npz", "--out", "run")
    header = load(place / "run/final.npz").header
    assert (header.dataset, header.model.stored_size, header.classes) == ("m", 28, ("0", "1"))
    with pytest.warns(UserWarning, match="calls 2 classes otherwise"):
        npnet("evaluate", "run/final.npz", "--data", "pets", "--backend", "reference")
    assert PackedImages(place / "pets/.npnet-37.pack").size("test") == 4


def test_a_preview(place: Path, npnet: Callable[..., str]) -> None:
    pytest.importorskip("matplotlib", reason="the plots extra")
    npnet("data", "preview", "--data", "pets")
    assert (place / "pets.png").stat().st_size > 1000


def test_what_is_written_does_not_become_a_class(place: Path, npnet: Callable[..., str]) -> None:
    before = files(place)
    words = "lies in the folder of the images"
    assert words in refusal(npnet, *TRAIN, "--data", "pets", "--out", "pets/train/run")
    assert not {name for name in files(place) - before if "run" in name}
    npnet(*TRAIN, "--data", "pets", "--out", "run")
    judged = ("evaluate", "run/final.npz", "--out", "pets/judged")
    assert words in refusal(npnet, *judged)
    assert words in refusal(npnet, *judged, "--data", "pets")
    assert not (place / "pets/judged").exists()


def test_a_path_that_is_no_text_is_told_before_the_work(
    place: Path, npnet: Callable[..., str]
) -> None:
    name = os.fsdecode(b"p\xe9ts")
    (place / "pets").rename(place / name)
    assert "cannot be written as UTF-8" in refusal(npnet, *TRAIN, "--data", name, "--out", "run")
    assert not (place / "run").exists()


def test_weights_that_make_no_numbers(place: Path, npnet: Callable[..., str]) -> None:
    """Each is finite, what they make is not: told as it is, by whoever uses them."""
    npnet(*TRAIN, "--data", "pets", "--out", "run")
    right = load(place / "run/final.npz")
    save(place / "huge.npz", replace(right, values=np.full_like(right.values, 1e38)))
    write_picture(place / "one.png", 7)
    with np.errstate(all="ignore"):
        words = refusal(npnet, "predict", "huge.npz", "one.png")
        assert "makes numbers that are not finite of one.png" in words
        data = ("--data", "pets")
        words = refusal(npnet, "convert", "huge.npz", "x.onnx", "--int8", *data)
        assert "make numbers that are not finite" in words
        words = refusal(npnet, *TRAIN, *data, "--init", "huge.npz", "--out", "again")
        assert "before any update: the weights that it begins with make it so" in words
    assert not (place / "x.onnx").exists()
