"""The stem: the first 3x3 convolution, stride 2, from 3 image channels (MobileNetV2, Table 2)."""

import numpy as np

from npnet.kernels.arrays import Floats
from npnet.kernels.reference.batchnorm import batchnorm_backward, batchnorm_statistics
from npnet.kernels.reference.depthwise import padded


def stem3x3_forward(y: Floats, x: Floats, w: Floats) -> None:
    """y[n,i,j,o] = sum_{k,l,c} x[n, 2i+k-1, 2j+l-1, c] w[k,l,c,o], zero outside the image.

    y (N,Ho,Wo,Co), x (N,H,W,3), w (3,3,3,Co).
    """
    taps = _taps(x, *y.shape[1:3])
    y[...] = sum(taps[k][m] @ w[k, m] for k in range(3) for m in range(3))


def stem3x3_backward_weight(dw: Floats, dy: Floats, x: Floats) -> None:
    """dw[k,l,c,o] = sum_{n,i,j} x[n, 2i+k-1, 2j+l-1, c] dy[n,i,j,o].

    dw (3,3,3,Co), dy (N,Ho,Wo,Co), x (N,H,W,3). The image needs no gradient, so there is no
    backward_input.
    """
    taps = _taps(x, *dy.shape[1:3])
    for k in range(3):
        for m in range(3):
            dw[k, m] = np.tensordot(taps[k][m], dy, axes=([0, 1, 2], [0, 1, 2]))


def stem3x3_stats_forward(y: Floats, mean: Floats, variance: Floats, x: Floats, w: Floats) -> None:
    """stem3x3_forward, then batchnorm_statistics.

    y (N,Ho,Wo,Co), mean, variance float64 (Co,), x (N,H,W,3), w (3,3,3,Co).
    """
    stem3x3_forward(y, x, w)
    batchnorm_statistics(mean, variance, y)


def stem3x3_stats_backward(
    dw: Floats, dz_next: Floats, y: Floats, affine_backward: Floats, x: Floats
) -> None:
    """dy = p*dz_next + q*y + r, then stem3x3_backward_weight.

    dw (3,3,3,Co), dz_next, y (N,Ho,Wo,Co), affine_backward (3,Co), x (N,H,W,3).
    """
    dy = np.empty_like(y)
    batchnorm_backward(dy, dz_next, y, *affine_backward)
    stem3x3_backward_weight(dw, dy, x)


def _taps(x: Floats, ho: int, wo: int) -> list[list[Floats]]:
    """taps[k][l] (N,Ho,Wo,3): the input pixel that each output pixel meets under weight [k,l]."""
    p = padded(x)
    return [
        [p[:, k : k + 2 * ho - 1 : 2, m : m + 2 * wo - 1 : 2] for m in range(3)] for k in range(3)
    ]
