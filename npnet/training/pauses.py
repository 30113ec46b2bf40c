"""Pauses in an epoch: where a run may save itself, and where it asks whether a signal came.

A run can go on from the end of any step. It pauses after every `checkpoint_every` steps of an
epoch, and to look for signals: where ranks synchronise, if LOOK_AFTER steps have passed since the
last look, and at the end of an epoch. A look is a sum of two numbers over the ranks, for all must
stop at the same step. Ranks that synchronise at each step pay one small exchange more for
LOOK_AFTER large ones; ranks that update locally come together no more often than they do anyway,
unless `checkpoint_every` says so.
"""

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

import numpy as np

from npnet.parallel.communicator import Communicator

LOOK_AFTER = 8  # steps
SAVE, LEAVE = signal.SIGUSR1, (signal.SIGTERM, signal.SIGINT)


class Pauses:
    """What signals have asked of this rank, `save` or `leave`, and where the ranks agree on it."""

    def __init__(self, comm: Communicator, every: int | None) -> None:
        self.comm, self.every = comm, every
        self.save = self.leave = False
        self._looked = 0  # at this step of the epoch

    @contextmanager
    def for_signals(self) -> Iterator[None]:
        """In this block a signal is a wish; a second one to leave is what it was before."""
        handlers = {each: signal.getsignal(each) or signal.SIG_DFL for each in (SAVE, *LEAVE)}

        def note(number: int, frame: FrameType | None) -> None:
            self.save = True
            if number in LEAVE:
                self.leave = True
                for each in LEAVE:
                    signal.signal(each, handlers[each])

        try:
            for each in handlers:
                signal.signal(each, note)
            yield
        finally:
            for each, handler in handlers.items():
                signal.signal(each, handler)

    def parts(self, rounds: Iterable[range], first: int) -> Iterator[tuple[range, bool]]:
        """The rounds from step `first` on, cut at pauses; and whether a part ends its round."""
        self._looked = first
        for steps in rounds:
            start = max(steps.start, first)
            while start < steps.stop:
                end = steps.stop
                if self.every is not None:
                    end = min(end, (start // self.every + 1) * self.every)
                yield range(start, end), end == steps.stop
                start = end

    def wanted(self, step: int, synchronised: bool) -> tuple[bool, bool]:
        """Whether to save, and whether to leave, after `step` steps. The same on every rank."""
        due = self.every is not None and step % self.every == 0
        if not due and not (synchronised and step - self._looked >= LOOK_AFTER):
            return False, False
        self._looked = step
        save, leave = self.agreed()
        return save or due, leave

    def agreed(self) -> tuple[bool, bool]:
        """Whether a signal asked any rank to save, and to leave. All ranks must call."""
        wishes = np.array([self.save, self.leave], np.float64)
        self.comm.sum(wishes)
        self.save = False
        return bool(wishes[0]), bool(wishes[1])
