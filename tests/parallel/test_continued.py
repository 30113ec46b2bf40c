"""A run that goes on ends, to the bit, where it would have without a break."""

import json
import subprocess
import sys

import numpy as np
import pytest

from npnet.parallel.communicator import SerialCommunicator
from npnet.parallel.strategies import STRATEGIES
from npnet.training.checkpoint import load
from tests.launch import SOURCES, clean_environment, launcher
from tests.parallel.continued import WORKERS_PER_RANK, train


@pytest.fixture(scope="module", params=[1, pytest.param(2, marks=pytest.mark.mpi)])
def world(request, tmp_path_factory):
    """The number of ranks, where their runs lie, and how they ended, by case."""
    place = tmp_path_factory.mktemp("continued")
    command = [sys.executable, "-m", "tests.parallel.continued"]
    line = command if request.param == 1 else [*launcher(), "-n", str(request.param), *command]
    environment = clean_environment() | {"PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        line, cwd=place, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return request.param, place, json.loads(done.stdout)


@pytest.mark.compiled
@pytest.mark.parametrize("sync", STRATEGIES)
@pytest.mark.parametrize("workers", WORKERS_PER_RANK)
def test_the_same_workers_go_on_to_the_bit(world, sync, workers):
    ranks, place, found = world
    whole, *others = found[f"{sync} {workers}"]
    assert {len(rows) for rows in whole["log"].values()} == {ranks * workers}
    after_an_epoch, after_an_average, between_averages = others
    del whole["log"]["1"], after_an_average["log"]["1"], between_averages["log"]["1"]
    assert after_an_average == whole
    assert between_averages == whole
    assert after_an_epoch["digests"] == whole["digests"]
    assert after_an_epoch["log"]["3"] == whole["log"]["3"]
    rows = load(place / f"{sync}-{workers}" / "epoch-002.npz").rows
    assert set(rows) == (set() if sync == "gradients" else {"velocities"})


@pytest.mark.compiled
@pytest.mark.parametrize("sync", STRATEGIES)
def test_another_number_of_workers_goes_on_with_the_mean_of_momenta(world, sync, tmp_path):
    _, place, _ = world
    file = place / f"{sync}-3" / "epoch-002.npz"
    saved = load(file)
    each = train(SerialCommunicator(), tmp_path, sync, file, workers_per_rank=2, epochs=3)
    said = each.run_files.said
    averaged = f"the momenta of {saved.header.world} workers are averaged: there are now 2"
    assert [line for line in said if line.startswith(averaged)] == said[: sync != "gradients"]
    assert said[-1] == f"the images are dealt to 2 workers instead of {saved.header.world}"
    if sync != "gradients":
        assert np.allclose(saved.velocity, saved.rows["velocities"].mean(axis=0), atol=1e-7)


@pytest.mark.compiled
def test_a_change_to_local_updates_begins_with_one_momentum(world, tmp_path):
    _, place, _ = world
    file = place / "gradients-3" / "epoch-002.npz"
    saved = load(file)
    each = train(SerialCommunicator(), tmp_path, "weights", file, workers_per_rank=2, epochs=3)
    assert each.run_files.said[0] == "all workers begin with the same momentum: no other was saved"
    assert np.array_equal(each.run_files.checkpoint.velocity, saved.velocity)
