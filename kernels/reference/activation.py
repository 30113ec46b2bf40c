"""What acts on each element: ReLU6, an affine map with it, the residual sum, dropout."""

import numpy as np

from npnet.kernels.arrays import HIGH, LOW, MEAN, RSTD, SCALE, SHIFT, Bytes, Floats
from npnet.kernels.reference.batchnorm import affine_forward, batchnorm_backward_sums


def relu6_forward(y: Floats, x: Floats) -> None:
    """y = min(max(x, 0), 6), a NaN stays a NaN; in place allowed.   y, x (N,H,W,C)."""
    np.clip(x, 0, 6, out=y)


def relu6_backward(dx: Floats, dy: Floats, x: Floats) -> None:
    """dx = dy where 0 < x < 6, else 0; in place over dy allowed.   dx, dy, x (N,H,W,C).

    Works with the activation y in place of x: the two lie strictly between 0 and 6 together.
    """
    dx[...] = np.where((x > 0) & (x < 6), dy, 0)


def affine_relu6_forward(y: Floats, x: Floats, scale: Floats, shift: Floats) -> None:
    """y = relu6(scale*x + shift); in place allowed.   Shapes as in affine_forward."""
    affine_forward(y, x, scale, shift)
    relu6_forward(y, y)


def affine_relu6_backward_sums(
    dz: Floats,
    dgamma: Floats,
    dbeta: Floats,
    dy: Floats,
    x: Floats,
    mean: Floats,
    rstd: Floats,
    scale: Floats,
    shift: Floats,
) -> None:
    """Backward of relu6(z), z = scale*x + shift, then batchnorm_backward_sums of dz, in one pass.

    dz (N,H,W,C) = dy where 0 < z < 6, else 0; may be dy itself. The activation is recomputed
    from x, which saves reading it back. Other shapes as above; scale, shift (C,).
    """
    z = np.empty_like(x)
    affine_forward(z, x, scale, shift)
    relu6_backward(dz, dy, z)
    batchnorm_backward_sums(dgamma, dbeta, dz, x, mean, rstd)


def activation_forward(a: Floats, x: Floats, affine: Floats) -> None:
    """a = clip(scale*x + shift, low, high).   a, x (N,H,W,C), affine (6,C)."""
    affine_forward(a, x, affine[SCALE], affine[SHIFT])
    np.clip(a, affine[LOW], affine[HIGH], out=a)


def activated(x: Floats, affine: Floats | None) -> Floats:
    """The activation of x in a new array; x itself, if `affine` is None."""
    if affine is None:
        return x
    a = np.empty_like(x)
    activation_forward(a, x, affine)
    return a


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


def residual_forward(y: Floats, x: Floats, shortcut: Floats) -> None:
    """y = x + shortcut; in place allowed.   y, x, shortcut (N,H,W,C) (MobileNetV2, Figure 3)."""
    np.add(x, shortcut, out=y)


def residual_backward_accumulate(dshortcut: Floats, dy: Floats) -> None:
    """dshortcut += dy. The sum's other term, x, has the gradient dy itself.   Both (N,H,W,C)."""
    dshortcut += dy


def dropout_forward(y: Floats, x: Floats, keep: Bytes, rate: float) -> None:
    """y = x*keep/(1-rate), so that the expectation stays x (Srivastava et al. 2014, section 10).

    y, x (N,C), keep uint8 (N,C) of zeros and ones, 0 <= rate < 1. In place allowed.
    """
    y[...] = x * keep / (1 - rate)


def dropout_backward(dx: Floats, dy: Floats, keep: Bytes, rate: float) -> None:
    """dx = dy*keep/(1-rate); in place allowed.   dx, dy (N,C), keep uint8 (N,C)."""
    dx[...] = dy * keep / (1 - rate)
