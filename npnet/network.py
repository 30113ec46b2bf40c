"""The network: forward and backward over an architecture's list of operations.

Each class below holds its buffers, and its backward stands under its forward. One rule gives the
engine its speed and its shape: batch norm is one affine map a channel, `scale*y + shift`, so that
"normalise, then ReLU6" is a single pass over the convolution's output, and so is its backward.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import prod
from types import ModuleType

import numpy as np
from numpy.typing import DTypeLike

from npnet.architecture import Architecture, Block, Operation, Shape
from npnet.kernels import backend as kernels_of
from npnet.kernels.arrays import Floats, Ints
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


class ConvolutionUnit:
    """Convolution, batch norm, and ReLU6 where the operation has one.

    Forward, with x the unit's input:
        y = convolve(x, weight)
        mean, variance = statistics of y over the batch (or the running ones)
        output = relu6(scale*y + shift),  scale = gamma*rstd,  shift = beta - scale*mean
    Backward turns the gradient of `output` into those of gamma, beta, weight and x.
    """

    def __init__(
        self,
        operation: Operation,
        parameters: Parameters,
        batch: int,
        kernels: ModuleType,
        bn: BatchNorm,
    ) -> None:
        self.operation, self.kernels, self.bn = operation, kernels, bn
        dtype, name = parameters.values.dtype, operation.name
        value, gradient = parameters.value, parameters.gradient
        self.weight, self.dweight = value(f"{name}.weight"), gradient(f"{name}.weight")
        self.gamma, self.dgamma = value(f"{name}.gamma"), gradient(f"{name}.gamma")
        self.beta, self.dbeta = value(f"{name}.beta"), gradient(f"{name}.beta")
        self.running_mean, self.running_variance = parameters.running(name)
        self.y: Floats = np.empty((batch, *operation.output_shape), dtype)
        self.output: Floats = np.empty_like(self.y)
        channels = operation.output_shape[-1]
        self.mean, self.variance = np.zeros(channels), np.ones(channels)
        self._choose_kernels()

    def _choose_kernels(self) -> None:
        k, stride = self.kernels, self.operation.stride
        self.convolve: Callable[..., None]
        self.convolve_backward_input: Callable[..., None] | None
        self.convolve_backward_weight: Callable[..., None]
        if self.operation.kind == "depthwise":
            self.convolve = partial(k.depthwise3x3_forward, stride=stride)
            self.convolve_backward_input = partial(k.depthwise3x3_backward_input, stride=stride)
            self.convolve_backward_weight = partial(k.depthwise3x3_backward_weight, stride=stride)
        elif self.operation.kind == "pointwise":
            self.convolve = k.pointwise_forward
            self.convolve_backward_input = k.pointwise_backward_input
            self.convolve_backward_weight = k.pointwise_backward_weight
        else:
            self.convolve = k.stem3x3_forward
            self.convolve_backward_input = None  # nobody asks for the gradient of the image
            self.convolve_backward_weight = k.stem3x3_backward_weight

    def forward(self, x: Floats, batch_statistics: bool) -> Floats:
        self.x, y, output = x, self.y[: len(x)], self.output[: len(x)]
        self.convolve(y, x, self.weight)
        if batch_statistics:
            self.kernels.batchnorm_statistics(self.mean, self.variance, y)
            self._update_running_statistics(y.size // len(self.mean))
        else:
            self.mean[:], self.variance[:] = self.running_mean, self.running_variance
        self.batch_statistics = batch_statistics
        self.rstd = 1 / np.sqrt(self.variance + self.bn.epsilon)
        scale = self.gamma * self.rstd
        self.scale = scale.astype(y.dtype)
        self.shift = (self.beta - scale * self.mean).astype(y.dtype)
        if self.operation.relu6:
            self.kernels.affine_relu6_forward(output, y, self.scale, self.shift)
        else:
            self.kernels.affine_forward(output, y, self.scale, self.shift)
        return output

    def backward(self, doutput: Floats, scratch: Scratch, keep: bool = False) -> Floats | None:
        """The gradient of x in a scratch buffer, None for the stem.

        `doutput` is used up and given back, unless `keep` asks to leave it as it is.
        """
        n = len(doutput)
        y = self.y[:n]
        dz = scratch.take(doutput.shape) if keep else doutput
        if self.operation.relu6:
            self.kernels.affine_relu6_backward_sums(
                dz,
                self.dgamma,
                self.dbeta,
                doutput,
                y,
                self.mean,
                self.rstd,
                self.scale,
                self.shift,
            )
            dy, gradient = dz, dz
        else:
            self.kernels.batchnorm_backward_sums(
                self.dgamma, self.dbeta, doutput, y, self.mean, self.rstd
            )
            dy, gradient = dz, doutput
        self.kernels.batchnorm_backward(dy, gradient, y, *self._backward_coefficients(y))
        self.convolve_backward_weight(self.dweight, dy, self.x)
        dx = None
        if self.convolve_backward_input is not None:
            dx = scratch.take(self.x.shape)
            self.convolve_backward_input(dx, dy, self.weight)
        scratch.give_back(dy)
        return dx

    def _update_running_statistics(self, samples: int) -> None:
        """The running variance is the unbiased one, as in PyTorch and Keras' fused batch norm."""
        keep, unbiased = self.bn.momentum, samples / max(samples - 1, 1)
        self.running_mean[:] = keep * self.running_mean + (1 - keep) * self.mean
        self.running_variance[:] = (
            keep * self.running_variance + (1 - keep) * unbiased * self.variance
        )

    def _backward_coefficients(self, y: Floats) -> tuple[Floats, Floats, Floats]:
        """p, q, r of dy = p*dz + q*y + r (Ioffe and Szegedy 2015, section 3, collected in y)."""
        p = self.gamma * self.rstd
        if self.batch_statistics:
            samples = y.size // len(p)
            q = -p * self.rstd * self.dgamma / samples
            r = -p * self.dbeta / samples - q * self.mean
        else:
            q = r = np.zeros_like(p)
        return p.astype(y.dtype), q.astype(y.dtype), r.astype(y.dtype)


