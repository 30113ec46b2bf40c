"""Ranks that act as one. Runs in whatever world it is started in: alone, or under mpiexec.

Every rank also computes, on its own, what all ranks together should have computed.
"""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from npnet.data.batches import TrainingShard, training_shards
from npnet.errors import NpnetError
from npnet.model.network import Network
from npnet.model.parameters import Parameters, initialise
from npnet.model.weights import Weights
from npnet.model.zoo import build
from npnet.model.zoo.mobilenet_v2 import mobilenet_v2
from npnet.parallel.communicator import (
    CollectiveError,
    SerialCommunicator,
    agree,
    connect,
    together,
)
from npnet.parallel.launched import environment_of_no_rank
from npnet.parallel.strategies import STRATEGIES
from npnet.parallel.workers import Workers, workers_of
from npnet.training.checkpoint import load
from npnet.training.features import compute_features
from npnet.training.lr_find import find_lr
from npnet.training.recipe import MODERN, PAPER
from npnet.training.run_folder import RunFolder
from npnet.training.settings import Settings
from npnet.training.trainer import Trainer
from tests.datasets import MODEL, Toy

SETTINGS = Settings(epochs=1, batch_per_rank=4, seed=5, ranks_per_node=1)


class Silent:
    """A reporter that keeps what it is told."""

    def __init__(self):
        self.results = []

    def started(self, trainer): ...

    def step_finished(self, epoch, step, images): ...

    def epoch_finished(self, results, scores):
        self.results.extend(results)

    def finished(self, summary): ...


@pytest.fixture(scope="module")
def comm():
    return connect()


def trainer(comm, recipe, dataset, input_size=32, **settings):
    model = replace(MODEL, input_size=input_size)
    return Trainer(dataset, model, recipe, replace(SETTINGS, **settings), comm, Silent())


def fail_on(rank, comm):
    with together(comm):
        if comm.rank == rank:
            raise NpnetError("broken file")


class TestCommunicator:
    def test_sum_is_in_place_and_over_all_ranks(self, comm):
        array = np.arange(5, dtype=np.float32) + comm.rank
        comm.sum(array)
        ranks = comm.size * (comm.size - 1) / 2
        assert np.array_equal(array, comm.size * np.arange(5) + ranks)

    def test_mean_by_root(self, comm):
        rows, mean = np.full((2, 3), comm.rank, np.float32), np.empty(3, np.float32)
        rows[1] += 1
        comm.mean_by_root(rows, mean)
        assert np.allclose(mean, comm.size / 2)

    @pytest.mark.parametrize("n", [1, 2, 17])
    def test_sum_in_order_is_that_of_all_rows_one_after_the_other(self, comm, n):
        everyone = np.random.default_rng(0).standard_normal((3 * comm.size, n)).astype(np.float32)
        total = everyone[0].copy()
        for row in everyone[1:]:
            total += row
        mine = everyone[3 * comm.rank : 3 * comm.rank + 3]
        assert np.array_equal(comm.sum_in_order(mine), total)

    def test_gather_and_broadcast(self, comm):
        assert comm.gather(comm.rank) == list(range(comm.size))
        assert comm.broadcast(comm.rank + 7) == 7
        assert len(comm.hosts) == comm.size

    def test_two_ranks_swap(self, comm):
        """Each with the one opposite; the middle one of an odd number with itself, as alone."""
        peer = comm.size - 1 - comm.rank
        out, into = np.full(300_000, comm.rank, np.uint8), np.full(300_000, 255, np.uint8)
        comm.swap_with(peer, out, into)
        assert np.all(into == peer)
        assert np.all(out == comm.rank)

    def test_each_node_has_one_first_rank(self, comm):
        firsts = [rank for rank, first in enumerate(comm.gather(comm.first_of_node)) if first]
        assert firsts == sorted(set(comm.nodes))

    def test_who_waits_leaves_the_core_to_others(self, comm):
        comm.barrier()
        if comm.rank == 0:
            time.sleep(0.5)
        start = time.process_time()
        comm.barrier()
        assert time.process_time() - start < 0.25

    def test_a_child_is_told_of_no_launcher(self, monkeypatch):
        for name in ("PMI_RANK", "PMIX_RANK", "OMPI_COMM_WORLD_SIZE", "MPI_LOCALRANKID"):
            monkeypatch.setenv(name, "1")
        monkeypatch.setenv("OMP_NUM_THREADS", "3")
        environment = environment_of_no_rank()
        assert not [name for name in environment if name.startswith(("PMI", "OMPI", "MPI_"))]
        assert environment["OMP_NUM_THREADS"] == "3"

    def test_a_child_is_told_which_mpi_to_load(self, monkeypatch):
        monkeypatch.setenv("MPI4PY_LIBMPI", "/opt/libmpi.so")
        assert environment_of_no_rank()["MPI4PY_LIBMPI"] == "/opt/libmpi.so"

    def test_an_error_of_one_rank_is_raised_on_all(self, comm):
        with pytest.raises(CollectiveError, match="broken file"):
            fail_on(comm.size - 1, comm)

    def test_an_error_of_one_rank_names_it(self, comm):
        if comm.size == 1:
            pytest.skip("alone there is nobody to tell apart")
        with pytest.raises(CollectiveError, match=r"^rank 1 \("):
            fail_on(1, comm)

    def test_nothing_is_raised_where_nothing_went_wrong(self, comm):
        with together(comm):
            pass


