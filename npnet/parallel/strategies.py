"""How ranks become one: what is averaged over them, and when.

| name           | averaged              | by             | when                       |
|----------------|-----------------------|----------------|----------------------------|
| `gradients`    | gradients             | Allreduce      | each step                  |
| `weights`      | weights, running statistics | Allreduce | each epoch                |
| `gather-bcast` | weights, running statistics | root      | each epoch (paper, 3.2.2) |

With `gradients` the ranks walk in step and act as one with a batch of all their images. With the
other two each rank walks alone for an epoch; the momentum of its optimiser stays its own.
"""

from typing import Protocol

import numpy as np

from npnet.kernels.arrays import Floats
from npnet.parallel.communicator import Communicator
from npnet.parameters import Parameters


class Synchroniser(Protocol):
    """A strategy. `share` is this rank's part of the training images."""

    name: str
    every_step: bool  # do ranks meet at each step, and so know of each other's loss?

    def loss_scale(self, local: int, everywhere: int) -> float:
        """What a step's summed loss is multiplied by, given its images here and on all ranks."""

    def after_backward(self, parameters: Parameters) -> None: ...

    def after_epoch(self, parameters: Parameters, share: float) -> None:
        """Make values and statistics the same on every rank."""


class Gradients:
    """Every rank scales its loss by the images of all ranks: the sum of gradients is their mean."""

    name = "gradients"
    every_step = True

    def __init__(self, comm: Communicator) -> None:
        self.comm = comm

    def loss_scale(self, local: int, everywhere: int) -> float:
        return 1 / everywhere

    def after_backward(self, parameters: Parameters) -> None:
        self.comm.sum(parameters.shared)

    def after_epoch(self, parameters: Parameters, share: float) -> None:
        combine_statistics(parameters, share, self.comm)


class Weights:
    """The mean of the ranks' weights, each counted by its share of the images."""

    name = "weights"
    every_step = False

    def __init__(self, comm: Communicator) -> None:
        self.comm = comm

    def loss_scale(self, local: int, everywhere: int) -> float:
        return 1 / max(local, 1)

    def after_backward(self, parameters: Parameters) -> None: ...

    def after_epoch(self, parameters: Parameters, share: float) -> None:
        parameters.values *= share
        self.comm.sum(parameters.values)
        combine_statistics(parameters, share, self.comm)


class GatherBcast(Weights):
    """The paper's: the root's plain mean of weights and of moving statistics, broadcast."""

    name = "gather-bcast"

    def after_epoch(self, parameters: Parameters, share: float) -> None:
        self.comm.mean_by_root(parameters.values)
        self.comm.mean_by_root(parameters.statistics)


def combine_statistics(parameters: Parameters, share: float, comm: Communicator) -> None:
    """Running statistics as if the ranks' running samples lay in one pool, each with its share.

    mean = sum_r share_r*mean_r, variance = sum_r share_r*(variance_r + mean_r^2) - mean^2: from
    second moments, because a mean of variances forgets how far the ranks' means lie apart.
    In float64, because squared means of float32 would swallow small variances.
    """
    if comm.size == 1:
        return
    means, variances = parameters.running_means, parameters.running_variances
    mean, variance = means.astype(np.float64), variances.astype(np.float64)
    moments: Floats = share * np.concatenate((mean, variance + mean**2))
    comm.sum(moments)
    mean, second = np.split(moments, 2)
    means[:], variances[:] = mean, np.maximum(second - mean**2, 0)


STRATEGIES: dict[str, type[Gradients] | type[Weights]] = {
    strategy.name: strategy for strategy in (Gradients, Weights, GatherBcast)
}
