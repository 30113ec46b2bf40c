"""Depthwise 3x3 convolution: each channel is filtered by its own 3x3 (MobileNets, section 3.1)."""

import numpy as np

from npnet.kernels.arrays import Floats
from npnet.kernels.reference.activation import activated, activation_backward
from npnet.kernels.reference.batchnorm import batchnorm_statistics, through_batchnorm
from npnet.kernels.reference.convolution import padded, tap


def depthwise3x3_forward(y: Floats, x: Floats, w: Floats, stride: int) -> None:
    """y[n,i,j,c] = sum_{k,l} x[n, si+k-1, sj+l-1, c] w[k,l,c], zero outside the map.

    y (N,Ho,Wo,C), x (N,H,W,C), w (3,3,C), stride s = 1 or 2, Ho = ceil(H/s), Wo = ceil(W/s).
    """
    p = padded(x, 1)
    y[...] = 0
    for k, m in np.ndindex(3, 3):
        y += tap(p, k, m, stride, y) * w[k, m]


def depthwise3x3_backward_input(dx: Floats, dy: Floats, w: Floats, stride: int) -> None:
    """dx[n, si+k-1, sj+l-1, c] = sum of dy[n,i,j,c] w[k,l,c] over all (i,j,k,l) that read it.

    dx (N,H,W,C), dy (N,Ho,Wo,C), w (3,3,C).
    """
    dp = padded(np.zeros_like(dx), 1)
    for k, m in np.ndindex(3, 3):
        tap(dp, k, m, stride, dy)[...] += dy * w[k, m]
    dx[...] = dp[:, 1:-1, 1:-1]


def depthwise3x3_backward_weight(dw: Floats, dy: Floats, x: Floats, stride: int) -> None:
    """dw[k,l,c] = sum_{n,i,j} x[n, si+k-1, sj+l-1, c] dy[n,i,j,c].

    dw (3,3,C), dy (N,Ho,Wo,C), x (N,H,W,C).
    """
    p = padded(x, 1)
    for k, m in np.ndindex(3, 3):
        dw[k, m] = np.sum(tap(p, k, m, stride, dy) * dy, axis=(0, 1, 2))


def activation_depthwise3x3_stats_forward(
    y: Floats, mean: Floats, variance: Floats, x: Floats, affine: Floats, w: Floats, stride: int
) -> None:
    """activation_forward, depthwise3x3_forward, batchnorm_statistics.

    y (N,Ho,Wo,C), mean, variance float64 (C,), x (N,H,W,C), affine (6,C), w (3,3,C).
    """
    depthwise3x3_forward(y, activated(x, affine), w, stride)
    batchnorm_statistics(mean, variance, y)


def activation_depthwise3x3_stats_backward(
    dz: Floats | None,
    dw: Floats | None,
    dgamma: Floats | None,
    dbeta: Floats | None,
    dz_next: Floats,
    y: Floats,
    affine_backward: Floats,
    x: Floats,
    affine: Floats,
    w: Floats,
    stride: int,
) -> None:
    """dy = p*dz_next + q*y + r, depthwise3x3_backward_*, activation_backward.

    dz = dgamma = dbeta = None: the input's gradient is unused. dw = None: the weight is frozen.
    dz, x (N,H,W,C), dw, w (3,3,C), dgamma, dbeta (C,), dz_next, y (N,Ho,Wo,C),
    affine_backward (3,C), affine (6,C).
    """
    dy = through_batchnorm(dz_next, y, affine_backward)
    if dw is not None:
        depthwise3x3_backward_weight(dw, dy, activated(x, affine), stride)
    if dz is not None and dgamma is not None and dbeta is not None:
        depthwise3x3_backward_input(dz, dy, w, stride)
        activation_backward(dz, dgamma, dbeta, dz, x, affine)
