"""The end of a network: dropout, the linear classifier, softmax cross-entropy."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from types import ModuleType

import numpy as np

from npnet.kernels.arrays import Floats, Ints
from npnet.model.operations.base import (
    Activation,
    Extra,
    Mode,
    Operation,
    Resources,
)
from npnet.model.parameters import ParameterSpec, Shape


@dataclass(frozen=True)
class Dropout(Operation):
    """Each number is 0 with probability `rate` in training, else divided by 1-rate."""

    rate: float = 0.0

    kind = "dropout"
    passes_through = True

    @property
    def extras(self) -> tuple[Extra, ...]:
        return (Extra("keep", self.input_shape),)

    def layer(self, resources: Resources) -> "DropoutLayer":
        return DropoutLayer(self, resources)


class DropoutLayer:
    """Without a source of random numbers its output is its input, as it lies in memory."""

    trainable = sends_gradient = True

    def __init__(self, operation: Dropout, resources: Resources) -> None:
        self.operation, self.kernels = operation, resources.kernels
        self.whole_batch = Activation.of(*resources.output(operation))
        self.keep = resources.arrays[f"{operation.name}.keep"]

    def forward(self, inputs: Sequence[Activation], mode: Mode) -> Activation:
        (a,), n, rate = inputs, len(inputs[0].x), self.operation.rate
        self.input, self.dropped = a, mode.dropout is not None
        if mode.dropout is None:
            self.output = a
            return a
        self.output = output = self.whole_batch.first(n)
        keep = self.keep[:n]
        keep[...] = mode.dropout.random(keep.shape) >= rate
        maps = (_maps(output.x), _maps(a.x), a.affine, _maps(keep))
        self.kernels.activation_dropout_forward(*maps, rate)
        return output

    def backward(self) -> None:
        if not self.dropped or not self.sends_gradient:
            return
        a, keep = self.input, self.keep[: len(self.input.x)]
        gradients = (_maps(a.dz), a.dgamma, a.dbeta, _maps(self.output.dz))
        saved = (_maps(keep), _maps(a.x), a.affine)
        self.kernels.activation_dropout_backward(*gradients, *saved, self.operation.rate)


def _maps(values: Floats) -> Floats:
    """(n,C) as maps of one pixel, (n,1,1,C)."""
    return values if values.ndim == 4 else values.reshape(len(values), 1, 1, -1)


@dataclass(frozen=True)
class Linear(Operation):
    """y = x w + b: logits from features."""

    classes: int

    kind = "linear"

    @property
    def output_shape(self) -> Shape:
        return (self.classes,)

    @property
    def parameters(self) -> tuple[ParameterSpec, ...]:
        features = self.input_shape[-1]
        shape = (features, self.classes)
        return (
            ParameterSpec(f"{self.name}.weight", shape, "weight", *shape),
            ParameterSpec(f"{self.name}.bias", (self.classes,), "bias"),
        )

    @property
    def macs(self) -> int:
        return prod(self.input_shape) * self.classes

    def layer(self, resources: Resources) -> "LinearLayer":
        return LinearLayer(self, resources)


class LinearLayer:
    """Its input is plain: features that a pool or dropout has made."""

    trainable = sends_gradient = True

    def __init__(self, operation: Linear, resources: Resources) -> None:
        self.operation, self.kernels = operation, resources.kernels
        name, parameters = operation.name, resources.parameters
        value, gradient = parameters.value, parameters.gradient
        self.weight, self.dweight = value(f"{name}.weight"), gradient(f"{name}.weight")
        self.bias, self.dbias = value(f"{name}.bias"), gradient(f"{name}.bias")
        self.whole_batch = Activation.of(*resources.output(operation))

    def forward(self, inputs: Sequence[Activation], mode: Mode) -> Activation:
        (a,) = inputs
        self.input = a
        self.output = output = self.whole_batch.first(len(a.x))
        self.kernels.linear_forward(output.x, a.x, self.weight, self.bias)
        return output

    def backward(self) -> None:
        a, dy = self.input, self.output.dz
        if self.trainable:
            self.kernels.linear_backward_weight(self.dweight, self.dbias, dy, a.x)
        if self.sends_gradient:
            self.kernels.linear_backward_input(a.dz, dy, self.weight)


class CrossEntropy:
    """Softmax cross-entropy of logits (n,K), with label smoothing; no operation of the list."""

    def __init__(self, logits: Activation, kernels: ModuleType) -> None:
        self.logits, self.kernels = logits, kernels
        self.probabilities: Floats = np.empty_like(logits.x)
        self.losses: Floats = np.empty(len(logits.x), logits.x.dtype)

    def forward(self, labels: Ints, smoothing: float) -> Floats:
        """The loss of each image in nats, (n,)."""
        n = len(labels)
        self.labels, self.smoothing = labels, smoothing
        losses, probabilities = self.losses[:n], self.probabilities[:n]
        logits = self.logits.x[:n]
        self.kernels.softmax_cross_entropy_forward(losses, probabilities, logits, labels, smoothing)
        return losses

    def backward(self, scale: float) -> None:
        n = len(self.labels)
        dlogits, probabilities = self.logits.dz[:n], self.probabilities[:n]
        targets = (self.labels, self.smoothing)
        self.kernels.softmax_cross_entropy_backward(dlogits, probabilities, *targets, scale)
