"""Expansion and depthwise filter of an inverted residual block, without the maps between them.

The expansion's output is the largest array of a block. It is computed again where it is read, in
forward and in backward: where few channels are expanded that costs less than to store and to load
it. reference/expand.py of the kernels tells how. In a training list these two operations stand for
the pointwise and the depthwise convolution of the same names (model/fusion.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import prod

import numpy as np

from npnet.kernels.arrays import SCALE, SHIFT, Floats
from npnet.model.operations.base import Activation, Mode, Resources
from npnet.model.operations.convolution import Convolution, ConvolutionLayer, Normalisation


@dataclass(frozen=True)
class Expanded(Activation):
    """The activation of an expansion, whose x is not stored.

    x and dz are those of what it expands; affine, dgamma and dbeta are its own. Its reader takes
    the weight from `layer`, and leaves there and in dz what `layer.backward` completes.
    """

    layer: "ExpansionLayer" = field(kw_only=True)

    @property
    def z(self) -> Floats:
        """The pre-activation, (n,H,W,C); for checks."""
        y = self.layer.input.values @ self.layer.weight
        z: Floats = self.affine[SCALE] * y + self.affine[SHIFT]
        return z


@dataclass(frozen=True)
class Expansion(Convolution):
    """Pointwise, with batch norm; a single reader, `ExpandedDepthwise`."""

    is_stored = False

    def layer(self, resources: Resources) -> "ExpansionLayer":
        return ExpansionLayer(self, resources)


class ExpansionLayer(ConvolutionLayer):
    """Forward: mean and variance of y, from mean and covariance of the activation it expands.

    Backward, after the reader's: what comes through mean and variance is added.
    """

    bn: Normalisation

    def __init__(self, operation: Expansion, resources: Resources) -> None:
        super().__init__(operation, resources)
        channels = operation.input_shape[-1]
        self.input_statistics = np.zeros(channels), np.zeros((channels, channels))

    def forward(self, inputs: Sequence[Activation], mode: Mode) -> Activation:
        (a,), bn = inputs, self.bn
        self.input = a
        if mode.batch_statistics and not bn.frozen:
            statistics = (bn.mean, bn.variance, *self.input_statistics)
            self.kernels.expand_stats_forward(*statistics, a.x, a.affine, self.weight)
        else:
            for each in self.input_statistics:  # nothing comes back through them
                each[...] = 0
        bn.forward(mode.batch_statistics, samples=prod(a.x.shape[:3]))
        self.output = Expanded(a.x, bn.affine, a.dz, bn.dgamma, bn.dbeta, layer=self)
        return self.output

    def backward(self) -> None:
        a, bn = self.input, self.bn
        bn.backward()
        dz, dw, dgamma, dbeta = self.wanted(a)
        if dz is not None or dw is not None:
            statistics = (bn.affine_backward, *self.input_statistics)
            self.kernels.expand_stats_backward_accumulate(
                dz, dw, dgamma, dbeta, *statistics, a.x, a.affine, self.weight
            )


@dataclass(frozen=True)
class ExpandedDepthwise(Convolution):
    """Depthwise, with batch norm; it reads an `Expansion`."""

    def layer(self, resources: Resources) -> "ExpandedDepthwiseLayer":
        return ExpandedDepthwiseLayer(self, resources)


class ExpandedDepthwiseLayer(ConvolutionLayer):
    """Forward: y, from what is expanded. Backward: also the expansion's, its statistics fixed."""

    bn: Normalisation
    input: Expanded

    def forward(self, inputs: Sequence[Activation], mode: Mode) -> Activation:
        (self.input,), bn = inputs, self.bn  # type: ignore[assignment]
        self.output = output = self.whole_batch.first(len(self.input.x))
        self.kernels.expand_depthwise3x3_stats_forward(
            output.x, bn.mean, bn.variance, *self._source(), self.weight, self.operation.stride
        )
        bn.forward(mode.batch_statistics, samples=prod(output.x.shape[:3]))
        return output

    def backward(self) -> None:
        output, bn, below = self.output, self.bn, self.input.layer
        bn.backward()
        _, dw, dgamma, dbeta = self.wanted(self.input)
        da, dw1, _, _ = below.wanted(below.input)
        if dw is None and dgamma is None:
            return
        from_output = (output.dz, output.x, bn.affine_backward)
        weights = (self.weight, self.operation.stride)
        self.kernels.expand_depthwise3x3_stats_backward(
            da, dw1, dw, dgamma, dbeta, *from_output, *self._source(), *weights
        )

    def _source(self) -> tuple[Floats, Floats, Floats, Floats]:
        """What is expanded, its affine map, the weight, and the affine map of the result."""
        a, below = self.input, self.input.layer
        return a.x, below.input.affine, below.weight, a.affine
