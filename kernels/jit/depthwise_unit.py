"""Depthwise 3x3 convolution between two batch norms. reference/unit.py tells the mathematics.

Three rows of what the filter reads lie in a ring, made just before they are needed, with a column
of zeros at either end and a fourth row of zeros for what lies above and below the map. The inner
loops run along a row, a vector of channels at a time, its nine weights in registers. The stride is
a constant in them, so the compiler reads a number once that several windows share.
"""

import numpy as np

from npnet.kernels.arrays import HIGH, LOW, MEAN, SCALE, SHIFT, Floats
from npnet.kernels.jit.options import inline, kernel
from npnet.kernels.jit.target import TARGET
from npnet.kernels.jit.tiles import (
    activate,
    add_statistics,
    finish_backward,
    finish_statistics,
    matrix,
    scratch,
    set_origin,
    through_batchnorm,
)
from npnet.kernels.jit.vector import clip, inside, lanes, load, prefetch, store, zeros_like


@kernel
def depthwise3x3_unit_forward(
    y: Floats, mean: Floats, variance: Floats, x: Floats, norm: Floats, w: Floats, stride: int
) -> None:
    """As reference.depthwise3x3_unit_forward."""
    if stride == 1:
        forward(y, mean, variance, x, norm, w, 1)
    else:
        forward(y, mean, variance, x, norm, w, 2)


@inline
def forward(
    y: Floats, mean: Floats, variance: Floats, x: Floats, norm: Floats, w: Floats, stride: int
) -> None:
    """Row after row of outputs: activate what it reads, filter, count its statistics."""
    n_images, h, width, channels = x.shape
    _, ho, wo, _ = y.shape
    inputs, outputs, taps = matrix(x), matrix(y), w.reshape(9, channels)
    span = width + 2
    ring = scratch(4 * span, channels, x)
    ring[:] = 0
    sums, origin = np.zeros((2, channels), np.float64), np.empty((1, channels), x.dtype)
    counted = 0
    for n in range(n_images):
        ready = 0
        for i in range(ho):
            while ready < min(stride * i + 2, h):
                row, slot = (n * h + ready) * width, ready % 3 * span + 1
                activate(ring[slot : slot + width], inputs[row : row + width], norm)
                ready += 1
            row = slice((n * ho + i) * wo, (n * ho + i + 1) * wo)
            rows = (
                slot_of(stride * i - 1, h, span),
                slot_of(stride * i, h, span),
                slot_of(stride * i + 1, h, span),
            )
            filter_row(outputs[row], ring, rows, taps, inputs, (n * h + ready) * width, stride)
            done = row.stop
            if done - counted >= TARGET.tile_rows or done == len(outputs):
                if counted == 0:
                    set_origin(origin, outputs[:done])
                add_statistics(sums, outputs[counted:done], origin)
                counted = done
    finish_statistics(mean, variance, sums, origin, len(outputs))


@inline
def slot_of(row: int, height: int, span: int) -> int:
    """Where in the ring a row starts; outside the map all rows are zeros."""
    return row % 3 * span if 0 <= row < height else 3 * span


@inline
def filter_row(
    y: Floats,
    ring: Floats,
    rows: tuple[int, int, int],
    taps: Floats,
    x: Floats,
    ahead: int,
    stride: int,
) -> None:
    """One row of outputs from three rows of the ring; meanwhile x arrives from pixel `ahead` on.

    y (Wo,C), taps (9,C).
    """
    channels, step = y.shape[1], lanes(y)
    whole = channels - channels % step
    for c in range(0, whole, step):
        filter_strip(y, ring, rows, taps, x, ahead, stride, c, None)
    if whole < channels:
        filter_strip(y, ring, rows, taps, x, ahead, stride, whole, channels - whole)


@inline
def filter_strip(
    y: Floats,
    ring: Floats,
    rows: tuple[int, int, int],
    taps: Floats,
    x: Floats,
    ahead: int,
    stride: int,
    c: int,
    tail: int | None,
) -> None:
    """Four outputs at a time: their windows overlap."""
    weights = nine(taps, c, tail)
    outputs = len(y)
    fours = outputs - outputs % 4
    for j in range(0, fours, 4):
        left = stride * j
        y0 = window(ring, rows, left, weights, c, tail)
        y1 = window(ring, rows, left + stride, weights, c, tail)
        y2 = window(ring, rows, left + 2 * stride, weights, c, tail)
        y3 = window(ring, rows, left + 3 * stride, weights, c, tail)
        store(y, j, c, y0, tail)
        store(y, j + 1, c, y1, tail)
        store(y, j + 2, c, y2, tail)
        store(y, j + 3, c, y3, tail)
        for k in range(4 * stride * stride):
            prefetch(x, ahead + stride * left + k, c)
        for k in range(4):
            prefetch(y, j + outputs + k, c)
    for j in range(fours, outputs):
        store(y, j, c, window(ring, rows, stride * j, weights, c, tail), tail)


