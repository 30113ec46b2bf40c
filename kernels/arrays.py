"""The array types in kernel signatures, and the geometry of a 3x3 convolution."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[Any]  # float32 or float64, one dtype throughout a call
Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]


def output_size(size: int, stride: int) -> int:
    """Height (or width) after a 3x3 convolution with one pixel of zero padding on each side."""
    return (size - 1) // stride + 1
