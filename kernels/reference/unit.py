"""A convolution between two batch norms: what the network runs, composed of the plain kernels.

Between two convolutions lie batch norm and ReLU6. Neither is worth a pass over memory of its own:

    forward     the input x comes as it left the convolution before, with `affine` (6,C), which makes
                it an activation (see kernels/arrays.py); the output y leaves with its statistics
    backward    the gradient dz_next of v = scale*y + shift comes with p, q, r, which make it the
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


def activation_forward(a: Floats, x: Floats, affine: Floats) -> None:
    """a = clip(scale*x + shift, low, high).   a, x (N,H,W,C), affine (6,C)."""
    affine_forward(a, x, affine[SCALE], affine[SHIFT])
    np.clip(a, affine[LOW], affine[HIGH], out=a)


def activation_backward(
    dz: Floats, dgamma: Floats, dbeta: Floats, da: Floats, x: Floats, affine: Floats
) -> None:
    """dz = da where low < z < high, else 0, z = scale*x + shift; and the gradients it carries.

    dbeta = sum dz, dgamma = sum dz*(x-mean)*rstd over the batch. In place over da allowed.
    dz, da, x (N,H,W,C), dgamma, dbeta (C,), affine (6,C).
    """
    z = np.empty_like(x)
    affine_forward(z, x, affine[SCALE], affine[SHIFT])
    dz[...] = np.where((z > affine[LOW]) & (z < affine[HIGH]), da, 0)
    batchnorm_backward_sums(dgamma, dbeta, dz, x, affine[MEAN], affine[RSTD])


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


def activation_pointwise_stats_forward(
    y: Floats, mean: Floats, variance: Floats, x: Floats, affine: Floats, w: Floats
) -> None:
    """activation_forward, pointwise_forward, batchnorm_statistics.

    y (N,H,W,Co), mean, variance float64 (Co,), x (N,H,W,Ci), affine (6,Ci), w (Ci,Co).
    """
    a = np.empty_like(x)
    activation_forward(a, x, affine)
    pointwise_forward(y, a, w)
    batchnorm_statistics(mean, variance, y)


def activation_pointwise_stats_backward(
    dz: Floats,
    dw: Floats,
    dgamma: Floats,
    dbeta: Floats,
    dz_next: Floats,
    y: Floats,
    affine_backward: Floats,
    x: Floats,
    affine: Floats,
    w: Floats,
) -> None:
    """dy = p*dz_next + q*y + r, pointwise_backward_*, activation_backward.

    dz, x (N,H,W,Ci), dw, w (Ci,Co), dgamma, dbeta (Ci,), dz_next, y (N,H,W,Co), affine_backward (3,Co), affine (6,Ci).
    """
    dy, a = np.empty_like(y), np.empty_like(x)
    batchnorm_backward(dy, dz_next, y, *affine_backward)
    activation_forward(a, x, affine)
    pointwise_backward_weight(dw, dy, a)
    pointwise_backward_input(dz, dy, w)
    activation_backward(dz, dgamma, dbeta, dz, x, affine)


def activation_depthwise3x3_stats_forward(
    y: Floats, mean: Floats, variance: Floats, x: Floats, affine: Floats, w: Floats, stride: int
) -> None:
    """activation_forward, depthwise3x3_forward, batchnorm_statistics.

    y (N,Ho,Wo,C), mean, variance float64 (C,), x (N,H,W,C), affine (6,C), w (3,3,C).
    """
    a = np.empty_like(x)
    activation_forward(a, x, affine)
    depthwise3x3_forward(y, a, w, stride)
    batchnorm_statistics(mean, variance, y)


def activation_depthwise3x3_stats_backward(
    dz: Floats,
    dw: Floats,
    dgamma: Floats,
    dbeta: Floats,
    dz_next: Floats,
    y: Floats,
    affine_backward: Floats,
    x: Floats,
    affine: Floats,
    w: Floats,
    stride: int,
) -> None:
    """dy = p*dz_next + q*y + r, depthwise3x3_backward_*, activation_backward.

    dz, x (N,H,W,C), dw, w (3,3,C), dgamma, dbeta (C,), dz_next, y (N,Ho,Wo,C), affine_backward (3,C), affine (6,C).
    """
    dy, a = np.empty_like(y), np.empty_like(x)
    batchnorm_backward(dy, dz_next, y, *affine_backward)
    activation_forward(a, x, affine)
    depthwise3x3_backward_weight(dw, dy, a, stride)
    depthwise3x3_backward_input(dz, dy, w, stride)
    activation_backward(dz, dgamma, dbeta, dz, x, affine)
