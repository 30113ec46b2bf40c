"""Depthwise 3x3 convolution: each channel is filtered by its own 3x3 (MobileNets, section 3.1)."""

import numpy as np

from npnet.kernels.arrays import Floats


def depthwise3x3_forward(y: Floats, x: Floats, w: Floats, stride: int) -> None:
    """y[n,i,j,c] = sum_{k,l} x[n, si+k-1, sj+l-1, c] w[k,l,c], zero outside the map.

    y (N,Ho,Wo,C), x (N,H,W,C), w (3,3,C), stride s = 1 or 2, Ho = ceil(H/s), Wo = ceil(W/s).
    """
    p = padded(x)
    y[...] = 0
    for k in range(3):
        for m in range(3):
            y += _tap(p, k, m, stride, y) * w[k, m]


def depthwise3x3_backward_input(dx: Floats, dy: Floats, w: Floats, stride: int) -> None:
    """dx[n, si+k-1, sj+l-1, c] = sum over all (i,j,k,l) that meet there of dy[n,i,j,c] w[k,l,c].

    dx (N,H,W,C), dy (N,Ho,Wo,C), w (3,3,C).
    """
    dp = padded(np.zeros_like(dx))
    for k in range(3):
        for m in range(3):
            _tap(dp, k, m, stride, dy)[...] += dy * w[k, m]
    dx[...] = dp[:, 1:-1, 1:-1]


def depthwise3x3_backward_weight(dw: Floats, dy: Floats, x: Floats, stride: int) -> None:
    """dw[k,l,c] = sum_{n,i,j} x[n, si+k-1, sj+l-1, c] dy[n,i,j,c].

    dw (3,3,C), dy (N,Ho,Wo,C), x (N,H,W,C).
    """
    p = padded(x)
    for k in range(3):
        for m in range(3):
            dw[k, m] = np.sum(_tap(p, k, m, stride, dy) * dy, axis=(0, 1, 2))


def padded(x: Floats) -> Floats:
    """x with one pixel of zeros around each map: (N,H+2,W+2,C)."""
    return np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))


def _tap(p: Floats, k: int, m: int, stride: int, y: Floats) -> Floats:
    """The view of the padded map p that weight [k,m] meets, one element for each output."""
    _, ho, wo, _ = y.shape
    return p[:, k : k + stride * (ho - 1) + 1 : stride, m : m + stride * (wo - 1) + 1 : stride]
