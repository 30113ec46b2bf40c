"""Signals: a run saves itself and leaves, or goes on; and what it keeps."""

import signal
from pathlib import Path

import pytest

from npnet.parallel.communicator import SerialCommunicator
from npnet.training.checkpoint import load
from npnet.training.pauses import Pauses
from npnet.training.run_folder import RunFolder
from tests.launch import SERIAL_AND_MPI, TINY, npnet_run

LONG = (*TINY, "--epochs", "2", "--max-steps", "10", "--batch-per-rank", "1", "--out")
LEFT = 75

# Rank `who` gets a signal in the fourth step of the second epoch.
SIGNAL = """
import os, signal
at = Trainer.at
def send(self, epoch, step):
    if (epoch, step, rank) == ({epoch}, 3, {who}):
        for each in {signals}:
            os.kill(os.getpid(), each)
    at(self, epoch, step)
Trainer.at = send
"""

# All ranks are killed after that step of the second epoch.
KILL = """
import os
pause = Trainer._pause
def die(self, epoch, step, *rest):
    pause(self, epoch, step, *rest)
    if (epoch, step) == (1, {step}):
        os._exit(9)
Trainer._pause = die
"""

# The accuracy of each test.
SCORES = """
from npnet.training.best import Best
scores, after = [0.1, 0.9, 0.2, 0.9, 0.3], Best.after
Best.after = lambda best, epoch, accuracy: after(best, epoch, scores[epoch - 1])
"""


def signalled(*signals: signal.Signals, who: int = 0, epoch: int = 1) -> str:
    return SIGNAL.format(signals=[int(each) for each in signals], who=who, epoch=epoch)


def names(run: Path) -> set[str]:
    return {path.name for path in run.iterdir()}


@SERIAL_AND_MPI
@pytest.mark.parametrize("each", [signal.SIGTERM, signal.SIGINT])
def test_a_run_that_is_told_to_leave_goes_on_later(
    place: Path, ranks: int | None, each: signal.Signals
) -> None:
    """One rank alone is told, and all leave at the same step."""
    assert npnet_run("train", *LONG, "whole", cwd=place, ranks=ranks).status == 0
    patches = signalled(each, who=0 if ranks is None else ranks - 1)
    outcome = npnet_run("train", *LONG, "run", cwd=place, ranks=ranks, patches=patches)
    assert set(outcome.statuses) == {LEFT}
    launcher = "" if ranks is None else f"mpiexec -n {ranks} "
    (line,) = [line for line in outcome.stderr.splitlines() if line.startswith("npnet: ")]
    assert line == (
        "npnet: stopped in epoch 2, after 8 of 10 steps: go on with "
        f"{launcher}npnet train --resume run"
    )
    left = {"config.json", "log.csv", "epoch-001.npz", "best.npz", "step-002-000008.npz"}
    assert names(place / "run") == left
    again = npnet_run("train", "--resume", "run", "--no-progress", cwd=place, ranks=ranks)
    assert again.status == 0, again.stderr
    assert "with epoch 2 of 2, step 9 of 10\n" in again.stdout
    assert load(place / "run/final.npz").digest() == load(place / "whole/final.npz").digest()
    columns = ("epoch", "loss", "acc", "test_loss")
    log, whole = (RunFolder(place / run).read_log() for run in ("run", "whole"))
    assert [[row[n] for n in columns] for row in log] == [
        [row[n] for n in columns] for row in whole
    ]
    assert names(place / "run") - {"config-2.json"} == names(place / "whole")


@SERIAL_AND_MPI
def test_a_run_that_is_told_to_save_goes_on(place: Path, ranks: int | None) -> None:
    patches = signalled(signal.SIGUSR1) + KILL.format(step=9)
    outcome = npnet_run("train", *LONG, "run", cwd=place, ranks=ranks, patches=patches)
    assert outcome.status not in (0, LEFT)
    assert "step-002-000008.npz" in names(place / "run")
    again = npnet_run("train", "--resume", "run", "--no-progress", cwd=place, ranks=ranks)
    assert "Goes on from run/step-002-000008.npz" in again.stdout


