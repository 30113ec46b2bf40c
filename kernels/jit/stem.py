"""The stem with the batch norm behind it: an image's rows as matrix products.

reference/stem.py tells the mathematics. Three rows of the image lie in bands of zeros, so that no
window of the filter is cut; each filter row is then one product of a view of its band.
"""

import numpy as np
from numpy.lib.stride_tricks import as_strided

from npnet.kernels.arrays import Floats
from npnet.kernels.jit.block import multiply_accumulate, multiply_stream
from npnet.kernels.jit.options import inline, kernel
from npnet.kernels.jit.tiles import (
    add_statistics,
    copy,
    finish_statistics,
    scratch,
    set_origin,
    set_zero,
    through_batchnorm,
)
from npnet.kernels.jit.vector import lanes, matrix, prefetch


@kernel
def stem3x3_stats_forward(y: Floats, mean: Floats, variance: Floats, x: Floats, w: Floats) -> None:
    """As reference.stem3x3_stats_forward, a row at a time as a matrix product."""
    n_images, ho, wo, co = y.shape
    _, h, width, channels = x.shape
    images, outputs, weights = x.reshape(n_images, h, -1), matrix(y), w.reshape(3, -1, co)
    bands = new_bands(width, channels, x)
    sums, origin = np.zeros((2, co), np.float64), np.empty((1, co), x.dtype)
    for n in range(n_images):
        for i in range(ho):
            row = slice((n * ho + i) * wo, (n * ho + i + 1) * wo)
            stem_row(outputs[row], bands, images[n], 2 * i - 1, weights)
            if n == 0 and i == 0:
                set_origin(origin, outputs[row])
            add_statistics(sums, outputs[row], origin)
    finish_statistics(mean, variance, sums, origin, len(outputs))


@kernel
def stem3x3_stats_backward(
    dw: Floats, dz_next: Floats, y: Floats, affine_backward: Floats, x: Floats
) -> None:
    """As reference.stem3x3_stats_backward."""
    n_images, ho, wo, co = y.shape
    _, h, width, channels = x.shape
    images, outputs, dout = x.reshape(n_images, h, -1), matrix(y), matrix(dz_next)
    dweights = dw.reshape(3, -1, co)
    bands = new_bands(width, channels, x)
    dy = scratch(wo, co, x)
    dw[:] = 0
    for n in range(n_images):
        for i in range(ho):
            row = slice((n * ho + i) * wo, (n * ho + i + 1) * wo)
            fill_bands(bands, images[n], 2 * i - 1)
            through_batchnorm(dy, dout[row], outputs[row], affine_backward)
            for k in range(3):
                multiply_accumulate(dweights[k], windows(bands[k], wo, channels).T, dy)


@inline
def stem_row(y: Floats, bands: Floats, image: Floats, top: int, weights: Floats) -> None:
    """A row of outputs from three rows of an image, `top` and below: a sum of three products.

    y (Wo,Co), bands as new_bands makes them, image (H,W*C), weights (3,3*C,Co).
    """
    wo, channels = len(y), weights.shape[1] // 3
    fill_bands(bands, image, top)
    a0, a1, a2 = bands[0], bands[1], bands[2]
    rows = windows(a0, wo, channels), windows(a1, wo, channels), windows(a2, wo, channels)
    multiply_stream(y, rows, (weights[0], weights[1], weights[2]), (y,))


@inline
def new_bands(width: int, channels: int, like: Floats) -> Floats:
    """Zeros for three rows of an image, each from place margin(like) on."""
    step = lanes(like)
    bands = scratch(3, margin(like) + (width + 1) * channels + step - 1 & -step, like)
    set_zero(bands)
    return bands


@inline
def margin(like: Floats) -> int:
    """The place where a row begins: aligned, and with room for the pixel left of it, three colours.

    That is more than a register of two doubles.
    """
    place: int = max(lanes(like), 4)
    return place


@inline
def fill_bands(bands: Floats, image: Floats, top: int) -> None:
    """Rows `top` to top+2 of an image (H,W*C); zeros outside of it."""
    (height, length), start, step = image.shape, margin(image), lanes(image)
    inside = slice(max(0, -top), min(3, height - top))
    for k in range(3, 5):  # what is new in the next three
        for c in range(0, length, step):
            prefetch(image, top + k, c)
    set_zero(bands[: inside.start])
    set_zero(bands[inside.stop :])
    copy(bands[inside, start : start + length], image[top + inside.start : top + inside.stop])


@inline
def windows(band: Floats, wo: int, channels: int) -> Floats:
    """The three pixels that each output of stride 2 sees in a row: a view (Wo,3*C)."""
    size, first = band.itemsize, margin(band) - channels
    return as_strided(band[first:], (wo, 3 * channels), (2 * channels * size, size))