@inline
def nine(taps: Floats, c: int, tail: int | None) -> tuple[Floats, ...]:
    """The weights of a vector of channels.   taps (9,C)."""
    return (
        load(taps, 0, c, tail), load(taps, 1, c, tail), load(taps, 2, c, tail),
        load(taps, 3, c, tail), load(taps, 4, c, tail), load(taps, 5, c, tail),
        load(taps, 6, c, tail), load(taps, 7, c, tail), load(taps, 8, c, tail),
    )  # fmt: skip


@inline
def window(
    ring: Floats,
    rows: tuple[int, int, int],
    left: int,
    weights: tuple[Floats, ...],
    c: int,
    tail: int | None,
) -> Floats:
    """sum_kl w[k,l] * ring[rows[k]+left+l]."""
    w00, w01, w02, w10, w11, w12, w20, w21, w22 = weights
    top, middle, bottom = rows[0] + left, rows[1] + left, rows[2] + left
    total = load(ring, top, c, tail) * w00
    total = total + load(ring, top + 1, c, tail) * w01
    total = total + load(ring, top + 2, c, tail) * w02
    total = total + load(ring, middle, c, tail) * w10
    total = total + load(ring, middle + 1, c, tail) * w11
    total = total + load(ring, middle + 2, c, tail) * w12
    total = total + load(ring, bottom, c, tail) * w20
    total = total + load(ring, bottom + 1, c, tail) * w21
    return total + load(ring, bottom + 2, c, tail) * w22


