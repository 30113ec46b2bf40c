"""Convolution, then batch norm or a bias, then ReLU where the operation has one.

Batch norm never makes a pass of its own. It is one affine map a channel, `scale*y + shift`, so a
convolution's output stays in memory as it is, with the map beside it, and consumers apply map and
ReLU on load. A bias is such a map with scale 1. Backward is the mirror image.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

import numpy as np

from npnet.kernels.arrays import HIGH, LOW, MEAN, RSTD, SCALE, SHIFT, Floats
from npnet.model.operations.base import (
    IMAGES,
    Activation,
    Mode,
    Operation,
    Resources,
)
from npnet.model.parameters import ParameterSpec, Shape

Relu = Literal["none", "relu", "relu6"]
BOUNDS = {"none": (-np.inf, np.inf), "relu": (0, np.inf), "relu6": (0, 6)}


@dataclass(frozen=True)
class Convolution(Operation):
    """k x k convolution over all channels, or over each alone (`depthwise`).

    `padding`: pixels of zeros on each side; None: (k-1)//2.
    """

    channels: int
    size: int = 1
    stride: int = 1
    padding: int | None = None
    depthwise: bool = False
    batch_norm: bool = True
    relu: Relu = "none"
    bias_start: float = 0.0

    kind = "convolution"

    @property
    def keeps_output(self) -> bool:  # type: ignore[override]
        """Batch norm's backward reads y, and the depthwise kernel's, whatever follows."""
        return self.batch_norm or self.depthwise

    @property
    def is_linear(self) -> bool:
        return self.relu == "none"

    @property
    def pad(self) -> int:
        """Pixels of zeros on each side."""
        return (self.size - 1) // 2 if self.padding is None else self.padding

    @property
    def output_shape(self) -> Shape:
        height, width = (
            (each + 2 * self.pad - self.size) // self.stride + 1 for each in self.input_shape[:2]
        )
        return height, width, self.channels

    @property
    def variety(self) -> Literal["depthwise", "pointwise", "stem", "dense"]:
        """Which kernels it runs on."""
        if self.depthwise:
            return "depthwise"
        from_images = self.inputs == (IMAGES,)
        if self.size == 1 and self.stride == 1 and self.pad == 0 and not from_images:
            return "pointwise"
        colours = from_images and self.input_shape[-1] == 3
        if colours and (self.size, self.stride, self.pad, self.batch_norm) == (3, 2, 1, True):
            return "stem"
        return "dense"

    @property
    def may_lack_statistics(self) -> bool:
        """Whether its kernels do without a batch norm behind them."""
        return self.variety in ("pointwise", "dense")

    @property
    def parameters(self) -> tuple[ParameterSpec, ...]:
        """Fans as Keras and torchvision compute them: those of a depthwise weight count every
        channel.
        """
        ci, co, taps = self.input_shape[-1], self.channels, self.size**2
        channels = (co,)
        shape: Shape = (self.size, self.size, ci, co)
        fans = taps * ci, taps * co
        if self.depthwise:
            shape, fans = (self.size, self.size, co), (taps, taps * co)
        elif self.variety == "pointwise":
            shape = (ci, co)
        weight = ParameterSpec(f"{self.name}.weight", shape, "weight", *fans, self.batch_norm)
        if not self.batch_norm:
            bias = ParameterSpec(f"{self.name}.bias", channels, "bias", start=self.bias_start)
            return weight, bias
        return (
            weight,
            ParameterSpec(f"{self.name}.gamma", channels, "gamma"),
            ParameterSpec(f"{self.name}.beta", channels, "beta"),
        )

    @property
    def statistics_channels(self) -> int:
        return self.channels if self.batch_norm else 0

    @property
    def macs(self) -> int:
        inputs = self.size**2 * (1 if self.depthwise else self.input_shape[-1])
        return inputs * prod(self.output_shape)

    def layer(self, resources: Resources) -> "ConvolutionLayer":
        return ConvolutionLayer(self, resources)


class Normalisation:
    """The batch norm behind one convolution: parameters, statistics, affine maps of both passes.

    mean, variance = statistics of the convolution's output y over the batch, or the running ones
    z = scale*y + shift,  scale = gamma*rstd,  shift = beta - scale*mean      (`affine`)
    dy = p*dz + q*y + r                                                       (`affine_backward`)
    """

    def __init__(self, operation: Convolution, resources: Resources, affine: Floats) -> None:
        self.kernels, self.bn, self.affine = resources.kernels, resources.bn, affine
        name, channels = operation.name, operation.channels
        self.name, self.frozen = name, False
        value, gradient = resources.parameters.value, resources.parameters.gradient
        self.gamma, self.dgamma = value(f"{name}.gamma"), gradient(f"{name}.gamma")
        self.beta, self.dbeta = value(f"{name}.beta"), gradient(f"{name}.beta")
        self.running_mean, self.running_variance = resources.parameters.running(name)
        self.mean, self.variance = np.zeros(channels), np.ones(channels)
        unasked = resources.inference and operation.may_lack_statistics
        self.statistics = (None, None) if unasked else (self.mean, self.variance)
        self.affine_backward: Floats = np.empty((3, channels), affine.dtype)

    def forward(self, batch_statistics: bool, samples: int) -> None:
        """Compute `affine`. Batch statistics, of `samples` pixels, are in mean and variance.

        Where it is `frozen`, the running statistics count all the same.
        """
        k, running = self.kernels, (self.running_mean, self.running_variance)
        if batch_statistics and not self.frozen:
            samples = self._share_statistics(samples)
            k.batchnorm_track(*running, self.mean, self.variance, self.bn.momentum, samples)
            self.samples: float = samples
        else:
            self.mean[:], self.variance[:] = running
            self.samples = np.inf  # one image more or less changes nothing
        assert self.bn.epsilon is not None
        statistics = (self.mean, self.variance)
        k.batchnorm_fold(self.affine, *statistics, self.gamma, self.beta, self.bn.epsilon)

    def backward(self) -> None:
        """Compute `affine_backward`, once the gradients of gamma and beta are known.

        Those of this rank's images remain in the flat gradient, which is summed over ranks itself.
        """
        dgamma, dbeta = self.dgamma, self.dbeta
        if self.bn.sum_over_ranks and np.isfinite(self.samples):
            dgamma, dbeta = sums = np.stack((dgamma, dbeta))
            self.bn.sum_over_ranks(sums)
        rows = (self.affine_backward, self.affine)
        self.kernels.batchnorm_fold_backward(*rows, dgamma, dbeta, self.samples)

    def _share_statistics(self, samples: int) -> int:
        """Replace mean and variance by those of all ranks' samples; return their number."""
        if self.bn.sum_over_ranks is None:
            return samples
        sums = samples * np.concatenate(([1], self.mean, self.variance + self.mean**2))
        self.bn.sum_over_ranks(sums)
        self.mean[:], second = np.split(sums[1:] / sums[0], 2)
        self.variance[:] = np.maximum(second - self.mean**2, 0)
        return int(sums[0])


