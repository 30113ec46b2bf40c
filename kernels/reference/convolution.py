"""Dense k x k convolution: plain, and as the network runs it, composed of the plain one.

reference/unit.py tells how a convolution stands between two affine maps.
"""

import numpy as np

from npnet.kernels.arrays import Floats
from npnet.kernels.reference.activation import activation_backward, activation_forward
from npnet.kernels.reference.batchnorm import batchnorm_backward, batchnorm_statistics


def conv_forward(y: Floats, x: Floats, w: Floats, stride: int, padding: int) -> None:
    """y[n,i,j,o] = sum_{k,l,c} x[n, si+k-p, sj+l-p, c] w[k,l,c,o], zero outside the map.

    y (N,Ho,Wo,Co), x (N,H,W,Ci), w (K,K,Ci,Co), stride s = 1 or 2, padding p of so many pixels on
    all sides, Ho = floor((H+2p-K)/s) + 1, Wo likewise.
    """
    p = surrounded(x, padding)
    y[...] = 0
    for k, m in np.ndindex(*w.shape[:2]):
        y += _tap(p, k, m, stride, y) @ w[k, m]


def conv_backward_input(dx: Floats, dy: Floats, w: Floats, stride: int, padding: int) -> None:
    """dx[n, si+k-p, sj+l-p, c] = sum over all (i,j,k,l,o) that meet there of
    dy[n,i,j,o] w[k,l,c,o].

    dx (N,H,W,Ci), dy (N,Ho,Wo,Co), w (K,K,Ci,Co). A pixel that no window covers gets 0.
    """
    _, height, width, _ = dx.shape
    dp = surrounded(np.zeros_like(dx), padding)
    for k, m in np.ndindex(*w.shape[:2]):
        _tap(dp, k, m, stride, dy)[...] += dy @ w[k, m].T
    dx[...] = dp[:, padding : padding + height, padding : padding + width]


def conv_backward_weight(dw: Floats, dy: Floats, x: Floats, stride: int, padding: int) -> None:
    """dw[k,l,c,o] = sum_{n,i,j} x[n, si+k-p, sj+l-p, c] dy[n,i,j,o].

    dw (K,K,Ci,Co), dy (N,Ho,Wo,Co), x (N,H,W,Ci).
    """
    p = surrounded(x, padding)
    for k, m in np.ndindex(*dw.shape[:2]):
        dw[k, m] = np.tensordot(_tap(p, k, m, stride, dy), dy, axes=([0, 1, 2], [0, 1, 2]))


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

    Zeros surround the activation, not x. Where `affine` is None, x is taken as it is: the image.
    Where `mean` and `variance` are None, nobody wants statistics: the convolution has a bias, which
    is a part of the map that its reader applies.
    y (N,Ho,Wo,Co), mean, variance float64 (Co,), x (N,H,W,Ci), affine (6,Ci), w (K,K,Ci,Co).
    """
    conv_forward(y, _activation(x, affine), w, stride, padding)
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

    What is None: affine_backward (and y), where dz_next is the gradient of y already, as it is
    before a bias; dw, where the weights are frozen; dz (and dgamma, dbeta), where nobody wants the
    input's gradient: the image. Where `affine` is None, x is an activation, and dz its gradient.
    dz, x (N,H,W,Ci), dw, w (K,K,Ci,Co), dgamma, dbeta (Ci,), dz_next, y (N,Ho,Wo,Co),
    affine_backward (3,Co), affine (6,Ci).
    """
    dy = dz_next
    if affine_backward is not None and y is not None:
        dy = np.empty_like(y)
        batchnorm_backward(dy, dz_next, y, *affine_backward)
    if dw is not None:
        conv_backward_weight(dw, dy, _activation(x, affine), stride, padding)
    if dz is not None:
        conv_backward_input(dz, dy, w, stride, padding)
        if affine is not None and dgamma is not None and dbeta is not None:
            activation_backward(dz, dgamma, dbeta, dz, x, affine)


def surrounded(x: Floats, padding: int) -> Floats:
    """x with so many pixels of zeros around each map: (N,H+2p,W+2p,C)."""
    return np.pad(x, ((0, 0), (padding, padding), (padding, padding), (0, 0)))


def _activation(x: Floats, affine: Floats | None) -> Floats:
    if affine is None:
        return x
    a = np.empty_like(x)
    activation_forward(a, x, affine)
    return a


def _tap(p: Floats, k: int, m: int, stride: int, y: Floats) -> Floats:
    """The view of the padded map p that weight [k,m] meets, one pixel for each output."""
    _, ho, wo, _ = y.shape
    return p[:, k : k + stride * (ho - 1) + 1 : stride, m : m + stride * (wo - 1) + 1 : stride]
