"""Dense k x k convolution: plain, and as the network runs it, composed of the plain one.

reference/__init__.py tells how a convolution stands between two affine maps.
"""

import numpy as np

from npnet.kernels.arrays import Floats
from npnet.kernels.reference.activation import activated, activation_backward
from npnet.kernels.reference.batchnorm import batchnorm_statistics, through_batchnorm


def conv_forward(y: Floats, x: Floats, w: Floats, stride: int, padding: int) -> None:
    """y[n,i,j,o] = sum_{k,l,c} x[n, si+k-p, sj+l-p, c] w[k,l,c,o], zero outside the map.

    y (N,Ho,Wo,Co), x (N,H,W,Ci), w (K,K,Ci,Co), stride s = 1 or 2, padding p pixels of zeros on all
    sides, Ho = floor((H+2p-K)/s) + 1, Wo likewise.
    """
    p = padded(x, padding)
    y[...] = 0
    for k, m in np.ndindex(*w.shape[:2]):
        y += tap(p, k, m, stride, y) @ w[k, m]


def conv_backward_input(dx: Floats, dy: Floats, w: Floats, stride: int, padding: int) -> None:
    """dx[n, si+k-p, sj+l-p, c] = sum of dy[n,i,j,o] w[k,l,c,o] over all (i,j,k,l,o) that read that
    pixel.

    dx (N,H,W,Ci), dy (N,Ho,Wo,Co), w (K,K,Ci,Co). A pixel that no window covers gets 0.
    """
    _, height, width, _ = dx.shape
    dp = padded(np.zeros_like(dx), padding)
    for k, m in np.ndindex(*w.shape[:2]):
        tap(dp, k, m, stride, dy)[...] += dy @ w[k, m].T
    dx[...] = dp[:, padding : padding + height, padding : padding + width]


def conv_backward_weight(dw: Floats, dy: Floats, x: Floats, stride: int, padding: int) -> None:
    """dw[k,l,c,o] = sum_{n,i,j} x[n, si+k-p, sj+l-p, c] dy[n,i,j,o].

    dw (K,K,Ci,Co), dy (N,Ho,Wo,Co), x (N,H,W,Ci).
    """
    p = padded(x, padding)
    for k, m in np.ndindex(*dw.shape[:2]):
        dw[k, m] = np.tensordot(tap(p, k, m, stride, dy), dy, axes=([0, 1, 2], [0, 1, 2]))


def activation_conv_stats_forward(
    y: Floats,
    mean: Floats | None,
    variance: Floats | None,
    x: Floats,
    affine: Floats | None,
    w: Floats,
    stride: int,
    padding: int,
) -> None:
    """activation_forward, conv_forward, batchnorm_statistics.

    Zeros surround the activation, not x. affine = None: x is an activation already, such as the
    image. mean = variance = None: no batch norm follows, the statistics are unused; a bias is a
    part of the affine map that consumers apply.
    y (N,Ho,Wo,Co), mean, variance float64 (Co,), x (N,H,W,Ci), affine (6,Ci), w (K,K,Ci,Co).
    """
    conv_forward(y, activated(x, affine), w, stride, padding)
    if mean is not None and variance is not None:
        batchnorm_statistics(mean, variance, y)


def activation_conv_stats_backward(
    dz: Floats | None,
    dw: Floats | None,
    dgamma: Floats | None,
    dbeta: Floats | None,
    dz_next: Floats,
    y: Floats | None,
    affine_backward: Floats | None,
    x: Floats,
    affine: Floats | None,
    w: Floats,
    stride: int,
    padding: int,
) -> None:
    """dy = p*dz_next + q*y + r, conv_backward_*, activation_backward.

    affine_backward = None: no batch norm followed, dz_next is dy itself, and y may be None. dw =
    None: the weight is frozen. dz = dgamma = dbeta = None: the input's gradient is unused, as the
    image's is. affine = None: x is an activation already, and dz its gradient.
    dz, x (N,H,W,Ci), dw, w (K,K,Ci,Co), dgamma, dbeta (Ci,), dz_next, y (N,Ho,Wo,Co),
    affine_backward (3,Co), affine (6,Ci).
    """
    dy = through_batchnorm(dz_next, y, affine_backward)
    if dw is not None:
        conv_backward_weight(dw, dy, activated(x, affine), stride, padding)
    if dz is not None:
        conv_backward_input(dz, dy, w, stride, padding)
        if affine is not None and dgamma is not None and dbeta is not None:
            activation_backward(dz, dgamma, dbeta, dz, x, affine)


def padded(x: Floats, padding: int) -> Floats:
    """x with p = `padding` pixels of zeros around each map: (N,H+2p,W+2p,C)."""
    return np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))


def tap(p: Floats, k: int, m: int, stride: int, y: Floats) -> Floats:
    """The pixels of the padded map p that weight [k,m] multiplies, one for each output: a view."""
    _, ho, wo, _ = y.shape
    return p[:, k : k + stride * (ho - 1) + 1 : stride, m : m + stride * (wo - 1) + 1 : stride]
