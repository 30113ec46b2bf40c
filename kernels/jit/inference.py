"""Inference, a block a kernel and an image at a time. reference/inference.py tells the mathematics.

Between the convolutions of a block lie some rows of one image, which stay in the second-level
cache: rows are expanded a band at a time, filtered from a ring of three, and the image's filtered
pixels are projected in one product.
"""

import numpy as np

from npnet.kernels.arrays import HIGH, LOW, SCALE, SHIFT, Floats
from npnet.kernels.jit.activation import add
from npnet.kernels.jit.block import multiply, multiply_accumulate
from npnet.kernels.jit.depthwise import Nine, Row, activate_row, new_ring, nine, slots, window
from npnet.kernels.jit.expand import band_rows
from npnet.kernels.jit.options import inline, kernel
from npnet.kernels.jit.pooling import average
from npnet.kernels.jit.stem import new_bands, stem_row
from npnet.kernels.jit.tiles import activate, affine_vector, scratch, tile_rows
from npnet.kernels.jit.vector import (
    clip,
    lanes,
    load,
    matrix,
    store,
)


@kernel
def stem3x3_inference(y: Floats, x: Floats, w: Floats, b: Floats) -> None:
    """As reference.stem3x3_inference."""
    n_images, ho, wo, co = y.shape
    _, h, width, channels = x.shape
    images, outputs, weights = x.reshape(n_images, h, -1), matrix(y), w.reshape(3, -1, co)
    bands, affine = new_bands(width, channels, x), bias(b, 0, 6)
    for n in range(n_images):
        image = outputs[n * ho * wo : (n + 1) * ho * wo]
        for i in range(ho):
            stem_row(image[i * wo : (i + 1) * wo], bands, images[n], 2 * i - 1, weights)
        activate(image, image, affine)  # a row alone would be read while it is still being stored


@kernel
def separable_inference(
    y: Floats,
    x: Floats,
    w2: Floats,
    b2: Floats,
    w3: Floats,
    b3: Floats,
    stride: int,
    shortcut: bool,
) -> None:
    """As reference.separable_inference."""
    n_images, h, width, channels = x.shape
    _, ho, wo, _ = y.shape
    inputs, outputs, taps = matrix(x), matrix(y), w2.reshape(9, channels)
    ring, filtered = new_ring(width + 2, inputs), scratch(ho * wo, channels, x)
    as_it_is, affine2 = bias(np.zeros(channels, x.dtype), -np.inf, np.inf), bias(b2, 0, 6)
    for n in range(n_images):
        ready = 0
        for i in range(ho):
            while ready < min(stride * i + 2, h):
                activate_row(ring, ready, inputs, ((n * h + ready) * width, width), as_it_is)
                ready += 1
            middle = stride * i, h, width + 2
            filter_row_relu6(filtered, (i * wo, wo), ring, middle, taps, affine2, stride)
        project(outputs[n * ho * wo : (n + 1) * ho * wo], filtered, w3, b3)
    if shortcut:
        add(y, y, x)


@kernel
def inverted_residual_inference(
    y: Floats,
    x: Floats,
    w1: Floats,
    b1: Floats,
    w2: Floats,
    b2: Floats,
    w3: Floats,
    b3: Floats,
    stride: int,
    shortcut: bool,
) -> None:
    """As reference.inverted_residual_inference."""
    n_images, h, width, _ = x.shape
    (_, ho, wo, _), channels = y.shape, len(b1)
    inputs, outputs, taps = matrix(x), matrix(y), w2.reshape(9, channels)
    band = band_rows(h, width)
    filtered, expanded = scratch(ho * wo, channels, x), scratch(band * width, channels, x)
    ring, affine1, affine2 = new_ring(width + 2, expanded), bias(b1, 0, 6), bias(b2, 0, 6)
    for n in range(n_images):
        ready = 0
        for i in range(ho):
            while ready < min(stride * i + 2, h):
                if ready % band == 0:
                    first = (n * h + ready) * width
                    last = first + min(band, h - ready) * width
                    multiply(expanded[: last - first], inputs[first:last], w1)
                activate_row(ring, ready, expanded, (ready % band * width, width), affine1)
                ready += 1
            middle = stride * i, h, width + 2
            filter_row_relu6(filtered, (i * wo, wo), ring, middle, taps, affine2, stride)
        project(outputs[n * ho * wo : (n + 1) * ho * wo], filtered, w3, b3)
    if shortcut:
        add(y, y, x)


