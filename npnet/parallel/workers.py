"""The workers of a rank: replicas of the network that take turns on the rank's one set of buffers.

A worker is a replica with a shard and a batch of its own. Usually a rank runs one. With K workers a
rank, R ranks train what K*R ranks would: a laptop shows what a cluster learns. Memory grows by the
numbers that a worker keeps from turn to turn, its row in the matrices below, not by activations,
which only the worker whose turn it is needs.

    rank 0            rank 1                 turns of a round, on each rank
    workers 0 1 2     workers 3 4 5          load row k -> train -> store row k, k = 0 1 2
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import overload

import numpy as np

from npnet.data.batches import Batch, TrainingShard
from npnet.kernels.arrays import Floats
from npnet.machine.memory import check_bytes
from npnet.model.parameters import Parameters
from npnet.parallel.buckets import Buckets
from npnet.parallel.communicator import Communicator


@dataclass
class Worker:
    """One replica: its row among those of its rank, and its shard. `tally` is of this epoch."""

    row: int
    shard: TrainingShard
    batches: Iterator[Batch] = field(init=False)
    loss: float = 0.0  # summed over the last batch, nats
    tally: "Tally" = field(init=False)

    @property
    def number(self) -> int:
        """Among all workers of the run, counted from 0."""
        return self.shard.worker

    def begin(self, epoch: int) -> None:
        self.batches, self.tally = self.shard.epoch(epoch), Tally()

    def count(self, loss: float, hits: int, images: int) -> None:
        self.loss = loss
        self.tally.loss += loss
        self.tally.hits += hits
        self.tally.images += images


@dataclass
class Tally:
    """Loss summed over images, right answers and images."""

    loss: float = 0.0
    hits: int = 0
    images: int = 0


class Workers(Sequence[Worker]):
    """The K workers of this rank, and the rows that they keep while others have their turn.

    statistics (K,2C) always; values and velocities (K,P) where each worker updates locally
    (`own_weights`), else one row for all. A matrix of one row is the network's own vector, so with
    one worker a rank nothing is copied.

    `deterministic`: sums over workers are made in the order of their numbers, so that they come out
    the same to the bit however the workers are spread over ranks. Where gradients are summed, each
    worker's has a row then; else they are added up in one, and that over ranks by `buckets`.
    """

    def __init__(
        self,
        shards: Sequence[TrainingShard],
        parameters: Parameters,
        velocity: Floats,
        comm: Communicator,
        own_weights: bool,
        deterministic: bool = False,
        buckets: Buckets | None = None,
    ) -> None:
        self.parameters, self.comm, self.deterministic = parameters, comm, deterministic
        self.buckets = buckets or Buckets(comm, parameters.gradients_and_loss)
        self._workers = [Worker(row, shard) for row, shard in enumerate(shards)]
        self.everywhere = shards[0].workers
        count = len(shards)
        each = (parameters.statistics, *((parameters.values, velocity) if own_weights else ()))
        check_bytes(count * sum(vector.nbytes for vector in each))
        self.shares = np.array([shard.share for shard in shards])
        self.statistics = _rows(parameters.statistics, count)
        self.values = _rows(parameters.values, count if own_weights else 1)
        self.velocities = _rows(velocity, count if own_weights else 1)
        self.gradients = parameters.gradients_and_loss[None]
        if count > 1 and not own_weights:
            kept = count if deterministic else 1
            self.gradients = np.zeros(
                (kept, len(parameters.gradients_and_loss)), parameters.gradients_and_loss.dtype
            )
        self._kept = (
            (self.statistics, parameters.statistics),
            (self.values, parameters.values),
            (self.velocities, velocity),
        )

    def __len__(self) -> int:
        return len(self._workers)

    @overload
    def __getitem__(self, row: int) -> Worker: ...
    @overload
    def __getitem__(self, row: slice) -> Sequence[Worker]: ...
    def __getitem__(self, row: int | slice) -> Worker | Sequence[Worker]:
        return self._workers[row]

    @property
    def nbytes(self) -> int:
        """What the rows take beside the network's own vectors."""
        pairs = ((self.gradients, self.parameters.gradients_and_loss), *self._kept)
        return sum(rows.nbytes for rows, own in pairs if not np.shares_memory(rows, own))

    def start_equal(self) -> None:
        """Give every worker the network's present numbers."""
        for matrix, vector in self._kept:
            matrix[:] = vector

    def in_turn(self) -> Iterator[Worker]:
        """Each worker, while its numbers are the network's."""
        for worker in self:
            for matrix, vector in self._kept:
                if len(matrix) > 1:
                    vector[:] = matrix[worker.row]
            yield worker
            for matrix, vector in self._kept:
                if len(matrix) > 1:
                    matrix[worker.row] = vector

    def keep_gradient(self, worker: Worker) -> None:
        """Add the gradient in `parameters.gradients_and_loss` to those of this rank's workers."""
        if len(self) == 1:
            return
        row = self.gradients[worker.row % len(self.gradients)]
        if worker.row < len(self.gradients):
            row[:] = self.parameters.gradients_and_loss
        else:
            row += self.parameters.gradients_and_loss

    def sum_gradients(self) -> None:
        """Leave the sum of all workers' gradients and losses in `parameters.gradients_and_loss`."""
        self._sum(self.gradients, self.parameters.gradients_and_loss, self.buckets.finish)

    def average_values(self) -> None:
        """Give all workers the mean of their weights, each counted by its share of the images."""
        self.values *= self.shares[:, None].astype(self.values.dtype)
        total = self.parameters.values
        self._sum(self.values, total, partial(self.comm.sum, total))
        self.values[:] = total

    def average_by_root(self) -> None:
        """The paper's way: rank 0's plain mean of weights and of moving statistics."""
        for matrix, vector in self._kept[:2]:
            self.comm.mean_by_root(matrix, vector)
            matrix[:] = vector

    def combine_statistics(self) -> None:
        """Running statistics as if all workers' running samples lay in one pool, each by its share.

        mean = sum_k share_k*mean_k, variance = sum_k share_k*(variance_k + mean_k^2) - mean^2: from
        second moments, because a mean of variances forgets how far the workers' means lie apart.
        In float64, because squared means of float32 would swallow small variances.
        """
        if self.everywhere == 1:
            return
        mean, variance = np.split(self.statistics.astype(np.float64), 2, axis=1)
        moments = self.shares[:, None] * np.concatenate((mean, variance + mean**2), axis=1)
        self.parameters.statistics[:] = statistics_of(self.comm.sum_in_order(moments))
        self.statistics[:] = self.parameters.statistics

    def _sum(self, rows: Floats, total: Floats, over_ranks: Callable[[], None]) -> None:
        """Leave the sum of all workers' rows in `total`, which `over_ranks` sums over the ranks."""
        if self.deterministic:
            total[:] = self.comm.sum_in_order(rows)
            return
        if len(self) > 1:
            np.sum(rows, axis=0, out=total)
        over_ranks()


def workers_of(comm: Communicator, workers_per_rank: int) -> tuple[range, int]:
    """The numbers of this rank's workers, and how many there are on all ranks."""
    first = comm.rank * workers_per_rank
    return range(first, first + workers_per_rank), comm.size * workers_per_rank


def statistics_of(moments: Floats) -> Floats:
    """(2C,) means, then variances, from means and second moments."""
    mean, second = np.split(moments, 2)
    return np.concatenate((mean, np.maximum(second - mean**2, 0)))


def _rows(vector: Floats, count: int) -> Floats:
    """`count` rows like a vector; a single one is the vector itself."""
    return vector[None] if count == 1 else np.tile(vector, (count, 1))
