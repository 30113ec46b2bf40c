"""Numbers of 8 bits: which ones stand for an array's numbers, and rounding to them.

    activation   x = scale*(q - zero),  q of 0..255, one scale and zero for an array
    weight       w = scale*q,           q of -127..127, a scale for each output channel
    bias         b = scale*q,           q of 32 bits, scale that of the input times the weight's

So a convolution is a sum of products of whole numbers (Jacob et al. 2018, arXiv 1712.05877,
sections 2.1-2.4; scales a channel as in Krishnamoorthi 2018, arXiv 1806.08342, section 3.1).
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from npnet.errors import NpnetError
from npnet.kernels.arrays import Floats

LEVELS, LARGEST_WEIGHT = 255, 127
LARGEST_BIAS = 2**30  # half of what 32 bits hold: the rest is for the sum of products

NOT_FINITE = "these weights make numbers that are not finite: a network in int8 needs others"


class Grid(NamedTuple):
    """The 256 numbers that an activation may be: scale*(q - zero)."""

    scale: np.float32
    zero: np.uint8

    @classmethod
    def between(cls, low: float, high: float) -> "Grid":
        """From about `low` to `high`; 0, which padding and ReLU make, is one of them."""
        low, high = min(low, 0.0), max(high, 0.0)
        if not math.isfinite(high - low):
            raise NpnetError(NOT_FINITE)
        scale = np.float32((high - low) / LEVELS)
        if LEVELS * float(scale) > high - low:  # rounded up: beyond 6 a runtime would keep ReLU6
            scale = np.nextafter(scale, np.float32(0))
        scale = scale or np.float32(1)
        return cls(scale, np.uint8(round(-low / float(scale))))

    def round(self, x: Floats) -> None:
        """Each number becomes the nearest one of the grid, in place."""
        zero = float(self.zero)
        np.divide(x, self.scale, out=x)
        np.rint(x, out=x)
        np.clip(x, -zero, LEVELS - zero, out=x)
        np.multiply(x, self.scale, out=x)


class WholeNumbers(NamedTuple):
    """Weight and bias of a layer in whole numbers, channels last; `scales` (C,) of the weight."""

    weight: NDArray[np.int8]
    scales: Floats
    bias: NDArray[np.int32]
    bias_scales: Floats

    @classmethod
    def of(cls, weight: Floats, bias: Floats, input_scale: np.float32) -> "WholeNumbers":
        """The nearest ones to a folded layer's numbers, float32."""
        axes = tuple(range(weight.ndim - 1))
        scales = np.abs(weight).max(axis=axes) / np.float32(LARGEST_WEIGHT)
        # A channel of tiny weights gets larger steps, or its bias would not fit.
        scales = np.maximum(scales, np.abs(bias) / (input_scale * np.float32(LARGEST_BIAS)))
        scales[scales == 0] = 1
        bias_scales = input_scale * scales
        whole = np.rint(weight / scales).astype(np.int8)
        return cls(whole, scales, np.rint(bias / bias_scales).astype(np.int32), bias_scales)

    @property
    def numbers(self) -> tuple[Floats, Floats]:
        """The weight and bias that they stand for."""
        return self.weight * self.scales, self.bias * self.bias_scales
