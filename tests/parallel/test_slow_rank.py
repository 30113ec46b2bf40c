"""A rank that holds the others up is named in the summary, with its cause."""

import csv
import json
import os

import pytest

from tests.cifar_files import write_cifar
from tests.launch import TINY, npnet_run

pytestmark = pytest.mark.mpi

# Three programs on the core of rank 1, which then trains with a quarter of it; rank 0 has another.
BUSY_CORE = """
import atexit, os, subprocess, sys
cores = sorted(os.sched_getaffinity(0))
os.sched_setaffinity(0, {cores[-1 - rank]})
train_epoch = Trainer.train_epoch
def train_beside(self, epoch):
    for _ in range(3 * rank):
        busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
        atexit.register(busy.kill)
    return train_epoch(self, epoch)
Trainer.train_epoch = train_beside
"""

STOPPED = """
import os, signal, subprocess
train_forward = Network.forward
def stop_once(self, *arguments):
    global train_forward
    if rank == 1 and train_forward is not None:
        forward, train_forward = train_forward, None
        subprocess.Popen(["sh", "-c", f"sleep 3; kill -CONT {os.getpid()}"])
        os.kill(os.getpid(), signal.SIGSTOP)
        Network.forward = forward
        return forward(self, *arguments)
    return real_forward(self, *arguments)
real_forward = Network.forward
Network.forward = stop_once
"""

SLOW_DISK = """
import time
from npnet import files
sync = files.os.fsync
def slowly(descriptor):
    time.sleep(0.7)
    sync(descriptor)
files.os.fsync = slowly
"""

SLOW_DATA = """
import time
from npnet.data.batches import ImageInput
fill = ImageInput.fill
def slowly(self, *arguments):
    if rank == 1:
        time.sleep(0.3)
    fill(self, *arguments)
ImageInput.fill = slowly
"""


def run(place, patches, *options):
    """The summary of a short run on two ranks, and its log by rank."""
    write_cifar(place / "data", images=300)  # twelve steps of two ranks
    arguments = ("train", *TINY, "--evaluate", "never", *options)
    outcome = npnet_run(
        *arguments, "--out", place / "run", cwd=place, ranks=2, patches=patches, timeout=120
    )
    assert outcome.status == 0, outcome
    summary = json.loads((place / "run/summary.json").read_text())
    with (place / "run/log.csv").open() as file:
        log = list(csv.DictReader(file))
    return summary["slowest"], outcome.stdout, [[r for r in log if r["rank"] == n] for n in "01"]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="ranks need a core each")
def test_a_busy_core(tmp_path):
    slowest, told, _ = run(tmp_path, BUSY_CORE, "--max-steps", "12")
    assert slowest.startswith("rank 1 ")
    assert "of the time: something else runs there" in slowest
    assert slowest in told


def test_a_stopped_process(tmp_path):
    slowest, _, (waiting, stopped) = run(tmp_path, STOPPED, "--max-steps", "6")
    assert slowest.startswith("rank 1 ")
    assert "stood still for" in slowest
    assert "in epoch 1, step 1:" in slowest
    assert float(waiting[0]["wait_seconds"]) > 2.5  # not 3: both start at their own time
    assert float(stopped[0]["wait_seconds"]) < 2.5
    assert float(stopped[0]["longest_stall_seconds"]) > 2.5
    assert stopped[0]["longest_stall_phase"] == "forward"


def test_a_slow_disk(tmp_path):
    slowest, _, (writing, waiting) = run(tmp_path, SLOW_DISK)
    assert slowest.startswith("rank 0 ")
    assert "slow to write" in slowest
    assert float(writing[0]["checkpoint_seconds"]) >= 0.7
    assert float(waiting[0]["wait_seconds"]) < 0.7  # that of training alone


def test_data_that_come_slowly(tmp_path):
    slowest, _, (_, slow) = run(tmp_path, SLOW_DATA, "--max-steps", "6")
    assert slowest.startswith("rank 1 ")
    assert "waits for its data" in slowest
    assert float(slow[0]["input_seconds"]) >= 1.8


def test_the_phases_of_an_epoch_are_all_of_it(tmp_path):
    _, _, ranks = run(tmp_path, "", "--epochs", "2")
    phases = ("input", "forward", "backward", "update", "wait", "transfer", "other")
    for rank in ranks:
        for row in rank:
            parts = [float(row[f"{phase}_seconds"]) for phase in phases]
            assert min(parts[:5]) >= 0
            assert sum(parts) == pytest.approx(float(row["seconds"]))
        assert float(rank[1]["elapsed_seconds"]) > float(rank[0]["elapsed_seconds"])