def workers(comm, parameters, per_rank=1):
    """Workers of a rank for a dataset of 7 images a worker and 3 more."""
    mine, everywhere = workers_of(comm, per_rank)
    dataset = Toy(7 * everywhere + 3)
    shards = training_shards(dataset, MODERN, 4, 5, mine, everywhere)
    return Workers(shards, parameters, np.zeros_like(parameters.values), comm, True)


@pytest.mark.parametrize("per_rank", [1, 3])
class TestStatistics:
    def test_combined_as_if_one_batch_norm_had_seen_everything(self, comm, per_rank):
        """Uneven workers whose means lie far apart: a mean of variances would be far off."""
        parameters = Parameters(mobilenet_v2(0.1, 32, 3), np.float64)
        group = workers(comm, parameters, per_rank)
        counts = comm.gather([len(worker.shard) for worker in group])
        counts = [count for some in counts for count in some]
        samples = [
            np.random.default_rng(number).standard_normal((count, len(parameters.running_means)))
            + 10 * number
            for number, count in enumerate(counts)
        ]
        for worker in group:
            mine = samples[worker.number]
            group.statistics[worker.row] = np.concatenate((mine.mean(axis=0), mine.var(axis=0)))
        group.combine_statistics()
        everything = np.concatenate(samples)
        assert np.allclose(parameters.running_means, everything.mean(axis=0))
        assert np.allclose(parameters.running_variances, everything.var(axis=0))
        assert np.array_equal(group.statistics[-1], parameters.statistics)

    def test_float32_statistics_of_one_distribution_are_left_as_they_are(self, comm, per_rank):
        """A variance of 1e-3 beside a mean of 30: float32 squares would be off by two percent."""
        parameters = Parameters(mobilenet_v2(0.1, 32, 3))
        group = workers(comm, parameters, per_rank)
        parameters.running_means[:], parameters.running_variances[:] = 30, 1e-3
        group.start_equal()
        group.combine_statistics()
        assert np.allclose(parameters.running_means, 30, rtol=1e-6)
        assert np.allclose(parameters.running_variances, 1e-3, rtol=1e-6)


class TestAgreement:
    def test_equal_values_pass(self, comm):
        agree(comm, {"lr": 0.1, "epochs": 3})

    def test_a_difference_is_named_on_every_rank(self, comm):
        if comm.size == 1:
            pytest.skip("alone there is nobody to differ")
        with pytest.raises(CollectiveError, match=r"rank 1 \(.*\) has lr = 1, rank 0 has 0"):
            agree(comm, {"epochs": 3, "lr": comm.rank})


