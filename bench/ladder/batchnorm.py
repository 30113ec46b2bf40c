"""Batch norm as passes of its own: statistics, the map, two sums, the map back. Attempt 1.

In attempt 2 the same lines run on tiles of the convolutions beside it, kernels/jit/tiles.py.
"""

import numpy as np

from npnet.kernels.arrays import Floats
from npnet.kernels.jit.options import inline, kernel


@kernel
def batchnorm_statistics(mean: Floats, variance: Floats, x: Floats) -> None:
    """As reference.batchnorm_statistics, in one pass.

    Sums run in float64 around the first pixel's values, so that E[d^2] - E[d]^2 loses nothing
    where a channel's mean is far from zero.
    """
    channels = x.shape[3]
    rows = x.reshape(-1, channels)
    count = len(rows)
    origin = rows[0]
    mean[:] = 0
    variance[:] = 0
    for row in rows:
        for c in range(channels):
            d = np.float64(row[c] - origin[c])
            mean[c] += d
            variance[c] += d * d
    for c in range(channels):
        d = mean[c] / count
        variance[c] = max(variance[c] / count - d * d, 0.0)
        mean[c] = d + np.float64(origin[c])


@kernel
def affine_forward(y: Floats, x: Floats, scale: Floats, shift: Floats) -> None:
    """As reference.affine_forward."""
    channels = x.shape[3]
    rows, out = x.reshape(-1, channels), y.reshape(-1, channels)
    for i in range(len(rows)):
        for c in range(channels):
            out[i, c] = scale[c] * rows[i, c] + shift[c]


@kernel
def affine_relu6_forward(y: Floats, x: Floats, scale: Floats, shift: Floats) -> None:
    """As reference.affine_relu6_forward."""
    channels = x.shape[3]
    rows, out = x.reshape(-1, channels), y.reshape(-1, channels)
    zero, six = y.dtype.type(0), y.dtype.type(6)
    for i in range(len(rows)):
        for c in range(channels):
            z = scale[c] * rows[i, c] + shift[c]
            z = zero if z < zero else z  # this order of comparing lets a NaN through
            out[i, c] = six if z > six else z


@kernel
def batchnorm_backward_sums(
    dgamma: Floats, dbeta: Floats, dy: Floats, x: Floats, mean: Floats, rstd: Floats
) -> None:
    """As reference.batchnorm_backward_sums."""
    channels = x.shape[3]
    rows, gradients = x.reshape(-1, channels), dy.reshape(-1, channels)
    sums = np.zeros((2, channels), dtype=np.float64)
    for i in range(len(rows)):
        add_sums(sums, gradients[i], rows[i], mean)
    store_sums(dgamma, dbeta, sums, rstd)


@kernel
def affine_relu6_backward_sums(
    dz: Floats,
    dgamma: Floats,
    dbeta: Floats,
    dy: Floats,
    x: Floats,
    mean: Floats,
    rstd: Floats,
    scale: Floats,
    shift: Floats,
) -> None:
    """As reference.affine_relu6_backward_sums: mask and both sums while the pixel is at hand."""
    channels = x.shape[3]
    rows, out, gradients = (
        x.reshape(-1, channels),
        dz.reshape(-1, channels),
        dy.reshape(-1, channels),
    )
    zero, six = dz.dtype.type(0), dz.dtype.type(6)
    sums = np.zeros((2, channels), dtype=np.float64)
    for i in range(len(rows)):
        for c in range(channels):
            z, g = scale[c] * rows[i, c] + shift[c], gradients[i, c]
            out[i, c] = g if z * (six - z) > zero else zero  # 0 < z < 6 in one comparison
        add_sums(sums, out[i], rows[i], mean)
    store_sums(dgamma, dbeta, sums, rstd)


@kernel
def batchnorm_backward(dx: Floats, dy: Floats, x: Floats, p: Floats, q: Floats, r: Floats) -> None:
    """As reference.batchnorm_backward."""
    channels = x.shape[3]
    rows, out, gradients = (
        x.reshape(-1, channels),
        dx.reshape(-1, channels),
        dy.reshape(-1, channels),
    )
    for i in range(len(rows)):
        for c in range(channels):
            out[i, c] = p[c] * gradients[i, c] + q[c] * rows[i, c] + r[c]


@inline
def add_sums(sums: Floats, dy: Floats, x: Floats, mean: Floats) -> None:
    """sums[0] += dy, sums[1] += dy*(x-mean) over the channels of one pixel."""
    for c in range(len(x)):
        sums[0, c] += dy[c]
        sums[1, c] += dy[c] * (x[c] - mean[c])


@inline
def store_sums(dgamma: Floats, dbeta: Floats, sums: Floats, rstd: Floats) -> None:
    """Round the float64 sums into the gradients of gamma and beta."""
    for c in range(len(dgamma)):
        dbeta[c] = sums[0, c]
        dgamma[c] = sums[1, c] * rstd[c]
