"""The learning rate range test: train while the rate grows, and see where the loss falls best.

Smith 2017, Cyclical learning rates, section 3.3; that the rate grows exponentially, the loss is
smoothed and the test ends where it explodes is the practice of fast.ai. The weights start as in
training, the batches are a training's, and nothing is written to disk.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from npnet.data.dataset import Dataset
from npnet.errors import NpnetError
from npnet.model.config import ModelConfig
from npnet.model.weights import Weights
from npnet.parallel.communicator import Communicator
from npnet.training.recipe import Recipe
from npnet.training.settings import Settings
from npnet.training.trainer import Trainer
from npnet.training.warmup import Silence

SMOOTHING = 0.9  # what the smoothed loss keeps at each step: it is a mean over some ten steps
EXPLODED = 4.0  # times the least smoothed loss, at which the test ends
RISEN = 1.1  # times the least smoothed loss so far: more than noise
BELOW_RISE = 10.0  # the suggested rate is the one at which the loss has risen, divided by this
HARDLY = 0.9  # of the first loss: what a loss that hardly fell is still above
FEWEST_STEPS = 10


@dataclass(frozen=True)
class Try:
    """A step: its rate, its mean loss over all ranks, nats, and that smoothed."""

    lr: float
    loss: float
    smoothed: float


@dataclass(frozen=True)
class RangeTest:
    """The steps of a test. `exploded`: it ended because the loss did."""

    tries: tuple[Try, ...]
    exploded: bool

    @property
    def least(self) -> Try:
        """The step of the least smoothed loss."""
        return min(self.tries, key=lambda each: each.smoothed)

    @property
    def risen(self) -> Try | None:
        """The first step after the least smoothed loss that is RISEN times it; None: there is none.

        Where the loss is least is noise for as long as it hardly falls, as that of new weights does
        in so few steps; where it rises is not.
        """
        least = self.least
        after = self.tries[self.tries.index(least) :]
        return next((each for each in after if each.smoothed > RISEN * least.smoothed), None)

    @property
    def suggestion(self) -> float | None:
        """A tenth of the rate at which the loss had risen, None where it never did.

        None, too, where that is below all rates that were tried.
        """
        if self.risen is None:
            return None
        lr = self.risen.lr / BELOW_RISE
        return lr if lr >= self.tries[0].lr else None

    @property
    def hardly_fell(self) -> bool:
        """Whether the test says where training breaks, but little about where it learns."""
        return self.least.smoothed > HARDLY * self.tries[0].smoothed


class _Enough(Exception):
    """Ends the training, on all ranks at the same step."""


def find_lr(
    dataset: Dataset,
    model: ModelConfig,
    recipe: Recipe,
    settings: Settings,
    comm: Communicator,
    steps: int = 100,
    lowest: float = 1e-5,
    highest: float = 10.0,
    step_finished: Callable[[int], object] = lambda step: None,
    weights: Weights | None = None,
) -> RangeTest:
    """Train `steps` steps at rates from `lowest` to `highest`. The same on every rank.

    It begins with new weights, or with `weights`.

    `step_finished` takes the number of steps done. Raises NpnetError, the same on every rank, if
    the data, the settings or the range do not fit.
    """
    if not 0 < lowest < highest < math.inf:
        raise NpnetError(f"rates from {lowest:g} to {highest:g} do not grow: give others")
    if steps < FEWEST_STEPS:
        raise NpnetError(f"`steps` {steps} is not usable: give {FEWEST_STEPS} or more")
    chosen = replace(settings, epochs=1, evaluate="never", max_steps=steps, patience=None)
    trainer = Trainer(dataset, model, recipe, chosen, comm, Silence(), weights=weights)
    return _Test(trainer, steps, lowest, highest, step_finished).run()


class _Test:
    """Takes the place of a trainer's schedule and of its check of the loss."""

    def __init__(
        self,
        trainer: Trainer,
        steps: int,
        lowest: float,
        highest: float,
        step_finished: Callable[[int], object],
    ) -> None:
        self.trainer, self.steps, self.lowest = trainer, steps, lowest
        self.growth: float = (highest / lowest) ** (1 / (steps - 1))
        self.step_finished = step_finished
        self.tries: list[Try] = []
        self.exploded, self._mean = False, 0.0
        trainer.optimiser.schedule = lambda time: self.lr
        trainer.optimiser.before_update = self._note

    @property
    def lr(self) -> float:
        """Of the step under way, which was noted before its update."""
        lr: float = self.lowest * self.growth ** max(len(self.tries) - 1, 0)
        return lr

    @np.errstate(over="ignore", invalid="ignore")
    def run(self) -> RangeTest:
        try:
            for epoch in range(self.steps):  # more than enough
                self.trainer.train_epoch(epoch)
        except _Enough:
            pass
        finally:
            self.trainer.workers.buckets.close()
        if not self.tries:
            raise NpnetError("the first loss is not finite: no rate can mend that")
        return RangeTest(tuple(self.tries), self.exploded)

    def _note(self) -> None:
        """Called with the loss of a step before its update."""
        loss = np.array([self.trainer.parameters.gradients_and_loss[-1]], np.float64)
        if not self.trainer.synchroniser.every_step:  # each rank has its own
            self.trainer.comm.sum(loss)
            loss /= self.trainer.comm.size
        self._add(float(loss[0]))
        self.step_finished(len(self.tries))
        if len(self.tries) == self.steps:
            raise _Enough

    def _add(self, loss: float) -> None:
        if not math.isfinite(loss):
            self.exploded = True
            raise _Enough
        done = len(self.tries) + 1
        self._mean = SMOOTHING * self._mean + (1 - SMOOTHING) * loss
        smoothed = self._mean / (1 - SMOOTHING**done)  # as if the mean began without the first 0
        lr = self.lowest * self.growth ** (done - 1)
        self.tries.append(Try(lr, loss, smoothed))
        if smoothed > EXPLODED * min(each.smoothed for each in self.tries):
            self.exploded = True
            raise _Enough
