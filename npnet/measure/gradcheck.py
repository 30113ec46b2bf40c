"""Gradient checks: every backward pass against finite differences of its forward, in float64.

A gradient is checked along a random direction d (a projection):
    (f(x + e*d) - f(x - e*d)) / 2e   against   <gradient, d>,   f(x) = <r, forward(x)>, r random
One number per input suffices: an error in any element shows with probability one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import NamedTuple

import numpy as np

from npnet.kernels import backend as kernels_of
from npnet.kernels import registry
from npnet.kernels.arrays import Floats
from npnet.model.architecture import Architecture
from npnet.model.network import Network
from npnet.model.parameters import initialise
from npnet.model.zoo import build, configure, models

STEP = 1e-6
BOUND = 1e-6


@dataclass(frozen=True)
class Check:
    """One projected gradient: what finite differences say and what the backward pass says."""

    name: str
    case: str
    numeric: float
    analytic: float

    @property
    def error(self) -> float:
        """Relative to the larger of the two; to 0.01 where both are next to nothing.

        A linear batch norm before another one has a beta whose gradient is zero.
        """
        scale = max(abs(self.numeric), abs(self.analytic), 0.01)
        return abs(self.numeric - self.analytic) / scale

    @property
    def passed(self) -> bool:
        return bool(self.error <= BOUND)  # a NaN does not pass


def project(
    function: Callable[[], float],
    x: Floats,
    gradient: Floats,
    rng: np.random.Generator,
    side: Callable[[], bytes] = bytes,
) -> tuple[float, float]:
    """(numeric, analytic) derivative of `function`, which reads `x`, along a random direction.

    `side` tells on which side of its kinks the last evaluation was. Along a direction that
    crosses one there is no derivative, so another is drawn.
    """
    start = x.copy()
    size = max(float(np.sqrt(np.mean(x * x))), 0.1)  # steps of the size of x itself
    for _ in range(100):
        direction = size * rng.standard_normal(x.shape)
        x[...] = start + STEP * direction
        above, side_above = function(), side()
        x[...] = start - STEP * direction
        below, side_below = function(), side()
        x[...] = start
        if side_above == side_below:
            return (above - below) / (2 * STEP), float(np.sum(gradient * direction))
    raise ArithmeticError("every direction crosses a kink: choose another point")


class Family(NamedTuple):
    """Checks of one operation, or of the network of one model."""

    name: str
    checks: Iterator[Check]
    is_network: bool


def families(backend: str = "reference", model: str | None = None) -> list[Family]:
    """All that there is to check; of networks, only those of `model` if one is given."""
    operations = [
        Family(gradient.name, check_operation(gradient, backend), is_network=False)
        for gradient in registry.GRADIENTS
    ]
    networks = [
        Family(each.name, check_network(each, backend, frozen=frozen), is_network=True)
        for each in miniatures()
        if model in (None, each.name)
        for frozen in (False, True)
    ]
    return operations + networks


def check_operations(backend: str = "reference") -> Iterator[Check]:
    """Every operation of the registry."""
    for gradient in registry.GRADIENTS:
        yield from check_operation(gradient, backend)


def check_operation(gradient: registry.Gradient, backend: str) -> Iterator[Check]:
    """One operation, at every case of its kind, for each of its inputs.

    A plain operation whose compiled place a fused one has taken is checked where it stands, in the
    reference; the fused one is a part of `check_network`.
    """
    rows = map(registry.kernel, {gradient.forward, *gradient.backward.values()})
    plain = any(row.reference_only for row in rows)
    kernels = kernels_of("reference" if plain else backend)
    for case in registry.border_cases(registry.kernel(gradient.forward).kind):
        for name in gradient.backward:
            yield check_input(kernels, gradient, name, case)


def check_input(
    kernels: ModuleType, gradient: registry.Gradient, name: str, case: registry.Case
) -> Check:
    """The gradient of one operation with respect to its input `name`."""
    forward, backward = registry.kernel(gradient.forward), registry.kernel(gradient.backward[name])
    rng = np.random.default_rng(0)
    arguments = forward.arguments(case, rng)
    output = forward.output_names(case)[0]
    # The loss has a scalar gradient, `scale`; every other output is weighted by a random array.
    constant = backward.scalars(case).get("scale")
    shape = arguments[output].shape
    weights = np.full(shape, constant) if constant else rng.standard_normal(shape)

    def value() -> float:
        getattr(kernels, forward.name)(*arguments.values())
        return float(np.sum(weights * arguments[output]))

    value()  # fills saved outputs, such as the probabilities
    known = arguments | backward.scalars(case) | {f"d{output}": weights}
    shapes = backward.shapes(case)
    results = {result: np.zeros(shapes[result]) for result in backward.output_names(case)}
    inputs = [known[key] for key in (*shapes, *backward.scalars(case)) if key not in results]
    getattr(kernels, backward.name)(*results.values(), *inputs)
    numeric, analytic = project(value, arguments[name], results[f"d{name}"], rng)
    return Check(f"{gradient.name} d{name}", case.label, numeric, analytic)


def miniatures() -> Iterator[Architecture]:
    """A small network of each architecture's blocks, with and without batch norm where it can."""
    for name, model in models().items():
        choices = (True, False) if "batch_norm" in model.options else (True,)
        width = 1.0 if "width" in model.options else None
        size = max(model.smallest_input, 25)
        for batch_norm in choices:
            options = {"width": width, "input_size": size, "dropout": 0.2, "batch_norm": batch_norm}
            yield build(configure(name, 5, **options), miniature=True)


def check_network(
    architecture: Architecture,
    backend: str = "reference",
    batch: int = 4,
    frozen: bool = False,
    seed: int = 0,
) -> Iterator[Check]:
    """Every parameter array of a whole network: convolutions, batch norms, branches, head.

    `frozen` checks batch norm with running statistics. Dropout is redrawn from the same seed for
    each evaluation, so that the function stays one function.
    """
    network = Network(architecture, batch, backend, np.float64)
    parameters = network.parameters
    initialise(parameters, "he_fan_out", seed)
    rng = np.random.default_rng(seed)
    for spec in parameters.specs:
        if spec.role != "weight":  # no gamma at just 1, no bias at just 0
            parameters.value(spec.name)[...] += 0.1 * rng.standard_normal(spec.shape)
    network.images[:] = rng.standard_normal(network.images.shape)
    labels = rng.integers(0, architecture.classes, batch)

    def value() -> float:
        network.forward(batch, training=True, frozen=frozen, dropout=np.random.default_rng(seed))
        return float(network.loss(labels, smoothing=0.1).sum())

    def side() -> bytes:
        return b"".join(side.tobytes() for side in network.kinks())

    value()
    network.backward(scale=1.0)
    kind = "batch norm" if network.normalisations else "bias"
    case = f"{architecture.name}, {'frozen ' * frozen}{kind}"
    for spec in parameters.specs:
        gradient = parameters.gradient(spec.name).copy()
        numeric, analytic = project(value, parameters.value(spec.name), gradient, rng, side)
        yield Check(spec.name, case, numeric, analytic)
