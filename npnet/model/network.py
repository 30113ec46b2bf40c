"""The network: forward and backward over an architecture's list of operations.

Each class below holds its buffers, and its backward stands under its forward. One rule gives the
engine its speed and its shape: batch norm never makes a pass of its own. It is one affine map a
channel, `scale*y + shift`, so a convolution's output stays in memory as it is, with the map beside
it, and the next convolution applies map and ReLU6 as it reads. Backward is the mirror image.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from types import ModuleType

import numpy as np
from numpy.typing import DTypeLike

from npnet.kernels import backend as kernels_of
from npnet.kernels.arrays import HIGH, IDENTITY, LOW, SCALE, SHIFT, Floats, Ints
from npnet.model.memory import plan
from npnet.model.mobilenet_v2 import Architecture, Block, Operation
from npnet.model.parameters import Parameters


@dataclass(frozen=True)
class BatchNorm:
    """running = momentum*running + (1-momentum)*batch; `epsilon` is added to the variance."""

    momentum: float = 0.9
    epsilon: float = 1e-5
    sum_over_ranks: Callable[[Floats], None] | None = None  # statistics of all ranks' batches


@dataclass(frozen=True)
class Activation:
    """What passes from one operation to the next, in the form in which it lies in memory.

    A convolution's output stays as the convolution left it. `norm` (6,C) makes it an activation,
    clip(scale*x + shift, low, high), see kernels/arrays.py: whoever reads it does so on the way.
    Whoever sends back a gradient leaves that of scale*x + shift in `dv`, and adds up, as it passes,
    the gradients of gamma and beta: `dgamma`, `dbeta` (C,).
    """

    x: Floats
    norm: Floats
    dv: Floats
    dgamma: Floats
    dbeta: Floats

    @classmethod
    def of(cls, values: Floats, dv: Floats) -> "Activation":
        """Values that are an activation already; nobody reads the gradients of its batch norm."""
        channels = values.shape[-1]
        norm = np.tile(np.array(IDENTITY, values.dtype)[:, None], channels)
        return cls(values, norm, dv, np.empty_like(norm[0]), np.empty_like(norm[0]))

    def first(self, n: int) -> "Activation":
        """That of the first n images."""
        if n == len(self.x):
            return self
        return replace(self, x=self.x[:n], dv=self.dv[:n])


class Normalisation:
    """The batch norm behind one convolution: its parameters, statistics, and the maps of both ways.

    mean, variance = statistics of the convolution's output y over the batch, or the running ones
    v = scale*y + shift,  scale = gamma*rstd,  shift = beta - scale*mean      (`norm`)
    dy = p*dv + q*y + r                                                        (`pqr`)
    """

    def __init__(
        self, operation: Operation, parameters: Parameters, kernels: ModuleType, bn: BatchNorm
    ) -> None:
        self.kernels, self.bn = kernels, bn
        name, channels = operation.name, operation.output_shape[-1]
        value, gradient = parameters.value, parameters.gradient
        self.gamma, self.dgamma = value(f"{name}.gamma"), gradient(f"{name}.gamma")
        self.beta, self.dbeta = value(f"{name}.beta"), gradient(f"{name}.beta")
        self.running_mean, self.running_variance = parameters.running(name)
        self.mean, self.variance = np.zeros(channels), np.ones(channels)
        self.norm: Floats = np.empty((6, channels), parameters.values.dtype)
        self.norm[LOW], self.norm[HIGH] = (0, 6) if operation.relu6 else (-np.inf, np.inf)
        self.pqr: Floats = np.empty((3, channels), parameters.values.dtype)

    def forward(self, batch_statistics: bool, samples: int) -> None:
        """Make `norm`; batch statistics, of `samples` pixels, have been put in mean, variance."""
        k, running = self.kernels, (self.running_mean, self.running_variance)
        if batch_statistics:
            samples = self._share_statistics(samples)
            k.batchnorm_track(*running, self.mean, self.variance, self.bn.momentum, samples)
            self.samples: float = samples
        else:
            self.mean[:], self.variance[:] = running
            self.samples = np.inf  # one image more or less changes nothing
        k.batchnorm_fold(
            self.norm, self.mean, self.variance, self.gamma, self.beta, self.bn.epsilon
        )

    def backward(self) -> None:
        """Make `pqr`, once the gradients of gamma and beta are known.

        Those of this rank's images remain in the flat gradient, which is summed over ranks itself.
        """
        dgamma, dbeta = self.dgamma, self.dbeta
        if self.bn.sum_over_ranks and np.isfinite(self.samples):
            dgamma, dbeta = sums = np.stack((dgamma, dbeta))
            self.bn.sum_over_ranks(sums)
        self.kernels.batchnorm_fold_backward(self.pqr, self.norm, dgamma, dbeta, self.samples)

    def _share_statistics(self, samples: int) -> int:
        """Make mean and variance those of all ranks' samples; return their number."""
        if self.bn.sum_over_ranks is None:
            return samples
        sums = samples * np.concatenate(([1], self.mean, self.variance + self.mean**2))
        self.bn.sum_over_ranks(sums)
        self.mean[:], second = np.split(sums[1:] / sums[0], 2)
        self.variance[:] = np.maximum(second - self.mean**2, 0)
        return int(sums[0])

    def activation(self, y: Floats, dv: Floats) -> Activation:
        return Activation(y, self.norm, dv, self.dgamma, self.dbeta)


