"""The network: forward and backward over an architecture's list of operations.

Each class below holds its buffers, and its backward stands under its forward. One rule gives the
engine its speed and its shape: batch norm never makes a pass of its own. It is one affine map a
channel, `scale*y + shift`, so a convolution's output stays in memory as it is, with the map beside
it, and the next convolution applies map and ReLU6 as it reads. Backward is the mirror image.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from types import ModuleType

import numpy as np
from numpy.typing import DTypeLike

from npnet.architecture import Architecture, Block, Operation, Shape
from npnet.kernels import backend as kernels_of
from npnet.kernels.arrays import HIGH, IDENTITY, LOW, MEAN, RSTD, SCALE, SHIFT, Floats, Ints
from npnet.parameters import Parameters


@dataclass(frozen=True)
class BatchNorm:
    """running = momentum*running + (1-momentum)*batch; `epsilon` is added to the variance."""

    momentum: float = 0.9
    epsilon: float = 1e-5


class Scratch:
    """Three buffers through which gradients pass from the last operation to the first.

    At most three live at once: the gradient of a convolution's output, that of its input, and the
    one that waits at the end of a shortcut.
    """

    def __init__(self, largest: int, dtype: DTypeLike) -> None:
        self._free: list[Floats] = [np.empty(largest, dtype) for _ in range(3)]

    def take(self, shape: Shape) -> Floats:
        return self._free.pop()[: prod(shape)].reshape(shape)

    def give_back(self, array: Floats) -> None:
        """`array` was taken here: it starts where its buffer starts."""
        assert array.base is not None
        self._free.append(array.base)


@dataclass(frozen=True)
class Activation:
    """What passes from one operation to the next, in the form in which it lies in memory.

    A convolution's output stays as the convolution left it. `norm` (6,C) makes it an activation,
    clip(scale*x + shift, low, high), see kernels/arrays.py: whoever reads it does so on the way.
    Whoever sends back a gradient sends that of scale*x + shift, and adds up, as it passes,
    the gradients of gamma and beta: `dgamma`, `dbeta` (C,).
    """

    x: Floats
    norm: Floats
    dgamma: Floats
    dbeta: Floats

    @classmethod
    def of(cls, values: Floats) -> "Activation":
        """Values that are an activation already; nobody reads the gradients of its batch norm."""
        channels = values.shape[-1]
        norm = np.tile(np.array(IDENTITY, values.dtype)[:, None], channels)
        return cls(values, norm, np.empty_like(norm[0]), np.empty_like(norm[0]))


class ConvolutionUnit:
    """Convolution, batch norm, and ReLU6 where the operation has one.

    Forward, with a the unit's input:
        y = convolve(a, weight)
        mean, variance = statistics of y over the batch (or the running ones)
        output = relu6(v),  v = scale*y + shift,  scale = gamma*rstd,  shift = beta - scale*mean
    but `output` is left to whoever reads it, see Activation, and so is a.
    Backward starts from dv and the gradients of gamma and beta, which came with it, and passes on
    that of the input before its own ReLU6.
    """

    def __init__(
        self,
        operation: Operation,
        parameters: Parameters,
        batch: int,
        kernels: ModuleType,
        bn: BatchNorm,
    ) -> None:
        self.operation, self.bn = operation, bn
        dtype, name = parameters.values.dtype, operation.name
        value, gradient = parameters.value, parameters.gradient
        self.weight, self.dweight = value(f"{name}.weight"), gradient(f"{name}.weight")
        self.gamma, self.dgamma = value(f"{name}.gamma"), gradient(f"{name}.gamma")
        self.beta, self.dbeta = value(f"{name}.beta"), gradient(f"{name}.beta")
        self.running_mean, self.running_variance = parameters.running(name)
        self.y: Floats = np.empty((batch, *operation.output_shape), dtype)
        channels = operation.output_shape[-1]
        self.mean, self.variance = np.zeros(channels), np.ones(channels)
        self.norm: Floats = np.empty((6, channels), dtype)
        self.norm[LOW], self.norm[HIGH] = (0, 6) if operation.relu6 else (-np.inf, np.inf)
        self._choose_kernels(kernels)

    def _choose_kernels(self, k: ModuleType) -> None:
        self.convolve: Callable[..., None]
        self.convolve_backward: Callable[..., None]
        if self.operation.kind == "depthwise":
            stride = self.operation.stride
            self.convolve = partial(k.depthwise3x3_unit_forward, stride=stride)
            self.convolve_backward = partial(k.depthwise3x3_unit_backward, stride=stride)
        elif self.operation.kind == "pointwise":
            self.convolve = k.pointwise_unit_forward
            self.convolve_backward = k.pointwise_unit_backward
        else:
            self.convolve = k.stem3x3_unit_forward
            self.convolve_backward = k.stem3x3_unit_backward

    def forward(self, a: Activation, batch_statistics: bool) -> Activation:
        self.input, y = a, self.y[: len(a.x)]
        if self.operation.kind == "stem":  # the image needs no batch norm
            self.convolve(y, self.mean, self.variance, a.x, self.weight)
        else:
            self.convolve(y, self.mean, self.variance, a.x, a.norm, self.weight)
        if batch_statistics:
            self._update_running_statistics(y.size // len(self.mean))
        else:
            self.mean[:], self.variance[:] = self.running_mean, self.running_variance
        self.batch_statistics = batch_statistics
        self.rstd = 1 / np.sqrt(self.variance + self.bn.epsilon)
        scale = self.gamma * self.rstd
        self.norm[SCALE], self.norm[SHIFT] = scale, self.beta - scale * self.mean
        self.norm[MEAN], self.norm[RSTD] = self.mean, self.rstd
        return Activation(y, self.norm, self.dgamma, self.dbeta)

    def backward(self, dv: Floats, scratch: Scratch) -> Floats | None:
        """From dv, the gradient before the unit's ReLU6, to that before its input's ReLU6.

        The result is in a scratch buffer; None for the stem: nobody asks for the image's gradient.
        """
        a, y = self.input, self.y[: len(dv)]
        pqr = self._backward_coefficients(y)
        if self.operation.kind == "stem":
            self.convolve_backward(self.dweight, dv, y, pqr, a.x)
            return None
        dz = scratch.take(a.x.shape)
        self.convolve_backward(
            dz, self.dweight, a.dgamma, a.dbeta, dv, y, pqr, a.x, a.norm, self.weight
        )
        return dz

    def _update_running_statistics(self, samples: int) -> None:
        """The running variance is the unbiased one, as in PyTorch and Keras' fused batch norm."""
        keep, unbiased = self.bn.momentum, samples / max(samples - 1, 1)
        self.running_mean[:] = keep * self.running_mean + (1 - keep) * self.mean
        self.running_variance[:] = (
            keep * self.running_variance + (1 - keep) * unbiased * self.variance
        )

    def _backward_coefficients(self, y: Floats) -> Floats:
        """p, q, r of dy = p*dv + q*y + r (Ioffe and Szegedy 2015, section 3, collected in y)."""
        pqr = np.zeros((3, len(self.mean)))
        pqr[0] = p = self.gamma * self.rstd
        if self.batch_statistics:
            samples = y.size // len(p)
            pqr[1] = q = -p * self.rstd * self.dgamma / samples
            pqr[2] = -p * self.dbeta / samples - q * self.mean
        return pqr.astype(y.dtype)


