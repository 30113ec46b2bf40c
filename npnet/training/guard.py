"""What stops a run: a divergence, or a rank whose weights are no longer the others'.

Every check comes before a broken state could be saved, and its message says where the last good one
is.
"""

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from npnet.errors import NpnetError
from npnet.model.parameters import Parameters
from npnet.parallel.communicator import CollectiveError, Communicator, odd_ranks, together
from npnet.parallel.strategies import Synchroniser
from npnet.parallel.workers import Worker
from npnet.training.run import Run


class Guard:
    """The checks of one run."""

    def __init__(
        self,
        parameters: Parameters,
        synchroniser: Synchroniser,
        comm: Communicator,
        run: Run,
    ) -> None:
        self.parameters, self.synchroniser, self.comm = parameters, synchroniser, comm
        self.run = run

    def check_loss(self, workers: Sequence[Worker], epoch: int, step: int) -> None:
        """Stop where the loss is not finite, before it reaches the parameters.

        Ranks that synchronise at each step all see it in the shared loss, and end with one message.
        """
        if np.isfinite(self.parameters.gradients_and_loss[-1]):
            return
        every_step = self.synchroniser.every_step
        mine = [(self.comm.rank, worker.loss) for worker in workers]
        losses = self.comm.of_all(mine) if every_step else mine
        bad = ((rank, loss) for rank, loss in losses if not math.isfinite(loss))
        rank, loss = next(bad, losses[0])
        what = f"the loss is {loss} on rank {rank}, epoch {epoch + 1}, step {step + 1}"
        error = CollectiveError if every_step else NpnetError
        if (epoch, step) == (0, 0):  # nothing was updated yet
            raise error(f"{what}, before any update: the weights that it begins with make it so")
        raise error(self._advice(what, epoch))

    def check_state(self, epoch: int, split: str, loss: float | None) -> None:
        """After an epoch all is finite, and the same on all ranks; `loss` of a split if scored.

        The last update may overflow after the last loss. Raises CollectiveError on every rank.
        """
        state = (self.parameters.values, self.parameters.statistics)
        with together(self.comm):
            if not all(np.isfinite(array).all() for array in state):
                what = f"the weights or statistics after epoch {epoch + 1} are not finite"
                raise NpnetError(self._advice(what, epoch))
            if loss is not None and not math.isfinite(loss):
                what = f"the {split} loss after epoch {epoch + 1} is {loss}"
                raise NpnetError(self._advice(what, epoch))
        names = ", ".join(odd_ranks(self.comm, self.parameters.digest()))
        if names:
            raise CollectiveError(
                f"the weights of rank {names} drifted from the others' in epoch {epoch + 1}: its "
                "memory may be faulty, or its processor or libraries are not the others'; "
                + self._kept(epoch)
            )

    def _advice(self, what: str, epoch: int) -> str:
        """What to do about a divergence in `epoch`."""
        return f"{what}: lower `lr` or lengthen `warmup_epochs`; {self._kept(epoch)}"

    def _kept(self, epoch: int) -> str:
        """Where the weights from before `epoch` are."""
        kept: Path | str | None = None
        if epoch > self.run.first_epoch and self.run.folder is not None:
            kept = self.run.folder.epoch(epoch)
        elif epoch == self.run.first_epoch:
            kept = self.run.resumed_from
        if kept is None:
            return "no epoch was finished"
        return f"the weights of epoch {epoch} are kept in {kept}"
