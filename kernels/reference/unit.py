"""A convolution between two batch norms: what the network runs, composed of the plain kernels.

Between two convolutions lie batch norm and ReLU6. Neither is worth a pass over memory of its own:

    forward     the input x comes as it left the convolution before, with `norm` (6,C), which makes
                it an activation (see kernels/arrays.py); the output y leaves with its statistics
    backward    the gradient dv of v = scale*y + shift comes with p, q, r, which make it the
                gradient of y; the gradient dz of z = scale*x + shift leaves with its two sums

Here every step makes its array. The compiled twins run the same steps tile by tile in the cache.
"""

import numpy as np

from npnet.kernels.arrays import HIGH, LOW, MEAN, RSTD, SCALE, SHIFT, Floats
from npnet.kernels.reference.batchnorm import (
    affine_forward,
    batchnorm_backward,
    batchnorm_backward_sums,
    batchnorm_statistics,
)
from npnet.kernels.reference.depthwise import (
    depthwise3x3_backward_input,
    depthwise3x3_backward_weight,
    depthwise3x3_forward,
)
from npnet.kernels.reference.pointwise import (
    pointwise_backward_input,
    pointwise_backward_weight,
    pointwise_forward,
)
from npnet.kernels.reference.stem import stem3x3_backward_weight, stem3x3_forward


def activation_forward(a: Floats, x: Floats, norm: Floats) -> None:
    """a = clip(scale*x + shift, low, high).   a, x (N,H,W,C), norm (6,C)."""
    affine_forward(a, x, norm[SCALE], norm[SHIFT])
    np.clip(a, norm[LOW], norm[HIGH], out=a)


def activation_backward(
    dz: Floats, dgamma: Floats, dbeta: Floats, da: Floats, x: Floats, norm: Floats
) -> None:
    """dz = da where low < z < high, else 0, z = scale*x + shift; and the gradients it carries.

    dbeta = sum dz, dgamma = sum dz*(x-mean)*rstd over the batch. In place over da allowed.
    dz, da, x (N,H,W,C), dgamma, dbeta (C,), norm (6,C).
    """
    z = np.empty_like(x)
    affine_forward(z, x, norm[SCALE], norm[SHIFT])
    dz[...] = np.where((z > norm[LOW]) & (z < norm[HIGH]), da, 0)
    batchnorm_backward_sums(dgamma, dbeta, dz, x, norm[MEAN], norm[RSTD])


def stem3x3_unit_forward(y: Floats, mean: Floats, variance: Floats, x: Floats, w: Floats) -> None:
    """stem3x3_forward, then batchnorm_statistics.

    y (N,Ho,Wo,Co), mean, variance float64 (Co,), x (N,H,W,3), w (3,3,3,Co).
    """
    stem3x3_forward(y, x, w)
    batchnorm_statistics(mean, variance, y)


def stem3x3_unit_backward(dw: Floats, dv: Floats, y: Floats, pqr: Floats, x: Floats) -> None:
    """dy = p*dv + q*y + r, then stem3x3_backward_weight.

    dw (3,3,3,Co), dv, y (N,Ho,Wo,Co), pqr (3,Co), x (N,H,W,3).
    """
    dy = np.empty_like(y)
    batchnorm_backward(dy, dv, y, *pqr)
    stem3x3_backward_weight(dw, dy, x)


def pointwise_unit_forward(
    y: Floats, mean: Floats, variance: Floats, x: Floats, norm: Floats, w: Floats
) -> None:
    """activation_forward, pointwise_forward, batchnorm_statistics.

    y (N,H,W,Co), mean, variance float64 (Co,), x (N,H,W,Ci), norm (6,Ci), w (Ci,Co).
    """
    a = np.empty_like(x)
    activation_forward(a, x, norm)
    pointwise_forward(y, a, w)
    batchnorm_statistics(mean, variance, y)


def pointwise_unit_backward(
    dz: Floats,
    dw: Floats,
    dgamma: Floats,
    dbeta: Floats,
    dv: Floats,
    y: Floats,
    pqr: Floats,
    x: Floats,
    norm: Floats,
    w: Floats,
) -> None:
    """dy = p*dv + q*y + r, pointwise_backward_*, activation_backward.

    dz, x (N,H,W,Ci), dw, w (Ci,Co), dgamma, dbeta (Ci,), dv, y (N,H,W,Co), pqr (3,Co), norm (6,Ci).
    """
    dy, a = np.empty_like(y), np.empty_like(x)
    batchnorm_backward(dy, dv, y, *pqr)
    activation_forward(a, x, norm)
    pointwise_backward_weight(dw, dy, a)
    pointwise_backward_input(dz, dy, w)
    activation_backward(dz, dgamma, dbeta, dz, x, norm)


def depthwise3x3_unit_forward(
    y: Floats, mean: Floats, variance: Floats, x: Floats, norm: Floats, w: Floats, stride: int
) -> None:
    """activation_forward, depthwise3x3_forward, batchnorm_statistics.

    y (N,Ho,Wo,C), mean, variance float64 (C,), x (N,H,W,C), norm (6,C), w (3,3,C).
    """
    a = np.empty_like(x)
    activation_forward(a, x, norm)
    depthwise3x3_forward(y, a, w, stride)
    batchnorm_statistics(mean, variance, y)


def depthwise3x3_unit_backward(
    dz: Floats,
    dw: Floats,
    dgamma: Floats,
    dbeta: Floats,
    dv: Floats,
    y: Floats,
    pqr: Floats,
    x: Floats,
    norm: Floats,
    w: Floats,
    stride: int,
) -> None:
    """dy = p*dv + q*y + r, depthwise3x3_backward_*, activation_backward.

    dz, x (N,H,W,C), dw, w (3,3,C), dgamma, dbeta (C,), dv, y (N,Ho,Wo,C), pqr (3,C), norm (6,C).
    """
    dy, a = np.empty_like(y), np.empty_like(x)
    batchnorm_backward(dy, dv, y, *pqr)
    activation_forward(a, x, norm)
    depthwise3x3_backward_weight(dw, dy, a, stride)
    depthwise3x3_backward_input(dz, dy, w, stride)
    activation_backward(dz, dgamma, dbeta, dz, x, norm)