class ResidualBlock:
    """Convolution units in a row; with a shortcut, output = units(x) + x.

    `stored`: the activation is made here, in an array of its own. So it is where a projection ends
    the block, which is small, and where a shortcut will read it again. Stem and head hand on what
    they have.
    """

    def __init__(
        self, block: Block, units: list[ConvolutionUnit], kernels: ModuleType, stored: bool
    ) -> None:
        self.units, self.shortcut, self.kernels = units, block.shortcut, kernels
        self.stored = Activation.of(np.empty_like(units[-1].y)) if stored else None

    def forward(self, a: Activation, batch_statistics: bool) -> Activation:
        block_input = a
        for unit in self.units:
            a = unit.forward(a, batch_statistics)
        self.last = a
        if self.stored is None:
            return a
        output = replace(self.stored, x=self.stored.x[: len(a.x)])
        self.kernels.activation_forward(output.x, a.x, a.norm)
        if self.shortcut:
            self.kernels.residual_forward(output.x, output.x, block_input.x)
        return output

    def backward(self, doutput: Floats, scratch: Scratch) -> Floats | None:
        if self.stored is not None:
            a = self.last
            self.kernels.activation_backward(doutput, a.dgamma, a.dbeta, doutput, a.x, a.norm)
        gradient: Floats | None = doutput
        for unit in reversed(self.units):
            assert gradient is not None  # only the stem, the very last to run, returns None
            arriving, gradient = gradient, unit.backward(gradient, scratch)
            if not (self.shortcut and arriving is doutput):
                scratch.give_back(arriving)
        if self.shortcut:  # a projection has no ReLU6, so doutput is still what it was
            self.kernels.residual_backward_accumulate(gradient, doutput)
            scratch.give_back(doutput)
        return gradient


