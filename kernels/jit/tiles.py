"""What happens to a tile of pixels while it is in the cache, on the way in and on the way out.

A tile is a matrix of pixels by channels. `affine` (6,C) says how a convolution's output x becomes
an activation, see `npnet.kernels.arrays`; `affine_backward` (3,C) how a gradient passes back
through batch norm.
"""

import numpy as np
from numpy.lib.stride_tricks import as_strided

from npnet.kernels.arrays import HIGH, LOW, MEAN, RSTD, SCALE, SHIFT, Floats
from npnet.kernels.jit.options import inline
from npnet.kernels.jit.target import TARGET
from npnet.kernels.jit.vector import (
    LINE_BYTES,
    clip,
    inside,
    lanes,
    line,
    load,
    store,
    zeros_like,
)

AffineVector = tuple[
    Floats, Floats, Floats, Floats
]  # scale, shift, low, high of a vector of channels

# Pixels that are summed in single precision before they are added to sums in double: so few that
# their rounding stays below that of the numbers themselves.
SINGLE = 32


@inline
def tile_rows(channels: int, weights: int, itemsize: int) -> int:
    """Pixels in a tile that holds `channels` numbers a pixel, a multiple of 8.

    A tile reads all of the weights, so it is no smaller than the `weights` numbers of a product.
    """
    size = max(TARGET.tile_bytes, weights * itemsize)
    rows = min(TARGET.tile_rows, size // (channels * itemsize))
    return max(8, rows - rows % 8)


@inline
def pixels(x: Floats) -> Floats:
    """The (pixels,C) view of maps (N,H,W,C), of one type whether or not x is a slice of channels.

    vector.matrix gives the same view and lets the compiler know where channels lie side by side.
    """
    n, h, w, channels = x.shape
    return as_strided(x, (n * h * w, channels), (x.strides[2], x.strides[3]))


@inline
def scratch(rows: int, columns: int, like: Floats) -> Floats:
    """A matrix (rows, columns) for a tile, of the dtype of `like`, at the start of a cache line."""
    memory = np.empty(rows * columns + line(like), like.dtype)
    start = -memory.ctypes.data % LINE_BYTES // like.itemsize
    return memory[start : start + rows * columns].reshape(rows, columns)


@inline
def set_zero(a: Floats) -> None:
    """a = 0, a matrix whose columns lie side by side. By vectors: loops may remain scalar."""
    columns, step = a.shape[1], lanes(a)
    tail = columns % step
    for i in range(len(a)):
        for c in range(0, columns - tail, step):
            store(a, i, c, zeros_like(load(a, i, c, None)), None)
        if tail > 0:
            store(a, i, columns - tail, zeros_like(load(a, i, columns - tail, tail)), tail)


@inline
def copy(out: Floats, x: Floats) -> None:
    """out = x, likewise."""
    columns, step = x.shape[1], lanes(x)
    tail = columns % step
    for i in range(len(x)):
        for c in range(0, columns - tail, step):
            store(out, i, c, load(x, i, c, None), None)
        if tail > 0:
            store(out, i, columns - tail, load(x, i, columns - tail, tail), tail)


@inline
def affine_vector(affine: Floats, c: int, tail: int | None) -> AffineVector:
    """The rows of `affine` (6,C) that make an activation, for a vector of channels."""
    return (
        load(affine, SCALE, c, tail), load(affine, SHIFT, c, tail),
        load(affine, LOW, c, tail), load(affine, HIGH, c, tail),
    )  # fmt: skip


@inline
def activate(out: Floats, x: Floats, affine: Floats) -> None:
    """out = clip(scale*x + shift, low, high).   out, x (pixels,C)."""
    channels, step = x.shape[1], lanes(x)
    whole = channels - channels % step
    for c in range(0, whole, step):
        activate_strip(out, x, affine, c, None)
    if whole < channels:
        activate_strip(out, x, affine, whole, channels - whole)


@inline
def activate_strip(out: Floats, x: Floats, affine: Floats, c: int, tail: int | None) -> None:
    scale, shift, low, high = affine_vector(affine, c, tail)
    for i in range(len(x)):
        store(out, i, c, clip(scale * load(x, i, c, tail) + shift, low, high), tail)


@inline
def through_batchnorm(dy: Floats, dz_next: Floats, y: Floats, affine_backward: Floats) -> None:
    """dy = p*dz_next + q*y + r.   dy, dz_next, y (pixels,C), affine_backward (3,C)."""
    channels, step = y.shape[1], lanes(y)
    whole = channels - channels % step
    for c in range(0, whole, step):
        through_batchnorm_strip(dy, dz_next, y, affine_backward, c, None)
    if whole < channels:
        through_batchnorm_strip(dy, dz_next, y, affine_backward, whole, channels - whole)


@inline
def through_batchnorm_strip(
    dy: Floats, dz_next: Floats, y: Floats, affine_backward: Floats, c: int, tail: int | None
) -> None:
    p, q, r = (
        load(affine_backward, 0, c, tail),
        load(affine_backward, 1, c, tail),
        load(affine_backward, 2, c, tail),
    )
    for i in range(len(y)):
        offset = q * load(y, i, c, tail) + r
        store(dy, i, c, p * load(dz_next, i, c, tail) + offset, tail)


@inline
def deactivate(dz: Floats, sums: Floats, x: Floats, affine: Floats) -> None:
    """In place: dz where low < scale*x + shift < high, else 0; and its sums, into float64.

    sums[0] += sum dz, sums[1] += sum dz*(x-mean) over the tile.   dz, x (pixels,C), sums (2,C).
    """
    count, channels = x.shape
    step = lanes(x)
    whole = channels - channels % step
    partial = np.empty((2, channels), x.dtype)
    for start in range(0, count, SINGLE):
        part = slice(start, min(start + SINGLE, count))
        for c in range(0, whole, step):
            deactivate_vector(dz[part], partial, x[part], affine, c, None)
        if whole < channels:
            deactivate_vector(dz[part], partial, x[part], affine, whole, channels - whole)
        flush(sums, partial)


@inline
def deactivate_vector(
    dz: Floats, partial: Floats, x: Floats, affine: Floats, c: int, tail: int | None
) -> None:
    (scale, shift, low, high), mean = affine_vector(affine, c, tail), load(affine, MEAN, c, tail)
    total = product = zeros_like(scale)
    last = len(x) - 1
    arriving = load(dz, 0, c, tail)
    for i in range(last + 1):
        value = load(x, i, c, tail)
        gradient = inside(scale * value + shift, low, high, arriving)
        arriving = load(dz, min(i + 1, last), c, tail)  # a masked store may hold up what follows it
        store(dz, i, c, gradient, tail)
        total = total + gradient
        product = product + gradient * (value - mean)
    store(partial, 0, c, total, tail)
    store(partial, 1, c, product, tail)


@inline
def add_statistics(sums: Floats, y: Floats, origin: Floats) -> None:
    """sums[0] += sum (y-origin), sums[1] += sum (y-origin)^2.   y (pixels,C), origin (1,C).

    `origin` keeps the square of the mean, which may be far larger than the variance, out of the
    sums.
    """
    count, channels = y.shape
    step = lanes(y)
    whole = channels - channels % step
    partial = np.empty((2, channels), y.dtype)
    for start in range(0, count, SINGLE):
        part = y[start : min(start + SINGLE, count)]
        for c in range(0, whole, step):
            add_statistics_vector(partial, part, origin, c, None)
        if whole < channels:
            add_statistics_vector(partial, part, origin, whole, channels - whole)
        flush(sums, partial)


@inline
def set_origin(origin: Floats, y: Floats) -> None:
    """A value near each channel's mean: the mean over the first few pixels.   origin (1,C)."""
    few = min(len(y), SINGLE)
    share = y.dtype.type(1 / few)
    origin[:] = 0
    for i in range(few):
        for c in range(y.shape[1]):
            origin[0, c] += share * y[i, c]


@inline
def add_statistics_vector(
    partial: Floats, y: Floats, origin: Floats, c: int, tail: int | None
) -> None:
    """Every fourth pixel has sums of its own: an addition need not wait for the one before it."""
    middle = load(origin, 0, c, tail)
    t0 = t1 = t2 = t3 = s0 = s1 = s2 = s3 = zeros_like(middle)
    fours = len(y) - len(y) % 4
    for i in range(0, fours, 4):
        d0, d1 = load(y, i, c, tail) - middle, load(y, i + 1, c, tail) - middle
        d2, d3 = load(y, i + 2, c, tail) - middle, load(y, i + 3, c, tail) - middle
        t0, t1, t2, t3 = t0 + d0, t1 + d1, t2 + d2, t3 + d3
        s0, s1, s2, s3 = s0 + d0 * d0, s1 + d1 * d1, s2 + d2 * d2, s3 + d3 * d3
    for i in range(fours, len(y)):
        d0 = load(y, i, c, tail) - middle
        t0, s0 = t0 + d0, s0 + d0 * d0
    store(partial, 0, c, t0 + t1 + (t2 + t3), tail)
    store(partial, 1, c, s0 + s1 + (s2 + s3), tail)


@inline
def flush(sums: Floats, partial: Floats) -> None:
    """sums += partial, float64 += the dtype of the tile.   Both (2,C)."""
    for k in range(2):
        for c in range(sums.shape[1]):
            sums[k, c] += partial[k, c]


@inline
def finish_statistics(
    mean: Floats, variance: Floats, sums: Floats, origin: Floats, count: int
) -> None:
    """Mean and biased variance from add_statistics' sums over `count` pixels.   All (C,)."""
    for c in range(len(mean)):
        d = sums[0, c] / count
        variance[c] = max(sums[1, c] / count - d * d, 0.0)
        mean[c] = d + np.float64(origin[0, c])


@inline
def finish_backward(dgamma: Floats, dbeta: Floats, sums: Floats, affine: Floats) -> None:
    """The gradients of gamma and beta from deactivate's sums."""
    for c in range(len(dgamma)):
        dbeta[c] = sums[0, c]
        dgamma[c] = sums[1, c] * affine[RSTD, c]