@kernel
def head_inference(features: Floats, x: Floats, w: Floats, b: Floats) -> None:
    """As reference.head_inference, as many images at a time as share the weights in the cache."""
    n_images, h, width, ci = x.shape
    inputs, pixels, co = matrix(x), h * width, len(b)
    together = max(1, tile_rows(ci + co, ci * co, x.itemsize) // pixels)
    maps, affine = scratch(together * pixels, co, x), bias(b, 0, 6)
    for first in range(0, n_images, together):
        y = features[first : min(first + together, n_images)]
        tile = maps[: len(y) * pixels]
        multiply(tile, inputs[first * pixels : first * pixels + len(tile)], w)
        average(y, tile, affine)


@inline
def project(y: Floats, a: Floats, w: Floats, b: Floats) -> None:
    """y = a w + b.   y (pixels,Co), a (pixels,C), w (C,Co), b (Co,)."""
    columns, step, biases = len(b), lanes(y), b.reshape(1, -1)
    tail = columns % step
    for c in range(0, columns - tail, step):
        fill(y, biases, c, None)
    if tail > 0:
        fill(y, biases, columns - tail, tail)
    multiply_accumulate(y, a, w)


@inline
def fill(y: Floats, b: Floats, c: int, tail: int | None) -> None:
    """A vector of b (1,C) into every row of y."""
    value = load(b, 0, c, tail)
    for i in range(len(y)):
        store(y, i, c, value, tail)


@inline
def bias(b: Floats, low: float, high: float) -> Floats:
    """The `affine` (6,C) of clip(x + b, low, high), see kernels/arrays.py."""
    affine = np.zeros((6, len(b)), b.dtype)
    for c in range(len(b)):
        affine[SCALE, c], affine[SHIFT, c], affine[LOW, c], affine[HIGH, c] = 1, b[c], low, high
    return affine


@inline
def filter_row_relu6(
    y: Floats,
    row: Row,
    ring: Floats,
    middle: tuple[int, int, int],
    taps: Floats,
    affine: Floats,
    stride: int,
) -> None:
    """As depthwise's filter_row, but clip(filter + shift, low, high)."""
    channels, step, (i, h, span) = y.shape[1], lanes(y), middle
    for c in range(0, channels, step):
        rows = slots(i, h, span, c // step * 4 * span)
        if c + step > channels:
            tail = channels - c
            filter_vector_relu6(y, row, ring, rows, nine(taps, c, tail), affine, stride, c, tail)
        elif stride == 1:
            filter_vector_relu6(y, row, ring, rows, nine(taps, c, None), affine, 1, c, None)
        else:
            filter_vector_relu6(y, row, ring, rows, nine(taps, c, None), affine, 2, c, None)


@inline
def filter_vector_relu6(
    y: Floats,
    row: Row,
    ring: Floats,
    rows: tuple[int, int, int],
    weights: Nine,
    affine: Floats,
    stride: int,
    c: int,
    tail: int | None,
) -> None:
    _, shift, low, high = affine_vector(affine, c, tail)
    first, outputs = row
    fours = outputs - outputs % 4
    for j in range(0, fours, 4):
        left, at = stride * j, first + j
        y0 = window(ring, rows, left, weights)
        y1 = window(ring, rows, left + stride, weights)
        y2 = window(ring, rows, left + 2 * stride, weights)
        y3 = window(ring, rows, left + 3 * stride, weights)
        store(y, at, c, clip(y0 + shift, low, high), tail)
        store(y, at + 1, c, clip(y1 + shift, low, high), tail)
        store(y, at + 2, c, clip(y2 + shift, low, high), tail)
        store(y, at + 3, c, clip(y3 + shift, low, high), tail)
    for j in range(fours, outputs):
        value = window(ring, rows, stride * j, weights)
        store(y, first + j, c, clip(value + shift, low, high), tail)
