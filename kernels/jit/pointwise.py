"""Pointwise (1x1) convolution between two batch norms, tile by tile.

reference/pointwise.py tells the mathematics. The input, gradient and output of a tile's pixels fit
the second-level cache. A kernel computes the activation of a tile, multiplies, and adds up the
statistics of batch norm, so every large array is read or written once a kernel.
"""

import numpy as np

from npnet.kernels.arrays import Floats
from npnet.kernels.jit.block import multiply_accumulate, multiply_stream
from npnet.kernels.jit.options import inline, kernel
from npnet.kernels.jit.tiles import (
    activate,
    add_statistics,
    deactivate,
    finish_backward,
    finish_statistics,
    scratch,
    set_origin,
    through_batchnorm,
    tile_rows,
)
from npnet.kernels.jit.vector import line, matrix


@kernel
def activation_pointwise_stats_forward(
    y: Floats,
    mean: Floats | None,
    variance: Floats | None,
    x: Floats,
    affine: Floats,
    w: Floats,
) -> None:
    """As reference.activation_pointwise_stats_forward."""
    inputs, outputs = matrix(x), matrix(y)
    pixels, (ci, co) = len(inputs), w.shape
    rows = tile_rows(ci + co, ci * co, x.itemsize)
    active = scratch(rows, ci, x)
    sums, origin = np.zeros((2, co), np.float64), np.empty((1, co), x.dtype)
    for start in range(0, pixels, rows):
        stop = min(start + rows, pixels)
        tile, a = slice(start, stop), active[: stop - start]
        activate(a, inputs[tile], affine)
        multiply_stream(outputs[tile], a, w, (inputs[tile],))
        if mean is not None:
            if start == 0:
                set_origin(origin, outputs[tile])
            add_statistics(sums, outputs[tile], origin)
    if mean is not None and variance is not None:
        finish_statistics(mean, variance, sums, origin, pixels)


@kernel
def activation_pointwise_stats_backward(
    dz: Floats | None,
    dw: Floats | None,
    dgamma: Floats | None,
    dbeta: Floats | None,
    dz_next: Floats,
    y: Floats | None,
    affine_backward: Floats | None,
    x: Floats,
    affine: Floats,
    w: Floats,
) -> None:
    """As reference.activation_pointwise_stats_backward: both products while dy is in the cache."""
    inputs, dout = matrix(x), matrix(dz_next)
    pixels, (ci, co) = len(inputs), w.shape
    rows = tile_rows(ci + co, ci * co, x.itemsize)
    active, gradient = scratch(rows, ci, x), scratch(rows, co, x)
    turned = scratch(co, ci, x)
    transpose(turned, w)
    sums = np.zeros((2, ci), np.float64)
    if dw is not None:
        dw[:] = 0
    for start in range(0, pixels, rows):
        stop = min(start + rows, pixels)
        tile = slice(start, stop)
        outputs = dy = dout[tile]
        if affine_backward is not None:
            outputs, dy = matrix(y)[tile], gradient[: stop - start]
            through_batchnorm(dy, dout[tile], outputs, affine_backward)
        if dw is not None:
            a = active[: stop - start]
            activate(a, inputs[tile], affine)
            multiply_accumulate(dw, a.T, dy)
        if dz is not None:
            din = matrix(dz)[tile]
            multiply_stream(din, dy, turned, (inputs[tile], outputs, dout[tile]))
            deactivate(din, sums, inputs[tile], affine)
    if dgamma is not None and dbeta is not None:
        finish_backward(dgamma, dbeta, sums, affine)


@inline
def transpose(out: Floats, w: Floats) -> None:
    """out = w^T, by a plain loop: Numba's own assignment takes a third longer.

    A few rows of w at a time: more lines, a power of two apart, the first cache has no places for.
    """
    few = 2 * line(w)
    for first in range(0, len(w), few):
        rows, columns = w[first : first + few], out[:, first : first + few]
        for j in range(len(out)):
            for k in range(len(rows)):
                columns[j, k] = rows[k, j]
