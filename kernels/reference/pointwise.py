"""Pointwise (1x1) convolution: a matrix product over channels, the same at every pixel."""

from npnet.kernels.arrays import Floats


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