class Head:
    """Global average pool, dropout, linear classifier, softmax cross-entropy."""

    def __init__(
        self, architecture: Architecture, parameters: Parameters, batch: int, kernels: ModuleType
    ) -> None:
        self.kernels, self.rate = kernels, architecture.dropout
        dtype = parameters.values.dtype
        value, gradient = parameters.value, parameters.gradient
        self.weight, self.dweight = value("classifier.weight"), gradient("classifier.weight")
        self.bias, self.dbias = value("classifier.bias"), gradient("classifier.bias")
        features, classes = self.weight.shape
        self.maps: Floats = np.empty(
            (batch, *architecture.blocks[-1].operations[0].output_shape), dtype
        )
        self.features: Floats = np.empty((batch, features), dtype)
        self.dfeatures: Floats = np.empty_like(self.features)
        self.keep = np.ones((batch, features), np.uint8)
        self.logits: Floats = np.empty((batch, classes), dtype)
        self.probabilities, self.dlogits = np.empty_like(self.logits), np.empty_like(self.logits)
        self.losses: Floats = np.empty(batch, dtype)

    def forward(self, a: Activation, dropout: np.random.Generator | None) -> Floats:
        n, k = len(a.x), self.kernels
        self.input, maps, features, logits = a, self.maps[:n], self.features[:n], self.logits[:n]
        k.activation_forward(maps, a.x, a.norm)
        k.average_pool_forward(features, maps)
        self.dropped = self.rate > 0 and dropout is not None
        if self.dropped and dropout is not None:
            self.keep[:n] = dropout.random(features.shape) >= self.rate
            k.dropout_forward(features, features, self.keep[:n], self.rate)
        k.linear_forward(logits, features, self.weight, self.bias)
        return logits

    def loss(self, labels: Ints, smoothing: float) -> Floats:
        n = len(labels)
        self.labels, self.smoothing = labels, smoothing
        self.kernels.softmax_cross_entropy_forward(
            self.losses[:n], self.probabilities[:n], self.logits[:n], labels, smoothing
        )
        return self.losses[:n]

    def backward(self, scale: float, scratch: Scratch) -> Floats:
        n, k = len(self.labels), self.kernels
        dlogits, features, dfeatures = self.dlogits[:n], self.features[:n], self.dfeatures[:n]
        k.softmax_cross_entropy_backward(
            dlogits, self.probabilities[:n], self.labels, self.smoothing, scale
        )
        k.linear_backward_weight(self.dweight, self.dbias, dlogits, features)
        k.linear_backward_input(dfeatures, dlogits, self.weight)
        if self.dropped:
            k.dropout_backward(dfeatures, dfeatures, self.keep[:n], self.rate)
        a, dz = self.input, scratch.take(self.input.x.shape)
        k.average_pool_backward(dz, dfeatures)
        k.activation_backward(dz, a.dgamma, a.dbeta, dz, a.x, a.norm)
        return dz


class Network:
    """An architecture with its parameters and the buffers for batches of up to `batch` images.

    Fill `images[:n]`, then call `forward(n)`, `loss(labels)` and `backward(scale)`; the gradient
    appears in `parameters.gradients`. No step allocates more than a few vectors of channels.
    """

    def __init__(
        self,
        architecture: Architecture,
        batch: int,
        backend: str = "numba",
        dtype: DTypeLike = np.float32,
        bn: BatchNorm | None = None,
    ) -> None:
        kernels, bn = kernels_of(backend), bn or BatchNorm()
        self.architecture, self.batch = architecture, batch
        self.parameters = parameters = Parameters(architecture, dtype)
        size = architecture.input_size
        self.images: Floats = np.zeros((batch, size, size, 3), dtype)
        *convolutional, _ = architecture.blocks
        head_convolution, *_ = architecture.blocks[-1].operations
        convolutional.append(Block("head", (head_convolution,)))
        self.blocks = [
            ResidualBlock(
                block,
                [
                    ConvolutionUnit(operation, parameters, batch, kernels, bn)
                    for operation in block.operations
                ],
                kernels,
                stored=not block.operations[-1].relu6 or following.shortcut,
            )
            for block, following in zip(
                convolutional, [*convolutional[1:], architecture.blocks[-1]], strict=True
            )
        ]
        self.head = Head(architecture, parameters, batch, kernels)
        largest = max(prod(operation.output_shape) for operation in architecture.convolutions)
        self.scratch = Scratch(batch * largest, dtype)

    def forward(
        self,
        n: int,
        training: bool = False,
        frozen: bool = False,
        dropout: np.random.Generator | None = None,
    ) -> Floats:
        """Logits (n, K) of `images[:n]`.

        In training, batch norm uses the batch's own statistics and updates the running ones;
        otherwise, or when `frozen`, it uses the running ones. `dropout` is the source of dropped
        features; None drops nothing.
        """
        a = Activation.of(self.images[:n])
        for block in self.blocks:
            a = block.forward(a, batch_statistics=training and not frozen)
        return self.head.forward(a, dropout)

    def loss(self, labels: Ints, smoothing: float = 0.0) -> Floats:
        """Cross-entropy of each image in nats, (n,), of the last forward's logits."""
        return self.head.loss(labels, smoothing)

    def backward(self, scale: float) -> None:
        """The gradient of scale*sum(loss) with respect to every parameter.

        1/n gives the mean over this batch; 1/(images of all ranks) makes the sum over ranks the
        mean over the global batch.
        """
        gradient: Floats | None = self.head.backward(scale, self.scratch)
        for block in reversed(self.blocks):
            assert gradient is not None
            gradient = block.backward(gradient, self.scratch)
