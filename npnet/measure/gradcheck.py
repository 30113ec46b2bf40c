"""Gradient checks: every backward pass against finite differences of its forward, in float64.

A gradient is checked along a random direction d (a projection):
    (f(x + e*d) - f(x - e*d)) / 2e   against   <gradient, d>,   f(x) = <r, forward(x)>, r random
One number per input suffices: an error in any element shows with probability one.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType

import numpy as np

from npnet.kernels import backend as kernels_of
from npnet.kernels import registry
from npnet.kernels.arrays import Floats
from npnet.model.network import Network
from npnet.model.parameters import initialise
from npnet.model.zoo.mobilenet_v2 import Stage, mobilenet_v2

STEP = 1e-6
BOUND = 1e-6

# Deep enough for every kind of block, shallow enough that a step of 1e-6 in one weight stays small
# in the last activation: through 52 batch norms of a few samples each it would grow a thousandfold.
SMALL = (Stage(1, 8, 1, 1), Stage(6, 8, 2, 2), Stage(6, 16, 2, 2))


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

    `side` tells on which side of its kinks the last evaluation was. A direction that crosses one
    meets no derivative, so another is drawn.
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


def check_operations(backend: str = "reference") -> Iterator[Check]:
    """Every operation of the registry, at every case of its kind, for each of its inputs."""
    kernels = kernels_of(backend)
    for gradient in registry.GRADIENTS:
        for case in registry.border_cases(registry.kernel(gradient.forward).kind):
            for name in gradient.backward:
                yield check_operation(kernels, gradient, name, case)


def check_operation(
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


def check_network(
    backend: str = "reference",
    batch: int = 4,
    frozen: bool = False,
    seed: int = 0,
) -> Iterator[Check]:
    """Every parameter array of a whole network: convolutions, batch norms, shortcuts, head.

    `frozen` checks batch norm with running statistics. Dropout is drawn anew from the same seed
    for each evaluation, so that the function stays one function.
    """
    architecture = mobilenet_v2(1.0, 33, 5, dropout=0.2, table=SMALL)
    network = Network(architecture, batch, backend, np.float64)
    parameters = network.parameters
    initialise(parameters, "he_fan_out", seed)
    rng = np.random.default_rng(seed)
    parameters.values += 0.1 * rng.standard_normal(len(parameters.values))  # no gamma at just 1
    network.images[:] = rng.standard_normal(network.images.shape)
    labels = rng.integers(0, architecture.classes, batch)

    def value() -> float:
        network.forward(batch, training=True, frozen=frozen, dropout=np.random.default_rng(seed))
        return float(network.loss(labels, smoothing=0.1).sum())

    def side() -> bytes:
        return b"".join(((z > 0) & (z < 6)).tobytes() for _, z in network.relu_inputs())

    value()
    network.backward(scale=1.0)
    for spec in parameters.specs:
        gradient = parameters.gradient(spec.name).copy()
        numeric, analytic = project(value, parameters.value(spec.name), gradient, rng, side)
        yield Check(spec.name, "frozen" if frozen else "batch", numeric, analytic)