class Bias:
    """z = y + bias: an affine map with scale 1, whose gradient is dy = dz."""

    statistics: tuple[Floats | None, Floats | None] = (None, None)
    affine_backward: Floats | None = None

    def __init__(self, operation: Convolution, resources: Resources, affine: Floats) -> None:
        self.affine = affine
        affine[SCALE], affine[MEAN], affine[RSTD] = 1, 0, 1
        self.bias = resources.parameters.value(f"{operation.name}.bias")
        self.dbeta = resources.parameters.gradient(f"{operation.name}.bias")
        self.dgamma = np.empty_like(self.dbeta)  # of a scale that is not trained
        if not operation.may_lack_statistics:  # its kernels get unused ones, and p = 1
            channels = operation.channels
            self.statistics = np.empty(channels), np.empty(channels)
            self.affine_backward = np.zeros((3, channels), affine.dtype)
            self.affine_backward[0] = 1

    def forward(self, batch_statistics: bool, samples: int) -> None:
        self.affine[SHIFT] = self.bias

    def backward(self) -> None: ...


class ConvolutionLayer:
    """Forward: y = convolve(a, weight), a the input's activation. Backward: from dz, dgamma, dbeta
    of the output to dweight, and to dz, dgamma, dbeta of the input.
    """

    trainable = sends_gradient = True

    def __init__(self, operation: Convolution, resources: Resources) -> None:
        self.operation, name = operation, operation.name
        self.weight = resources.parameters.value(f"{name}.weight")
        self.dweight = resources.parameters.gradient(f"{name}.weight")
        y, dz = resources.output(operation)
        affine = resources.arrays.get(f"{name}.affine")  # a part of a concatenation's
        if affine is None:
            affine = np.empty((6, operation.channels), y.dtype)
        affine[LOW], affine[HIGH] = BOUNDS[operation.relu]
        self.bn: Normalisation | Bias
        self.bn = (Normalisation if operation.batch_norm else Bias)(operation, resources, affine)
        self.whole_batch = Activation(y, affine, dz, self.bn.dgamma, self.bn.dbeta)
        self.kernels = k = resources.kernels
        self.convolve: Callable[..., None]
        self.convolve_backward: Callable[..., None]
        self.convolve, self.convolve_backward, self.scalars = {
            "pointwise": (
                k.activation_pointwise_stats_forward,
                k.activation_pointwise_stats_backward,
                (),
            ),
            "depthwise": (
                k.activation_depthwise3x3_stats_forward,
                k.activation_depthwise3x3_stats_backward,
                (operation.stride,),
            ),
            "stem": (k.stem3x3_stats_forward, k.stem3x3_stats_backward, ()),
            "dense": (
                k.activation_conv_stats_forward,
                k.activation_conv_stats_backward,
                (operation.stride, operation.pad),
            ),
        }[operation.variety]

    def forward(self, inputs: Sequence[Activation], mode: Mode) -> Activation:
        (a,), bn = inputs, self.bn
        self.input = a
        self.output = output = self.whole_batch.first(len(a.x))
        if self.operation.variety == "stem":
            self.convolve(output.x, *bn.statistics, a.x, self.weight)
        else:
            arrays = (a.x, self._affine(a), self.weight)
            self.convolve(output.x, *bn.statistics, *arrays, *self.scalars)
        bn.forward(mode.batch_statistics, samples=prod(output.x.shape[:3]))
        return output

    def backward(self) -> None:
        """From the output's dz to the weight's gradient and the input's dz."""
        a, output, bn = self.input, self.output, self.bn
        bn.backward()
        y = output.x if bn.affine_backward is not None else None
        from_output = (output.dz, y, bn.affine_backward)
        if not self.trainable and not self.sends_gradient:
            return  # but gamma or beta, whose gradients are there already
        if self.operation.variety == "stem":
            if self.trainable:
                self.convolve_backward(self.dweight, *from_output, a.x)
            return
        arrays = (a.x, self._affine(a), self.weight)
        self.convolve_backward(*self.wanted(a), *from_output, *arrays, *self.scalars)

    def wanted(
        self, a: Activation
    ) -> tuple[Floats | None, Floats | None, Floats | None, Floats | None]:
        """Where backward leaves dz of the input a, dweight, and dgamma and dbeta of a; None where
        nothing is trained that needs it.
        """
        dw = self.dweight if self.trainable else None
        return (a.dz, dw, a.dgamma, a.dbeta) if self.sends_gradient else (None, dw, None, None)

    def _affine(self, a: Activation) -> Floats | None:
        """None for images where the kernel reads them as they are."""
        raw = self.operation.inputs == (IMAGES,) and self.operation.variety == "dense"
        return None if raw else a.affine
