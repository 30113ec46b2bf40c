"""All of a network's numbers in a few flat vectors, with a named view on each array.

One update is then one kernel, one exchange concerns one buffer, one checkpoint is a few arrays,
and one hash tells whether two ranks agree.
"""

import hashlib
from collections.abc import Sequence
from math import prod, sqrt
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import DTypeLike

from npnet.data.seeds import INITIAL_VALUES, generator
from npnet.kernels.arrays import Floats
from npnet.machine.memory import check_bytes

CLASSIFIER = "classifier"  # the operation that every network calls so
Initialiser = Literal["glorot_uniform", "he_fan_out"]
Shape = tuple[int, ...]


class ParameterSpec(NamedTuple):
    """A trainable array. `fan_in`/`fan_out` feed the initialisers; only weights are decayed.

    `normalised`: a batch norm follows, so the size of the weight does not matter. `start`: what a
    bias begins with.
    """

    name: str
    shape: Shape
    role: Literal["weight", "gamma", "beta", "bias"]
    fan_in: int = 0
    fan_out: int = 0
    normalised: bool = False
    start: float = 0.0

    @property
    def operation(self) -> str:
        """The operation that it belongs to."""
        return self.name.rpartition(".")[0]


class Described(Protocol):
    """What an operation says of its numbers, see model/operations/base.py."""

    @property
    def name(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def inputs(self) -> tuple[str, ...]: ...
    @property
    def parameters(self) -> tuple[ParameterSpec, ...]: ...
    @property
    def statistics_channels(self) -> int: ...


class Listed(Protocol):
    """An architecture: operations in a row."""

    @property
    def operations(self) -> Sequence[Described]: ...


class Parameters:
    """The flat vectors of one network.

    `values`, `gradients` (P,): trainable parameters; the first `decayed` of them are weights, then
    come gammas, betas and biases, which weight decay leaves alone.
    `gradients_and_loss` (P+1,): the gradients and, behind them, the loss. So one exchange sums
    both over the ranks.
    `statistics` (2C,): the running means of every batch norm, then the running variances.
    Raises MemoryError if the host can never have as much memory.
    """

    def __init__(self, architecture: Listed, dtype: DTypeLike = np.float32) -> None:
        operations = architecture.operations
        specs = [spec for operation in operations for spec in operation.parameters]
        self.before_shortcuts = [each.inputs[0] for each in operations if each.kind == "add"]
        self.specs: list[ParameterSpec] = sorted(specs, key=lambda spec: spec.role != "weight")
        self.decayed = sum(prod(spec.shape) for spec in specs if spec.role == "weight")
        total = sum(prod(spec.shape) for spec in specs)
        check_bytes(3 * total * np.dtype(dtype).itemsize)  # with the momenta that training adds
        self.values: Floats = np.zeros(total, dtype)
        self.gradients_and_loss: Floats = np.zeros(total + 1, dtype)
        self.gradients: Floats = self.gradients_and_loss[:total]
        self._places: dict[str, tuple[slice, Shape]] = {}
        offset = 0
        for spec in self.specs:
            end = offset + prod(spec.shape)
            self._places[spec.name] = slice(offset, end), spec.shape
            offset = end

        channels = [operation.statistics_channels for operation in operations]
        ends = np.cumsum(channels).tolist()
        self._channels: dict[str, slice] = {
            operation.name: slice(end - count, end)
            for operation, count, end in zip(operations, channels, ends, strict=True)
            if count
        }
        self.statistics: Floats = np.zeros(2 * sum(channels), dtype)
        self.running_variances[:] = 1

    @property
    def running_means(self) -> Floats:
        """The first half of `statistics`, (C,)."""
        return self.statistics[: len(self.statistics) // 2]

    @property
    def running_variances(self) -> Floats:
        """The second half of `statistics`, (C,)."""
        return self.statistics[len(self.statistics) // 2 :]

    def where(self, name: str) -> slice:
        """The place of a parameter, such as "block3.expand.weight", in `values` and `gradients`."""
        return self._places[name][0]

    def value(self, name: str) -> Floats:
        """The view of a parameter."""
        where, shape = self._places[name]
        return self.values[where].reshape(shape)

    def gradient(self, name: str) -> Floats:
        """The view of a parameter's gradient."""
        where, shape = self._places[name]
        return self.gradients[where].reshape(shape)

    def running(self, operation: str) -> tuple[Floats, Floats]:
        """The views of the running mean and variance of an operation's batch norm."""
        where = self._channels[operation]
        return self.running_means[where], self.running_variances[where]

    def digest(self) -> str:
        """A hash of values and statistics: two ranks agree if and only if theirs are equal."""
        return hashlib.sha256(self.values.tobytes() + self.statistics.tobytes()).hexdigest()


def initialise(
    parameters: Parameters,
    scheme: Initialiser,
    seed: int,
    zero_gamma: bool = False,
    worker: int = 0,
) -> None:
    """Draw the initial parameters, the same on every rank for the same seed and `worker`.

    glorot_uniform: U(-l, l), l = sqrt(6/(fan_in+fan_out)) (Glorot and Bengio 2010, eq. 16), Keras'
    default. he_fan_out: N(0, 2/fan_out) (He et al. 2015, section 2.2) for convolutions with a batch
    norm, N(0, 2/fan_in) for those without, which must neither grow nor shrink what passes, and
    N(0, 0.01^2) for the classifier: torchvision's choices. Gammas are 1, betas 0, biases what their
    model says. With `zero_gamma`, the last gamma of each block with a shortcut is 0, so that the
    block starts as the identity (Goyal et al. 2017, section 5.1).
    """
    rng = generator(seed, INITIAL_VALUES, worker)
    zeros = {f"{name}.gamma" for name in parameters.before_shortcuts} if zero_gamma else set()
    for spec in parameters.specs:
        value = parameters.value(spec.name)
        if spec.role != "weight":
            one = spec.role == "gamma" and spec.name not in zeros
            value[...] = 1 if one else spec.start
        elif scheme == "glorot_uniform":
            limit = sqrt(6 / (spec.fan_in + spec.fan_out))
            value[...] = rng.uniform(-limit, limit, spec.shape)
        elif spec.operation == CLASSIFIER:
            value[...] = rng.normal(0, 0.01, spec.shape)
        else:
            fan = spec.fan_out if spec.normalised else spec.fan_in
            value[...] = rng.normal(0, sqrt(2 / fan), spec.shape)
