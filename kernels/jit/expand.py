"""Expansion and depthwise filter of a block, without the maps between them.

reference/expand.py tells the mathematics. Rows are expanded a band at a time, as many as a tile of
the product holds; the filter's ring is made from them, see depthwise.py. On the way back a band is
expanded again, and its gradient goes through the expansion while it is in the cache.
"""

import numpy as np

from npnet.kernels.arrays import HIGH, LOW, SCALE, SHIFT, Floats
from npnet.kernels.jit.block import multiply, multiply_accumulate
from npnet.kernels.jit.depthwise import (
    ROWS_AHEAD,
    activate_row,
    add_sums,
    backward_row,
    count,
    filter_row,
    finish_taps,
    new_ring,
    pass_row,
    ring_channels,
)
from npnet.kernels.jit.options import inline, kernel
from npnet.kernels.jit.target import TARGET
from npnet.kernels.jit.tiles import (
    activate,
    deactivate,
    finish_backward,
    finish_statistics,
    scratch,
    set_zero,
    tile_rows,
)
from npnet.kernels.jit.vector import columns, matrix


@kernel
def expand_stats_forward(
    mean: Floats,
    variance: Floats,
    mean_in: Floats,
    covariance: Floats,
    x: Floats,
    affine: Floats,
    w1: Floats,
) -> None:
    """As reference.expand_stats_forward, the products in double precision.

    A column of w1 may be nearly orthogonal to the directions in which the channels vary most. Then
    its variance is a small difference of large numbers.
    """
    inputs, ci = matrix(x), x.shape[3]
    rows = tile_rows(3 * ci, ci * ci, x.itemsize)
    active, doubled = scratch(rows, ci, x), scratch(rows, ci + 1, mean_in)
    products = scratch(ci, ci + 1, mean_in)
    set_zero(products)
    for start in range(0, len(inputs), rows):
        tile = inputs[start : min(start + rows, len(inputs))]
        activate(active[: len(tile)], tile, affine)
        for i in range(len(tile)):
            for c in range(ci):
                doubled[i, c] = active[i, c]
            doubled[i, ci] = 1  # whose products are the sums
        a = doubled[: len(tile)]
        multiply_accumulate(products, a[:, :ci].T, a)
    for i in range(ci):
        mean_in[i] = products[i, ci] / len(inputs)
    for i in range(ci):
        for j in range(ci):
            covariance[i, j] = products[i, j] / len(inputs) - mean_in[i] * mean_in[j]
    expand_statistics(mean, variance, mean_in, covariance, w1)


@inline
def expand_statistics(
    mean: Floats, variance: Floats, mean_in: Floats, covariance: Floats, w1: Floats
) -> None:
    """mean = mean_in w1, variance_o = sum_cd w1[c,o] covariance[c,d] w1[d,o]."""
    ci, co = w1.shape
    row = np.empty(co, np.float64)
    mean[:], variance[:] = 0, 0
    for i in range(ci):
        row[:] = 0
        for j in range(ci):
            for c in range(co):
                row[c] += covariance[i, j] * w1[j, c]
        for c in range(co):
            mean[c] += mean_in[i] * w1[i, c]
            variance[c] += row[c] * w1[i, c]
    for c in range(co):
        variance[c] = max(variance[c], 0.0)


@inline
def less(affine: Floats, centre: Floats) -> Floats:
    """The `affine` (6,C) of an activation less `centre` (C,); its mean and rstd are left out."""
    moved = np.empty_like(affine)
    for c in range(len(centre)):
        moved[SCALE, c] = affine[SCALE, c]
        moved[SHIFT, c] = affine[SHIFT, c] - centre[c]
        moved[LOW, c], moved[HIGH, c] = affine[LOW, c] - centre[c], affine[HIGH, c] - centre[c]
    return moved


