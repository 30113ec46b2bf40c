"""Pointwise (1x1) convolution by BLAS. Attempt 1; attempt 2 is kernels/jit/pointwise.py.

One product of tall matrices, (N*H*W, Ci) by (Ci, Co). NumPy hands it to BLAS, the best plain matrix
product at hand. What it cannot do is make the activation on the way in.
"""

import numpy as np

from npnet.kernels.arrays import Floats


def pointwise_forward(y: Floats, x: Floats, w: Floats) -> None:
    """As reference.pointwise_forward, as one product instead of one a row."""
    np.matmul(_pixels(x), w, out=_pixels(y))


def pointwise_backward_input(dx: Floats, dy: Floats, w: Floats) -> None:
    """As reference.pointwise_backward_input."""
    np.matmul(_pixels(dy), w.T, out=_pixels(dx))


def pointwise_backward_weight(dw: Floats, dy: Floats, x: Floats) -> None:
    """As reference.pointwise_backward_weight."""
    np.matmul(_pixels(x).T, _pixels(dy), out=dw)


def _pixels(x: Floats) -> Floats:
    """The (N*H*W, C) view of x."""
    return x.reshape(-1, x.shape[-1])
