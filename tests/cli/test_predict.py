"""`npnet predict`: files in, the likeliest classes out."""

import json
import os
from pathlib import Path

import numpy as np
import pytest

import npnet
from npnet.data import open_dataset
from npnet.errors import NpnetError
from npnet.files import read_table
from npnet.training.checkpoint import load
from npnet.training.predict import pictures_in
from tests.launch import npnet_run

CLASSES = 10


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a network trained a little, run/final.npz, and pictures of `shapes`."""
    folder = tmp_path_factory.mktemp("predict")
    options = ("--width", 0.25, "--input-size", 64, "--max-steps", 60, "--epochs", 1)
    options = (*options, "--evaluate", "never")
    outcome = npnet_run("train", "--dataset", "shapes", *options, "--out", "run", cwd=folder)
    assert outcome.status == 0, outcome.stderr
    images = open_dataset("shapes").read("test", np.arange(40))
    np.save(folder / "one.npy", images.pixels[0])
    np.save(folder / "many.npy", images.pixels)
    return folder


def predictions(place: Path, *arguments: object) -> list[dict]:
    outcome = npnet_run("predict", "run/final.npz", *arguments, "--json", cwd=place)
    assert outcome.status == 0, outcome.stderr
    found: list[dict] = json.loads(outcome.stdout)
    return found


def test_predictions_are_ranked_probabilities(place: Path) -> None:
    (one,) = predictions(place, "one.npy", "--top", 20)
    chances = [entry["probability"] for entry in one["predictions"]]
    assert len(chances) == CLASSES
    assert chances == sorted(chances, reverse=True)
    assert sum(chances) == pytest.approx(1, abs=1e-5)
    assert {entry["class"] for entry in one["predictions"]} == set(open_dataset("shapes").classes)


def test_the_plain_kernels_predict_the_same(place: Path) -> None:
    fast = predictions(place, "many.npy", "--top", CLASSES)
    plain = predictions(place, "many.npy", "--top", CLASSES, "--backend", "reference")
    assert [entry["index"] for entry in fast] == list(range(40))
    for mine, reference in zip(fast, plain, strict=True):
        chances = {each["class"]: each["probability"] for each in reference["predictions"]}
        for each in mine["predictions"]:
            assert each["probability"] == pytest.approx(chances[each["class"]], abs=1e-3)


def test_a_picture_file_is_read_as_its_pixels(place: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is in the `images` extra")
    image.fromarray(np.load(place / "one.npy")).save(place / "one.png")
    array, picture = predictions(place, "one.npy", "one.png")
    assert array["predictions"] == picture["predictions"]


def test_a_large_picture_s_centre_is_what_counts(place: Path) -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is in the `images` extra")
    pixels = np.load(place / "one.npy")
    large = np.zeros((320, 400, 3), np.uint8)
    large[:, 40:360] = np.kron(pixels, np.ones((10, 10, 1), np.uint8))
    image.fromarray(large).save(place / "large.png")
    small, reduced = (
        {each["class"]: each["probability"] for each in picture["predictions"]}
        for picture in predictions(place, "one.npy", "large.png", "--top", CLASSES)
    )
    assert small == pytest.approx(reduced, abs=0.01)


def test_the_json_is_what_the_words_say(place: Path) -> None:
    """A list of an object a picture, of these keys alone, in the order of files and pictures."""
    found = predictions(place, "one.npy", "many.npy", "--top", 2)
    assert [(each["file"], each["index"]) for each in found[:3]] == [
        ("one.npy", 0),
        ("many.npy", 0),
        ("many.npy", 1),
    ]
    for each in found:
        assert set(each) == {"file", "index", "predictions"}
        assert len(each["predictions"]) == 2
        for entry in each["predictions"]:
            assert set(entry) == {"class", "probability"}
            assert isinstance(entry["class"], str)
            assert 0 <= entry["probability"] <= 1


def test_a_folder_s_pictures_are_predicted_and_its_broken_ones_named(place: Path) -> None:
    folder = place / "folder"
    (folder / "below").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    pixels = np.load(place / "many.npy")
    for name in ("b.npy", "below/a.npy", ".hidden/c.npy", ".d.npy"):
        with (folder / name).open("wb") as file:
            np.save(file, pixels[:2])
    (folder / "notes.txt").write_text("no picture")
    (folder / "broken.npy").write_text("no array")
    assert [str(each.relative_to(folder)) for each in pictures_in(folder)] == [
        "b.npy",
        "below/a.npy",
        "broken.npy",
    ]
    arguments = ("predict", "run/final.npz", "folder", "--top", 1, "--csv")
    printed = npnet_run(*arguments, "-", cwd=place)
    assert printed.status == 2
    assert printed.error.startswith("folder/broken.npy is no array")
    assert npnet_run(*arguments, "table.csv", cwd=place).stdout == ""
    assert (place / "table.csv").read_text() == printed.stdout
    rows = read_table(place / "table.csv")
    assert list(rows[0]) == ["file", "index", "place", "class", "probability"]
    files = ["folder/b.npy"] * 2 + ["folder/below/a.npy"] * 2
    assert [(row["file"], row["index"]) for row in rows] == list(
        zip(files, ["0", "1"] * 2, strict=True)
    )
    assert {row["place"] for row in rows} == {"1"}
    (folder / "below/empty").mkdir()
    with pytest.raises(NpnetError, match="holds no pictures: give one of"):
        pictures_in(folder / "below/empty")


def test_a_folder_s_pipes_and_dangling_links_are_named(place: Path) -> None:
    folder = place / "odd"
    folder.mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "gone.png").symlink_to("nowhere")
    outcome = npnet_run("predict", "run/final.npz", "odd", cwd=place)
    assert "odd/gone.png: No such file" in outcome.stderr
    assert "odd/pipe.png: it is a pipe or a device" in outcome.stderr


def test_an_array_of_the_input_s_size_is_taken_as_it_is(place: Path) -> None:
    saved = load(place / "run/final.npz")
    size = saved.header.model.input_size
    pixels = np.random.default_rng(0).integers(0, 256, (1, size, size, 3)).astype(np.uint8)
    np.save(place / "whole.npy", pixels)
    (found,) = npnet.predict(place / "run/final.npz", [place / "whole.npy"], 1, "reference")
    inference = saved.inference(1, "reference")
    inference.images[:] = (pixels - np.array(saved.header.model.mean)) / saved.header.model.std
    inference.forward(1)
    inference.loss(np.zeros(1, np.int64))
    assert found.ranking[0][1] == pytest.approx(inference.probabilities.max(), rel=1e-5)


def test_the_text_names_the_file_and_the_chances(place: Path) -> None:
    words = ("predict", "run/final.npz", "one.npy", "--top", 3)
    outcome = npnet_run(*words, cwd=place, started=True)
    name, *ranking = outcome.stdout.splitlines()
    assert name == "one.npy"
    assert len(ranking) == 3
    assert all(" %  " in line for line in ranking)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.npy", None, "No such file"),
        ("text.npy", b"hello", "text.npy"),
        ("empty.npy", np.zeros((0, 4, 4, 3), np.uint8), "no pixels"),
        ("grey.npy", np.zeros((4, 4), np.uint8), "uint8 (4, 4)"),
        ("floats.npy", np.zeros((4, 4, 3)), "float64"),
        ("object.npy", np.array([{}], object), "no array of numbers"),
    ],
)
def test_what_is_no_picture_is_said_in_one_line(place, name, content, says) -> None:
    if isinstance(content, bytes):
        (place / name).write_bytes(content)
    elif content is not None:
        np.save(place / name, content)
    outcome = npnet_run("predict", "run/final.npz", name, cwd=place)
    assert outcome.status == 2
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("npnet: error: ")
    assert name in line
    assert says in line


def test_what_cannot_be_read_does_not_keep_the_others(place: Path) -> None:
    names = ("missing.npy", "one.npy", "grey.npy", "many.npy")
    np.save(place / "grey.npy", np.zeros((4, 4), np.uint8))
    outcome = npnet_run("predict", "run/final.npz", *names, "--json", cwd=place)
    assert outcome.status == 2
    assert [error.split(":")[0] for error in outcome.errors] == [
        "cannot read the picture missing.npy",
        "grey.npy holds uint8 (4, 4)",
    ]
    assert outcome.stderr.count("\n") == 2
    found = [each["file"] for each in json.loads(outcome.stdout)]
    assert found == ["one.npy"] + 40 * ["many.npy"]


def test_a_name_that_steers_a_terminal_is_not_printed_as_it_is(place: Path) -> None:
    """Nor does one of bytes that are no text end the command."""
    names = ("\x1b[2J.npy", "\udcff\u202e.npy", "\x1b]0;none.npy")
    for name in names[:2]:
        (place / name).write_bytes((place / "one.npy").read_bytes())
    outcome = npnet_run("predict", "run/final.npz", *names, "--top", 1, cwd=place)
    assert outcome.status == 2
    assert outcome.stdout.splitlines()[0] == r"\x1b[2J.npy"
    assert outcome.stdout.splitlines()[2] == r"\udcff\u202e.npy"
    assert r"\x1b]0;none.npy" in outcome.error