class ConvolutionUnit:
    """Convolution, batch norm, and ReLU6 where the operation has one.

    Forward: y = convolve(a, weight), output = relu6(scale*y + shift), where a is the unit's input;
    but `output` is left to whoever reads it, see Activation, and so is a.
    Backward starts from dv and the gradients of gamma and beta, which came with it, and passes on
    that of the input before its own ReLU6.
    """

    def __init__(
        self,
        operation: Operation,
        parameters: Parameters,
        memory: Mapping[str, Floats],
        kernels: ModuleType,
        bn: BatchNorm,
    ) -> None:
        self.operation, name = operation, operation.name
        self.weight = parameters.value(f"{name}.weight")
        self.dweight = parameters.gradient(f"{name}.weight")
        self.bn = Normalisation(operation, parameters, kernels, bn)
        self.whole_batch = self.bn.activation(memory[f"{name}.y"], memory[f"{name}.dv"])
        self._choose_kernels(kernels)

    def _choose_kernels(self, k: ModuleType) -> None:
        self.convolve: Callable[..., None]
        self.convolve_backward: Callable[..., None]
        if self.operation.kind == "depthwise":
            stride = self.operation.stride
            self.convolve = partial(k.activation_depthwise3x3_stats_forward, stride=stride)
            self.convolve_backward = partial(
                k.activation_depthwise3x3_stats_backward, stride=stride
            )
        elif self.operation.kind == "pointwise":
            self.convolve = k.activation_pointwise_stats_forward
            self.convolve_backward = k.activation_pointwise_stats_backward
        else:
            self.convolve = k.stem3x3_stats_forward
            self.convolve_backward = k.stem3x3_stats_backward

    def forward(self, a: Activation, batch_statistics: bool) -> Activation:
        bn, self.input = self.bn, a
        self.output = output = self.whole_batch.first(len(a.x))
        if self.operation.kind == "stem":  # the image needs no batch norm
            self.convolve(output.x, bn.mean, bn.variance, a.x, self.weight)
        else:
            self.convolve(output.x, bn.mean, bn.variance, a.x, a.norm, self.weight)
        bn.forward(batch_statistics, samples=prod(output.x.shape[:3]))
        return output

    def backward(self) -> None:
        """From dv, the gradient before the unit's ReLU6, to that before its input's ReLU6."""
        a, dv, y, pqr = self.input, self.output.dv, self.output.x, self.bn.pqr
        self.bn.backward()
        if self.operation.kind == "stem":  # nobody asks for the image's gradient
            self.convolve_backward(self.dweight, dv, y, pqr, a.x)
        else:
            self.convolve_backward(
                a.dv, self.dweight, a.dgamma, a.dbeta, dv, y, pqr, a.x, a.norm, self.weight
            )

    def relu6_inputs(self) -> Iterator[tuple[str, Floats]]:
        """What goes into each ReLU6 in here, (n,H,W,C), with the operation's name; for checks."""
        if self.operation.relu6:
            yield self.operation.name, self.bn.norm[SCALE] * self.output.x + self.bn.norm[SHIFT]