class TestGradients:
    def pair(self, comm, dtype):
        """All ranks with batch 4 each, and one rank with their images in one batch."""
        recipe = replace(MODERN, shuffle="global", lr=1e-3, bn_momentum=0.0)
        dataset = Toy(8 * 4 * comm.size)
        settings = {"freeze_bn": True, "input_size": 64, "dtype": dtype}
        many = trainer(comm, recipe, dataset, **settings)
        one = trainer(
            SerialCommunicator(), recipe, dataset, batch_per_rank=4 * comm.size, **settings
        )
        # Statistics that fit, or the signal fades to 1e-8 on its way through frozen batch norms.
        one.network.images[:] = np.random.default_rng(0).standard_normal(one.network.images.shape)
        one.network.forward(4 * comm.size, training=True)
        many.parameters.statistics[:] = one.parameters.statistics
        assert np.array_equal(many.parameters.values, one.parameters.values)
        return many, one

    def test_ranks_with_frozen_statistics_are_one_with_a_larger_batch(self, comm):
        """An epoch of P ranks x batch 4 against one rank x batch 4P: to rounding, in float64."""
        many, one = self.pair(comm, "float64")
        start = one.parameters.values.copy()
        for each in (many, one):
            each.train_epoch(0)
        moved = np.linalg.norm(one.parameters.values - start)
        apart = np.linalg.norm(one.parameters.values - many.parameters.values)
        assert moved > 0.01
        assert apart <= 1e-9 * moved

    def test_one_step_in_float32(self, comm):
        """In float32 a value within rounding of a ReLU6's corner costs 1e-3, so one step only."""
        many, one = self.pair(comm, "float32")
        for each in (many, one):
            (worker,) = each.workers
            worker.begin(0)
            batch = next(worker.batches)
            each.image_input.fill(each.network.images, batch)
            each.epoch = each.step = 0
            each._forward_backward(worker, batch)
            each.workers.keep_gradient(worker)
            each.workers.sum_gradients()
        apart = np.linalg.norm(one.parameters.gradients - many.parameters.gradients)
        assert apart <= 0.01 * np.linalg.norm(one.parameters.gradients)

    def test_ranks_that_share_statistics_are_one_with_a_larger_batch(self, comm):
        """--sync-bn: an epoch of P ranks x batch 4 against one rank x batch 4P, in float64.

        Batch statistics this time, those of the other ranks included, in both directions.
        """
        recipe = replace(MODERN, shuffle="global", lr=1e-3)
        dataset = Toy(5 * 4 * comm.size + 1)
        settings = {"input_size": 64, "dtype": "float64", "sync_bn": True}
        many = trainer(comm, recipe, dataset, **settings)
        batch = 4 * comm.size
        one = trainer(SerialCommunicator(), recipe, dataset, batch_per_rank=batch, **settings)
        start = one.parameters.values.copy()
        for each in (many, one):
            each.train_epoch(0)
        moved = np.linalg.norm(one.parameters.values - start)
        assert moved > 0.01
        assert np.linalg.norm(one.parameters.values - many.parameters.values) <= 1e-9 * moved
        assert np.allclose(one.parameters.statistics, many.parameters.statistics, rtol=1e-9)

    def test_shared_statistics_can_be_recalibrated_where_shards_are_uneven(self, comm, monkeypatch):
        """Batch norms that meet do so equally often on every rank, or they would wait for ever."""
        monkeypatch.setattr("npnet.training.evaluate.RECALIBRATION_IMAGES", 4 * comm.size + 1)
        dataset = Toy(5 * comm.size + 1)
        each = trainer(comm, MODERN, dataset, sync_bn=True, bn_eval="both", input_size=64)
        summary = each.run()
        assert np.isfinite(summary.recalibrated_test_loss)
        assert each.evaluator.recalibrated_statistics.dtype == each.parameters.statistics.dtype

    @pytest.mark.parametrize("total", [30, 31])
    def test_ranks_stay_the_same_to_the_bit(self, comm, total):
        each = trainer(comm, MODERN, Toy(total * comm.size + 1), epochs=2)
        each.run()
        assert len(set(comm.gather(each.parameters.digest()))) == 1

    def test_a_rank_without_an_image_in_a_step_does_not_stop_the_others(self, comm):
        """P+1 images, batch 1: two steps, in one of which some rank has none."""
        each = trainer(comm, MODERN, Toy(comm.size + 1), batch_per_rank=1)
        (result,) = each.train_epoch(0)
        assert np.isfinite(result.loss)
        assert len(set(comm.gather(each.parameters.digest()))) == 1


@pytest.mark.parametrize("name", ["weights", "gather-bcast"])
class TestWeightAveraging:
    def test_one_epoch_is_the_mean_of_local_updates(self, comm, name):
        """Each rank's local updates, simulated here one after the other, then averaged by hand."""
        dataset, recipe = Toy(9 * comm.size + 1), replace(PAPER, sync=name, lr=5e-3)
        together_ = trainer(comm, recipe, dataset)
        together_.train_epoch(0)
        replicas = []
        for rank in range(comm.size):
            replica = trainer(SerialCommunicator(), replace(recipe, sync="gather-bcast"), dataset)
            shard = TrainingShard(dataset, recipe, 4, SETTINGS.seed, rank, comm.size)
            replica.workers[0].shard = shard
            replica.train_epoch(0)
            replicas.append(replica)
        shares = [replica.workers[0].shard.share for replica in replicas]
        if name == "gather-bcast":
            shares = [1 / comm.size] * comm.size
        expected = sum(
            share * replica.parameters.values.astype(np.float64)
            for share, replica in zip(shares, replicas, strict=True)
        )
        assert np.allclose(together_.parameters.values, expected, rtol=1e-5, atol=1e-5)

    def test_ranks_agree_after_each_epoch(self, comm, name):
        each = trainer(comm, replace(MODERN, sync=name), Toy(10 * comm.size + 1), epochs=2)
        each.run()
        assert len(set(comm.gather(each.parameters.digest()))) == 1


