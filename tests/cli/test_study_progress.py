"""How long a study will take, by what its runs print."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from npnet.cli.bar import Progress
from npnet.cli.study import common
from npnet.cli.words import COMPILING
from npnet.study.cases import Case


@pytest.fixture
def told(monkeypatch):
    """A study of four runs with 100 of work each; its progress, and a clock that is set by hand."""
    clock = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(common.time, "monotonic", lambda: clock.seconds)
    cases = [Case(name, name, 2, (), epochs=10, work=100) for name in "abcd"]
    study = SimpleNamespace(cases=cases, unfinished=lambda: cases)
    return common.StudyProgress(study, progress=False), cases, clock


def left(progress, case):
    return progress._left(case).removeprefix(", about ").removesuffix(" left in all")


def test_what_is_done_tells_what_is_left(told):
    progress, (first, second, *_), clock = told
    progress.started(first, resumed=None)
    progress.line(first, "[INFO] no progress yet")
    assert left(progress, first) == ""
    clock.seconds = 60
    progress.line(first, "[Root] Epoch 6/10 0% 400 images/s")
    assert left(progress, first) == "0:07:00"
    clock.seconds = 120
    progress.ended(first, None)
    progress.started(second, resumed=None)
    assert left(progress, second) == "0:06:00"


def test_what_a_run_had_done_before_took_no_time_of_this_start(told):
    progress, (first, *_), clock = told
    progress.started(first, resumed=Path("epoch-008.npz"))
    progress.line(first, "[Root] Epoch 9/10 0% 400 images/s")
    assert left(progress, first) == ""
    clock.seconds = 60
    progress.line(first, "[Root] Epoch 10/10 0% 400 images/s")
    assert left(progress, first) == "0:31:00"


def test_what_compiling_took_is_not_expected_of_the_next_run(told):
    progress, (first, second, *_), clock = told
    progress.started(first, resumed=None)
    clock.seconds = 2
    progress.line(first, f"[INFO] {COMPILING} for this processor, once")
    clock.seconds = 12
    progress.line(first, f"[INFO] {COMPILING}: 50% 9 of 18 done")
    clock.seconds = 22
    progress.line(first, "[INFO] Dataset: drawn from seed 0")
    clock.seconds = 25
    progress.ended(first, None)
    progress.started(second, resumed=None)
    assert left(progress, second) == "0:00:15"


def test_a_run_that_fails_while_it_compiles_leaves_the_next_its_own_time(told):
    progress, (first, second, third, _), clock = told
    progress.started(first, resumed=None)
    progress.line(first, f"[INFO] {COMPILING} for this processor, once")
    clock.seconds = 10
    progress.ended(first, "killed")
    progress.started(second, resumed=None)
    clock.seconds = 40
    progress.line(second, "[Root] Epoch 10/10 100% 400 images/s")
    progress.ended(second, None)
    progress.started(third, resumed=None)
    assert left(progress, third) == "0:01:00"


def test_it_is_said_at_once_that_a_run_compiles(told, capsys):
    progress, (first, *_), _ = told
    progress.shown = Progress(None, "[STUDY]")
    progress.started(first, resumed=None)
    progress.line(first, f"[INFO] {COMPILING} for this processor, once: some minutes")
    progress.line(first, "[INFO] Dataset: drawn")
    said = f"[STUDY] a: {COMPILING} for this processor, once: some minutes\n"
    assert capsys.readouterr().err == said


def test_a_run_that_fails_early_makes_the_others_no_quicker(told):
    progress, (first, second, *_), clock = told
    progress.started(first, resumed=None)
    progress.line(first, "[Root] Epoch 1/10 50% 400 images/s")
    clock.seconds = 6
    progress.ended(first, "no space")
    progress.started(second, resumed=None)
    assert left(progress, second) == "0:06:00"
