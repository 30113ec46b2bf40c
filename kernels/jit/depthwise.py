"""Depthwise 3x3 convolution between two batch norms. reference/depthwise.py tells the mathematics.

Three rows of what the filter reads lie in a ring, made just before they are needed, with a column
of zeros at either end and a fourth row of zeros for what lies above and below the map. It holds as
many channels as the first cache has place for, one vector after the other. The inner loops run
along a row, the nine weights of a vector of channels in registers. The stride is a constant in
them, so the compiler reads a number once that several windows share.

A `row` of a map is (first pixel, pixels) of the matrix of pixels by channels.
"""

import numpy as np

from npnet.kernels.arrays import MEAN, Floats
from npnet.kernels.jit.options import inline, kernel
from npnet.kernels.jit.target import TARGET
from npnet.kernels.jit.tiles import (
    AffineVector,
    add_statistics,
    affine_vector,
    finish_backward,
    finish_statistics,
    scratch,
    set_origin,
    set_zero,
)
from npnet.kernels.jit.vector import (
    clip,
    columns,
    get,
    inside,
    lanes,
    line,
    load,
    matrix,
    prefetch,
    put,
    store,
    zeros_like,
)

Nine = tuple[Floats, Floats, Floats, Floats, Floats, Floats, Floats, Floats, Floats]
Row = tuple[int, int]

ROWS_AHEAD = 2  # of what the ring is made from, those that memory is asked for


@kernel
def activation_depthwise3x3_stats_forward(
    y: Floats, mean: Floats, variance: Floats, x: Floats, affine: Floats, w: Floats, stride: int
) -> None:
    """As reference.activation_depthwise3x3_stats_forward."""
    n_images, h, width, channels = x.shape
    inputs, outputs, taps = matrix(x), matrix(y), w.reshape(9, channels)
    group = ring_channels(width, x)
    for start in range(0, channels, group):
        c = slice(start, min(start + group, channels))
        arrays = outputs[:, c], inputs[:, c], affine[:, c], taps[:, c]
        forward(arrays, mean[c], variance[c], (n_images, h, width), stride)


@inline
def forward(
    arrays: tuple[Floats, Floats, Floats, Floats],
    mean: Floats,
    variance: Floats,
    shape: tuple[int, int, int],
    stride: int,
) -> None:
    """For the channels that the ring holds."""
    (outputs, inputs, affine, taps), (n_images, h, width) = arrays, shape
    channels, span = inputs.shape[1], width + 2
    ho, wo = (h - 1) // stride + 1, (width - 1) // stride + 1
    ring = new_ring(span, inputs)
    sums, origin = np.zeros((2, channels), np.float64), np.empty((1, channels), inputs.dtype)
    counted = 0
    for n in range(n_images):
        ready = 0
        for i in range(ho):
            while ready < min(stride * i + 2, h):
                activate_row(ring, ready, inputs, ((n * h + ready) * width, width), affine)
                ready += 1
            row, middle = ((n * ho + i) * wo, wo), (stride * i, h, span)
            filter_row(outputs, row, ring, middle, taps, stride)
            counted = count(sums, origin, outputs, counted, row[0] + wo)
    finish_statistics(mean, variance, sums, origin, len(outputs))


@inline
def count(sums: Floats, origin: Floats, outputs: Floats, counted: int, done: int) -> int:
    """Statistics of the pixels that are done, once they are a tile; return how many are counted."""
    if done - counted < TARGET.tile_rows and done < len(outputs):
        return counted
    if counted == 0:
        set_origin(origin, outputs[:done])
    add_statistics(sums, outputs[counted:done], origin)
    return done


@inline
def ring_channels(width: int, like: Floats) -> int:
    """How many channels the ring holds: whole cache lines, see TARGET."""
    whole = max(line(like), lanes(like))
    fit = TARGET.ring_bytes // (3 * (width + 2) * like.itemsize)  # the row of zeros is rarely read
    return int(max(whole, fit - fit % whole))


