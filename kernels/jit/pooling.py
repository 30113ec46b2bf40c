"""Pools of an activation, which is made as it is read: reference/pooling.py."""

import numpy as np
from numpy.lib.stride_tricks import as_strided

from npnet.kernels.arrays import HIGH, LOW, MEAN, SCALE, SHIFT, Bytes, Floats
from npnet.kernels.jit.options import inline, kernel
from npnet.kernels.jit.tiles import finish_backward
from npnet.kernels.jit.vector import (
    clip,
    inside,
    lanes,
    load,
    load_bytes,
    repeat,
    store,
    store_bytes,
    where_equal,
    where_larger,
    zeros_like,
)

Kept = tuple[Floats, Floats, Floats, Floats]  # scale, shift, low, high of a vector of channels


@inline
def pixels(x: Floats) -> Floats:
    """The (pixels,C) view of maps (N,H,W,C), which may be a slice of the channels of wider ones."""
    n, h, w, channels = x.shape
    return as_strided(x, (n * h * w, channels), (x.strides[2], x.strides[3]))


@inline
def map_of(affine: Floats, c: int, tail: int | None) -> Kept:
    return (
        load(affine, SCALE, c, tail), load(affine, SHIFT, c, tail),
        load(affine, LOW, c, tail), load(affine, HIGH, c, tail),
    )  # fmt: skip


def max_pool3x3_forward(y: Floats, index: Bytes, x: Floats) -> None:
    """As reference.max_pool3x3_forward."""
    activation_max_pool3x3_forward(y, index, x, None)


def max_pool3x3_backward(dx: Floats, dy: Floats, index: Bytes) -> None:
    """As reference.max_pool3x3_backward."""
    activation_max_pool3x3_backward(dx, None, None, dy, index, dx, None)


@kernel
def activation_max_pool3x3_forward(
    y: Floats, index: Bytes, x: Floats, affine: Floats | None
) -> None:
    """As reference.activation_max_pool3x3_forward. `affine` None: x is an activation."""
    n_images, ho, wo, channels = y.shape
    _, h, width, _ = x.shape
    outputs, places, inputs, step = pixels(y), pixels(index), pixels(x), lanes(y)
    whole = channels - channels % step
    for row in range(n_images * ho):
        n, i = row // ho, row % ho
        top, high = (n * h + 2 * i) * width, min(3, h - 2 * i)
        for j in range(wo):
            corner, wide = top + 2 * j, min(3, width - 2 * j)
            at, window = row * wo + j, (corner, high, wide, width)
            for c in range(0, whole, step):
                pool_vector(outputs, places, at, inputs, affine, window, c, None)
            if whole < channels:
                pool_vector(outputs, places, at, inputs, affine, window, whole, channels - whole)


@inline
def pool_vector(
    y: Floats,
    index: Bytes,
    at: int,
    x: Floats,
    affine: Floats | None,
    window: tuple[int, int, int, int],
    c: int,
    tail: int | None,
) -> None:
    """One output. `window`: first pixel, rows, columns, pixels from a row to the next."""
    corner, rows, columns, width = window
    best = activated(x, corner, affine, c, tail)
    place = zeros_like(best)
    for k in range(rows):
        for m in range(columns):
            a = activated(x, corner + k * width + m, affine, c, tail)
            place = where_larger(a, best, repeat(a, 3 * k + m), place)
            best = where_larger(a, best, a, best)
    store(y, at, c, best, tail)
    store_bytes(index, at, c, place, tail)


@inline
def activated(x: Floats, i: int, affine: Floats | None, c: int, tail: int | None) -> Floats:
    if affine is None:
        return load(x, i, c, tail)  # type: ignore[no-any-return]
    scale, shift, low, high = map_of(affine, c, tail)
    return clip(scale * load(x, i, c, tail) + shift, low, high)  # type: ignore[no-any-return]


@kernel
def activation_max_pool3x3_backward(
    dz: Floats,
    dgamma: Floats | None,
    dbeta: Floats | None,
    dy: Floats,
    index: Bytes,
    x: Floats,
    affine: Floats | None,
) -> None:
    """As reference.activation_max_pool3x3_backward: each pixel asks the windows that it lies in."""
    n_images, h, width, channels = x.shape
    _, ho, wo, _ = dy.shape
    din, dout, places, inputs = pixels(dz), pixels(dy), pixels(index), pixels(x)
    step = lanes(x)
    sums, partial = np.zeros((2, channels), np.float64), np.zeros((2, channels), x.dtype)
    whole = channels - channels % step
    for row in range(n_images * h):
        n, i = row // h, row % h
        outputs = (n * ho, ho, wo)
        for c in range(0, whole, step):
            unpool_vector(
                din, partial, row * width, i, dout, places, outputs, inputs, width, affine, c, None
            )
        if whole < channels:
            unpool_vector(
                din, partial, row * width, i, dout, places, outputs, inputs, width, affine, whole,
                channels - whole,
            )  # fmt: skip
        if affine is not None:
            for k in range(2):
                for c in range(channels):
                    sums[k, c] += partial[k, c]
    if affine is not None and dgamma is not None and dbeta is not None:
        finish_backward(dgamma, dbeta, sums, affine)


