"""What acts on each element of an activation on its way to the next layer: a sum, dropout."""

from npnet.kernels.arrays import Bytes, Floats
from npnet.kernels.reference.activation import (
    activated,
    activation_backward,
    dropout_backward,
    dropout_forward,
    residual_forward,
)


def activation_add_forward(
    y: Floats, x1: Floats, affine1: Floats, x2: Floats, affine2: Floats
) -> None:
    """activation_forward of both, residual_forward: y = clip(z1) + clip(z2), z = scale*x + shift.

    y is an activation. The gradient of either term is that of y, which activation_backward takes.
    y, x1, x2 (N,H,W,C), affine1, affine2 (6,C).
    """
    residual_forward(y, activated(x1, affine1), activated(x2, affine2))


def activation_dropout_forward(
    y: Floats, x: Floats, affine: Floats, keep: Bytes, rate: float
) -> None:
    """activation_forward, dropout_forward of every element: y = clip(z)*keep/(1-rate).

    y, x (N,H,W,C), affine (6,C), keep uint8 (N,H,W,C) of zeros and ones, 0 <= rate < 1.
    """
    dropout_forward(y, activated(x, affine), keep, rate)


def activation_dropout_backward(
    dz: Floats,
    dgamma: Floats,
    dbeta: Floats,
    dy: Floats,
    keep: Bytes,
    x: Floats,
    affine: Floats,
    rate: float,
) -> None:
    """dropout_backward, activation_backward.

    dz, dy, x (N,H,W,C), dgamma, dbeta (C,), keep uint8 (N,H,W,C), affine (6,C).
    """
    dropout_backward(dz, dy, keep, rate)
    activation_backward(dz, dgamma, dbeta, dz, x, affine)
