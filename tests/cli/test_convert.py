"""`npnet convert`: what it prints, what it leaves, what it refuses."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from npnet.cli import options
from npnet.cli.main import cli
from npnet.errors import NpnetError
from npnet.exchange import pth, read_weights
from tests.exchange.files import same, unpack

LINES = (
    "read          torchvision.pth, a state dict of torchvision",
    "architecture  mobilenet_v2",
    "width         0.1",
    "input size    224x224",
    "padding       symmetric",
    "epsilon       1e-05",
    "classes       3",
    "preprocessing (pixel - mean) / std of 0..255; mean 123.675 116.28 103.53, "
    "std 58.395 57.12 57.375",
    "parameters    89,923",
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(options, "limit_threads", lambda threads: 1)  # NumPy is loaded
    unpack("torchvision.pth", tmp_path)
    return tmp_path


def convert(place: Path, *arguments: str) -> Result:
    words = [each if each.startswith("-") else str(place / each) for each in arguments]
    return CliRunner().invoke(cli, ["convert", *words])


def refused(place: Path, *arguments: str) -> str:
    before = {path: path.read_bytes() for path in place.iterdir()}
    done = convert(place, *arguments)
    assert isinstance(done.exception, NpnetError)
    assert {path: path.read_bytes() for path in place.iterdir()} == before
    return done.output + str(done.exception)


def test_it_says_what_it_read_and_wrote(place: Path) -> None:
    done = convert(place, "torchvision.pth", "x.npz")
    assert done.exit_code == 0, done.output
    *lines, last = done.output.splitlines()
    assert tuple(lines) == LINES
    assert last == f"wrote {place / 'x.npz'}, {(place / 'x.npz').stat().st_size:,} bytes"
    assert same(read_weights(place / "x.npz"), read_weights(place / "torchvision.pth"))


def test_what_it_wrote_predicts(place: Path) -> None:
    convert(place, "torchvision.pth", "x.npz")
    np.save(place / "one.npy", np.full((48, 48, 3), 99, np.uint8))
    words = ["predict", str(place / "x.npz"), str(place / "one.npy"), "--json"]
    words += ["--backend", "reference"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)[0]["predictions"]
    assert {each["class"] for each in found} == {"0", "1", "2"}
    assert sum(each["probability"] for each in found) == pytest.approx(1, abs=1e-5)


def test_an_evaluation_asks_for_a_dataset(place: Path) -> None:
    convert(place, "torchvision.pth", "x.npz")
    done = CliRunner().invoke(cli, ["evaluate", str(place / "x.npz")])
    assert isinstance(done.exception, NpnetError)
    assert "does not say what it was trained on" in str(done.exception)


def test_a_file_that_is_there_stays(place: Path) -> None:
    (place / "x.npz").write_bytes(b"dear")
    assert "is there already" in refused(place, "torchvision.pth", "x.npz")
    assert convert(place, "torchvision.pth", "x.npz", "--force").exit_code == 0
    assert read_weights(place / "x.npz").config.classes == 3


def test_what_is_read_is_never_written(place: Path) -> None:
    for link in ("same.pth", "hard.pth"):
        (os.symlink if link == "same.pth" else os.link)(place / "torchvision.pth", place / link)
        assert "is what is read" in refused(place, "torchvision.pth", link, "--force")


def test_an_ending_is_looked_at_first(place: Path) -> None:
    assert "an ending of no known format" in refused(place, "nothing.pth", "x.tflite")
    assert "No such file" in refused(place, "nothing.pth", "x.npz")


def test_each_tensor_that_does_not_fit_is_a_line(place: Path) -> None:
    state = {f"features.{n}.0.weight": np.zeros((8, 3, 3, 3), np.float32) for n in (0, 7, 8, 9, 11)}
    arrays = {f"data/{key}": array for key, array in enumerate(state.values())}
    with zipfile.ZipFile(place / "odd.pth", "w") as archive:
        archive.writestr("x/data.pkl", pth._pickle(state))
        for name, array in arrays.items():
            archive.writestr(f"x/{name}", array.tobytes())
    said = refused(place, "odd.pth", "x.npz")
    assert "  'features.11.0.weight' (8, 3, 3, 3) is not of that network\n" in said
    assert len(said.splitlines()) > 200


def test_what_has_to_be_set_elsewhere_is_said(place: Path) -> None:
    pytest.importorskip("h5py", reason="h5py is in the `exchange` extra")
    unpack("keras3.keras", place)
    lines = convert(place, "keras3.keras", "x.pth").output.splitlines()
    assert lines[4] == "padding       tf_same, as Keras pads"
    turned, epsilon = lines[-2:]
    assert turned == "torchvision's model pads on other sides: give it images turned by 180 degrees"
    assert epsilon.endswith("set 0.001")
