"""Expansion and depthwise filter of an inverted residual block, without the maps between them.

The expansion y1 = a w1, a = activation of x, has six times the channels of x, and so is the largest
array of a block. It need not be stored, nor its gradient:

    statistics   y1 is linear in a, so its mean and variance follow from mean and covariance of a,
                 which has few channels: mean = mean_in w1,
                 variance_o = sum_cd w1[c,o] covariance[c,d] w1[d,o]
    forward      a1 = clip(scale*y1 + shift, low, high) is made where the filter reads it
    backward     y1 is made again, and dz1, the gradient of scale*y1 + shift, goes through the
                 expansion where it is made: dy1 = p*dz1, as if mean and variance were constants.
                 What comes through those, q*y1 + r, is added once q and r are known, which takes
                 the sums of all dz1: to dw1 from mean_in and covariance alone, to da by one more
                 pass over a.
"""

import numpy as np

from npnet.kernels.arrays import SCALE, Floats
from npnet.kernels.reference.activation import activated, activation_backward
from npnet.kernels.reference.depthwise import (
    activation_depthwise3x3_stats_backward,
    activation_depthwise3x3_stats_forward,
)
from npnet.kernels.reference.pointwise import pointwise_backward_input, pointwise_backward_weight


def expand_stats_forward(
    mean: Floats,
    variance: Floats,
    mean_in: Floats,
    covariance: Floats,
    x: Floats,
    affine: Floats,
    w1: Floats,
) -> None:
    """Mean and variance of y1 = a w1 over the batch, and what of a they follow from.

    mean, variance float64 (Co,), mean_in float64 (Ci,), covariance float64 (Ci,Ci), x (N,H,W,Ci),
    affine (6,Ci), w1 (Ci,Co).
    """
    a = activated(x, affine).reshape(-1, len(w1)).astype(np.float64)
    mean_in[...] = a.mean(axis=0)
    centred = a - mean_in
    covariance[...] = centred.T @ centred / len(a)
    mean[...] = mean_in @ w1
    variance[...] = np.sum(w1 * (covariance @ w1), axis=0)


def expand_stats_backward_accumulate(
    dz: Floats | None,
    dw1: Floats | None,
    dgamma: Floats | None,
    dbeta: Floats | None,
    affine_backward: Floats,
    mean_in: Floats,
    covariance: Floats,
    x: Floats,
    affine: Floats,
    w1: Floats,
) -> None:
    """To da, which is in dz, and to dw1 add what q*y1 + r sends back; then activation_backward.

    With e = q*(mean_in w1) + r, the same at all pixels, and M pixels, both of this rank alone,
        da  += (a - mean_in) (w1 diag(q) w1^T) + e w1^T
        dw1 += M covariance w1 diag(q) + M mean_in e
    dz = dgamma = dbeta = None: the input's gradient is unused. dw1 = None: the weight is frozen.
    dz, x (N,H,W,Ci), dw1, w1 (Ci,Co), dgamma, dbeta (Ci,), affine_backward (3,Co), mean_in float64
    (Ci,), covariance float64 (Ci,Ci), affine (6,Ci).
    """
    _, q, r = affine_backward
    e = q * (mean_in @ w1) + r
    samples = x[..., 0].size
    if dw1 is not None:
        dw1 += samples * (covariance @ w1 * q + np.outer(mean_in, e))
    if dz is not None and dgamma is not None and dbeta is not None:
        dz += (activated(x, affine) - mean_in) @ (w1 * q @ w1.T) + w1 @ e
        activation_backward(dz, dgamma, dbeta, dz, x, affine)


def expand_depthwise3x3_stats_forward(
    y: Floats,
    mean: Floats,
    variance: Floats,
    x: Floats,
    affine: Floats,
    w1: Floats,
    affine1: Floats,
    w2: Floats,
    stride: int,
) -> None:
    """pointwise_forward to y1, then activation_depthwise3x3_stats_forward.

    y (N,Ho,Wo,Co), mean, variance float64 (Co,), x (N,H,W,Ci), affine (6,Ci), w1 (Ci,Co),
    affine1 (6,Co), w2 (3,3,Co).
    """
    y1 = activated(x, affine) @ w1
    activation_depthwise3x3_stats_forward(y, mean, variance, y1, affine1, w2, stride)


def expand_depthwise3x3_stats_backward(
    da: Floats | None,
    dw1: Floats | None,
    dw2: Floats | None,
    dgamma: Floats | None,
    dbeta: Floats | None,
    dz_next: Floats,
    y: Floats,
    affine_backward: Floats,
    x: Floats,
    affine: Floats,
    w1: Floats,
    affine1: Floats,
    w2: Floats,
    stride: int,
) -> None:
    """activation_depthwise3x3_stats_backward to dz1, dgamma, dbeta of the expansion; dy1 = p*dz1,
    p = scale; pointwise_backward_*.

    da = None: the input's gradient is unused. dw1, dw2 = None: the weight is frozen; da = dw1 =
    dgamma = dbeta = None: nothing of the expansion is trained, nor below it.
    da, x (N,H,W,Ci), dw1, w1 (Ci,Co), dw2, w2 (3,3,Co), dgamma, dbeta (Co,), dz_next, y
    (N,Ho,Wo,Co), affine_backward (3,Co), affine (6,Ci), affine1 (6,Co).
    """
    a = activated(x, affine)
    y1 = a @ w1
    dz1 = None if dgamma is None else np.empty_like(y1)
    activation_depthwise3x3_stats_backward(
        dz1, dw2, dgamma, dbeta, dz_next, y, affine_backward, y1, affine1, w2, stride
    )
    if dz1 is None:
        return
    dy1 = affine1[SCALE] * dz1
    if dw1 is not None:
        pointwise_backward_weight(dw1, dy1, a)
    if da is not None:
        pointwise_backward_input(da, dy1, w1)
