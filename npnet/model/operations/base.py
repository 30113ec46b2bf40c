"""What all kinds of operations have in common, and what passes from one to the next."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from types import ModuleType
from typing import ClassVar, NamedTuple, Protocol

import numpy as np

from npnet.kernels.arrays import HIGH, IDENTITY, LOW, SCALE, SHIFT, Floats
from npnet.model.parameters import Parameters, ParameterSpec, Shape

IMAGES = "images"  # the name of the network's input


class Extra(NamedTuple):
    """An array of bytes that forward leaves for backward; its shape is that of one image."""

    name: str
    shape: Shape


@dataclass(frozen=True)
class Operation:
    """One step of a network. Shapes are those of one image: (H, W, C), or (C,) after pooling."""

    name: str
    inputs: tuple[str, ...]
    input_shapes: tuple[Shape, ...]

    kind: ClassVar[str]
    # Whether its output has an array, or is computed again by its only reader; whether backward
    # needs this operation's own output, whether its output is its input in evaluation, and whether
    # the gradient that it sends back still lacks the input's own ReLU.
    is_stored: ClassVar[bool] = True
    keeps_output: ClassVar[bool] = False
    passes_through: ClassVar[bool] = False
    sends_raw_gradient: ClassVar[bool] = False

    @property
    def is_linear(self) -> bool:
        """Whether no ReLU stands behind it."""
        return True

    @property
    def input_shape(self) -> Shape:
        """Of the first input."""
        return self.input_shapes[0]

    @property
    def output_shape(self) -> Shape:
        return self.input_shape

    @property
    def parameters(self) -> tuple[ParameterSpec, ...]:
        """All trainable arrays, weight first."""
        return ()

    @property
    def statistics_channels(self) -> int:
        """Channels whose running mean and variance a batch norm keeps."""
        return 0

    @property
    def extras(self) -> tuple[Extra, ...]:
        return ()

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image's forward pass, batch norm folded as is usual."""
        return 0

    @property
    def parameter_count(self) -> int:
        return sum(prod(spec.shape) for spec in self.parameters)

    def output_bytes(self, itemsize: int = 4) -> int:
        """Bytes of the operation's output for one image."""
        return prod(self.output_shape) * itemsize

    def layer(self, resources: "Resources") -> "Layer":
        """The layer that runs it."""
        raise NotImplementedError


@dataclass(frozen=True)
class Activation:
    """What passes from one operation to the next, in the form in which it lies in memory.

    A convolution's output, where it is stored, stays as the convolution left it. `affine` (6,C)
    makes it an activation, clip(z, low, high) of the pre-activation z = scale*x + shift, see
    kernels/arrays.py: consumers apply it on load. Their backward leaves the gradient of z in `dz`,
    and its sums, the gradients of gamma and beta, in `dgamma`, `dbeta` (C,). `plain`: x is the
    activation already, and the sums are unused.
    """

    x: Floats
    affine: Floats
    dz: Floats
    dgamma: Floats
    dbeta: Floats
    plain: bool = False

    @classmethod
    def of(cls, values: Floats, dz: Floats) -> "Activation":
        """Plain values: what is an activation already."""
        channels = values.shape[-1]
        affine = np.tile(np.array(IDENTITY, values.dtype)[:, None], channels)
        return cls(values, affine, dz, np.empty_like(affine[0]), np.empty_like(affine[0]), True)

    def first(self, n: int) -> "Activation":
        """The activation of the first n images."""
        if n == len(self.x):
            return self
        return replace(self, x=self.x[:n], dz=self.dz[:n])

    @property
    def z(self) -> Floats:
        """The pre-activation, (n,H,W,C); for checks."""
        z: Floats = self.affine[SCALE] * self.x + self.affine[SHIFT]
        return z

    @property
    def values(self) -> Floats:
        """The activation itself, (n,H,W,C); for checks."""
        return np.clip(self.z, self.affine[LOW], self.affine[HIGH])


class Mode(NamedTuple):
    """How a forward pass runs: with the batch's statistics or running ones; dropout's source."""

    batch_statistics: bool = False
    dropout: np.random.Generator | None = None


@dataclass(frozen=True)
class BatchNorm:
    """running = momentum*running + (1-momentum)*batch; `epsilon` is added to the variance.

    `epsilon` None: the model's.
    """

    momentum: float = 0.9
    epsilon: float | None = None
    sum_over_ranks: Callable[[Floats], None] | None = None  # statistics of all ranks' batches


class Resources(NamedTuple):
    """What layers share: the network's parameters, its arrays by name, kernels, batch norm.

    `inference`: nothing is kept for a backward pass, and there are no arrays for gradients.
    """

    parameters: Parameters
    arrays: Mapping[str, Floats]
    kernels: ModuleType
    bn: BatchNorm
    inference: bool = False

    def output(self, operation: Operation) -> tuple[Floats, Floats]:
        """The operation's output y, and dz, the gradient of its pre-activation; of what is not
        stored, arrays for no image.
        """
        if not operation.is_stored:
            nothing = np.empty((0, *operation.output_shape), self.parameters.values.dtype)
            return nothing, nothing
        y = self.arrays[f"{operation.name}.y"]
        return y, y if self.inference else self.arrays[f"{operation.name}.dz"]


class Layer(Protocol):
    """Runs one operation. `whole_batch` is its output for the largest batch.

    `trainable`: whether its own parameters are trained. `sends_gradient`: whether any below it are.
    """

    whole_batch: Activation
    trainable: bool
    sends_gradient: bool

    @property
    def operation(self) -> Operation: ...

    def forward(self, inputs: Sequence[Activation], mode: Mode) -> Activation: ...

    def backward(self) -> None:
        """From the output's dz to the parameters' gradients and the inputs' dz."""


class Entrance(NamedTuple):
    """Where a forward pass begins: with what is filled in `input`, which is called `name`.

    `first`: the number of the first layer that runs.
    """

    name: str
    input: Activation
    first: int = 0

    @classmethod
    def behind(cls, operation: str, layers: Sequence[Layer]) -> "Entrance":
        """Begin with the output of an operation."""
        names = [layer.operation.name for layer in layers]
        at = names.index(operation)
        if not layers[at].operation.is_stored:
            raise ValueError(f"{operation} has no array to begin with: see `store_all` of Network")
        array = layers[at].whole_batch.x
        return cls(operation, Activation.of(array, dz=array), at + 1)


def maps(values: Floats) -> Floats:
    """(n,C) as maps of one pixel, (n,1,1,C)."""
    return values if values.ndim == 4 else values.reshape(len(values), 1, 1, -1)


def consumers(operations: Sequence[Operation]) -> dict[str, list[int]]:
    """The readers of each output, and of the images: numbers of operations, ascending."""
    names = [IMAGES, *(operation.name for operation in operations)]
    readers: dict[str, list[int]] = {name: [] for name in names}
    for number, operation in enumerate(operations):
        for name in operation.inputs:
            readers[name].append(number)
    return readers
