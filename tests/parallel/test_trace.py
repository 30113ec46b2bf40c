"""The time line of all ranks, in Chrome's trace format."""

import json
from itertools import pairwise

import pytest

from tests.cifar_files import write_cifar
from tests.launch import TINY, killed_in, npnet_run

CLOCKS_APART = 5000  # microseconds that ranks' clocks may differ by, where others take the cores


@pytest.fixture(autouse=True)
def images(tmp_path):
    write_cifar(tmp_path / "data")


def trace(place, *options, **how):
    arguments = ("train", *TINY, "--batch-per-rank", "4", "--trace", "trace.json", "--out", "run")
    return npnet_run(*arguments, *options, cwd=place, timeout=120, **how)


def phases(events, rank):
    return [each for each in events if each["ph"] == "X" and each["tid"] == rank]


@pytest.mark.mpi
def test_every_rank_s_phases_stand_on_one_time_line(tmp_path):
    assert trace(tmp_path, "--epochs", "2", "--max-steps", "3", ranks=2).status == 0
    events = json.loads((tmp_path / "trace.json").read_text())
    names = [each["args"]["name"] for each in events if each["name"] == "thread_name"]
    assert names == ["rank 0", "rank 1"]
    for rank in (0, 1):
        mine = phases(events, rank)
        for one, following in pairwise(mine):  # no gap, no overlap
            assert one["ts"] + one["dur"] == pytest.approx(following["ts"], abs=1)
        steps = {(each["args"]["epoch"], each["args"]["step"]) for each in mine}
        assert {(epoch, step) for epoch in (1, 2) for step in (1, 2, 3)} <= steps
        assert {"input", "forward", "backward", "update", "transfer", "test"} <= {
            each["name"] for each in mine
        }
    for epoch, step in ((1, 2), (2, 3)):  # an exchange is at the same time for both
        one, other = (
            next(
                each
                for each in phases(events, rank)
                if each["name"] == "transfer" and each["args"] == {"epoch": epoch, "step": step}
            )
            for rank in (0, 1)
        )
        assert one["ts"] < other["ts"] + other["dur"] + CLOCKS_APART
        assert other["ts"] < one["ts"] + one["dur"] + CLOCKS_APART


def test_the_trace_of_a_killed_run_holds_its_whole_epochs(tmp_path):
    assert trace(tmp_path, "--epochs", "2", patches=killed_in(1)).status == -9
    text = (tmp_path / "trace.json").read_text()
    assert not text.rstrip().endswith("]")
    events = json.loads(text + "]")
    assert {each["args"]["epoch"] for each in phases(events, 0)} >= {1}


def test_a_file_that_cannot_be_written_is_told_before_the_run(tmp_path):
    outcome = trace(tmp_path, "--trace", "missing/trace.json")
    assert "cannot write missing/trace.json: No such file or directory" in outcome.error
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_refused_leaves_the_time_line_of_the_one_before(tmp_path):
    assert trace(tmp_path).status == 0
    before = (tmp_path / "trace.json").read_bytes()
    assert "holds a run already" in trace(tmp_path).error
    assert (tmp_path / "trace.json").read_bytes() == before
