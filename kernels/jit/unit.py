"""A convolution between two batch norms, tile by tile. reference/unit.py tells the mathematics.

A tile is so many pixels that input, gradient and output fit the second-level cache. In it a kernel
makes the activation of the pixels, multiplies, and adds up what batch norm wants to know, so every
large array is read or written once a kernel.
"""

import numpy as np
from numpy.lib.stride_tricks import as_strided

from npnet.kernels.arrays import Floats
from npnet.kernels.jit.block import multiply_accumulate, multiply_stream
from npnet.kernels.jit.options import inline, kernel
from npnet.kernels.jit.target import TARGET
from npnet.kernels.jit.tiles import (
    activate,
    add_statistics,
    copy,
    deactivate,
    finish_backward,
    finish_statistics,
    matrix,
    scratch,
    set_origin,
    set_zero,
    through_batchnorm,
)
from npnet.kernels.jit.vector import lanes, prefetch


@inline
def tile_rows(channels: int, itemsize: int) -> int:
    """Pixels in a tile that holds `channels` numbers a pixel, a multiple of 8."""
    rows = min(TARGET.tile_rows, TARGET.tile_bytes // (channels * itemsize))
    return max(8, rows - rows % 8)


@kernel
def activation_forward(a: Floats, x: Floats, affine: Floats) -> None:
    """As reference.activation_forward."""
    activate(matrix(a), matrix(x), affine)


@kernel
def activation_backward(
    dz: Floats, dgamma: Floats, dbeta: Floats, da: Floats, x: Floats, affine: Floats
) -> None:
    """As reference.activation_backward."""
    gradients, inputs = matrix(dz), matrix(x)
    pixels, channels = inputs.shape
    rows = tile_rows(2 * channels, x.itemsize)
    sums = np.zeros((2, channels), np.float64)
    if dz is not da:
        copy(gradients, matrix(da))
    for start in range(0, pixels, rows):
        tile = slice(start, min(start + rows, pixels))
        deactivate(gradients[tile], sums, inputs[tile], affine)
    finish_backward(dgamma, dbeta, sums, affine)


@kernel
def activation_pointwise_stats_forward(
    y: Floats, mean: Floats, variance: Floats, x: Floats, affine: Floats, w: Floats
) -> None:
    """As reference.activation_pointwise_stats_forward."""
    inputs, outputs = matrix(x), matrix(y)
    pixels, (ci, co) = len(inputs), w.shape
    rows = tile_rows(ci + co, x.itemsize)
    active = scratch(rows, ci, x)
    sums, origin = np.zeros((2, co), np.float64), np.empty((1, co), x.dtype)
    for start in range(0, pixels, rows):
        stop = min(start + rows, pixels)
        tile, a = slice(start, stop), active[: stop - start]
        activate(a, inputs[tile], affine)
        multiply_stream(outputs[tile], a, w, (inputs[tile],))
        if start == 0:
            set_origin(origin, outputs[tile])
        add_statistics(sums, outputs[tile], origin)
    finish_statistics(mean, variance, sums, origin, pixels)


@kernel
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
    """As reference.activation_pointwise_stats_backward: both products while dy is in the cache."""
    inputs, outputs, din, dout = matrix(x), matrix(y), matrix(dz), matrix(dz_next)
    pixels, (ci, co) = len(inputs), w.shape
    rows = tile_rows(ci + co, x.itemsize)
    active, gradient = scratch(rows, ci, x), scratch(rows, co, x)
    turned = scratch(co, ci, x)
    transpose(turned, w)
    sums = np.zeros((2, ci), np.float64)
    dw[:] = 0
    for start in range(0, pixels, rows):
        stop = min(start + rows, pixels)
        tile, a, dy = slice(start, stop), active[: stop - start], gradient[: stop - start]
        through_batchnorm(dy, dout[tile], outputs[tile], affine_backward)
        activate(a, inputs[tile], affine)
        multiply_accumulate(dw, a.T, dy)
        multiply_stream(din[tile], dy, turned, (inputs[tile], outputs[tile], dout[tile]))
        deactivate(din[tile], sums, inputs[tile], affine)
    finish_backward(dgamma, dbeta, sums, affine)


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
def transpose(out: Floats, w: Floats) -> None:
    """out = w^T, by a plain loop: Numba's own assignment takes a third longer."""
    for j in range(len(out)):
        for k in range(len(w)):
            out[j, k] = w[k, j]


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
    """Zeros for three rows of an image, each from place lanes(like) on, so that it is aligned."""
    step = lanes(like)
    bands = scratch(3, step + (width + 1) * channels + step - 1 & -step, like)
    set_zero(bands)
    return bands


@inline
def fill_bands(bands: Floats, image: Floats, top: int) -> None:
    """Rows `top` to top+2 of an image (H,W*C); zeros outside of it."""
    (height, length), start = image.shape, lanes(image)
    inside = slice(max(0, -top), min(3, height - top))
    for k in range(3, 5):  # what is new in the next three
        for c in range(0, length, start):
            prefetch(image, top + k, c)
    set_zero(bands[: inside.start])
    set_zero(bands[inside.stop :])
    copy(bands[inside, start : start + length], image[top + inside.start : top + inside.stop])


@inline
def windows(band: Floats, wo: int, channels: int) -> Floats:
    """The three pixels that each output of stride 2 sees in a row: a view (Wo,3*C)."""
    size, first = band.itemsize, lanes(band) - channels
    return as_strided(band[first:], (wo, 3 * channels), (2 * channels * size, size))
