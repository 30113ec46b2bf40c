"""The optimiser: SGD with momentum over one flat vector, cut into groups.

A group is a run of neighbouring parameters that are updated alike. Frozen layers, rates of their
own and the slow classifier are rows of one table:

    rows              rate   weight decay   trainable
    weights           1      recipe's       unless frozen
    gammas, betas     1      0              unless frozen
    classifier        k      recipe's / k, so that decay itself is not slowed

Which of them are trained, and at which rate, training/parts.py says.
"""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import NamedTuple

import numpy as np

from npnet.kernels import backend as kernels_of
from npnet.kernels.arrays import Floats
from npnet.model.parameters import CLASSIFIER, Parameters, ParameterSpec
from npnet.training.parts import Parts
from npnet.training.recipe import Recipe


class Group(NamedTuple):
    """A slice of the flat vector; `rate` multiplies the learning rate."""

    where: slice
    rate: float = 1.0
    weight_decay: float = 0.0
    trainable: bool = True


def groups_of(parameters: Parameters, recipe: Recipe) -> list[Group]:
    """The table for a network, neighbours that are alike in one row."""
    parts, groups = Parts(parameters.specs, recipe), list[Group]()
    for spec in parameters.specs:
        group = _group(spec, parameters.where(spec.name), parts)
        last = groups[-1] if groups else None
        if last is not None and last._replace(where=group.where) == group:
            groups[-1] = last._replace(where=slice(last.where.start, group.where.stop))
        else:
            groups.append(group)
    return groups


def _group(spec: ParameterSpec, where: slice, parts: Parts) -> Group:
    rate = parts.rate(spec)
    decay = parts.recipe.weight_decay if spec.role == "weight" else 0.0
    if spec.operation == CLASSIFIER and rate:
        decay /= parts.recipe.classifier_gradient
    return Group(where, rate, decay, rate > 0 and parts.trains(spec))


class Optimiser:
    """Moves `parameters.values` by the gradient in `parameters.gradients`; owns the velocity.

        g = gradient + weight_decay*w,  velocity = momentum*velocity + g
        w -= lr(time)*rate * (g + momentum*velocity if nesterov else velocity)

    `schedule`: the learning rate at a time, in epochs. `before_update` may stop a run before a
    broken gradient reaches the parameters. The time of the present step is set by `at`.
    """

    def __init__(
        self,
        parameters: Parameters,
        groups: Sequence[Group],
        recipe: Recipe,
        schedule: Callable[[float], float],
        backend: str | ModuleType = "numba",
    ) -> None:
        self.parameters, self.groups, self.schedule = parameters, groups, schedule
        self.momentum, self.nesterov = recipe.momentum, recipe.nesterov
        self.kernels = kernels_of(backend)
        self.velocity: Floats = np.zeros_like(parameters.values)
        self.before_update: Callable[[], None] = lambda: None
        self.time = 0.0

    @property
    def lr(self) -> float:
        """The learning rate of the present step."""
        return self.schedule(self.time)

    def at(self, time: float) -> None:
        """A step begins."""
        self.time = time

    def update(self) -> None:
        """One pass over parameters, velocity and gradient."""
        self.before_update()
        lr, vectors = self.lr, (self.parameters.values, self.velocity, self.parameters.gradients)
        for where, rate, weight_decay, trainable in self.groups:
            if trainable:
                rows = (vector[where] for vector in vectors)
                decayed = where.stop - where.start
                rates = (lr * rate, self.momentum, weight_decay, self.nesterov)
                self.kernels.sgd_update(*rows, decayed, *rates)