@kernel
def depthwise3x3_unit_backward(
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
    stride: int,
) -> None:
    """As reference.depthwise3x3_unit_backward: dx and dw from the same numbers; a ring of dy."""
    n_images, h, width, channels = x.shape
    _, ho, wo, _ = y.shape
    inputs, din, outputs, dout = matrix(x), matrix(dz), matrix(y), matrix(dv)
    taps, dtaps = w.reshape(9, channels), dw.reshape(9, channels)
    span = wo + 2
    ring = scratch(4 * span, channels, x)
    ring[:] = 0
    partial = scratch(11, channels, x)
    sums = np.zeros((11, channels), np.float64)
    for n in range(n_images):
        ready = 0
        partial[:] = 0
        for i in range(h):
            while ready < ho and stride * ready <= i + 1:
                row, slot = (n * ho + ready) * wo, ready % 3 * span + 1
                dy = ring[slot : slot + wo]
                through_batchnorm(dy, dout[row : row + wo], outputs[row : row + wo], pqr)
                ready += 1
            # Filter row k brought this row to the output row (i+1-k)/stride, if that is whole.
            rows = (
                slot_of((i + 1) // stride, ho, span),
                slot_of(i // stride, ho, span),
                slot_of((i - 1) // stride, ho, span),
            )
            row = slice((n * h + i) * width, (n * h + i + 1) * width)
            if stride == 1:
                backward_row(din[row], partial, inputs[row], ring, rows, norm, taps, 1, 0)
            elif i % 2 == 0:
                backward_row(din[row], partial, inputs[row], ring, rows, norm, taps, 2, 0)
            else:
                backward_row(din[row], partial, inputs[row], ring, rows, norm, taps, 2, 1)
        for k in range(11):
            for c in range(channels):
                sums[k, c] += partial[k, c]
    dtaps[:] = sums[:9]
    finish_backward(dgamma, dbeta, sums[9:], norm)


@inline
def backward_row(
    dz: Floats,
    partial: Floats,
    x: Floats,
    ring: Floats,
    rows: tuple[int, int, int],
    norm: Floats,
    taps: Floats,
    stride: int,
    odd_row: int,
) -> None:
    """One row of dz (W,C), and what it adds to the sums of dw, dz and dz*(x-mean) in `partial`."""
    channels, step = x.shape[1], lanes(x)
    whole = channels - channels % step
    for c in range(0, whole, step):
        backward_strip(dz, partial, x, ring, rows, norm, taps, stride, odd_row, c, None)
    if whole < channels:
        tail = channels - whole
        backward_strip(dz, partial, x, ring, rows, norm, taps, stride, odd_row, whole, tail)


@inline
def backward_strip(
    dz: Floats,
    partial: Floats,
    x: Floats,
    ring: Floats,
    rows: tuple[int, int, int],
    norm: Floats,
    taps: Floats,
    stride: int,
    odd_row: int,
    c: int,
    tail: int | None,
) -> None:
    weights = nine(taps, c, tail)
    scale, shift = load(norm, SCALE, c, tail), load(norm, SHIFT, c, tail)
    mean, low, high = load(norm, MEAN, c, tail), load(norm, LOW, c, tail), load(norm, HIGH, c, tail)
    zero = zeros_like(scale)
    dw = (zero, zero, zero, zero, zero, zero, zero, zero, zero)
    total = product = zero
    width = len(x)
    for j in range(0, width, stride):
        value = load(x, j, c, tail)
        z = scale * value + shift
        dw, da = taps_backward(
            dw, clip(z, low, high), weights, ring, rows, j // stride, odd_row, 0, stride, c, tail
        )
        gradient = inside(z, low, high, da)
        store(dz, j, c, gradient, tail)
        total, product = total + gradient, product + gradient * (value - mean)
        if stride == 2 and j + 1 < width:
            value = load(x, j + 1, c, tail)
            z = scale * value + shift
            dw, da = taps_backward(
                dw, clip(z, low, high), weights, ring, rows, j // 2, odd_row, 1, 2, c, tail
            )
            gradient = inside(z, low, high, da)
            store(dz, j + 1, c, gradient, tail)
            total, product = total + gradient, product + gradient * (value - mean)
        for k in range(stride):
            prefetch(x, j + width + k, c)
            prefetch(dz, j + width + k, c)
    d00, d01, d02, d10, d11, d12, d20, d21, d22 = dw
    row_sums = (d00, d01, d02, d10, d11, d12, d20, d21, d22, total, product)
    for k in range(11):
        store(partial, k, c, load(partial, k, c, tail) + row_sums[k], tail)


@inline
def taps_backward(
    dw: tuple[Floats, ...],
    a: Floats,
    weights: tuple[Floats, ...],
    ring: Floats,
    rows: tuple[int, int, int],
    j: int,
    odd_row: int,
    odd_column: int,
    stride: int,
    c: int,
    tail: int | None,
) -> tuple[tuple[Floats, ...], Floats]:
    """What passes through the nine weights to an input pixel with activation `a`, and from it.

    dw[k,l] += a*dy and da += w[k,l]*dy, where dy is that of the output (i+1-k)/stride,
    (j+1-l)/stride. Which of them are whole numbers, the parities of row and column tell.
    """
    d00, d01, d02, d10, d11, d12, d20, d21, d22 = dw
    w00, w01, w02, w10, w11, w12, w20, w21, w22 = weights
    lower = central = upper = zeros_like(a)
    if (odd_row + 1) % stride == 0:
        at = rows[0] + 1 + j
        d00, d01, d02, lower = row_backward(
            d00, d01, d02, a, w00, w01, w02, ring, at, odd_column, stride, c, tail
        )
        at = rows[2] + 1 + j
        d20, d21, d22, upper = row_backward(
            d20, d21, d22, a, w20, w21, w22, ring, at, odd_column, stride, c, tail
        )
    if odd_row % stride == 0:
        at = rows[1] + 1 + j
        d10, d11, d12, central = row_backward(
            d10, d11, d12, a, w10, w11, w12, ring, at, odd_column, stride, c, tail
        )
    return (d00, d01, d02, d10, d11, d12, d20, d21, d22), lower + central + upper


@inline
def row_backward(
    d0: Floats,
    d1: Floats,
    d2: Floats,
    a: Floats,
    w0: Floats,
    w1: Floats,
    w2: Floats,
    ring: Floats,
    at: int,
    odd_column: int,
    stride: int,
    c: int,
    tail: int | None,
) -> tuple[Floats, Floats, Floats, Floats]:
    """Three weights in a row; those that do not meet an output of this column's parity rest."""
    da = zeros_like(a)
    if (odd_column + 1) % stride == 0:
        g = load(ring, at + (odd_column + 1) // stride, c, tail)
        d0, da = d0 + a * g, da + w0 * g
        g = load(ring, at + (odd_column - 1) // stride, c, tail)
        d2, da = d2 + a * g, da + w2 * g
    if odd_column % stride == 0:
        g = load(ring, at, c, tail)
        d1, da = d1 + a * g, da + w1 * g
    return d0, d1, d2, da
