"""What acts on each element: ReLU6, the residual sum, dropout."""

import numpy as np

from npnet.kernels.arrays import Bytes, Floats


def relu6_forward(y: Floats, x: Floats) -> None:
    """y = min(max(x, 0), 6), a NaN stays a NaN; in place allowed.   y, x (N,H,W,C)."""
    np.clip(x, 0, 6, out=y)


def relu6_backward(dx: Floats, dy: Floats, x: Floats) -> None:
    """dx = dy where 0 < x < 6, else 0; in place over dy allowed.   dx, dy, x (N,H,W,C).

    Works with the activation y in place of x: the two lie strictly between 0 and 6 together.
    """
    dx[...] = np.where((x > 0) & (x < 6), dy, 0)


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
