"""Passes of their own: activation forward and backward, the residual sum. For where no consumer
can apply the affine map on load, and for gradients that several readers have added up.
"""

import numpy as np

from npnet.kernels.arrays import Floats
from npnet.kernels.jit.options import inline, kernel
from npnet.kernels.jit.tiles import (
    activate,
    copy,
    deactivate,
    finish_backward,
    tile_rows,
)
from npnet.kernels.jit.vector import matrix


@kernel
def activation_forward(a: Floats, x: Floats, affine: Floats) -> None:
    """As reference.activation_forward."""
    activate(matrix(a), matrix(x), affine)


@kernel
def activation_backward(
    dz: Floats, dgamma: Floats, dbeta: Floats, da: Floats, x: Floats, affine: Floats
) -> None:
    """As reference.activation_backward."""
    gradients, inputs = matrix(dz), matrix(x)
    pixels, channels = inputs.shape
    rows = tile_rows(2 * channels, 0, x.itemsize)
    sums = np.zeros((2, channels), np.float64)
    if dz is not da:
        copy(gradients, matrix(da))
    for start in range(0, pixels, rows):
        tile = slice(start, min(start + rows, pixels))
        deactivate(gradients[tile], sums, inputs[tile], affine)
    finish_backward(dgamma, dbeta, sums, affine)


@kernel
def residual_forward(y: Floats, x: Floats, shortcut: Floats) -> None:
    """As reference.residual_forward."""
    add(y, x, shortcut)


@inline
def add(y: Floats, x: Floats, shortcut: Floats) -> None:
    """y = x + shortcut, whole maps."""
    out, a, b = y.reshape(-1), x.reshape(-1), shortcut.reshape(-1)
    for i in range(len(out)):
        out[i] = a[i] + b[i]


@kernel
def residual_backward_accumulate(dshortcut: Floats, dy: Floats) -> None:
    """As reference.residual_backward_accumulate."""
    out, gradients = dshortcut.reshape(-1), dy.reshape(-1)
    for i in range(len(out)):
        out[i] += gradients[i]
