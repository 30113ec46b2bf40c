"""Pools: the largest of 3x3 windows that overlap, and the mean of a map, of an activation."""

import numpy as np

from npnet.kernels.arrays import Bytes, Floats
from npnet.kernels.reference.activation import activated, activation_backward
from npnet.kernels.reference.head import average_pool_backward, average_pool_forward


def max_pool3x3_forward(y: Floats, index: Bytes, x: Floats) -> None:
    """y[n,i,j,c] = max of x[n, 2i+k, 2j+l, c] over 0 <= k, l < 3, as far as the map goes.

    index = 3k+l of the first that is the largest; a NaN counts as that. Stride 2, no padding; at
    the lower and right border windows are cut, as torch.nn.MaxPool2d(3, 2, ceil_mode=True) does.
    y (N,Ho,Wo,C), index uint8 (N,Ho,Wo,C), x (N,H,W,C), Ho = max(H // 2, 1), Wo likewise.
    """
    _, height, width, _ = x.shape
    for i, j in np.ndindex(*y.shape[1:3]):
        k, m = min(3, height - 2 * i), min(3, width - 2 * j)
        window = x[:, 2 * i : 2 * i + k, 2 * j : 2 * j + m].reshape(len(x), k * m, -1)
        place = window.argmax(axis=1)  # in a window of m columns
        y[:, i, j] = np.take_along_axis(window, place[:, None], axis=1)[:, 0]
        index[:, i, j] = 3 * (place // m) + place % m


def max_pool3x3_backward(dx: Floats, dy: Floats, index: Bytes) -> None:
    """dx[n, 2i+k, 2j+l, c] = sum over the windows (i,j) whose index is 3k+l of dy[n,i,j,c].

    dx (N,H,W,C), dy, index uint8 (N,Ho,Wo,C).
    """
    dx[...] = 0
    for i, j in np.ndindex(*dy.shape[1:3]):
        for k, m in np.ndindex(*dx[0, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3, 0].shape):
            dx[:, 2 * i + k, 2 * j + m] += np.where(index[:, i, j] == 3 * k + m, dy[:, i, j], 0)


def activation_max_pool3x3_forward(
    y: Floats, index: Bytes, x: Floats, affine: Floats | None
) -> None:
    """activation_forward, max_pool3x3_forward: y is an activation, and needs no map.

    affine = None: x is an activation already.
    y (N,Ho,Wo,C), index uint8 (N,Ho,Wo,C), x (N,H,W,C), affine (6,C).
    """
    max_pool3x3_forward(y, index, activated(x, affine))


def activation_max_pool3x3_backward(
    dz: Floats,
    dgamma: Floats | None,
    dbeta: Floats | None,
    dy: Floats,
    index: Bytes,
    x: Floats,
    affine: Floats | None,
) -> None:
    """max_pool3x3_backward, activation_backward; only the first where `affine` is None.

    dz, x (N,H,W,C), dgamma, dbeta (C,), dy, index uint8 (N,Ho,Wo,C), affine (6,C).
    """
    max_pool3x3_backward(dz, dy, index)
    if affine is not None and dgamma is not None and dbeta is not None:
        activation_backward(dz, dgamma, dbeta, dz, x, affine)


def activation_average_pool_forward(y: Floats, x: Floats, affine: Floats) -> None:
    """activation_forward, average_pool_forward.   y (N,C), x (N,H,W,C), affine (6,C)."""
    average_pool_forward(y, activated(x, affine))


def activation_average_pool_backward(
    dz: Floats, dgamma: Floats, dbeta: Floats, dy: Floats, x: Floats, affine: Floats
) -> None:
    """average_pool_backward, activation_backward.

    dz, x (N,H,W,C), dgamma, dbeta (C,), dy (N,C), affine (6,C).
    """
    average_pool_backward(dz, dy)
    activation_backward(dz, dgamma, dbeta, dz, x, affine)
