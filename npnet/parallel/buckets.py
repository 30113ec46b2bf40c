"""Buckets: a gradient is summed over ranks while backward still computes the rest of it.

Backward goes from the network's end to its start. The gradients of weights lie in one flat vector
in the order of operations, so they become complete from its end; those of gammas, betas and biases
lie behind them. A bucket is a piece of that vector:

    gradients   | stem, block 1 ... | ... | last block, classifier | gammas, betas, biases, loss |
    bucket               3             2              1                          4
    complete         at the end               after a few layers             at the end

A thread exchanges each as soon as it is complete, and sleeps while the network has the word. A step
waits for what is left of the exchange when backward ends. Most weights lie at a network's end, most
of the work at its start, so that is little. (Li et al. 2020, PyTorch's DistributedDataParallel.)
"""

import threading
from collections.abc import Callable, Sequence
from functools import partial
from queue import SimpleQueue
from typing import NamedTuple

from npnet.kernels.arrays import Floats
from npnet.model.architecture import Architecture
from npnet.model.parameters import Parameters
from npnet.parallel.communicator import Communicator

LEAST_BYTES = 65536  # below, a bucket costs more in latency than it brings


class Bucket(NamedTuple):
    """A piece of the vector, and the operation after whose backward it is complete."""

    where: slice
    after: str | None = None  # None: at the end of backward


def buckets_of(parameters: Parameters, backward: Sequence[str]) -> list[Bucket]:
    """Each bucket has half of the weights that are left, down to 64 KB.

    `backward`: the operations in the order in which their gradients become complete.
    """
    itemsize, end = parameters.gradients.itemsize, parameters.decayed
    starts = {
        spec.operation: parameters.where(spec.name).start for spec in reversed(parameters.specs)
    }
    found = []
    for operation in backward:
        start = starts.get(operation, end)
        if start < end and (end - start) * itemsize >= max(LEAST_BYTES, end * itemsize // 2):
            found.append(Bucket(slice(start, end), operation))
            end = start
    rest = [slice(0, end), slice(parameters.decayed, len(parameters.gradients_and_loss))]
    return [*found, *(Bucket(where) for where in rest if where.start < where.stop)]


class Piece(NamedTuple):
    """A bucket as forecasts see it: complete when `step_share` of a step is still to come."""

    bytes: int
    step_share: float = 0.0


def pieces_of(architecture: Architecture, parameters: Parameters) -> tuple[Piece, ...]:
    """The gradient's buckets in the order of backward.

    Backward is taken for two thirds of a step, and each of its operations to last in proportion to
    its multiplications.
    """
    backward = architecture.operations[::-1]
    left, passed = {}, 0
    for operation in backward:
        passed += operation.macs
        left[operation.name] = 2 / 3 * (1 - passed / architecture.macs)
    return tuple(
        Piece(
            bytes=(bucket.where.stop - bucket.where.start) * parameters.gradients.itemsize,
            step_share=left[bucket.after] if bucket.after else 0.0,
        )
        for bucket in buckets_of(parameters, [operation.name for operation in backward])
    )


def seconds_left(
    pieces: Sequence[Piece], step_seconds: float, exchange: Callable[[int], float]
) -> float:
    """How long a step waits for its exchange after backward, if one of m bytes takes exchange(m).

    end_i = max(end_(i-1), -step_share_i * step) + exchange(bytes_i)
    left  = max(end_last, 0)
    """
    end = -step_seconds
    for piece in pieces:
        end = max(end, -piece.step_share * step_seconds) + exchange(piece.bytes)
    return max(end, 0.0)


class Buckets:
    """The sum over ranks of `vector`, in place, cut into buckets; by default in one, at the end."""

    def __init__(
        self,
        comm: Communicator,
        vector: Floats,
        buckets: Sequence[Bucket] = (),
        half_width: bool = False,
    ) -> None:
        self.clock = comm.clock
        self.buckets = buckets or [Bucket(slice(0, len(vector)))]
        self._pieces = [vector[bucket.where] for bucket in self.buckets]
        self._exchanges = [
            comm.exchange(len(piece), vector.dtype, half_width) for piece in self._pieces
        ]
        self._handed = 0
        self._complete: SimpleQueue[int | None] = SimpleQueue()
        self._done = threading.Event()
        # What the thread does, and whether the rank has nothing else to do but wait for it.
        self._lock, self._phase, self._idle = threading.Lock(), "wait", False
        self._error: BaseException | None = None
        if len(self.buckets) > 1:
            threading.Thread(target=self._exchange, name="exchange", daemon=True).start()

    @property
    def nbytes(self) -> int:
        return sum(exchange.nbytes for exchange in self._exchanges)

    def completed(self, operation: str) -> None:
        """Backward has left the gradient of this operation."""
        if operation == self.buckets[self._handed].after:
            self._hand()

    def finish(self) -> None:
        """All of the vector is there: return when it is the sum."""
        if len(self.buckets) == 1:
            self._exchanges[0].sum(self._pieces[0])
            return
        while self._handed < len(self.buckets):
            self._hand()
        with self._lock:
            before, self._idle = self.clock.enter(self._phase), True
        self._done.wait()
        with self._lock:
            self._idle = False
            self.clock.enter(before)
        if self._error is not None:
            raise self._error
        self._handed = 0
        self._done.clear()

    def forget(self) -> None:
        """Drop what rounding has kept back."""
        for exchange in self._exchanges:
            exchange.forget()

    def close(self) -> None:
        """The last sum was made: the thread ends."""
        self._complete.put(None)

    def _hand(self) -> None:
        self._complete.put(self._handed)
        self._handed += 1

    def _exchange(self) -> None:
        """The thread: every rank exchanges the same buckets in the same order."""
        last = len(self.buckets) - 1
        try:
            while (number := self._complete.get()) is not None:
                self._enter("wait")
                all_arrived = partial(self._enter, "transfer")
                self._exchanges[number].sum_aside(self._pieces[number], all_arrived)
                if number == last:
                    self._done.set()
        except BaseException as error:
            self._error = error
            self._done.set()

    def _enter(self, phase: str) -> None:
        """The thread's phase, which is the rank's too while that is idle."""
        with self._lock:
            self._phase = phase
            if self._idle:
                self.clock.enter(phase)
