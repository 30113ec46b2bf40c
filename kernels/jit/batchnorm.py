"""Batch normalisation: what is done once a channel. reference/batchnorm.py tells the mathematics.

The passes over pixels ride on the convolutions, see tiles.py.
"""

import numpy as np

from npnet.kernels.arrays import MEAN, RSTD, SCALE, SHIFT, Floats
from npnet.kernels.jit.options import kernel


@kernel
def batchnorm_track(
    running_mean: Floats,
    running_variance: Floats,
    mean: Floats,
    variance: Floats,
    momentum: float,
    samples: int,
) -> None:
    """As reference.batchnorm_track."""
    unbiased = samples / max(samples - 1, 1)
    for c in range(len(mean)):
        running_mean[c] = momentum * running_mean[c] + (1 - momentum) * mean[c]
        tracked = unbiased * variance[c]
        running_variance[c] = momentum * running_variance[c] + (1 - momentum) * tracked


@kernel
def batchnorm_fold(
    affine: Floats, mean: Floats, variance: Floats, gamma: Floats, beta: Floats, epsilon: float
) -> None:
    """As reference.batchnorm_fold."""
    for c in range(len(mean)):
        rstd = 1 / np.sqrt(variance[c] + epsilon)
        scale = gamma[c] * rstd
        affine[MEAN, c], affine[RSTD, c] = mean[c], rstd
        affine[SCALE, c], affine[SHIFT, c] = scale, beta[c] - scale * mean[c]


@kernel
def batchnorm_fold_backward(
    affine_backward: Floats, affine: Floats, dgamma: Floats, dbeta: Floats, samples: float
) -> None:
    """As reference.batchnorm_fold_backward."""
    for c in range(len(dgamma)):
        p, share = affine[SCALE, c], 1 / samples
        q = -p * affine[RSTD, c] * dgamma[c] * share
        affine_backward[0, c], affine_backward[1, c], affine_backward[2, c] = (
            p,
            q,
            -p * dbeta[c] * share - q * affine[MEAN, c],
        )
