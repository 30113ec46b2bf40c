"""Several workers a rank: K workers on each of R ranks are what K*R ranks are."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from npnet.parallel.communicator import SerialCommunicator
from npnet.parallel.strategies import STRATEGIES
from npnet.training.recipe import MODERN, PAPER
from npnet.training.settings import Settings
from npnet.training.trainer import Trainer
from npnet.training.warmup import Silence
from tests.datasets import MODEL, OnDisk, Toy
from tests.launch import SOURCES, clean_environment, launcher
from tests.parallel.factorings import WORKERS

SETTINGS = Settings(epochs=2, batch_per_rank=3, seed=5, ranks_per_node=1)
WIDER = replace(MODEL, input_size=64)


@pytest.fixture(scope="module")
def worlds():
    """What each world of R ranks found, by R and then by case."""
    return {ranks: train(ranks) for ranks in (1, 2, 3)}


def train(ranks):
    command = [sys.executable, "-m", "tests.parallel.factorings"]
    line = command if ranks == 1 else [*launcher(), "-n", str(ranks), *command]
    environment = clean_environment() | {"PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        line, cwd=SOURCES, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.mpi
@pytest.mark.compiled
@pytest.mark.parametrize("sync", STRATEGIES)
@pytest.mark.parametrize("workers", WORKERS)
class TestFactorings:
    def test_deterministic_sums_are_the_same_to_the_bit(self, worlds, workers, sync):
        found = [world.get(f"{workers} {sync} True") for world in worlds.values()]
        found = [each for each in found if each]
        assert len(found) == sum(workers % ranks == 0 for ranks in worlds)
        assert all(each == found[0] for each in found)

    def test_sums_in_any_order_are_the_same_to_rounding(self, worlds, workers, sync):
        case = f"{workers} {sync} False"
        alone = worlds[1][case]
        for each in (world[case] for world in worlds.values() if case in world):
            assert np.allclose(each["values"], alone["values"], rtol=1e-6, atol=1e-8)
            assert each["losses"] == pytest.approx(alone["losses"], rel=1e-6)


def trainer(recipe, checkpoint=None, kind=Toy, **settings):
    dataset = kind(14 * settings.get("workers_per_rank", 1))
    here, comm = replace(SETTINGS, **settings), SerialCommunicator()
    return Trainer(dataset, WIDER, recipe, here, comm, Silence(), checkpoint=checkpoint)


def test_memory_grows_by_weights_not_by_activations():
    one, six = (trainer(PAPER, workers_per_rank=count).planned_bytes for count in (1, 6))
    activations = "activations and their gradients"
    assert one[activations] == six[activations]
    parameters = trainer(PAPER).parameters
    kept = 2 * parameters.values.nbytes + parameters.statistics.nbytes  # weights, momentum
    assert six["rows of workers"] == 6 * kept
    assert "rows of workers" not in one
    together = trainer(MODERN, workers_per_rank=6).planned_bytes["rows of workers"]
    assert together == 6 * parameters.statistics.nbytes + parameters.gradients_and_loss.nbytes


def test_images_that_are_not_resident_are_read_when_their_turn_comes():
    """And train the same network, to the bit."""
    recipe = replace(MODERN, crop_scale=0.3, color_jitter=0.4)
    kept, read = (trainer(recipe, kind=kind, workers_per_rank=2) for kind in (Toy, OnDisk))
    assert (kept.planned_bytes["images"], read.planned_bytes["images"]) == (28 * 3072, 0)
    assert read.dataset.asked == []
    for each in (kept, read):
        each.train_epoch(0)
    assert max(read.dataset.asked) <= SETTINGS.batch_per_rank
    assert sum(read.dataset.asked) == 28
    assert kept.parameters.digest() == read.parameters.digest()


def test_workers_that_no_memory_holds_are_refused_before_it_is_taken(monkeypatch):
    kept = trainer(PAPER, workers_per_rank=2).planned_bytes["rows of workers"] // 2
    monkeypatch.setattr("npnet.machine.memory.limit_bytes", lambda: 20 * kept)
    trainer(PAPER, workers_per_rank=20)
    with pytest.raises(MemoryError, match="are wanted, this host has"):
        trainer(PAPER, workers_per_rank=21)


def test_each_worker_keeps_its_own_momentum_and_statistics():
    each = trainer(replace(PAPER, lr=0.01), workers_per_rank=3)
    each.train_epoch(0)
    assert len({row.tobytes() for row in each.workers.velocities}) == 3
    assert len({row.tobytes() for row in each.workers.values}) == 1
    assert np.array_equal(each.workers.values[0], each.parameters.values)


def test_independent_workers_start_apart_until_the_first_average():
    shared = trainer(PAPER).parameters.values
    apart = replace(PAPER, independent_init=True)
    each = trainer(apart, workers_per_rank=3)
    first, second, third = each.workers.values
    assert np.array_equal(first, shared)
    weights = slice(each.parameters.decayed)
    for one, other in ((first, second), (first, third), (second, third)):
        correlation = np.corrcoef(one[weights], other[weights])[0, 1]
        assert abs(correlation) < 0.05
    each.train_epoch(0)
    assert len({row.tobytes() for row in each.workers.values}) == 1
    resumed = trainer(apart, checkpoint=each.run_files.state(1), workers_per_rank=3)
    assert all(np.array_equal(row, each.parameters.values) for row in resumed.workers.values)


@pytest.mark.parametrize(
    ("steps", "length", "rounds"),
    [(5, 2, [[0, 1], [2, 3], [4]]), (4, None, [[0, 1, 2, 3]]), (2, 9, [[0, 1]])],
)
def test_weights_are_averaged_every_so_many_steps_and_at_the_end(steps, length, rounds):
    assert [list(each) for each in STRATEGIES["weights"](length).rounds(steps)] == rounds


def test_averaging_every_step_keeps_workers_together():
    recipe = replace(MODERN, sync="weights", sync_steps=1, lr=0.01)
    each = trainer(recipe, workers_per_rank=2)
    seen = []
    average = each.workers.average_values

    def spy():
        seen.append(not np.array_equal(*each.workers.values))
        average()
        assert np.array_equal(*each.workers.values)

    each.workers.average_values = spy
    each.train_epoch(0)
    assert seen == [True] * each.steps
