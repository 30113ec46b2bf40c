"""The array types in kernel signatures, and the geometry of convolutions and pools."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]  # float32 or float64, one dtype throughout a call
Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]


# `affine` (6,C) makes the activation of a convolution's output x:
#     z = scale*x + shift,   activation = clip(z, low, high)
# z is the pre-activation, dz its gradient. Batch norm has scale = gamma*rstd, shift = beta -
# scale*mean; ReLU6 has the bounds 0 and 6, no ReLU has none. What is an activation already has
# IDENTITY. On the way back `affine_backward` (3,C), rows p, q, r, makes the gradient of a
# convolution's output y: dy = p*dz + q*y + r. The rows of `affine`:
SCALE, SHIFT, MEAN, RSTD, LOW, HIGH = range(6)
IDENTITY = (1.0, 0.0, 0.0, 1.0, -np.inf, np.inf)

# The grey of a pixel is so much of its red, green and blue (ITU-R BT.601).
LUMA = (0.299, 0.587, 0.114)


def output_size(size: int, stride: int) -> int:
    """Height (or width) after a 3x3 convolution with one pixel of zero padding on each side."""
    return (size - 1) // stride + 1


def convolved_size(size: int, kernel: int, stride: int, padding: int) -> int:
    """The same after a convolution of any kernel and padding."""
    return (size + 2 * padding - kernel) // stride + 1


def pooled_size(size: int) -> int:
    """The same after windows of 3, two apart, the last of which may be cut but starts inside.

    That is ceil((size - 3) / 2) + 1; and one window where the map is a single pixel.
    """
    return max(size // 2, 1)
