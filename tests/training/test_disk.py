"""A disk that is full, or becomes read-only, under a run: it goes on, and says what is kept."""

import errno
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from npnet.files import read_table
from npnet.training.checkpoint import load
from npnet.training.run_folder import RunFolder
from tests.cifar_files import write_cifar
from tests.launch import TINY, npnet_run

TRAIN = ("train", *TINY, "--batch-per-rank", 2, "--evaluate", "never")
FULL, READ_ONLY = os.strerror(errno.ENOSPC), os.strerror(errno.EROFS)


def refusing(names: str, code: str = "ENOSPC") -> str:
    """A patch: the disk refuses the files whose names fit a pattern."""
    return f"""
import errno, os, re
replace, link = os.replace, os.link
def refuse(call):
    def write(source, target):
        if re.search({names!r}, str(target)):
            raise OSError(errno.{code}, os.strerror(errno.{code}), str(target))
        call(source, target)
    return write
os.replace, os.link = refuse(replace), refuse(link)
"""


def warnings_of(stderr: str) -> list[str]:
    begin = "npnet: warning: "
    return [line[len(begin) :] for line in stderr.splitlines() if line.startswith(begin)]


@pytest.fixture(autouse=True)
def images(tmp_path: Path) -> None:
    write_cifar(tmp_path / "data")


@pytest.mark.parametrize(("code", "words"), [("ENOSPC", FULL), ("EROFS", READ_ONLY)])
def test_a_checkpoint_that_is_refused_for_a_while(tmp_path: Path, code: str, words: str) -> None:
    run = tmp_path / "run"
    options = ("--epochs", 4, "--out", "run")
    patches = refusing("epoch-00[23].npz$", code)
    outcome = npnet_run(*TRAIN, *options, cwd=tmp_path, patches=patches)
    assert outcome.status == 0, outcome.stderr
    refused, again = warnings_of(outcome.stderr)
    assert refused.startswith(f"cannot write run/epoch-002.npz: {words}; run/epoch-001.npz is kept")
    assert again.startswith("the disk takes files again: ")
    assert [row["epoch"] for row in read_table(run / "log.csv")] == ["1", "2", "3", "4"]
    assert load(run / "final.npz").header.epoch == 4
    assert {path.name for path in run.glob("epoch-*")} == {"epoch-001.npz", "epoch-004.npz"}


@pytest.mark.parametrize("name", ["log.csv", "step-002-000001.npz"])
def test_another_file_that_is_refused_once(tmp_path: Path, name: str) -> None:
    count = "once = []\n" + refusing(f"{name}$").replace(
        "if re.search", "if not once.count(1) and re.search"
    ).replace("raise", "once.append(1)\n            raise")
    options = ("--epochs", 3, "--checkpoint-every", 1, "--out", "run")
    outcome = npnet_run(*TRAIN, *options, cwd=tmp_path, patches=count)
    assert outcome.status == 0, outcome.stderr
    refused, _ = warnings_of(outcome.stderr)
    assert f"run/{name}: {FULL}; " in refused
    rows = read_table(tmp_path / "run" / "log.csv")
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("epoch-002.npz", "epoch-001.npz"),
        ("final.npz", "epoch-002.npz"),
        ("trial_results.csv", "epoch-002.npz"),
        ("summary.json", "epoch-002.npz"),
    ],
)
def test_the_last_state_is_refused(tmp_path: Path, name: str, kept: str) -> None:
    """The results are printed all the same, the status tells, and the rest can be made later."""
    options = (*TRAIN, "--epochs", 2, "--out", "run")
    outcome = npnet_run(*options, cwd=tmp_path, patches=refusing(f"{name}$"))
    assert outcome.status == 2
    assert outcome.error.startswith("the last state is not saved: cannot write ")
    assert f"{name}: {FULL}; run/{kept} is kept; " in outcome.error
    assert outcome.error.endswith("free some space, then go on with --resume run")
    assert "[SUMMARY]" in outcome.stdout
    assert npnet_run("train", "--resume", "run", "--no-progress", cwd=tmp_path).status == 0
    assert load(tmp_path / "run" / "final.npz").header.epoch == 2
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["epochs"] == 2


def test_a_run_that_is_told_to_leave_says_that_it_is_not_saved(tmp_path: Path) -> None:
    leave = """
begin = Trainer.train_epoch
def train_epoch(self, epoch):
    self.pauses.leave = True
    return begin(self, epoch)
Trainer.train_epoch = train_epoch
"""
    options = (*TRAIN, "--epochs", 3, "--out", "run")
    outcome = npnet_run(*options, cwd=tmp_path, patches=leave + refusing("epoch-001.npz$"))
    assert outcome.status == 2
    assert "the last state is not saved" in outcome.error
    assert "no checkpoint is there yet" in outcome.error


def test_a_trace_with_a_gap(tmp_path: Path) -> None:
    fault = """
from npnet.errors import NpnetError
from npnet.training.trace import Trace
write, calls = Trace._write, []
def refuse(self, text, mode):
    calls.append(1)
    write(self, text[: len(text) // 2] if len(calls) == 3 else text, mode)
    if len(calls) == 3:
        raise NpnetError("cannot write trace.json: it is full")
Trace._write = refuse
"""
    options = (*TRAIN, "--epochs", 2, "--trace", "trace.json", "--out", "run")
    outcome = npnet_run(*options, cwd=tmp_path, patches=fault)
    assert outcome.status == 0, outcome.stderr
    assert "its time line has a gap" in outcome.stderr
    assert json.loads((tmp_path / "trace.json").read_text())


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "none", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_really_full(small_disk: Path) -> None:
    """It has room for some of the checkpoints; space that is freed later is enough to go on."""
    options = (*TRAIN, "--epochs", 8, "--out", "run")
    outcome = npnet_run(*options, "--data-dir", "../data", cwd=small_disk)
    assert outcome.status == 2
    assert "Traceback" not in outcome.stderr
    assert FULL in outcome.error
    (said,) = warnings_of(outcome.stderr)
    assert f"{FULL}; run/epoch-00" in said
    assert "[SUMMARY]" in outcome.stdout
    folder = RunFolder(small_disk / "run")
    newest = folder.newest_checkpoint()
    assert newest is not None
    assert load(newest).header.epoch == len(folder.read_log())
    assert not list(folder.path.glob(".*.tmp"))
