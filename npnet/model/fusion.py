"""A list of operations rewritten for what runs it: training, or inference.

In training, an expansion of few channels is not stored: it and the depthwise convolution behind it
become `Expansion` and `ExpandedDepthwise`. For inference dropout is removed, whole blocks become
one:

    expand, depthwise, project (, add)    InvertedResidual   inverted_residual_inference
    depthwise, project (, add)            InvertedResidual   separable_inference
    stem                                  Stem               stem3x3_inference
    pointwise, average pool               PooledHead         head_inference
    dropout                               nothing

Batch norm is folded into the convolution before it. What fits no pattern stays as it is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from types import ModuleType

import numpy as np

from npnet.kernels.arrays import Floats
from npnet.model.operations import (
    Activation,
    Add,
    AveragePool,
    Convolution,
    ExpandedDepthwise,
    Expansion,
    Mode,
    Operation,
)
from npnet.model.operations.base import Layer, Resources, consumers
from npnet.model.parameters import Parameters, Shape


@dataclass(frozen=True)
class Fused(Operation):
    """Several operations as one. It has the last one's name; its input is plain."""

    parts: tuple[Operation, ...]

    kind = "fused"

    @property
    def output_shape(self) -> Shape:
        return self.parts[-1].output_shape

    @property
    def convolutions(self) -> list[Convolution]:
        return [part for part in self.parts if isinstance(part, Convolution)]

    @property
    def macs(self) -> int:
        return sum(part.macs for part in self.parts)

    def run(self, kernels: ModuleType, weights: Sequence[Floats], y: Floats, x: Floats) -> None:
        """Call the kernel. `weights`: weight and bias of each convolution, batch norm folded."""
        raise NotImplementedError

    def layer(self, resources: Resources) -> Layer:
        return FusedLayer(self, resources)


class Stem(Fused):
    """Convolution, batch norm, ReLU6."""

    def run(self, kernels: ModuleType, weights: Sequence[Floats], y: Floats, x: Floats) -> None:
        kernels.stem3x3_inference(y, x, *weights)


class InvertedResidual(Fused):
    """With or without expansion, with or without a shortcut."""

    def run(self, kernels: ModuleType, weights: Sequence[Floats], y: Floats, x: Floats) -> None:
        name = "inverted_residual" if len(self.convolutions) == 3 else "separable"
        stride = max(each.stride for each in self.convolutions)
        shortcut = isinstance(self.parts[-1], Add)
        getattr(kernels, f"{name}_inference")(y, x, *weights, stride, shortcut)


class PooledHead(Fused):
    """The last convolution, and the mean over its map."""

    def run(self, kernels: ModuleType, weights: Sequence[Floats], y: Floats, x: Floats) -> None:
        kernels.head_inference(y, x, *weights)


# Of what is expanded, those up to which it pays not to store the result. Between 16 and 32 it
# hardly matters: `python -m bench.recomputed` times it.
FEW_CHANNELS = 24


def for_training(operations: Sequence[Operation], store_all: bool = False) -> list[Operation]:
    """The rewritten list: the same names, inputs, shapes and parameters.

    With `store_all` it is the list as it was.
    """
    if store_all:
        return list(operations)
    readers, rewritten = consumers(operations), list(operations)
    for at in range(len(operations)):
        parts = _match(operations, at, (_expand, _filter), readers)
        if parts and parts[0].input_shape[-1] <= FEW_CHANNELS:
            for number, kind in enumerate((Expansion, ExpandedDepthwise), start=at):
                rewritten[number] = kind(**vars(operations[number]))
    return rewritten


def for_inference(operations: Sequence[Operation]) -> list[Operation]:
    """The rewritten list: every input in it is the images or an output in it."""
    operations = _without_dropout(operations)
    readers, at = consumers(operations), 0
    rewritten: list[Operation] = []
    while at < len(operations):
        for kind, pattern in PATTERNS:
            parts = _match(operations, at, pattern, readers)
            if parts:
                first, last = parts[0], parts[-1]
                fused = kind(last.name, first.inputs[:1], first.input_shapes[:1], tuple(parts))
                rewritten.append(fused)
                at += len(parts)
                break
        else:
            rewritten.append(operations[at])
            at += 1
    return rewritten


