"""The largest value of a window, and the mean of a map."""

from collections.abc import Sequence
from dataclasses import dataclass

from npnet.model.operations.base import Activation, Extra, Mode, Operation, Resources
from npnet.model.parameters import Shape


@dataclass(frozen=True)
class MaxPool(Operation):
    """3x3, stride 2, not padded; windows that leave the map are cut (PyTorch's ceil mode)."""

    kind = "max_pool"

    @property
    def output_shape(self) -> Shape:
        height, width, channels = self.input_shape
        return max(height - 2, 0) // 2 + 1, max(width - 2, 0) // 2 + 1, channels

    @property
    def extras(self) -> tuple[Extra, ...]:
        return (Extra("index", self.output_shape),)

    def layer(self, resources: Resources) -> "MaxPoolLayer":
        return MaxPoolLayer(self, resources)


class MaxPoolLayer:
    """`index` remembers where in its window each largest value was."""

    trainable = sends_gradient = True

    def __init__(self, operation: MaxPool, resources: Resources) -> None:
        self.operation, self.kernels = operation, resources.kernels
        self.whole_batch = Activation.of(*resources.output(operation))
        self.index = resources.arrays[f"{operation.name}.index"]

    def forward(self, inputs: Sequence[Activation], mode: Mode) -> Activation:
        (a,) = inputs
        n, self.input = len(a.x), a
        self.output = output = self.whole_batch.first(n)
        self.kernels.activation_max_pool3x3_forward(output.x, self.index[:n], a.x, a.affine)
        return output

    def backward(self) -> None:
        if not self.sends_gradient:
            return
        a, output = self.input, self.output
        saved = (self.index[: len(a.x)], a.x, a.affine)
        self.kernels.activation_max_pool3x3_backward(a.dz, a.dgamma, a.dbeta, output.dz, *saved)


@dataclass(frozen=True)
class AveragePool(Operation):
    """The mean of each channel over the whole map."""

    kind = "average_pool"

    @property
    def output_shape(self) -> Shape:
        return self.input_shape[-1:]

    def layer(self, resources: Resources) -> "AveragePoolLayer":
        return AveragePoolLayer(self, resources)


class AveragePoolLayer:
    trainable = sends_gradient = True

    def __init__(self, operation: AveragePool, resources: Resources) -> None:
        self.operation, self.kernels = operation, resources.kernels
        self.whole_batch = Activation.of(*resources.output(operation))

    def forward(self, inputs: Sequence[Activation], mode: Mode) -> Activation:
        (a,) = inputs
        self.input = a
        self.output = output = self.whole_batch.first(len(a.x))
        self.kernels.activation_average_pool_forward(output.x, a.x, a.affine)
        return output

    def backward(self) -> None:
        if not self.sends_gradient:
            return
        a, dy = self.input, self.output.dz
        gradients = (a.dz, a.dgamma, a.dbeta)
        self.kernels.activation_average_pool_backward(*gradients, dy, a.x, a.affine)
