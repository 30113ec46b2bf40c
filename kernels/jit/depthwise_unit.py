"""Depthwise 3x3 convolution between two batch norms. reference/unit.py tells the mathematics.

Three rows of what the filter reads lie in a ring, made just before they are needed, with a column
of zeros at either end and a fourth row of zeros for what lies above and below the map. The inner
loop runs along a row, its nine weights in registers, and asks memory for the next row meanwhile.
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
    set_origin,
    through_batchnorm,
)
from npnet.kernels.jit.vector import clip, inside, lanes, load, prefetch, store, zeros_like


@kernel
def depthwise3x3_unit_forward(
    y: Floats, mean: Floats, variance: Floats, x: Floats, norm: Floats, w: Floats, stride: int
) -> None:
    """As reference.depthwise3x3_unit_forward."""
    n_images, h, width, channels = x.shape
    _, ho, wo, _ = y.shape
    inputs, outputs, taps = matrix(x), matrix(y), w.reshape(9, channels)
    span = width + 2
    ring = np.zeros((4 * span, channels), x.dtype)
    sums, origin = np.zeros((2, channels), np.float64), np.empty((1, channels), x.dtype)
    counted = 0
    for n in range(n_images):
        ready = 0
        for i in range(ho):
            while ready < min(stride * i + 2, h):
                row, slot = (n * h + ready) * width, ready % 3 * span + 1
                activate(ring[slot : slot + width], inputs[row : row + width], norm)
                ready += 1
            row = (n * ho + i) * wo
            middle = stride * i
            rows = (
                slot_of(middle - 1, h, 1, span),
                slot_of(middle, h, 1, span),
                slot_of(middle + 1, h, 1, span),
            )
            filter_row(
                outputs[row : row + wo], ring, rows, taps, inputs, (n * h + ready) * width, stride
            )
            if row + wo - counted >= TARGET.tile_rows or row + wo == len(outputs):
                if counted == 0:
                    set_origin(origin, outputs[: row + wo])
                add_statistics(sums, outputs[counted : row + wo], origin)
                counted = row + wo
    finish_statistics(mean, variance, sums, origin, len(outputs))


@inline
def slot_of(row: int, height: int, stride: int, span: int) -> int:
    """Where in the ring a row starts: rows outside the map, or between strides, are zeros."""
    if row < 0 or row >= height or row % stride != 0:
        return 3 * span
    return row // stride % 3 * span


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
        filter_vector(y, ring, rows, taps, x, ahead, stride, c, None)
    if whole < channels:
        filter_vector(y, ring, rows, taps, x, ahead, stride, whole, channels - whole)


@inline
def filter_vector(
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
    w00, w01, w02 = load(taps, 0, c, tail), load(taps, 1, c, tail), load(taps, 2, c, tail)
    w10, w11, w12 = load(taps, 3, c, tail), load(taps, 4, c, tail), load(taps, 5, c, tail)
    w20, w21, w22 = load(taps, 6, c, tail), load(taps, 7, c, tail), load(taps, 8, c, tail)
    top, middle, bottom = rows
    for j in range(len(y)):
        left = stride * j
        for k in range(stride * stride):
            prefetch(x, ahead + left * stride + k, c)
        upper = load(ring, top + left, c, tail) * w00
        upper = upper + load(ring, top + left + 1, c, tail) * w01
        upper = upper + load(ring, top + left + 2, c, tail) * w02
        central = load(ring, middle + left, c, tail) * w10
        central = central + load(ring, middle + left + 1, c, tail) * w11
        central = central + load(ring, middle + left + 2, c, tail) * w12
        lower = load(ring, bottom + left, c, tail) * w20
        lower = lower + load(ring, bottom + left + 1, c, tail) * w21
        lower = lower + load(ring, bottom + left + 2, c, tail) * w22
        store(y, j, c, upper + central + lower, tail)


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
    """As reference.depthwise3x3_unit_backward: dx and dw from the same nine numbers.

    The ring holds dy. Row i of dy lies where the filter's centre was, on row stride*i of the input,
    and the rows and columns between are zeros; so one loop serves both strides.
    """
    n_images, h, width, channels = x.shape
    _, ho, wo, _ = y.shape
    inputs, din, outputs, dout = matrix(x), matrix(dz), matrix(y), matrix(dv)
    taps, dtaps = w.reshape(9, channels), dw.reshape(9, channels)
    span, reach = width + 2, stride * (wo - 1) + 1
    ring = np.zeros((4 * span, channels), x.dtype)
    partial = np.empty((11, channels), x.dtype)
    sums = np.zeros((11, channels), np.float64)
    for n in range(n_images):
        ready = 0
        partial[:] = 0
        for i in range(h):
            while ready < ho and stride * ready <= i + 1:
                row, slot = (n * ho + ready) * wo, ready % 3 * span + 1
                dy = ring[slot : slot + reach : stride]
                through_batchnorm(dy, dout[row : row + wo], outputs[row : row + wo], pqr)
                ready += 1
            row = (n * h + i) * width
            rows = (
                slot_of(i + 1, h, stride, span),
                slot_of(i, h, stride, span),
                slot_of(i - 1, h, stride, span),
            )
            here = slice(row, row + width)
            backward_row(din[here], partial, inputs[here], ring, rows, norm, taps)
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
) -> None:
    """One row of dz (W,C), and what it adds to the sums of dw, dz and dz*(x-mean) in `partial`."""
    channels, step = x.shape[1], lanes(x)
    whole = channels - channels % step
    for c in range(0, whole, step):
        backward_vector(dz, partial, x, ring, rows, norm, taps, c, None)
    if whole < channels:
        backward_vector(dz, partial, x, ring, rows, norm, taps, whole, channels - whole)


@inline
def backward_vector(
    dz: Floats,
    partial: Floats,
    x: Floats,
    ring: Floats,
    rows: tuple[int, int, int],
    norm: Floats,
    taps: Floats,
    c: int,
    tail: int | None,
) -> None:
    w00, w01, w02 = load(taps, 0, c, tail), load(taps, 1, c, tail), load(taps, 2, c, tail)
    w10, w11, w12 = load(taps, 3, c, tail), load(taps, 4, c, tail), load(taps, 5, c, tail)
    w20, w21, w22 = load(taps, 6, c, tail), load(taps, 7, c, tail), load(taps, 8, c, tail)
    scale, shift, mean = (
        load(norm, SCALE, c, tail),
        load(norm, SHIFT, c, tail),
        load(norm, MEAN, c, tail),
    )
    low, high = load(norm, LOW, c, tail), load(norm, HIGH, c, tail)
    d00 = d01 = d02 = d10 = d11 = d12 = d20 = d21 = d22 = total = product = zeros_like(scale)
    below, beside, above = rows
    for j in range(len(x)):
        value = load(x, j, c, tail)
        prefetch(x, j + len(x), c)
        prefetch(dz, j + len(x), c)
        z = scale * value + shift
        a = clip(z, low, high)
        # Weight [k,l] brought this pixel to the output one row below (k=0) .. above (k=2) and one
        # column to the right (l=0) .. to the left (l=2).
        g0 = load(ring, below + j + 2, c, tail)
        g1 = load(ring, below + j + 1, c, tail)
        g2 = load(ring, below + j, c, tail)
        d00, d01, d02 = d00 + a * g0, d01 + a * g1, d02 + a * g2
        lower = g0 * w00 + g1 * w01 + g2 * w02
        g0 = load(ring, beside + j + 2, c, tail)
        g1 = load(ring, beside + j + 1, c, tail)
        g2 = load(ring, beside + j, c, tail)
        d10, d11, d12 = d10 + a * g0, d11 + a * g1, d12 + a * g2
        central = g0 * w10 + g1 * w11 + g2 * w12
        g0 = load(ring, above + j + 2, c, tail)
        g1 = load(ring, above + j + 1, c, tail)
        g2 = load(ring, above + j, c, tail)
        d20, d21, d22 = d20 + a * g0, d21 + a * g1, d22 + a * g2
        upper = g0 * w20 + g1 * w21 + g2 * w22
        gradient = inside(z, low, high, lower + central + upper)
        store(dz, j, c, gradient, tail)
        total, product = total + gradient, product + gradient * (value - mean)
    row_sums = (d00, d01, d02, d10, d11, d12, d20, d21, d22, total, product)
    for k in range(11):
        store(partial, k, c, load(partial, k, c, tail) + row_sums[k], tail)