class ResidualBlock:
    """Convolution units in a row; with a shortcut, output = units(x) + x.

    `output` is the array for the activation, where it is made here (`stores_output`).
    """

    def __init__(
        self,
        block: Block,
        units: list[ConvolutionUnit],
        kernels: ModuleType,
        output: Floats | None,
    ) -> None:
        self.units, self.shortcut, self.kernels = units, block.shortcut, kernels
        self.whole_batch: Activation | None = None
        if output is not None:
            self.whole_batch = Activation.of(output, units[-1].whole_batch.dv)

    def forward(self, a: Activation, batch_statistics: bool) -> Activation:
        self.input = a
        for unit in self.units:
            a = unit.forward(a, batch_statistics)
        if self.whole_batch is None:
            return a
        output = self.whole_batch.first(len(a.x))
        self.kernels.activation_forward(output.x, a.x, a.norm)
        if self.shortcut:
            self.kernels.residual_forward(output.x, output.x, self.input.x)
        return output

    def backward(self) -> None:
        last = self.units[-1].output
        if self.whole_batch is not None:
            self.kernels.activation_backward(
                last.dv, last.dgamma, last.dbeta, last.dv, last.x, last.norm
            )
        for unit in reversed(self.units):
            unit.backward()
        if self.shortcut:  # a projection has no ReLU6, so its dv is the gradient of the sum
            self.kernels.residual_backward_accumulate(self.input.dv, last.dv)


class Head:
    """Global average pool, dropout, linear classifier, softmax cross-entropy."""

    def __init__(
        self, architecture: Architecture, parameters: Parameters, maps: Floats, kernels: ModuleType
    ) -> None:
        self.kernels, self.rate, self.maps = kernels, architecture.dropout, maps
        dtype = parameters.values.dtype
        value, gradient = parameters.value, parameters.gradient
        self.weight, self.dweight = value("classifier.weight"), gradient("classifier.weight")
        self.bias, self.dbias = value("classifier.bias"), gradient("classifier.bias")
        batch, (features, classes) = len(maps), self.weight.shape
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

    def backward(self, scale: float) -> None:
        n, k = len(self.labels), self.kernels
        dlogits, features, dfeatures = self.dlogits[:n], self.features[:n], self.dfeatures[:n]
        k.softmax_cross_entropy_backward(
            dlogits, self.probabilities[:n], self.labels, self.smoothing, scale
        )
        k.linear_backward_weight(self.dweight, self.dbias, dlogits, features)
        k.linear_backward_input(dfeatures, dlogits, self.weight)
        if self.dropped:
            k.dropout_backward(dfeatures, dfeatures, self.keep[:n], self.rate)
        a = self.input
        k.average_pool_backward(a.dv, dfeatures)
        k.activation_backward(a.dv, a.dgamma, a.dbeta, a.dv, a.x, a.norm)


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
        memory = plan(architecture, batch, dtype).allocate(dtype)
        self.images: Floats = memory["images"]
        self.blocks = []
        for block in architecture.blocks:
            units = [
                ConvolutionUnit(operation, parameters, memory, kernels, bn)
                for operation in block.operations
                if operation.is_convolution
            ]
            output = memory.get(f"{units[-1].operation.name}.output")
            self.blocks.append(ResidualBlock(block, units, kernels, output))
        self.head = Head(architecture, parameters, memory["head.maps"], kernels)

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
        images = self.images[:n]
        a = Activation.of(images, dv=images)  # nobody asks for the gradient of an image
        for block in self.blocks:
            a = block.forward(a, batch_statistics=training and not frozen)
        return self.head.forward(a, dropout)

    def batch_statistics(self) -> tuple[Floats, Floats]:
        """Means and variances (C,) of every batch norm in the last forward, float64."""
        norms = [unit.bn for block in self.blocks for unit in block.units]
        means, variances = [bn.mean for bn in norms], [bn.variance for bn in norms]
        return np.concatenate(means), np.concatenate(variances)

    def relu6_inputs(self) -> Iterator[tuple[str, Floats]]:
        """What went into each ReLU6 in the last forward, with the operation's name; for checks."""
        for block in self.blocks:
            for unit in block.units:
                yield from unit.relu6_inputs()

    def loss(self, labels: Ints, smoothing: float = 0.0) -> Floats:
        """Cross-entropy of each image in nats, (n,), of the last forward's logits."""
        return self.head.loss(labels, smoothing)

    def backward(self, scale: float) -> None:
        """The gradient of scale*sum(loss) with respect to every parameter.

        1/n gives the mean over this batch; 1/(images of all ranks) makes the sum over ranks the
        mean over the global batch.
        """
        self.head.backward(scale)
        for block in reversed(self.blocks):
            block.backward()
