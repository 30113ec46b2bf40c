"""A convolution between two batch norms, tile by tile. reference/unit.py tells the mathematics.

A tile is so many pixels that input, gradient and output fit the second-level cache. In it a kernel
makes the activation of the pixels, multiplies, and adds up what batch norm wants to know, so every
large array is read or written once a kernel.
"""

import numpy as np

from npnet.kernels.arrays import Floats
from npnet.kernels.jit.block import multiply, multiply_accumulate
from npnet.kernels.jit.options import inline, kernel
from npnet.kernels.jit.target import TARGET
from npnet.kernels.jit.tiles import (
    activate,
    add_statistics,
    deactivate,
    finish_backward,
    finish_statistics,
    matrix,
    through_batchnorm,
)


@inline
def tile_rows(channels: int, itemsize: int) -> int:
    """Pixels in a tile that holds `channels` numbers a pixel, a multiple of 8."""
    rows = min(TARGET.tile_rows, TARGET.tile_bytes // (channels * itemsize))
    return max(8, rows - rows % 8)


@kernel
def activation_forward(a: Floats, x: Floats, norm: Floats) -> None:
    """As reference.activation_forward."""
    activate(matrix(a), matrix(x), norm)


@kernel
def activation_backward(
    dz: Floats, dgamma: Floats, dbeta: Floats, da: Floats, x: Floats, norm: Floats
) -> None:
    """As reference.activation_backward."""
    gradients, inputs = matrix(dz), matrix(x)
    pixels, channels = inputs.shape
    rows = tile_rows(2 * channels, x.itemsize)
    sums = np.zeros((2, channels), np.float64)
    if dz is not da:
        gradients[:] = matrix(da)
    for start in range(0, pixels, rows):
        tile = slice(start, min(start + rows, pixels))
        deactivate(gradients[tile], sums, inputs[tile], norm)
    finish_backward(dgamma, dbeta, sums, norm)


@kernel
def pointwise_unit_forward(
    y: Floats, mean: Floats, variance: Floats, x: Floats, norm: Floats, w: Floats
) -> None:
    """As reference.pointwise_unit_forward."""
    inputs, outputs = matrix(x), matrix(y)
    pixels, (ci, co) = len(inputs), w.shape
    rows = tile_rows(ci + co, x.itemsize)
    active = np.empty((rows, ci), x.dtype)
    sums = np.zeros((2, co), np.float64)
    for start in range(0, pixels, rows):
        stop = min(start + rows, pixels)
        tile, a = slice(start, stop), active[: stop - start]
        activate(a, inputs[tile], norm)
        multiply(outputs[tile], a, w)
        add_statistics(sums, outputs[tile], outputs[:1])
    finish_statistics(mean, variance, sums, outputs[:1], pixels)


@kernel
def pointwise_unit_backward(
    dz: Floats,
    dw: Floats,
    dgamma: Floats,
    dbeta: Floats,
    dv: Floats,
    y: Floats,
    pqr: Floats,
    x: Floats,
    norm: Floats,
    w: Floats,
) -> None:
    """As reference.pointwise_unit_backward: both products while dy is in the cache."""
    inputs, outputs, din, dout = matrix(x), matrix(y), matrix(dz), matrix(dv)
    pixels, (ci, co) = len(inputs), w.shape
    rows = tile_rows(ci + co, x.itemsize)
    active, gradient = np.empty((rows, ci), x.dtype), np.empty((rows, co), x.dtype)
    turned = w.T.copy()
    sums = np.zeros((2, ci), np.float64)
    dw[:] = 0
    for start in range(0, pixels, rows):
        stop = min(start + rows, pixels)
        tile, a, dy = slice(start, stop), active[: stop - start], gradient[: stop - start]
        through_batchnorm(dy, dout[tile], outputs[tile], pqr)
        activate(a, inputs[tile], norm)
        multiply_accumulate(dw, a.T, dy)
        multiply(din[tile], dy, turned)
        deactivate(din[tile], sums, inputs[tile], norm)
    finish_backward(dgamma, dbeta, sums, norm)


@kernel
def stem3x3_unit_forward(y: Floats, mean: Floats, variance: Floats, x: Floats, w: Floats) -> None:
    """As reference.stem3x3_unit_forward: a matrix product over the 27 inputs of a pixel."""
    n_images, ho, wo, co = y.shape
    outputs, weights = matrix(y), w.reshape(-1, co)
    patches = np.zeros((wo, len(weights)), x.dtype)
    sums = np.zeros((2, co), np.float64)
    for n in range(n_images):
        for i in range(ho):
            row = slice((n * ho + i) * wo, (n * ho + i + 1) * wo)
            gather(patches, x[n], i)
            multiply(outputs[row], patches, weights)
            add_statistics(sums, outputs[row], outputs[:1])
    finish_statistics(mean, variance, sums, outputs[:1], len(outputs))


@kernel
def stem3x3_unit_backward(dw: Floats, dv: Floats, y: Floats, pqr: Floats, x: Floats) -> None:
    """As reference.stem3x3_unit_backward."""
    n_images, ho, wo, co = y.shape
    outputs, dout, dweights = matrix(y), matrix(dv), dw.reshape(-1, co)
    patches, dy = np.zeros((wo, len(dweights)), x.dtype), np.empty((wo, co), x.dtype)
    dw[:] = 0
    for n in range(n_images):
        for i in range(ho):
            row = slice((n * ho + i) * wo, (n * ho + i + 1) * wo)
            gather(patches, x[n], i)
            through_batchnorm(dy, dout[row], outputs[row], pqr)
            multiply_accumulate(dweights, patches.T, dy)


@inline
def gather(patches: Floats, image: Floats, i: int) -> None:
    """patches[j] = the 3x3 pixels that output pixel (i,j) of stride 2 sees.   patches (Wo,9*C)."""
    h, width, channels = image.shape
    across = 3 * channels
    for k in range(3):
        row = 2 * i + k - 1
        for j in range(len(patches)):
            left, patch = 2 * j - 1, patches[j]
            for m in range(3):
                there = 0 <= row < h and 0 <= left + m < width
                for c in range(channels):
                    value = image[row, left + m, c] if there else image.dtype.type(0)
                    patch[k * across + m * channels + c] = value