class TestTraining:
    @pytest.mark.compiled
    @pytest.mark.parametrize("name", STRATEGIES)
    def test_it_learns(self, comm, name):
        recipe = replace(MODERN, sync=name, lr=0.02, crop_padding=0)
        dataset = Toy(90 * comm.size, 30)
        each = trainer(comm, recipe, dataset, epochs=12, batch_per_rank=10, input_size=64)
        summary = each.run()
        losses = [result.loss for result in each.reporter.results]
        assert losses[-1] < 0.5 * losses[0]
        assert summary.test_acc > 0.8
        assert each.reporter.results[0].acc < summary.train_acc
        assert summary.train_acc > 0.6  # the mean over an epoch that still learned
        assert summary.world == comm.size
        assert len(set(comm.gather((summary.test_acc, summary.test_loss)))) == 1

    def test_a_resumed_run_is_the_run_it_continues(self, comm):
        dataset = Toy(20 * comm.size)
        whole = trainer(comm, MODERN, dataset, epochs=3)
        whole.run()
        first = trainer(comm, MODERN, dataset, epochs=3)
        for epoch in range(2):
            first.train_epoch(epoch)
        state = first.run_files.state(2)
        second = Trainer(
            dataset, MODEL, MODERN, replace(SETTINGS, epochs=3), comm, Silent(), checkpoint=state
        )
        second.run()
        assert second.parameters.digest() == whole.parameters.digest()

    def test_a_finished_run_is_not_resumed(self, comm):
        done = trainer(comm, MODERN, Toy(20 * comm.size)).run_files.state(1)
        dataset = Toy(20 * comm.size)
        with pytest.raises(CollectiveError, match="nothing is left to train"):
            Trainer(dataset, MODEL, MODERN, SETTINGS, comm, Silent(), checkpoint=done)


def test_features_are_the_same_however_ranks_share_the_images(comm, tmp_path, monkeypatch):
    """Each rank also computes all of them by itself, and keeps them elsewhere."""
    network = Network(build(MODEL), 1, "reference")
    initialise(network.parameters, "he_fan_out", 0)
    parameters = network.parameters
    parameters.running_variances[:] = 0.1  # or little would be left of an image at the end
    weights = Weights(MODEL, parameters.values, parameters.statistics, None, "drawn")
    found, shared = [], comm.broadcast(tmp_path)
    for world, folder in ((comm, shared), (SerialCommunicator(), tmp_path / "me")):
        monkeypatch.setenv("NPNET_CACHE", str(folder))
        features = compute_features(Toy(31, 10), weights, world, 4, "reference")
        assert features is not None
        found.append(features.read("train", np.arange(31)))
    shared_out, alone = found
    assert np.any(alone.pixels > 0.01)
    assert np.allclose(shared_out.pixels, alone.pixels, rtol=1e-5)
    assert np.array_equal(shared_out.labels, alone.labels)


class TestJudging:
    def test_every_rank_knows_the_same_of_each_image(self, comm):
        dataset = Toy(10 * comm.size, 7)
        each = trainer(comm, MODERN, dataset)
        moving, _ = each.evaluator.judgements("moving", "test")
        labels = dataset.read("test", np.arange(7)).labels
        assert moving.labels.tolist() == labels.tolist()
        assert moving.confusion.sum() == 7
        facts = (moving.losses.tolist(), moving.predicted.tolist(), moving.likelier.tolist())
        assert len(set(map(str, comm.gather(facts)))) == 1

    @pytest.mark.parametrize("recipe", [MODERN, PAPER], ids=lambda recipe: recipe.name)
    def test_a_range_test_notes_the_mean_over_ranks(self, comm, recipe):
        """Of new weights, which guess; ranks that update locally have a loss each."""
        settings = replace(SETTINGS, backend="reference")
        found = find_lr(Toy(8 * comm.size), MODEL, recipe, settings, comm, steps=10)
        assert found.tries[0].loss == pytest.approx(np.log(3), abs=0.4)
        assert len(set(map(str, comm.gather(found)))) == 1

    def test_patience_ends_all_ranks(self, comm, tmp_path_factory):
        """After the same epoch; rank 0 alone has the folder."""
        place = comm.broadcast(str(tmp_path_factory.mktemp("run")))
        recipe = replace(MODERN, lr=0.0)  # so that nothing gets better
        settings = replace(SETTINGS, epochs=5, patience=2, bn_eval="recalibrated")
        where = (comm, Silent(), RunFolder(Path(place) / "run"))
        summary = Trainer(Toy(10 * comm.size, 7, 5), MODEL, recipe, settings, *where).run()
        assert summary.stopped_early
        assert summary.epochs == summary.best_epoch + 2 < 5
        assert len(set(map(str, comm.gather(summary)))) == 1
        best = load(Path(place) / "run/best.npz")
        assert best.header.epoch == summary.best_epoch