class ResidualBlock:
    """Convolution units in a row; with a shortcut, output = units(x) + x."""

    def __init__(self, block: Block, units: list[ConvolutionUnit], kernels: ModuleType) -> None:
        self.units, self.shortcut, self.kernels = units, block.shortcut, kernels

    def forward(self, x: Floats, batch_statistics: bool) -> Floats:
        output = x
        for unit in self.units:
            output = unit.forward(output, batch_statistics)
        if self.shortcut:
            self.kernels.residual_forward(output, output, x)
        return output

    def backward(self, doutput: Floats, scratch: Scratch) -> Floats | None:
        gradient: Floats | None = doutput
        for unit in reversed(self.units):
            assert gradient is not None  # only the stem, the very last to run, returns None
            gradient = unit.backward(gradient, scratch, keep=self.shortcut and gradient is doutput)
        if self.shortcut:
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
        self.features: Floats = np.empty((batch, features), dtype)
        self.dfeatures: Floats = np.empty_like(self.features)
        self.keep = np.ones((batch, features), np.uint8)
        self.logits: Floats = np.empty((batch, classes), dtype)
        self.probabilities, self.dlogits = np.empty_like(self.logits), np.empty_like(self.logits)
        self.losses: Floats = np.empty(batch, dtype)

    def forward(self, x: Floats, dropout: np.random.Generator | None) -> Floats:
        n, k = len(x), self.kernels
        self.x, features, logits = x, self.features[:n], self.logits[:n]
        k.average_pool_forward(features, x)
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
        dx = scratch.take(self.x.shape)
        k.average_pool_backward(dx, dfeatures)
        return dx


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
            )
            for block in convolutional
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
        x = self.images[:n]
        for block in self.blocks:
            x = block.forward(x, batch_statistics=training and not frozen)
        return self.head.forward(x, dropout)

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