def test_a_second_signal_does_not_wait(place: Path) -> None:
    twice = signalled(signal.SIGTERM, signal.SIGTERM)
    outcome = npnet_run("train", *LONG, "run", cwd=place, patches=twice)
    assert outcome.status == -signal.SIGTERM
    assert "step-002-000008.npz" not in names(place / "run")


def test_ranks_that_update_locally_leave_where_they_synchronise(place: Path) -> None:
    """Unless they are told to save themselves more often."""
    local = (*LONG, "run", "--recipe", "paper")
    outcome = npnet_run("train", *local, cwd=place, patches=signalled(signal.SIGTERM, epoch=0))
    assert outcome.status == LEFT
    assert "npnet: stopped after epoch 1 of 2: go on with" in outcome.stderr
    more = ("--resume", "run", "--checkpoint-every", "4", "--no-progress")
    outcome = npnet_run("train", *more, cwd=place, patches=signalled(signal.SIGTERM))
    assert outcome.status == LEFT
    assert "stopped in epoch 2, after 4 of 10 steps" in outcome.stderr


def test_an_epoch_under_way_is_saved_every_so_many_steps(place: Path) -> None:
    more = ("--checkpoint-every", "3")
    outcome = npnet_run("train", *LONG, "run", *more, cwd=place, patches=KILL.format(step=7))
    assert outcome.status == 9
    steps = {name for name in names(place / "run") if name.startswith("step")}
    assert steps == {"step-002-000006.npz"}
    again = npnet_run("train", "--resume", "run", "--no-progress", cwd=place)
    assert again.status == 0, again.stderr
    assert not {name for name in names(place / "run") if name.startswith("step")}


def test_another_number_of_ranks_goes_on_at_the_same_part_of_an_epoch(place: Path) -> None:
    patches = signalled(signal.SIGTERM)
    npnet_run("train", *LONG, "run", "--max-steps", "20", cwd=place, patches=patches)
    more = ("--workers-per-rank", "2", "--max-steps", "10", "--no-progress")
    outcome = npnet_run("train", "--resume", "run", *more, cwd=place)
    assert outcome.status == 0, outcome.stderr
    assert "with epoch 2 of 2, step 5 of 10\n" in outcome.stdout
    words = "[INFO] epoch 2 goes on after 4 of 10 steps, which were 8 of 20; its losses are of the"
    assert words in outcome.stdout


@pytest.mark.parametrize(
    ("epochs", "keep", "kept"),
    [
        (5, 2, {2, 4, 5}),  # of two that are best, the first
        (4, 1, {2, 4}),
        (3, 1, {2, 3}),
        (3, 9, {1, 2, 3}),
    ],
)
def test_checkpoints_are_removed_if_that_is_asked_for(
    place: Path, epochs: int, keep: int, kept: set[int]
) -> None:
    options = (*TINY, "--epochs", epochs, "--keep", keep, "--out", "run")
    outcome = npnet_run("train", *options, cwd=place, patches=SCORES)
    assert outcome.status == 0, outcome.stderr
    left = {name for name in names(place / "run") if name.startswith("epoch")}
    assert left == {f"epoch-{number:03d}.npz" for number in kept}


def test_pauses_cut_rounds_and_nothing_else() -> None:
    rounds = [range(4), range(4, 8), range(8, 10)]
    each = Pauses(SerialCommunicator(), 3)
    parts = [(0, 3, False), (3, 4, True), (4, 6, False), (6, 8, True), (8, 9, False), (9, 10, True)]
    expected = [(range(start, stop), ends) for start, stop, ends in parts]
    assert list(each.parts(rounds, 0)) == expected
    assert list(each.parts(rounds, 5)) == [(range(5, 6), False), *expected[3:]]
    whole = Pauses(SerialCommunicator(), None)
    assert list(whole.parts(rounds, 0)) == [(steps, True) for steps in rounds]
