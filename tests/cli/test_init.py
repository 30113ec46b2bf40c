"""Training that begins with weights from a file."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from npnet.training.checkpoint import load
from tests.cifar_files import write_cifar
from tests.launch import npnet_run

TINY = ("--input-size", "32", "--max-steps", 2, "--evaluate", "at-end", "--backend", "reference")


def run(*arguments: object, cwd: Path) -> str:
    outcome = npnet_run("train", *TINY, *arguments, cwd=cwd, timeout=300)
    assert outcome.status == 0, outcome.stderr
    return outcome.stdout


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the weights of a run lie in base/final.npz."""
    folder = tmp_path_factory.mktemp("init")
    write_cifar(folder / "data")
    run("--width", "0.1", "--epochs", 1, "--out", "base", cwd=folder)
    return folder


def values(folder: Path, name: str, file: str = "final.npz") -> np.ndarray:
    saved = load(folder / file)
    return saved.weights().parameters().value(name)


def test_a_head_learns_and_the_rest_stays(place: Path) -> None:
    output = run("--init", "base/final.npz", "--train", "head", "--out", "head", cwd=place)
    assert "[INFO] Weights: final.npz, a checkpoint of npnet after 1 epochs on cifar10" in output
    assert "features that were computed once" in output
    assert "name=finetune" in output
    assert "width=0.1" in output
    stem, classifier = "stem.weight", "classifier.weight"
    assert np.array_equal(values(place / "head", stem), values(place / "base", stem))
    assert not np.array_equal(
        values(place / "head", classifier), values(place / "base", classifier)
    )
    config = json.loads((place / "head" / "config.json").read_text())
    assert config["init"]["path"] == str(place / "base" / "final.npz")
    with (place / "head" / "log.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 10


def test_a_run_of_a_head_goes_on_to_the_same_end(place: Path) -> None:
    """Its features are found again, and its classifier, though images were not asked for."""
    begin = ("--init", "base/final.npz", "--train", "head", "--epochs", 2)
    run(*begin, "--out", "whole", cwd=place)
    run("--resume", "whole/epoch-001.npz", "--out", "half", cwd=place)
    for name in ("classifier.weight", "head.gamma"):
        assert np.array_equal(values(place / "half", name), values(place / "whole", name)), name


def test_a_run_that_begins_once_more_begins_with_the_same_weights(place: Path) -> None:
    run("--width", "0.1", "--epochs", 1, "--seed", 7, "--out", "other", cwd=place)
    run("--init", "base/final.npz", "--epochs", 1, "--out", "early", cwd=place)
    for file in (place / "early").glob("*.npz"):
        file.unlink()
    (place / "early" / "log.csv").unlink()
    (place / "early" / "summary.json").unlink()
    config = json.loads((place / "early" / "config.json").read_text())
    config["init"]["path"] = str(place / "other" / "final.npz")
    (place / "early" / "config.json").write_text(json.dumps(config))
    outcome = npnet_run("train", "--resume", "early", cwd=place, timeout=120)
    assert outcome.status == 2
    assert "holds other weights than early began with" in outcome.stderr
    config["init"]["path"] = str(place / "base" / "final.npz")
    (place / "early" / "config.json").write_text(json.dumps(config))
    assert npnet_run("train", "--resume", "early", cwd=place, timeout=120).status == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--train", "head"), "--train head is for weights that are trained already"),
        (("--train", "tail"), "--train 'tail' is not usable"),
        (("--init", "base/final.npz", "--width", "0.5"), "--width 0.5 does not fit"),
        (
            ("--init", "base/final.npz", "--model", "squeezenet1_1"),
            "squeezenet1_1 does not fit",
        ),
        (("--init", "missing.npz"), "missing.npz"),
        (("--init", "base/config.json"), "base/config.json"),
        (("--resume", "base", "--init", "base/final.npz"), "--init is for a run that begins"),
        (("--init", "base/final.npz", "--train", "head", "--bn-eval", "both"), "--bn-eval is for"),
    ],
)
def test_what_does_not_fit_is_one_line(place: Path, arguments: tuple[str, ...], words: str) -> None:
    outcome = npnet_run("train", *TINY, *arguments, "--out", "refused", cwd=place, timeout=120)
    assert outcome.status == 1 or outcome.status == 2
    assert words in outcome.stderr, outcome.stderr
    assert len(outcome.stderr.splitlines()) == 1
    assert not (place / "refused").exists()
