"""Pointwise (1x1) convolution: a matrix product over channels, the same at every pixel."""

from npnet.kernels.arrays import Floats
from npnet.kernels.reference.activation import activated, activation_backward
from npnet.kernels.reference.batchnorm import batchnorm_statistics, through_batchnorm


def pointwise_forward(y: Floats, x: Floats, w: Floats) -> None:
    """y[n,i,j,o] = sum_c x[n,i,j,c] w[c,o].   y (N,H,W,Co), x (N,H,W,Ci), w (Ci,Co)."""
    y[...] = x @ w


def pointwise_backward_input(dx: Floats, dy: Floats, w: Floats) -> None:
    """dx = dy w^T.   dx (N,H,W,Ci), dy (N,H,W,Co), w (Ci,Co)."""
    dx[...] = dy @ w.T


def pointwise_backward_weight(dw: Floats, dy: Floats, x: Floats) -> None:
    """dw = x^T dy, summed over pixels.   dw (Ci,Co), dy (N,H,W,Co), x (N,H,W,Ci)."""
    ci, co = dw.shape
    dw[...] = x.reshape(-1, ci).T @ dy.reshape(-1, co)


def activation_pointwise_stats_forward(
    y: Floats,
    mean: Floats | None,
    variance: Floats | None,
    x: Floats,
    affine: Floats,
    w: Floats,
) -> None:
    """activation_forward, pointwise_forward, batchnorm_statistics.

    mean = variance = None: no batch norm follows, the statistics are unused.
    y (N,H,W,Co), mean, variance float64 (Co,), x (N,H,W,Ci), affine (6,Ci), w (Ci,Co). Maps and
    affine may be channel slices [..., a:b] of wider arrays.
    """
    pointwise_forward(y, activated(x, affine), w)
    if mean is not None and variance is not None:
        batchnorm_statistics(mean, variance, y)


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
    """dy = p*dz_next + q*y + r, pointwise_backward_*, activation_backward.

    affine_backward = None: no batch norm followed, dz_next is dy itself, and y may be None. dz =
    dgamma = dbeta = None: the input's gradient is unused. dw = None: the weight is frozen.
    dz, x (N,H,W,Ci), dw, w (Ci,Co), dgamma, dbeta (Ci,), dz_next, y (N,H,W,Co),
    affine_backward (3,Co), affine (6,Ci). Maps and affine maps may be channel
    slices.
    """
    dy = through_batchnorm(dz_next, y, affine_backward)
    if dw is not None:
        pointwise_backward_weight(dw, dy, activated(x, affine))
    if dz is not None and dgamma is not None and dbeta is not None:
        pointwise_backward_input(dz, dy, w)
        activation_backward(dz, dgamma, dbeta, dz, x, affine)
