"""`npnet evaluate` with its files, `npnet lr-find`: what they print and leave, on any ranks."""

import json
from pathlib import Path

import pytest

from npnet.files import read_table
from tests.launch import SERIAL_AND_MPI, TINY, npnet_run

SMALL = ("--data-dir", "data", "--width", "0.1", "--input-size", "32", "--backend", "reference")


@pytest.fixture
def run(place: Path) -> Path:
    train = ("train", "--data-dir", "data", *TINY, "--batch-per-rank", 2, "--out", "run")
    assert npnet_run(*train, cwd=place).status == 0
    return place


@pytest.mark.mpi
def test_evaluate_tells_the_same_on_any_ranks(run: Path) -> None:
    """Files and words; pictures where they can be drawn, and a word where they cannot."""
    arguments = ("evaluate", "run/best.npz", "--data-dir", "data", "--backend", "reference")
    arguments = (*arguments, "--worst", 3, "--out")
    one = npnet_run(*arguments, "one", cwd=run)
    two = npnet_run(*arguments, "two", cwd=run, ranks=2)
    assert (one.status, two.status) == (0, 0), one.stderr + two.stderr
    assert one.stdout.replace("one/", "two/") == two.stdout
    first, *_ = one.stdout.splitlines()
    assert first.startswith("test acc: 0.")
    assert "| test top-5 acc: " in first
    for name in ("evaluation.json", "per_class.csv", "confusion.csv"):
        assert (run / "one" / name).read_bytes() == (run / "two" / name).read_bytes()
    found = json.loads((run / "one/evaluation.json").read_text())
    assert len(found["per_class"]) == 10
    assert len(found["worst"]) == 3
    assert {"test_acc", "test_loss", "test_top5_acc"} < set(found)
    drawn = (run / "one/confusion.png").exists()
    assert drawn == (run / "one/worst.png").exists() == ("no picture" not in one.stderr)


def test_evaluate_names_a_split_that_is_empty(run: Path) -> None:
    outcome = npnet_run("evaluate", "run/best.npz", "--data-dir", "data", "--split", "val", cwd=run)
    assert outcome.error.startswith("cifar10 has no val images: choose another --split, or")


@SERIAL_AND_MPI
def test_lr_find_leaves_what_is_asked_for(place: Path, ranks: int | None) -> None:
    test = ("--batch-per-rank", 2, "--steps", 12, "--from", 0.001, "--to", 1000, "--csv", "lr.csv")
    outcome = npnet_run("lr-find", *SMALL, *test, "--recipe", "paper", cwd=place, ranks=ranks)
    assert outcome.status == 0, outcome.stderr
    assert {path.name for path in place.iterdir()} == {"data", "lr.csv"}
    rows = read_table(place / "lr.csv")
    assert list(rows[0]) == ["step", "lr", "loss", "smoothed"]
    assert (rows[0]["step"], float(rows[0]["lr"])) == ("1", 0.001)
    lines = outcome.stdout.splitlines()
    (line,) = [line for line in lines if "npnet train " in line]
    assert line.startswith("mpiexec -n 2 npnet train" if ranks else "npnet train")
    assert "--recipe paper --batch-per-rank 2 --data-dir data --width 0.1" in line
    assert float(line.split(" --lr ")[1]) > 0.001
