"""Pools of an activation, which is made as it is read: reference/pooling.py."""

import numpy as np

from npnet.kernels.arrays import MEAN, Bytes, Floats
from npnet.kernels.jit.options import inline, kernel
from npnet.kernels.jit.tiles import AffineVector, affine_vector, finish_backward, flush, pixels
from npnet.kernels.jit.vector import (
    clip,
    inside,
    lanes,
    load,
    load_bytes,
    prefetch,
    repeat,
    store,
    store_bytes,
    where_equal,
    where_larger,
    zeros_like,
)


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
    scale, shift, low, high = affine_vector(affine, c, tail)
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
    """As reference.activation_max_pool3x3_backward, a row of dz at a time.

    Row i lies in the windows of row i // 2, and if i is even in the lowest row of those above them.
    """
    n_images, h, width, channels = x.shape
    ho = dy.shape[1]
    arrays = pixels(dz), pixels(dy), pixels(index), pixels(x)
    sums, partial = np.zeros((2, channels), np.float64), np.zeros((2, channels), x.dtype)
    for n in range(n_images):
        for i in range(h):
            row, windows = (n * h + i) * width, (n * ho + i // 2, i % 2)
            above = (n * ho + i // 2 - 1, 2)
            if i % 2 == 0 and 0 < i < 2 * ho:
                unpool_row(arrays, partial, row, windows, above, dy.shape[2], width, affine)
            else:
                windows = windows if i < 2 * ho else above
                unpool_row(arrays, partial, row, windows, None, dy.shape[2], width, affine)
            if affine is not None:
                flush(sums, partial)
    if affine is not None and dgamma is not None and dbeta is not None:
        finish_backward(dgamma, dbeta, sums, affine)


@inline
def unpool_row(
    arrays: tuple[Floats, Floats, Bytes, Floats],
    partial: Floats,
    row: int,
    windows: tuple[int, int],
    others: tuple[int, int] | None,
    wo: int,
    width: int,
    affine: Floats | None,
) -> None:
    """A row of dz, from pixel `row` on, and its two sums in `partial` (2,C).

    `windows`, `others`: a row of windows, and which row of theirs this is.
    """
    channels, step = partial.shape[1], lanes(partial)
    whole = channels - channels % step
    for c in range(0, whole, step):
        unpool_vector(arrays, partial, row, windows, others, wo, width, affine, c, None)
    if whole < channels:
        tail = channels - whole
        unpool_vector(arrays, partial, row, windows, others, wo, width, affine, whole, tail)


@inline
def unpool_vector(
    arrays: tuple[Floats, Floats, Bytes, Floats],
    partial: Floats,
    row: int,
    windows: tuple[int, int],
    others: tuple[int, int] | None,
    wo: int,
    width: int,
    affine: Floats | None,
    c: int,
    tail: int | None,
) -> None:
    """A window's left column is the right one of that before it."""
    dz, dy, index, x = arrays
    right = total = product = mean = zeros_like(load(x, row, c, tail))
    coefficients = right, right, right, right
    if affine is not None:
        coefficients, mean = affine_vector(affine, c, tail), load(affine, MEAN, c, tail)
    for q in range(wo):
        for k in range(2):  # of the next row
            prefetch(x, row + width + 2 * q + k, c)
            prefetch(dz, row + width + 2 * q + k, c)
        left, middle, following = shares(dy, index, windows, wo, q, c, tail)
        left = left + right
        right = following
        if others is not None:
            second = shares(dy, index, others, wo, q, c, tail)
            left, middle, right = left + second[0], middle + second[1], right + second[2]
        total, product = leave(
            dz, x, row + 2 * q, left, total, product, coefficients, mean, affine, c, tail
        )
        if 2 * q + 1 < width:
            total, product = leave(
                dz, x, row + 2 * q + 1, middle, total, product, coefficients, mean, affine, c, tail
            )
    if 2 * wo < width:
        total, product = leave(
            dz, x, row + 2 * wo, right, total, product, coefficients, mean, affine, c, tail
        )
    store(partial, 0, c, total, tail)
    store(partial, 1, c, product, tail)


@inline
def shares(
    dy: Floats, index: Bytes, windows: tuple[int, int], wo: int, q: int, c: int, tail: int | None
) -> tuple[Floats, Floats, Floats]:
    """What window q of a row gives to the three pixels of one of its rows."""
    at, first = windows[0] * wo + q, 3 * windows[1]
    gradient = load(dy, at, c, tail)
    place = load_bytes(index, at, c, gradient, tail)
    return (
        where_equal(place, repeat(place, first), gradient),
        where_equal(place, repeat(place, first + 1), gradient),
        where_equal(place, repeat(place, first + 2), gradient),
    )


@inline
def leave(
    dz: Floats,
    x: Floats,
    at: int,
    da: Floats,
    total: Floats,
    product: Floats,
    coefficients: AffineVector,
    mean: Floats,
    affine: Floats | None,
    c: int,
    tail: int | None,
) -> tuple[Floats, Floats]:
    """dz of a pixel from da, and the sums with it."""
    if affine is None:
        store(dz, at, c, da, tail)
        return total, product
    scale, shift, low, high = coefficients
    value = load(x, at, c, tail)
    gradient = inside(scale * value + shift, low, high, da)
    store(dz, at, c, gradient, tail)
    return total + gradient, product + gradient * (value - mean)


@kernel
def activation_average_pool_forward(y: Floats, x: Floats, affine: Floats) -> None:
    """As reference.activation_average_pool_forward."""
    average(y, pixels(x), affine)


@inline
def average(y: Floats, x: Floats, affine: Floats) -> None:
    """The mean of clip(scale*x + shift, low, high) over each image.   y (N,C), x (N*pixels,C)."""
    (n_images, channels), step = y.shape, lanes(x)
    count, whole = len(x) // n_images, channels - channels % step
    for n in range(n_images):
        image = x[n * count : (n + 1) * count]
        for c in range(0, whole, step):
            average_strip(y, n, image, affine, c, None)
        if whole < channels:
            average_strip(y, n, image, affine, whole, channels - whole)


@inline
def average_strip(y: Floats, n: int, x: Floats, affine: Floats, c: int, tail: int | None) -> None:
    """y[n] of one image's x (pixels,C)."""
    scale, shift, low, high = affine_vector(affine, c, tail)
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
        flush(sums, partial)
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
    (scale, shift, low, high), mean = affine_vector(affine, c, tail), load(affine, MEAN, c, tail)
    da = load(dy, n, c, tail) * repeat(scale, 1 / len(x))
    total = product = zeros_like(scale)
    for i in range(len(x)):
        value = load(x, i, c, tail)
        gradient = inside(scale * value + shift, low, high, da)
        store(dz, i, c, gradient, tail)
        total, product = total + gradient, product + gradient * (value - mean)
    store(partial, 0, c, total, tail)
    store(partial, 1, c, product, tail)