@inline
def unpool_vector(
    dz: Floats,
    partial: Floats,
    first: int,
    i: int,
    dy: Floats,
    index: Bytes,
    outputs: tuple[int, int, int],
    x: Floats,
    width: int,
    affine: Floats | None,
    c: int,
    tail: int | None,
) -> None:
    """A row of dz, and its two sums into `partial` (2,C).

    `first` is the row's first pixel, `i` its number in the map; `outputs`: first row, rows,
    columns.
    """
    start, ho, wo = outputs
    total = product = zeros_like(load(x, first, c, tail))
    for j in range(width):
        da = zeros_like(total)
        for p in range(max((i - 1) // 2, 0), min(i // 2, ho - 1) + 1):
            for q in range(max((j - 1) // 2, 0), min(j // 2, wo - 1) + 1):
                at = (start + p) * wo + q
                place = repeat(da, 3 * (i - 2 * p) + j - 2 * q)
                da = da + where_equal(
                    load_bytes(index, at, c, da, tail), place, load(dy, at, c, tail)
                )
        if affine is not None:
            scale, shift, low, high = map_of(affine, c, tail)
            value = load(x, first + j, c, tail)
            da = inside(scale * value + shift, low, high, da)
            total = total + da
            product = product + da * (value - load(affine, MEAN, c, tail))
        store(dz, first + j, c, da, tail)
    store(partial, 0, c, total, tail)
    store(partial, 1, c, product, tail)


@kernel
def activation_average_pool_forward(y: Floats, x: Floats, affine: Floats) -> None:
    """As reference.activation_average_pool_forward."""
    n_images, h, w, channels = x.shape
    inputs, count, step = pixels(x), h * w, lanes(x)
    whole = channels - channels % step
    for n in range(n_images):
        for c in range(0, whole, step):
            average_strip(y, n, inputs[n * count : (n + 1) * count], affine, c, None)
        if whole < channels:
            average_strip(
                y, n, inputs[n * count : (n + 1) * count], affine, whole, channels - whole
            )


@inline
def average_strip(y: Floats, n: int, x: Floats, affine: Floats, c: int, tail: int | None) -> None:
    """y[n] of one image's x (pixels,C)."""
    scale, shift, low, high = map_of(affine, c, tail)
    total = zeros_like(scale)
    for i in range(len(x)):
        total = total + clip(scale * load(x, i, c, tail) + shift, low, high)
    store(y, n, c, total * repeat(total, 1 / len(x)), tail)


@kernel
def activation_average_pool_backward(
    dz: Floats, dgamma: Floats, dbeta: Floats, dy: Floats, x: Floats, affine: Floats
) -> None:
    """As reference.activation_average_pool_backward."""
    n_images, h, w, channels = x.shape
    din, inputs, count, step = pixels(dz), pixels(x), h * w, lanes(x)
    sums, partial = np.zeros((2, channels), np.float64), np.empty((2, channels), x.dtype)
    whole = channels - channels % step
    for n in range(n_images):
        image = slice(n * count, (n + 1) * count)
        for c in range(0, whole, step):
            spread_strip(din[image], partial, dy, n, inputs[image], affine, c, None)
        if whole < channels:
            tail = channels - whole
            spread_strip(din[image], partial, dy, n, inputs[image], affine, whole, tail)
        for k in range(2):
            for c in range(channels):
                sums[k, c] += partial[k, c]
    finish_backward(dgamma, dbeta, sums, affine)


@inline
def spread_strip(
    dz: Floats,
    partial: Floats,
    dy: Floats,
    n: int,
    x: Floats,
    affine: Floats,
    c: int,
    tail: int | None,
) -> None:
    """dy[n] shared out among the pixels of an image's x (pixels,C), and its sums."""
    (scale, shift, low, high), mean = map_of(affine, c, tail), load(affine, MEAN, c, tail)
    da = load(dy, n, c, tail) * repeat(scale, 1 / len(x))
    total = product = zeros_like(scale)
    for i in range(len(x)):
        value = load(x, i, c, tail)
        gradient = inside(scale * value + shift, low, high, da)
        store(dz, i, c, gradient, tail)
        total, product = total + gradient, product + gradient * (value - mean)
    store(partial, 0, c, total, tail)
    store(partial, 1, c, product, tail)
