"""The stem: the first 3x3 convolution, stride 2, from 3 image channels (MobileNetV2, Table 2)."""

import numpy as np

from npnet.kernels.arrays import Floats
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


def _taps(x: Floats, ho: int, wo: int) -> list[list[Floats]]:
    """taps[k][l] (N,Ho,Wo,3): the input pixel that each output pixel meets under weight [k,l]."""
    p = padded(x)
    return [
        [p[:, k : k + 2 * ho - 1 : 2, m : m + 2 * wo - 1 : 2] for m in range(3)] for k in range(3)
    ]