def _without_dropout(operations: Sequence[Operation]) -> list[Operation]:
    instead: dict[str, str] = {}
    kept = []
    for operation in operations:
        inputs = tuple(instead.get(name, name) for name in operation.inputs)
        if operation.passes_through:
            instead[operation.name] = inputs[0]
        else:
            kept.append(replace(operation, inputs=inputs))
    return kept


def _stem(operation: Operation) -> bool:
    return _convolution(operation, "stem", "relu6")


def _convolution(operation: Operation, variety: str, relu: str) -> bool:
    return (
        isinstance(operation, Convolution)
        and (operation.variety, operation.relu) == (variety, relu)
        and operation.batch_norm
    )


def _expand(operation: Operation) -> bool:
    return _convolution(operation, "pointwise", "relu6")


def _filter(operation: Operation) -> bool:
    return _convolution(operation, "depthwise", "relu6")


def _project(operation: Operation) -> bool:
    return _convolution(operation, "pointwise", "none")


def _add(operation: Operation) -> bool:
    return isinstance(operation, Add)


def _pool(operation: Operation) -> bool:
    return isinstance(operation, AveragePool)


Pattern = tuple[Callable[[Operation], bool], ...]
PATTERNS: tuple[tuple[type[Fused], Pattern], ...] = (  # the longest first
    (InvertedResidual, (_expand, _filter, _project, _add)),
    (InvertedResidual, (_filter, _project, _add)),
    (InvertedResidual, (_expand, _filter, _project)),
    (InvertedResidual, (_filter, _project)),
    (PooledHead, (_expand, _pool)),
    (Stem, (_stem,)),
)


def _match(
    operations: Sequence[Operation], at: int, pattern: Pattern, readers: dict[str, list[int]]
) -> list[Operation]:
    """The operations from `at` on, if they fit: a chain whose inner outputs have no other reader.

    The sum at its end, if it has one, adds the chain's own input.
    """
    parts = list(operations[at : at + len(pattern)])
    if len(parts) < len(pattern):
        return []
    if not all(fits(part) for fits, part in zip(pattern, parts, strict=True)):
        return []
    for number, (before, after) in enumerate(pairwise(parts), start=at + 1):
        if after.inputs[0] != before.name or readers[before.name] != [number]:
            return []
    if isinstance(parts[-1], Add) and parts[-1].inputs[1] != parts[0].inputs[0]:
        return []
    return parts


class FusedLayer:
    """Runs a fused operation with batch norm folded; `fold` again after the parameters changed."""

    trainable = sends_gradient = False

    def __init__(self, operation: Fused, resources: Resources) -> None:
        self.operation, self.kernels = operation, resources.kernels
        self.parameters, epsilon = resources.parameters, resources.bn.epsilon
        assert epsilon is not None
        self.epsilon = epsilon
        self.whole_batch = Activation.of(*resources.output(operation))
        self.fold()

    def fold(self) -> None:
        """Fold every batch norm, with its running statistics, into the convolution before it."""
        self.weights = [
            array
            for each in self.operation.convolutions
            for array in folded(each, self.parameters, self.epsilon)
        ]

    def forward(self, inputs: Sequence[Activation], mode: Mode) -> Activation:
        (a,) = inputs
        output = self.whole_batch.first(len(a.x))
        self.operation.run(self.kernels, self.weights, output.x, a.x)
        return output

    def backward(self) -> None:
        raise NotImplementedError("inference keeps nothing for a backward pass")


def folded(operation: Operation, parameters: Parameters, epsilon: float) -> tuple[Floats, Floats]:
    """weight*scale and beta - scale*mean, scale = gamma/sqrt(variance+epsilon)."""
    name, value = operation.name, parameters.value
    mean, variance = parameters.running(name)
    scale = value(f"{name}.gamma") / np.sqrt(variance + epsilon)
    shift = value(f"{name}.beta") - scale * mean
    dtype = parameters.values.dtype
    return (value(f"{name}.weight") * scale).astype(dtype), shift.astype(dtype)
