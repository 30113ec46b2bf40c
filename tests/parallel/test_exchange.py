"""The sum over ranks: its levels, its rounding, its buckets.

Runs in whatever world it is started in: alone, or under mpiexec. Several nodes are played by
dividing the ranks of one.
"""

import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest

from npnet.errors import NpnetError
from npnet.model.network import Network
from npnet.model.parameters import Parameters, initialise
from npnet.model.zoo import build, configure, models
from npnet.parallel.bfloat16 import from_bfloat16, to_bfloat16
from npnet.parallel.buckets import LEAST_BYTES, Bucket, Buckets, buckets_of
from npnet.parallel.communicator import MpiCommunicator, SerialCommunicator, connect
from npnet.training.recipe import MODERN
from npnet.training.settings import Settings
from npnet.training.trainer import Trainer
from npnet.training.warmup import Silence
from tests.datasets import MODEL, Toy
from tests.launch import SOURCES, clean_environment, launcher

RANKS = 4
# The node of a rank, by its number: all on one, each on its own, in a row, in turn.
LAYOUTS = (lambda rank: 0, lambda rank: rank, lambda rank: rank // 3, lambda rank: rank % 2)
SIZES = (1, 4, 1000, 70_001)  # less than there are ranks, parts of no equal size, many


@pytest.fixture(params=range(len(LAYOUTS)), ids=("one", "alone", "in-a-row", "in-turn"))
def comm(request):
    """The world's ranks as a cluster."""
    found = connect()
    if isinstance(found, SerialCommunicator):
        return found
    from mpi4py import MPI

    return MpiCommunicator(MPI, LAYOUTS[request.param](found.rank))


def cut(n):
    """Four buckets, of which backward completes two."""
    return [
        Bucket(slice(n // 2, n - 7), "last"),
        Bucket(slice(n // 4, n // 2), "middle"),
        Bucket(slice(0, n // 4)),
        Bucket(slice(n - 7, n)),
    ]


def vectors(comm, n, draw=np.random.Generator.standard_normal):
    """What each rank gives."""
    return [draw(np.random.default_rng(rank), n).astype(np.float32) for rank in range(comm.size)]


def by_nodes(comm, rows):
    """The sum in the order of ranks in a node, then of nodes by their first rank."""
    sums = {}
    for node, row in zip(comm.nodes, rows, strict=True):
        sums[node] = sums[node] + row if node in sums else row.copy()
    first, *others = (sums[node] for node in sorted(sums))
    for each in others:
        first += each
    return first


class TestLevels:
    @pytest.mark.parametrize("n", SIZES)
    def test_a_sum_is_that_of_nodes_to_the_bit(self, comm, n):
        rows = vectors(comm, n)
        mine, exchange = rows[comm.rank].copy(), comm.exchange(n, np.float32)
        for _ in range(2):  # with the same buffers
            mine[:] = rows[comm.rank]
            exchange.sum(mine)
            assert np.array_equal(mine, by_nodes(comm, rows))

    def test_large_arrays_take_that_way_and_small_ones_add_up_too(self, comm):
        for n in (3, 70_001):
            rows = vectors(comm, n)
            mine = rows[comm.rank].copy()
            comm.sum(mine)
            assert np.allclose(mine, np.sum(rows, axis=0), atol=1e-5)

    def test_between_nodes_goes_no_more_than_two_vectors_a_node(self, comm):
        """Of which the sum of one leaves each node twice: in parts to their owners, and as sums."""
        if isinstance(comm, SerialCommunicator):
            return
        exchange, nodes = comm.exchange(70_001, np.float32), len(set(comm.nodes))
        leaving = 0
        for level in exchange.levels[1 if Counter(comm.nodes)[comm.nodes[comm.rank]] > 1 else 0 :]:
            others = len(level.counts) - 1
            leaving += level.counts.sum() - len(level.part) + others * len(level.part)
        by_node = Counter()
        for node, numbers in comm.gather((comm.nodes[comm.rank], int(leaving))):
            by_node[node] += numbers
        assert max(by_node.values()) <= 2 * 70_001 * (nodes - 1) / nodes + 2 * comm.size


class TestRounding:
    def test_is_to_the_nearest_and_loses_nothing(self):
        x = np.random.default_rng(1).standard_normal(10_000).astype(np.float32)
        halves, carry = np.empty(len(x), np.uint16), np.zeros_like(x)
        to_bfloat16(halves, carry, x)
        y = from_bfloat16(halves)
        assert np.abs(y - x).max() / np.abs(x).max() <= 2**-8
        assert np.all(np.abs(y - x) <= 2**-8 * np.abs(x))  # half of the last of 8 places
        assert np.array_equal(y + carry, x)
        assert np.array_equal(from_bfloat16(halves).view(np.uint32) & 0xFFFF, np.zeros(len(x)))

    def test_between_two_it_goes_to_the_even_one(self):
        one_and = np.float32([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1 + 2**-8 + 2**-20])
        halves, carry = np.empty(4, np.uint16), np.zeros(4, np.float32)
        to_bfloat16(halves, carry, one_and)
        assert from_bfloat16(halves).tolist() == [1, 1 + 2**-6, -1, 1 + 2**-7]

    def test_what_is_no_number_stays_none(self):
        strange = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001], np.uint32).view(np.float32)
        numbers = np.concatenate((strange, np.float32([np.nan, np.inf, -np.inf, 0, -0.0])))
        halves, carry = np.empty(8, np.uint16), np.zeros(8, np.float32)
        to_bfloat16(halves, carry, numbers)
        back = from_bfloat16(halves)
        assert np.isnan(back[:4]).all()
        assert back[4:].tolist() == [np.inf, -np.inf, 0, 0]

    def test_a_sum_is_late_by_less_than_a_rounding_however_many_steps(self, comm):
        n = 1001
        exchange, mine = comm.exchange(n, np.float32, half_width=True), np.empty(n, np.float32)
        true = np.zeros(n)
        arrived = np.zeros(n)
        for step in range(40):
            rows = [
                np.random.default_rng((step, rank)).uniform(0.5, 1, n).astype(np.float32)
                for rank in range(comm.size)
            ]
            mine[:] = rows[comm.rank]
            exchange.sum(mine)
            true += np.sum(rows, axis=0, dtype=np.float64)
            arrived += mine
            assert len({each.tobytes() for each in comm.gather(mine)}) == 1
        # Each node and each owner of a part keeps back less than half of a last place.
        last_place = 2.0**-7 * 2 ** np.floor(np.log2(2 * comm.size))
        assert np.abs(arrived - true).max() <= last_place * (len(set(comm.nodes)) + 1)

    def test_it_is_forgotten_on_demand(self, comm):
        rows, exchange = vectors(comm, 999), comm.exchange(999, np.float32, half_width=True)
        found = []
        for _ in range(2):
            mine = rows[comm.rank].copy()
            exchange.sum(mine)
            found.append(mine)
            exchange.forget()
        assert np.array_equal(*found)


class TestBuckets:
    @pytest.mark.parametrize("name", list(models()))
    def test_weights_behind_a_completed_operation_change_no_more(self, name):
        network = Network(build(configure(name, 10), miniature=True), 2, "reference", np.float64)
        initialise(network.parameters, "he_fan_out", 0)
        network.images[:] = np.random.default_rng(0).standard_normal(network.images.shape)
        gradients, end, seen = network.parameters.gradients, network.parameters.decayed, []

        def completed(operation):
            for spec in network.parameters.specs:
                if spec.name == f"{operation}.weight":
                    start = network.parameters.where(spec.name).start
                    seen.append((start, gradients[start:end].copy()))

        network.forward(2, True)
        network.loss(np.array([0, 1]))
        network.backward(0.5, completed)
        assert len(seen) == sum(spec.role == "weight" for spec in network.parameters.specs)
        assert [start for start, _ in seen] == sorted((start for start, _ in seen), reverse=True)
        for start, then in seen:
            assert np.array_equal(gradients[start:end], then)

    @pytest.mark.parametrize("name", list(models()))
    def test_they_are_the_whole_vector_once(self, name):
        parameters = Parameters(build(configure(name, classes=10)))
        names = [each.name for each in build(configure(name, classes=10)).operations][::-1]
        pieces = buckets_of(parameters, names)
        places = np.concatenate([np.r_[piece.where] for piece in pieces])
        assert np.array_equal(np.sort(places), np.arange(len(parameters.gradients_and_loss)))
        sizes = [4 * (piece.where.stop - piece.where.start) for piece in pieces]
        assert min(sizes[:-2]) >= LEAST_BYTES
        assert sizes[-2] <= sum(sizes) / 4  # what is sent when nothing is left to hide it

    def test_the_sum_is_the_same_to_the_bit(self, comm):
        n = 70_001
        rows, found = vectors(comm, n), []
        for pieces in ((), cut(n)):
            mine = rows[comm.rank].copy()
            buckets = Buckets(comm, mine, pieces)
            for _ in range(3):
                mine[:] = rows[comm.rank]
                buckets.completed("last")
                buckets.completed("none of them")
                buckets.completed("middle")
                buckets.finish()
            found.append(mine)
        assert np.array_equal(*found)

    def test_what_a_rank_waits_for_is_told_from_the_transfer(self):
        """While it is idle: what others do meanwhile costs it nothing."""
        comm = SerialCommunicator()
        vector = np.zeros(100, np.float32)
        buckets = Buckets(comm, vector, cut(100))

        def exchange(piece, all_arrived):
            while len(piece) == 43 and not buckets._idle:  # the first of them
                pass
            all_arrived()

        for each in buckets._exchanges:
            each.sum_aside = exchange
        comm.clock.enter("update")
        comm.clock.events = []
        buckets.finish()
        told = [phase for phase, _ in groupby(event.phase for event in comm.clock.events)]
        assert told[:3] == ["update", "wait", "transfer"]
        assert set(told) == {"update", "wait", "transfer"}
        assert comm.clock.phase == "update"

    def test_an_error_of_the_thread_is_raised_by_finish(self, comm, monkeypatch):
        mine = np.zeros(100, np.float32)
        buckets = Buckets(comm, mine, cut(100))

        def fail(piece, all_arrived):
            raise RuntimeError("no network")

        for exchange in buckets._exchanges:
            monkeypatch.setattr(exchange, "sum_aside", fail)
        with pytest.raises(RuntimeError, match="no network"):
            buckets.finish()


def test_nobody_else_exchanges_meanwhile():
    """Batch norms that do so in backward: MPI is called by one thread at a time."""
    settings = Settings(epochs=1, batch_per_rank=4, seed=5, ranks_per_node=1)
    assert settings.can_overlap(MODERN)
    for other in ({"sync_bn": True}, {"deterministic": True}, {"workers_per_rank": 2}):
        alone = replace(settings, **other)
        assert not alone.can_overlap(MODERN)
        with pytest.raises(NpnetError, match="alone on the network"):
            replace(alone, overlap=True).check(MODERN)
    assert not settings.can_overlap(replace(MODERN, sync="weights"))


@pytest.mark.compiled
class TestTraining:
    def train(self, comm, images=30, **settings):
        here = Settings(epochs=2, batch_per_rank=4, seed=5, ranks_per_node=1, **settings)
        model = replace(MODEL, input_size=64)
        trainer = Trainer(Toy(images), model, replace(MODERN, lr=0.001), here, comm, Silence())
        trainer.run()
        return trainer.parameters

    def test_overlapped_it_is_the_same_to_the_bit(self, comm):
        for images in (30, 4 * comm.size + 1):  # in the last step all ranks but one have none
            whole = self.train(comm, images, overlap=False)
            assert self.train(comm, images, overlap=True).digest() == whole.digest()

    def test_its_thread_ends_with_the_run(self, comm):
        before = set(threading.enumerate())
        self.train(comm, overlap=True)
        deadline = time.monotonic() + 10
        while left := set(threading.enumerate()) - before:
            assert time.monotonic() < deadline, left
            time.sleep(0.01)

    def test_rounded_it_is_nearly_the_same(self, comm):
        exact, rounded = (self.train(comm, wire=wire).values for wire in ("float32", "bfloat16"))
        if len(set(comm.nodes)) == 1:
            assert np.array_equal(exact, rounded)
            return
        apart = np.linalg.norm(exact - rounded) / np.linalg.norm(exact)
        assert 0 < apart < 0.02


@pytest.mark.mpi
def test_four_ranks():
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-m",
        "not mpi and not compiled",
    ]
    environment = clean_environment() | {"PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*launcher(), "-n", str(RANKS), *command, __file__],
        cwd=SOURCES,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