@inline
def new_ring(span: int, like: Floats) -> Floats:
    """Four rows of `span` pixels, all zeros, with the channels of `like` (pixels,C)."""
    vectors = (like.shape[1] - 1) // lanes(like) + 1
    ring = scratch(1, 4 * span * vectors * lanes(like), like)
    set_zero(ring)
    return ring.reshape(-1)


@inline
def slots(middle: int, height: int, span: int, base: int) -> tuple[int, int, int]:
    """Where the three rows around row `middle` lie in the ring."""
    return (
        slot_of(middle - 1, height, span, base),
        slot_of(middle, height, span, base),
        slot_of(middle + 1, height, span, base),
    )


@inline
def slot_of(row: int, height: int, span: int, base: int) -> int:
    """Where in the ring a row starts; outside the map all rows are zeros."""
    return base + row % 3 * span if 0 <= row < height else base + 3 * span


@inline
def activate_row(ring: Floats, number: int, x: Floats, row: Row, affine: Floats) -> None:
    """Row `number` of clip(scale*x + shift, low, high) into the ring."""
    channels, step, span = x.shape[1], lanes(x), row[1] + 2
    for c in range(0, channels, step):
        at = (c // step * 4 + number % 3) * span + 1
        if c + step <= channels:
            activate_vector(ring, at, x, row, affine, c, None)
        else:
            activate_vector(ring, at, x, row, affine, c, channels - c)


@inline
def activate_vector(
    ring: Floats, at: int, x: Floats, row: Row, affine: Floats, c: int, tail: int | None
) -> None:
    scale, shift, low, high = affine_vector(affine, c, tail)
    first, width = row
    for j in range(width):
        prefetch(x, first + j + ROWS_AHEAD * width, c)
        put(ring, at + j, clip(scale * load(x, first + j, c, tail) + shift, low, high))


@inline
def filter_row(
    y: Floats, row: Row, ring: Floats, middle: tuple[int, int, int], taps: Floats, stride: int
) -> None:
    """A row of outputs from the rows around `middle`: (row, height, span).   taps (9,C)."""
    channels, step, (i, h, span) = y.shape[1], lanes(y), middle
    for c in range(0, channels, step):
        rows = slots(i, h, span, c // step * 4 * span)
        if c + step > channels:  # rare, so one slower piece of code does for both strides
            filter_vector(y, row, ring, rows, taps, stride, c, channels - c)
        elif stride == 1:
            filter_vector(y, row, ring, rows, taps, 1, c, None)
        else:
            filter_vector(y, row, ring, rows, taps, 2, c, None)


@inline
def filter_vector(
    y: Floats,
    row: Row,
    ring: Floats,
    rows: tuple[int, int, int],
    taps: Floats,
    stride: int,
    c: int,
    tail: int | None,
) -> None:
    """Four outputs at a time: their windows overlap."""
    weights = nine(taps, c, tail)
    first, outputs = row
    fours = outputs - outputs % 4
    for j in range(0, fours, 4):
        left, at = stride * j, first + j
        y0 = window(ring, rows, left, weights)
        y1 = window(ring, rows, left + stride, weights)
        y2 = window(ring, rows, left + 2 * stride, weights)
        y3 = window(ring, rows, left + 3 * stride, weights)
        store(y, at, c, y0, tail)
        store(y, at + 1, c, y1, tail)
        store(y, at + 2, c, y2, tail)
        store(y, at + 3, c, y3, tail)
        for k in range(4):
            prefetch(y, at + outputs + k, c)
    for j in range(fours, outputs):
        store(y, first + j, c, window(ring, rows, stride * j, weights), tail)


@inline
def nine(taps: Floats, c: int, tail: int | None) -> Nine:
    """The weights of a vector of channels.   taps (9,C)."""
    return (
        load(taps, 0, c, tail), load(taps, 1, c, tail), load(taps, 2, c, tail),
        load(taps, 3, c, tail), load(taps, 4, c, tail), load(taps, 5, c, tail),
        load(taps, 6, c, tail), load(taps, 7, c, tail), load(taps, 8, c, tail),
    )  # fmt: skip


@inline
def window(ring: Floats, rows: tuple[int, int, int], left: int, weights: Nine) -> Floats:
    """sum_kl w[k,l] * ring[rows[k]+left+l]."""
    w00, w01, w02, w10, w11, w12, w20, w21, w22 = weights
    top, middle, bottom = rows[0] + left, rows[1] + left, rows[2] + left
    total = get(ring, top) * w00
    total = total + get(ring, top + 1) * w01
    total = total + get(ring, top + 2) * w02
    total = total + get(ring, middle) * w10
    total = total + get(ring, middle + 1) * w11
    total = total + get(ring, middle + 2) * w12
    total = total + get(ring, bottom) * w20
    total = total + get(ring, bottom + 1) * w21
    return total + get(ring, bottom + 2) * w22  # type: ignore[no-any-return]


@kernel
def activation_depthwise3x3_stats_backward(
    dz: Floats | None,
    dw: Floats | None,
    dgamma: Floats | None,
    dbeta: Floats | None,
    dz_next: Floats,
    y: Floats,
    affine_backward: Floats,
    x: Floats,
    affine: Floats,
    w: Floats,
    stride: int,
) -> None:
    """As reference.activation_depthwise3x3_stats_backward: dz, dw from the same ring of dy.

    dw is computed even if it is None: it takes the numbers that dz takes.
    """
    n_images, h, width, channels = x.shape
    taps, wo = w.reshape(9, channels), y.shape[2]
    outputs, dout, inputs = matrix(y), matrix(dz_next), matrix(x)
    group, sums = ring_channels(wo, x), np.zeros((11, channels), np.float64)
    for start in range(0, channels, group):
        c = slice(start, min(start + group, channels))
        backward(
            columns(matrix(dz), c),
            (inputs[:, c], outputs[:, c], dout[:, c]),
            sums[:, c],
            affine_backward[:, c],
            affine[:, c],
            taps[:, c],
            (n_images, h, width),
            stride,
        )
    if dw is not None:
        finish_taps(dw.reshape(9, channels), sums)
    if dgamma is not None and dbeta is not None:
        finish_backward(dgamma, dbeta, sums[9:], affine)


@inline
def backward(
    din: Floats | None,
    arrays: tuple[Floats, Floats, Floats],
    sums: Floats,
    affine_backward: Floats,
    affine: Floats,
    taps: Floats,
    shape: tuple[int, int, int],
    stride: int,
) -> None:
    """For the channels that the ring holds."""
    (inputs, outputs, dout), (n_images, h, width) = arrays, shape
    ho, wo = (h - 1) // stride + 1, (width - 1) // stride + 1
    ring, partial = new_ring(wo + 2, inputs), scratch(11, inputs.shape[1], inputs)
    for n in range(n_images):
        ready = 0
        set_zero(partial)
        for i in range(h):
            while ready < ho and stride * ready <= i + 1:
                pass_row(ring, ready, dout, outputs, ((n * ho + ready) * wo, wo), affine_backward)
                ready += 1
            row = ((n * h + i) * width, width)
            backward_row(din, inputs, row, partial, ring, affine, taps, (i, ho, wo + 2), stride)
        add_sums(sums, partial)


@inline
def add_sums(sums: Floats, partial: Floats) -> None:
    """sums += partial, float64 += the dtype of the maps.   Both (11,C)."""
    for k in range(11):
        for c in range(sums.shape[1]):
            sums[k, c] += partial[k, c]


@inline
def finish_taps(dw: Floats, sums: Floats) -> None:
    """dw = the first nine of `sums`, by a plain loop: an assignment takes Numba seconds to compile.

    dw (9,C), sums (11,C).
    """
    for k in range(9):
        for c in range(dw.shape[1]):
            dw[k, c] = sums[k, c]


@inline
def pass_row(
    ring: Floats, number: int, dz_next: Floats, y: Floats, row: Row, affine_backward: Floats
) -> None:
    """Row `number` of dy = p*dz_next + q*y + r into the ring."""
    channels, step, span = y.shape[1], lanes(y), row[1] + 2
    for c in range(0, channels, step):
        at = (c // step * 4 + number % 3) * span + 1
        if c + step <= channels:
            pass_vector(ring, at, dz_next, y, row, affine_backward, c, None)
        else:
            pass_vector(ring, at, dz_next, y, row, affine_backward, c, channels - c)


@inline
def pass_vector(
    ring: Floats,
    at: int,
    dz_next: Floats,
    y: Floats,
    row: Row,
    affine_backward: Floats,
    c: int,
    tail: int | None,
) -> None:
    p, q, r = (
        load(affine_backward, 0, c, tail),
        load(affine_backward, 1, c, tail),
        load(affine_backward, 2, c, tail),
    )
    first, width = row
    for j in range(first, first + width):
        prefetch(y, j + ROWS_AHEAD * width, c)
        prefetch(dz_next, j + ROWS_AHEAD * width, c)
        offset = q * load(y, j, c, tail) + r
        put(ring, at + j - first, p * load(dz_next, j, c, tail) + offset)


@inline
def backward_row(
    dz: Floats | None,
    x: Floats,
    row: Row,
    partial: Floats,
    ring: Floats,
    affine: Floats,
    taps: Floats,
    middle: tuple[int, int, int],
    stride: int,
) -> None:
    """A row of dz, and what it adds to the sums of dw, dz and dz*(x-mean) in `partial` (11,C).

    Filter row k brought input row i to output row (i+1-k)/stride, if that is whole; `middle` is
    (i, outputs' height, span).
    """
    if stride == 1:
        backward_vectors(dz, x, row, partial, ring, affine, taps, middle, 1, 0)
    elif middle[0] % 2 == 0:
        backward_vectors(dz, x, row, partial, ring, affine, taps, middle, 2, 0)
    else:
        backward_vectors(dz, x, row, partial, ring, affine, taps, middle, 2, 1)
    tail = x.shape[1] % lanes(x)
    if tail > 0:  # rare, so one slower piece of code does for all strides and rows
        c, parity = x.shape[1] - tail, (stride, middle[0] % stride)
        rows = slots_backward(middle, c // lanes(x), stride)
        backward_vector(dz, x, row, partial, ring, rows, affine, taps, parity, c, tail)


@inline
def backward_vectors(
    dz: Floats | None,
    x: Floats,
    row: Row,
    partial: Floats,
    ring: Floats,
    affine: Floats,
    taps: Floats,
    middle: tuple[int, int, int],
    stride: int,
    odd_row: int,
) -> None:
    """The whole vectors. `odd_row`: whether no filter centre lies on this row of the input."""
    step = lanes(x)
    for c in range(0, x.shape[1] - step + 1, step):
        rows = slots_backward(middle, c // step, stride)
        backward_vector(dz, x, row, partial, ring, rows, affine, taps, (stride, odd_row), c, None)


@inline
def slots_backward(middle: tuple[int, int, int], vector: int, stride: int) -> tuple[int, int, int]:
    """Where in the ring the rows lie that filter rows 0, 1, 2 brought an input row to."""
    i, ho, span = middle
    base = vector * 4 * span
    return (
        slot_of((i + 1) // stride, ho, span, base),
        slot_of(i // stride, ho, span, base),
        slot_of((i - 1) // stride, ho, span, base),
    )


@inline
def backward_vector(
    dz: Floats | None,
    x: Floats,
    row: Row,
    partial: Floats,
    ring: Floats,
    rows: tuple[int, int, int],
    affine: Floats,
    taps: Floats,
    parity: tuple[int, int],
    c: int,
    tail: int | None,
) -> None:
    stride = parity[0]
    weights = nine(taps, c, tail)
    coefficients = affine_vector(affine, c, tail)
    zero = zeros_like(coefficients[0])
    dw = (zero, zero, zero, zero, zero, zero, zero, zero, zero)
    total = product = zero
    first, width = row
    for j in range(0, width, stride):
        at = first + j
        dw, gradient = backward_pixel(
            dw, x, at, coefficients, weights, ring, rows, j // stride, parity, 0, c, tail
        )
        if dz is not None:
            store(dz, at, c, gradient, tail)
            total, product = total + gradient, product + gradient * load(x, at, c, tail)
        if stride == 2 and j + 1 < width:
            at = first + j + 1
            dw, gradient = backward_pixel(
                dw, x, at, coefficients, weights, ring, rows, j // stride, parity, 1, c, tail
            )
            if dz is not None:
                store(dz, at, c, gradient, tail)
                total, product = total + gradient, product + gradient * load(x, at, c, tail)
        for k in range(first + j + width, first + j + width + stride):
            prefetch(x, k, c)
            if dz is not None:
                prefetch(dz, k, c)
    d00, d01, d02, d10, d11, d12, d20, d21, d22 = dw
    add_to(partial, 0, c, d00, tail)
    add_to(partial, 1, c, d01, tail)
    add_to(partial, 2, c, d02, tail)
    add_to(partial, 3, c, d10, tail)
    add_to(partial, 4, c, d11, tail)
    add_to(partial, 5, c, d12, tail)
    add_to(partial, 6, c, d20, tail)
    add_to(partial, 7, c, d21, tail)
    add_to(partial, 8, c, d22, tail)
    add_to(partial, 9, c, total, tail)
    add_to(partial, 10, c, product - load(affine, MEAN, c, tail) * total, tail)


@inline
def add_to(partial: Floats, k: int, c: int, v: Floats, tail: int | None) -> None:
    store(partial, k, c, load(partial, k, c, tail) + v, tail)


@inline
def backward_pixel(
    dw: Nine,
    x: Floats,
    at: int,
    coefficients: AffineVector,
    weights: Nine,
    ring: Floats,
    rows: tuple[int, int, int],
    j: int,
    parity: tuple[int, int],
    odd_column: int,
    c: int,
    tail: int | None,
) -> tuple[Nine, Floats]:
    """dw with what input pixel `at` adds to it, and the gradient that comes to that pixel.

    dw[k,l] += a*dy and da += w[k,l]*dy, where dy is that of the output (i+1-k)/stride,
    (j+1-l)/stride. Which of them are whole numbers is told by the stride and by whether row and
    column are odd; here j is already that of the output.
    """
    scale, shift, low, high = coefficients
    d00, d01, d02, d10, d11, d12, d20, d21, d22 = dw
    w00, w01, w02, w10, w11, w12, w20, w21, w22 = weights
    (stride, odd_row), column = parity, 1 + j
    a = clip(scale * load(x, at, c, tail) + shift, low, high)
    da = zeros_like(a)
    if (odd_row + 1) % stride == 0:
        here = rows[0] + column
        d00, d01, d02, da = backward_taps(
            d00, d01, d02, da, a, w00, w01, w02, ring, here, odd_column, stride
        )
        here = rows[2] + column
        d20, d21, d22, da = backward_taps(
            d20, d21, d22, da, a, w20, w21, w22, ring, here, odd_column, stride
        )
    if odd_row % stride == 0:
        here = rows[1] + column
        d10, d11, d12, da = backward_taps(
            d10, d11, d12, da, a, w10, w11, w12, ring, here, odd_column, stride
        )
    return (d00, d01, d02, d10, d11, d12, d20, d21, d22), inside(a, low, high, da)


@inline
def backward_taps(
    d0: Floats,
    d1: Floats,
    d2: Floats,
    da: Floats,
    a: Floats,
    w0: Floats,
    w1: Floats,
    w2: Floats,
    ring: Floats,
    here: int,
    odd_column: int,
    stride: int,
) -> tuple[Floats, Floats, Floats, Floats]:
    """Three weights in a row; those without an output for a column of this parity are skipped."""
    if (odd_column + 1) % stride == 0:
        dy = get(ring, here + (odd_column + 1) // stride)
        d0, da = d0 + a * dy, da + w0 * dy
        dy = get(ring, here + (odd_column - 1) // stride)
        d2, da = d2 + a * dy, da + w2 * dy
    if odd_column % stride == 0:
        dy = get(ring, here)
        d1, da = d1 + a * dy, da + w1 * dy
    return d0, d1, d2, da