@kernel
def expand_stats_backward_accumulate(
    dz: Floats | None,
    dw1: Floats | None,
    dgamma: Floats | None,
    dbeta: Floats | None,
    affine_backward: Floats,
    mean_in: Floats,
    covariance: Floats,
    x: Floats,
    affine: Floats,
    w1: Floats,
) -> None:
    """As reference.expand_stats_backward_accumulate."""
    inputs, (ci, co) = matrix(x), w1.shape
    q, e = affine_backward[1], np.empty(co, np.float64)
    for c in range(co):
        e[c] = affine_backward[2, c]
        for i in range(ci):
            e[c] += q[c] * mean_in[i] * w1[i, c]
    if dw1 is not None:
        for i in range(ci):
            for c in range(co):
                total = mean_in[i] * e[c]
                for j in range(ci):
                    total += covariance[i, j] * w1[j, c] * q[c]
                dw1[i, c] += len(inputs) * total
    if dz is not None and dgamma is not None and dbeta is not None:
        rows = tile_rows(2 * ci, ci * ci, x.itemsize)
        active, back = scratch(rows, ci + 1, x), scratch(ci + 1, ci, x)
        active[:, ci] = 1  # times the last row of `back`, which is the same at all pixels
        back_through(back, q, e, w1)
        sums, moved, din = np.zeros((2, ci), np.float64), less(affine, mean_in), matrix(dz)
        for start in range(0, len(inputs), rows):
            tile = slice(start, min(start + rows, len(inputs)))
            a = active[: len(inputs[tile])]
            activate(a[:, :ci], inputs[tile], moved)
            multiply_accumulate(din[tile], a, back)
            deactivate(din[tile], sums, inputs[tile], affine)
        finish_backward(dgamma, dbeta, sums, affine)


@inline
def back_through(back: Floats, q: Floats, e: Floats, w1: Floats) -> None:
    """back[:Ci] = w1 diag(q) w1^T, back[Ci] = e w1^T.   back (Ci+1,Ci)."""
    ci, co = w1.shape
    for i in range(ci):
        for j in range(ci):
            total = 0.0
            for c in range(co):
                total += np.float64(w1[i, c]) * q[c] * w1[j, c]
            back[i, j] = total
        total = 0.0
        for c in range(co):
            total += e[c] * w1[i, c]
        back[ci, i] = total


@kernel
def expand_depthwise3x3_stats_forward(
    y: Floats,
    mean: Floats,
    variance: Floats,
    x: Floats,
    affine: Floats,
    w1: Floats,
    affine1: Floats,
    w2: Floats,
    stride: int,
) -> None:
    """As reference.expand_depthwise3x3_stats_forward."""
    channels, outputs = w1.shape[1], matrix(y)
    taps, group = w2.reshape(9, channels), ring_channels(x.shape[2], x)
    for start in range(0, channels, group):
        c = slice(start, min(start + group, channels))
        source = matrix(x), affine, w1[:, c], affine1[:, c]
        forward(outputs[:, c], mean[c], variance[c], source, taps[:, c], x.shape[:3], stride)


@inline
def forward(
    outputs: Floats,
    mean: Floats,
    variance: Floats,
    source: tuple[Floats, Floats, Floats, Floats],
    taps: Floats,
    shape: tuple[int, int, int],
    stride: int,
) -> None:
    """For the channels that the ring holds."""
    (inputs, affine, w1, affine1), (n_images, h, width) = source, shape
    (ci, channels), span = w1.shape, width + 2
    ho, wo = (h - 1) // stride + 1, (width - 1) // stride + 1
    band = band_rows(h, width)
    active, expanded = scratch(band * width, ci, inputs), new_band(band, width, channels, inputs)
    ring = new_ring(span, expanded)
    sums, origin = np.zeros((2, channels), np.float64), np.empty((1, channels), inputs.dtype)
    counted = 0
    for n in range(n_images):
        ready = 0
        for i in range(ho):
            while ready < min(stride * i + 2, h):
                if ready % band == 0:
                    first = (n * h + ready) * width
                    expand(expanded, active, inputs[first : (n + 1) * h * width], affine, w1)
                activate_row(ring, ready, expanded, (ready % band * width, width), affine1)
                ready += 1
            row, middle = ((n * ho + i) * wo, wo), (stride * i, h, span)
            filter_row(outputs, row, ring, middle, taps, stride)
            counted = count(sums, origin, outputs, counted, row[0] + wo)
    finish_statistics(mean, variance, sums, origin, len(outputs))


