"""How workers become one: what is averaged over them, and when.

| name           | averaged                    | by         | at the end of                     |
|----------------|-----------------------------|------------|-----------------------------------|
| `gradients`    | gradients                   | all-reduce | each step                         |
| `weights`      | weights                     | all-reduce | each epoch, or `sync_steps` steps |
| `gather-bcast` | weights, running statistics | the root   | each epoch (paper, 3.2.2)         |

The all-reduce is in exchange.py; that of gradients can run during backward, see buckets.py.

A round is what each worker does between two synchronisations. With `gradients` it is a step: the
workers act as one with a batch of all their images. With the other two each worker updates locally
for a round; the momentum of its optimiser stays its own. Running statistics are combined at the end
of each epoch, before they are tested and saved.
"""

from collections.abc import Iterator
from typing import Protocol

from npnet.parallel.workers import Worker, Workers


class Optimiser(Protocol):
    """What moves the weights, see training/optimiser.py."""

    def update(self) -> None:
        """By the gradient in `parameters.gradients_and_loss`."""


class Synchroniser(Protocol):
    """A strategy."""

    name: str
    every_step: bool  # do workers synchronise at each step, and so know of each other's loss?

    def __init__(self, sync_steps: int | None = None) -> None: ...

    def rounds(self, steps: int) -> Iterator[range]:
        """The steps of an epoch, cut where workers synchronise."""

    def loss_scale(self, local: int, everywhere: int) -> float:
        """What a step's summed loss is multiplied by, given its images here and everywhere."""

    def after_backward(self, workers: Workers, worker: Worker, optimiser: Optimiser) -> None:
        """Called when `worker` has computed a gradient."""

    def synchronise(self, workers: Workers, optimiser: Optimiser) -> None:
        """Called at the end of a round: make the workers' weights equal."""

    def after_epoch(self, workers: Workers) -> None:
        """Called at the end of an epoch: make the running statistics equal too."""


class Gradients:
    """Every worker scales its loss by the images of all: the sum of gradients is their mean."""

    name = "gradients"
    every_step = True

    def __init__(self, sync_steps: int | None = None) -> None: ...

    def rounds(self, steps: int) -> Iterator[range]:
        return (range(step, step + 1) for step in range(steps))

    def loss_scale(self, local: int, everywhere: int) -> float:
        return 1 / everywhere

    def after_backward(self, workers: Workers, worker: Worker, optimiser: Optimiser) -> None:
        workers.keep_gradient(worker)

    def synchronise(self, workers: Workers, optimiser: Optimiser) -> None:
        workers.sum_gradients()
        optimiser.update()

    def after_epoch(self, workers: Workers) -> None:
        workers.buckets.forget()  # so that a run which is continued here goes the same way
        workers.combine_statistics()


class Weights:
    """Local SGD (Stich 2019): the mean of the workers' weights, each counted by its share."""

    name = "weights"
    every_step = False

    def __init__(self, sync_steps: int | None = None) -> None:
        self.sync_steps = sync_steps

    def rounds(self, steps: int) -> Iterator[range]:
        length = self.sync_steps or steps
        return (range(first, min(first + length, steps)) for first in range(0, steps, length))

    def loss_scale(self, local: int, everywhere: int) -> float:
        return 1 / max(local, 1)

    def after_backward(self, workers: Workers, worker: Worker, optimiser: Optimiser) -> None:
        optimiser.update()

    def synchronise(self, workers: Workers, optimiser: Optimiser) -> None:
        workers.average_values()

    def after_epoch(self, workers: Workers) -> None:
        workers.combine_statistics()


class GatherBcast(Weights):
    """The paper's: the root's plain mean of weights and of moving statistics, broadcast."""

    name = "gather-bcast"

    def synchronise(self, workers: Workers, optimiser: Optimiser) -> None:
        workers.average_by_root()

    def after_epoch(self, workers: Workers) -> None: ...


STRATEGIES: dict[str, type[Gradients] | type[Weights]] = {
    strategy.name: strategy for strategy in (Gradients, Weights, GatherBcast)
}
