"""Batch normalisation (Ioffe and Szegedy 2015, algorithm 1), in the pieces that can be fused.

    forward    statistics(x) -> mean, variance -> one affine map a channel: y = scale*x + shift
    backward   sums(dy, x)   -> dgamma, dbeta  -> one affine map a channel: dx = p*dy + q*x + r

Normalising is thus never more than a multiplication and an addition, in training and with running
statistics alike, and so is its backward pass. The vectors of either direction cost C operations.
"""

import numpy as np

from npnet.kernels.arrays import MEAN, RSTD, SCALE, SHIFT, Floats


def batchnorm_statistics(mean: Floats, variance: Floats, x: Floats) -> None:
    """Mean and biased variance of each channel over the batch, in float64.

    mean, variance float64 (C,), x (N,H,W,C).
    """
    x = x.astype(np.float64)
    mean[...] = x.mean(axis=(0, 1, 2))
    variance[...] = x.var(axis=(0, 1, 2))


def batchnorm_track(
    running_mean: Floats,
    running_variance: Floats,
    mean: Floats,
    variance: Floats,
    momentum: float,
    samples: int,
) -> None:
    """running = momentum*running + (1-momentum)*batch, for evaluation.   All (C,).

    The variance that is tracked is the unbiased one, M/(M-1) times the batch's own, as in PyTorch
    and Keras' fused batch norm; M = `samples`.
    """
    unbiased = samples / max(samples - 1, 1)
    running_mean[...] = momentum * running_mean + (1 - momentum) * mean
    running_variance[...] = momentum * running_variance + (1 - momentum) * unbiased * variance


def batchnorm_fold(
    affine: Floats, mean: Floats, variance: Floats, gamma: Floats, beta: Floats, epsilon: float
) -> None:
    """The map that normalises: rstd = 1/sqrt(variance+epsilon), scale = gamma*rstd,
    shift = beta - scale*mean.

    affine (6,C), of which the bounds stay as they are; mean, variance float64 (C,),
    gamma, beta (C,).
    """
    affine[MEAN], affine[RSTD] = mean, 1 / np.sqrt(variance + epsilon)
    affine[SCALE] = gamma / np.sqrt(variance + epsilon)
    affine[SHIFT] = beta - gamma / np.sqrt(variance + epsilon) * mean


def batchnorm_fold_backward(
    affine_backward: Floats, affine: Floats, dgamma: Floats, dbeta: Floats, samples: float
) -> None:
    """The map of the gradient, dy = p*dz_next + q*y + r (section 3, collected in y).

    p = scale, q = -p*rstd*dgamma/M, r = -p*dbeta/M - q*mean, M = `samples`; infinitely many where
    the statistics are frozen, as then no image changes them.   affine_backward (3,C), affine (6,C).
    """
    p, rstd = affine[SCALE], affine[RSTD]
    q = -p * rstd * dgamma / samples
    r = -p * dbeta / samples - q * affine[MEAN]
    affine_backward[0], affine_backward[1], affine_backward[2] = p, q, r


def affine_forward(y: Floats, x: Floats, scale: Floats, shift: Floats) -> None:
    """y = scale*x + shift for each channel; in place allowed.   y, x (N,H,W,C), scale, shift (C,).

    With scale = gamma/sqrt(variance+eps) and shift = beta - scale*mean this is batch norm.
    """
    y[...] = scale * x + shift


def batchnorm_backward_sums(
    dgamma: Floats, dbeta: Floats, dy: Floats, x: Floats, mean: Floats, rstd: Floats
) -> None:
    """The gradients of gamma and beta, which the gradient of x needs as well.

    dbeta = sum dy, dgamma = sum dy*(x-mean)*rstd over the batch.
    dgamma, dbeta (C,), dy, x (N,H,W,C), mean, rstd float64 (C,).
    """
    dbeta[...] = dy.sum(axis=(0, 1, 2), dtype=np.float64)
    dgamma[...] = np.sum(dy * (x - mean), axis=(0, 1, 2), dtype=np.float64) * rstd


def batchnorm_backward(dx: Floats, dy: Floats, x: Floats, p: Floats, q: Floats, r: Floats) -> None:
    """dx = p*dy + q*x + r for each channel; in place over dy allowed.

    dx, dy, x (N,H,W,C), p, q, r (C,). In training, with M = N*H*W,
    p = gamma*rstd, q = -p*rstd*dgamma/M, r = -p*dbeta/M - q*mean; with frozen statistics q = r = 0.
    """
    dx[...] = p * dy + q * x + r


def through_batchnorm(dz_next: Floats, y: Floats | None, affine_backward: Floats | None) -> Floats:
    """dy = p*dz_next + q*y + r in a new array; dz_next itself, if there was no batch norm (None).

    dz_next, y, dy (N,H,W,C), affine_backward (3,C).
    """
    if affine_backward is None or y is None:
        return dz_next
    dy = np.empty_like(y)
    batchnorm_backward(dy, dz_next, y, *affine_backward)
    return dy