@inline
def band_rows(h: int, width: int) -> int:
    """Rows of a map that are expanded at a time."""
    return max(1, min(h, TARGET.tile_rows // width))


@inline
def new_band(rows: int, width: int, channels: int, like: Floats) -> Floats:
    """Expanded rows, and below them those that the filter's loops ask memory for, in vain."""
    return scratch((rows + ROWS_AHEAD) * width, channels, like)


@inline
def expand(expanded: Floats, active: Floats, x: Floats, affine: Floats, w1: Floats) -> int:
    """The activation of the first pixels of x, and its product; return how many pixels."""
    pixels = min(len(active), len(x))
    activate(active[:pixels], x[:pixels], affine)
    multiply(expanded[:pixels], active[:pixels], w1)
    return pixels


@kernel
def expand_depthwise3x3_stats_backward(
    da: Floats | None,
    dw1: Floats | None,
    dw2: Floats | None,
    dgamma: Floats | None,
    dbeta: Floats | None,
    dz_next: Floats,
    y: Floats,
    affine_backward: Floats,
    x: Floats,
    affine: Floats,
    w1: Floats,
    affine1: Floats,
    w2: Floats,
    stride: int,
) -> None:
    """As reference.expand_depthwise3x3_stats_backward.

    dz1, dw2 and the sums are computed even if they are None: they come from the same loads.
    """
    ci, channels = w1.shape
    outputs, dout, taps = matrix(y), matrix(dz_next), w2.reshape(9, channels)
    group, sums = ring_channels(y.shape[2], x), np.zeros((11, channels), np.float64)
    turned = scratch(channels, ci, x)
    for k in range(channels):
        for i in range(ci):
            turned[k, i] = affine1[SCALE, k] * w1[i, k]
    if da is not None:
        set_zero(matrix(da))
    if dw1 is not None:
        dw1[:] = 0
    for start in range(0, channels, group):
        c = slice(start, min(start + group, channels))
        backward(
            matrix(da),
            columns(dw1, c),
            sums[:, c],
            (dout[:, c], outputs[:, c], affine_backward[:, c]),
            (matrix(x), affine, w1[:, c], affine1[:, c]),
            (turned[c], taps[:, c]),
            x.shape[:3],
            stride,
        )
    if dw1 is not None:
        for i in range(ci):
            for k in range(channels):
                dw1[i, k] *= affine1[SCALE, k]
    if dw2 is not None:
        finish_taps(dw2.reshape(9, channels), sums)
    if dgamma is not None and dbeta is not None:
        finish_backward(dgamma, dbeta, sums[9:], affine1)


@inline
def backward(
    din: Floats | None,
    dw1: Floats | None,
    sums: Floats,
    from_output: tuple[Floats, Floats, Floats],
    source: tuple[Floats, Floats, Floats, Floats],
    weights: tuple[Floats, Floats],
    shape: tuple[int, int, int],
    stride: int,
) -> None:
    """For the channels that the ring holds. Each adds its part to da."""
    (dout, outputs, affine_backward), (inputs, affine, w1, affine1) = from_output, source
    (turned, taps), (n_images, h, width), (ci, channels) = weights, shape, w1.shape
    ho, wo = (h - 1) // stride + 1, (width - 1) // stride + 1
    band = band_rows(h, width)
    active, expanded = scratch(band * width, ci, inputs), new_band(band, width, channels, inputs)
    gradient = new_band(band, width, channels, inputs)
    ring, partial = new_ring(wo + 2, expanded), scratch(11, channels, inputs)
    for n in range(n_images):
        ready = pixels = 0
        set_zero(partial)
        for i in range(h):
            first = (n * h + i // band * band) * width
            if i % band == 0:
                pixels = expand(expanded, active, inputs[first : (n + 1) * h * width], affine, w1)
            while ready < ho and stride * ready <= i + 1:
                pass_row(ring, ready, dout, outputs, ((n * ho + ready) * wo, wo), affine_backward)
                ready += 1
            row, middle = (i % band * width, width), (i, ho, wo + 2)
            backward_row(gradient, expanded, row, partial, ring, affine1, taps, middle, stride)
            if (i + 1) % band == 0 or i + 1 == h:
                if dw1 is not None:
                    multiply_accumulate(dw1, active[:pixels].T, gradient[:pixels])
                if din is not None:
                    multiply_accumulate(din[first : first + pixels], gradient[:pixels], turned)
        add_sums(sums, partial)
