"""The exchange: a vector is replaced, on every rank, by its sum over the ranks of a cluster.

An Allreduce is a reduce-scatter, by which each rank gets the sum of one part of the vector, and an
all-gather of the parts. Here the parts are summed over the nodes in between:

        node A            node B
    rank 0   rank 1   rank 2   rank 3
    |  1  <-->  |     |  1  <-->  |     reduce-scatter in a node: rank i gets part i of its sum
    2 <-------------> 2                 the same between the ranks that have part 0, then an
             2 <-------------> 2        all-gather; and between those that have part 1
    |  3  <-->  |     |  3  <-->  |     all-gather in a node

So the ranks of a node share the traffic of their port: of a vector, 2 (N-1)/N leave each of N
nodes, however many ranks it has. (An Allreduce that knows no nodes: that much for each rank.) Every
number is added up in the order of a node's ranks, then of nodes: it is the same to the bit on all.

Between nodes numbers can travel as bfloat16, in half the bytes. What rounding takes from a number
is kept and added to the next one in its place, so that nothing is lost, only late (error feedback:
Seide et al. 2014; Karimireddy et al. 2019). Sums are made in float32.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from npnet.kernels.arrays import Floats
from npnet.parallel.bfloat16 import from_bfloat16, to_bfloat16

SECONDS_AWAKE = 2e-3  # in a node an exchange takes less, if it is not interrupted
ASLEEP = 0.05  # then: of the time that it has taken so far, between two looks
LONGEST_SLEEP = 1e-3  # seconds: 12 KB at 100 Mbit/s, much less than a socket's buffer holds

Complete = Callable[[Any], object]  # takes a request of MPI, returns when it is done


class Level:
    """A reduce-scatter and an all-gather among the ranks of one MPI communicator.

    The vector (n,) is cut into `parts`, at most one for each rank; `part` (m,) is this rank's.
    """

    def __init__(self, comm: Any, n: int, dtype: DTypeLike, parts: int | None = None) -> None:
        self.comm, size = comm, comm.Get_size()
        parts = parts or size
        self.ends = [n * min(part, parts) // parts for part in range(size + 1)]
        self.counts, rank = np.diff(self.ends), comm.Get_rank()
        self.own = slice(self.ends[rank], self.ends[rank + 1])
        self.part: Floats = np.empty(self.own.stop - self.own.start, dtype)
        self._arriving = np.empty((size, len(self.part)), self.on_the_wire(dtype))

    def on_the_wire(self, dtype: DTypeLike) -> DTypeLike:
        return dtype

    @property
    def nbytes(self) -> int:
        return self.part.nbytes + self._arriving.nbytes

    def reduce_scatter(self, vector: Floats, complete: Complete) -> None:
        """Leave the sum of this rank's part in `part`."""
        rows = self._arrived(vector, complete)
        self.part[:] = rows[0]
        for row in rows[1:]:
            self.part += row

    def all_gather(self, vector: Floats, complete: Complete) -> None:
        """Fill `vector` with the `part` of each rank."""
        complete(self.comm.Iallgatherv(self.part, [vector, self.counts]))

    def _arrived(self, outgoing: NDArray[Any], complete: Complete) -> NDArray[Any]:
        """This rank's part of everybody's vector, a row for each rank."""
        counts = [len(self.part)] * len(self._arriving)
        complete(self.comm.Ialltoallv([outgoing, self.counts], [self._arriving, counts]))
        return self._arriving

    def forget(self) -> None:
        """Drop what rounding has kept back."""


class NetworkLevel(Level):
    """The same among nodes, where the way of messages matters."""

    def all_gather(self, vector: Floats, complete: Complete) -> None:
        vector[self.own] = self.part
        self._pass_round(vector, complete)

    def _pass_round(self, array: NDArray[Any], complete: Complete) -> None:
        """Every part to everybody, from neighbour to neighbour in a ring.

        A port then sends to one other and hears one: nothing collides, and TCP never slows down
        for a connection that has rested.
        """
        size, rank = self.comm.Get_size(), self.comm.Get_rank()
        parts = [array[a:b] for a, b in pairwise(self.ends)]
        for step in range(size - 1):
            arriving = self.comm.Irecv(parts[(rank - step - 1) % size], (rank - 1) % size)
            leaving = self.comm.Isend(parts[(rank - step) % size], (rank + 1) % size)
            complete(arriving)
            complete(leaving)


class HalfWidthLevel(NetworkLevel):
    """The same with bfloat16 on the wire."""

    def __init__(self, comm: Any, n: int) -> None:
        super().__init__(comm, n, np.float32)
        self._halves, self._carry = np.empty(n, np.uint16), np.zeros(n, np.float32)
        self._part_halves = self._halves[self.own]
        self._part_carry = np.zeros_like(self.part)

    def on_the_wire(self, dtype: DTypeLike) -> DTypeLike:
        return np.uint16

    @property
    def nbytes(self) -> int:
        more = (self._halves, self._carry, self._part_carry)
        return super().nbytes + sum(array.nbytes for array in more)

    def reduce_scatter(self, vector: Floats, complete: Complete) -> None:
        to_bfloat16(self._halves, self._carry, vector)
        self.part[:] = 0
        for row in self._arrived(self._halves, complete):
            self.part += from_bfloat16(row)

    def all_gather(self, vector: Floats, complete: Complete) -> None:
        to_bfloat16(self._part_halves, self._part_carry, self.part)
        self._pass_round(self._halves, complete)
        vector[:] = from_bfloat16(self._halves)

    def forget(self) -> None:
        self._carry[:] = 0
        self._part_carry[:] = 0


class Exchange:
    """The sum of vectors of one length. `levels`: a node's first, then the one between nodes.

    `everyone`: a communicator of all ranks, None of a rank that is alone. `phases` surrounds the
    waiting for them and the transfer, see `MpiCommunicator._exchange`.
    """

    def __init__(
        self,
        everyone: Any,
        levels: Sequence[Level],
        phases: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.everyone, self.levels, self.phases = everyone, levels, phases

    @property
    def nbytes(self) -> int:
        return sum(level.nbytes for level in self.levels)

    def sum(self, vector: Floats) -> None:
        """Replace `vector`; MPI takes the processor until it is done."""
        with self.phases():
            _sum(vector, self.levels, lambda request: request.Wait())

    def sum_aside(self, vector: Floats, all_arrived: Callable[[], None]) -> None:
        """The same for a thread beside the one that computes: asleep most of the time.

        `all_arrived` is called when every rank has come as far.
        """
        if self.everyone is not None:
            _poll(self.everyone.Ibarrier())
        all_arrived()
        _sum(vector, self.levels, _poll)

    def forget(self) -> None:
        """Drop what rounding has kept back, as a run does that begins."""
        for level in self.levels:
            level.forget()


@np.errstate(over="ignore", invalid="ignore")  # in a thread of its own, too
def _sum(vector: Floats, levels: Sequence[Level], complete: Complete) -> None:
    if levels:
        level, *rest = levels
        level.reduce_scatter(vector, complete)
        _sum(level.part, rest, complete)
        level.all_gather(vector, complete)


def _poll(request: Any) -> None:
    started = time.monotonic()
    while not request.Test():
        taken = time.monotonic() - started
        if taken > SECONDS_AWAKE:
            time.sleep(min(ASLEEP * taken, LONGEST_SLEEP))
