"""Dense k x k convolution as matrix products of a tile of windows: reference/convolution.py.

A window is what one output pixel sees, K = k*k*Ci numbers. A tile holds windows, one a row, as many
as stay in the second-level cache, wherever and in whichever image they are. The tile serves three
products:

    y  = windows W        dW += windows^T dy        dwindows = dy W^T, added to where they came from

Windows are copied from an image of activations with its border of zeros, made once an image. That
costs a copy of K numbers a pixel, next to K*Co multiplications, and spares all loops over rows,
whose ends would cost more on maps of 7 x 7.

What is multiplied from the right is packed: panels as wide as a register block, one below the
other, without gaps. The first-level cache has few places for lines a power of two apart.
"""

from collections.abc import Callable

import numpy as np
from numpy.lib.stride_tricks import as_strided

from npnet.kernels.arrays import Floats
from npnet.kernels.jit.block import register_block
from npnet.kernels.jit.options import inline, kernel
from npnet.kernels.jit.target import TARGET
from npnet.kernels.jit.tiles import (
    activate,
    add_statistics,
    copy,
    deactivate,
    finish_backward,
    finish_statistics,
    pixels,
    scratch,
    set_origin,
    set_zero,
    through_batchnorm,
)
from npnet.kernels.jit.vector import lanes, line, load, prefetch, store

# Vectors in a panel, and rows of the register block that goes with it: as many sums either way.
WIDE, NARROW = 3, 2
ROWS = TARGET.blocks[WIDE - 1]
NARROW_ROWS, BOTH = ROWS * WIDE // NARROW, ROWS * WIDE  # a tile's rows are a multiple of both
TILE_ROWS = 128
TILE_BYTES = 2 * TARGET.tile_bytes

# Kernel, stride, padding, input channels, outputs in a row, outputs in an image.
Geometry = tuple[int, int, int, int, int, int]


def conv_forward(y: Floats, x: Floats, w: Floats, stride: int, padding: int) -> None:
    """As reference.conv_forward."""
    activation_conv_stats_forward(y, None, None, x, None, w, stride, padding)


def conv_backward_input(dx: Floats, dy: Floats, w: Floats, stride: int, padding: int) -> None:
    """As reference.conv_backward_input."""
    activation_conv_stats_backward(
        dx, None, None, None, dy, None, None, dx, None, w, stride, padding
    )


def conv_backward_weight(dw: Floats, dy: Floats, x: Floats, stride: int, padding: int) -> None:
    """As reference.conv_backward_weight."""
    activation_conv_stats_backward(
        None, dw, None, None, dy, None, None, x, None, dw, stride, padding
    )


@kernel
def activation_conv_stats_forward(
    y: Floats,
    mean: Floats | None,
    variance: Floats | None,
    x: Floats,
    affine: Floats | None,
    w: Floats,
    stride: int,
    padding: int,
) -> None:
    """As reference.activation_conv_stats_forward."""
    _, ho, wo, co = y.shape
    outputs, weights = pixels(y), as_matrix(w)
    geometry = (w.shape[0], stride, padding, w.shape[2], wo, ho * wo)
    depth, total = len(weights), len(outputs)
    packed = new_panels(depth, co, x)
    pack(packed, weights)
    windows = new_windows(depth, total, x)
    made = strided(scratch(len(windows), padded_columns(co, x), x))
    image = new_image(x, affine, padding)
    sums, origin = np.zeros((2, co), np.float64), np.empty((1, co), x.dtype)
    ready = -1
    for start in range(0, total, len(windows)):
        count = min(len(windows), total - start)
        tile = outputs[start : start + count]
        image, ready = gather_tile(windows, image, ready, x, affine, start, count, geometry, tile)
        whole = (count + BOTH - 1) // BOTH * BOTH
        fits = count == whole and co == made.shape[1]
        multiply_panels(tile if fits else made[:whole], windows[:whole, :depth], packed, co)
        if not fits:
            copy(tile, made[:count, :co])
        if mean is not None:
            if start == 0:
                set_origin(origin, tile)
            add_statistics(sums, tile, origin)
    if mean is not None and variance is not None:
        finish_statistics(mean, variance, sums, origin, total)


@kernel
def activation_conv_stats_backward(
    dz: Floats | None,
    dw: Floats | None,
    dgamma: Floats | None,
    dbeta: Floats | None,
    dz_next: Floats,
    y: Floats | None,
    affine_backward: Floats | None,
    x: Floats,
    affine: Floats | None,
    w: Floats,
    stride: int,
    padding: int,
) -> None:
    """As reference.activation_conv_stats_backward: both products of a tile of windows."""
    _, ho, wo, co = dz_next.shape
    dout, weights = pixels(dz_next), as_matrix(w)
    geometry = (w.shape[0], stride, padding, w.shape[2], wo, ho * wo)
    depth, total = len(weights), len(dout)
    windows = new_windows(depth, total, x)
    gradient = scratch(len(windows), odd_lines(co, x), x)
    set_zero(gradient)
    sums = np.zeros((2, w.shape[2]), np.float64)
    if dw is not None:
        image = new_image(x, affine, padding)
        taller = (depth + ROWS - 1) // ROWS * ROWS
        dpacked = new_panels(taller, co, x)
        set_zero(dpacked)
        dy_packed = new_panels(len(windows), co, x)
    if dz is not None:
        dimage = new_padded(x, padding)
        turned = new_panels(co, depth, x)
        pack_turned(turned, weights)
    ready = -1
    for start in range(0, total, len(windows)):
        count = min(len(windows), total - start)
        dy, arriving = gradient[:count, :co], dout[start : start + count]
        if affine_backward is None:
            if dz is not None:
                copy(dy, arriving)
        elif y is not None:
            through_batchnorm(dy, arriving, pixels(y)[start : start + count], affine_backward)
        if dw is not None:
            pack(dy_packed, arriving if affine_backward is None else dy)
            ahead = dout[start + count : start + 2 * count]
            image, ready = gather_tile(
                windows, image, ready, x, affine, start, count, geometry, ahead
            )
            add_panels(dpacked, windows[:count, :taller].T, dy_packed, co)
        if dz is not None:
            whole = (count + BOTH - 1) // BOTH * BOTH
            multiply_panels(strided(windows)[:whole], gradient[:whole, :co], turned, depth)
            scatter_tile(dz, sums, dimage, windows, x, affine, start, count, geometry)
    if dw is not None:
        unpack(as_matrix(dw), dpacked, taller)
    if affine is not None and dgamma is not None and dbeta is not None:
        finish_backward(dgamma, dbeta, sums, affine)


def _block_rows(height: int, vectors: int, add: bool) -> Callable[[Floats, Floats, Floats], None]:
    def rows(out: Floats, a: Floats, b: Floats) -> None:
        for i in range(0, len(a), height):
            register_block(out, a, b, i, 0, None, height, vectors, 1, add)

    rows.__qualname__ = f"block_rows_{vectors}{'_add' * add}"
    return inline(rows)


multiply_wide = _block_rows(ROWS, WIDE, add=False)
multiply_narrow = _block_rows(NARROW_ROWS, NARROW, add=False)
add_wide = _block_rows(ROWS, WIDE, add=True)
add_narrow = _block_rows(ROWS, NARROW, add=True)


@inline
def multiply_panels(out: Floats, a: Floats, packed: Floats, columns: int) -> None:
    """out = a @ b, b packed. The rows of `a` are a multiple of the blocks'."""
    first = 0
    while first < columns:
        width = panel_width(columns - first, packed)
        b, here = panel(packed, a.shape[1], first, width), out[:, first : first + width]
        if width == WIDE * lanes(out):
            multiply_wide(here, a, b)
        else:
            multiply_narrow(here, a, b)
        first += width


@inline
def add_panels(packed_out: Floats, a: Floats, packed: Floats, columns: int) -> None:
    """Likewise out += a @ b, where `out` is packed as well."""
    first = 0
    while first < columns:
        width = panel_width(columns - first, packed)
        b, out = panel(packed, a.shape[1], first, width), panel(packed_out, len(a), first, width)
        if width == WIDE * lanes(out):
            add_wide(out, a, b)
        else:
            add_narrow(out, a, b)
        first += width


@inline
def panel_width(columns: int, like: Floats) -> int:
    """Columns of the next panel: wide ones as far as narrow ones can make up the rest."""
    vectors = (columns - 1) // lanes(like) + 1
    return (NARROW if vectors < WIDE or vectors == 2 * NARROW else WIDE) * lanes(like)  # type: ignore[no-any-return]


@inline
def padded_columns(columns: int, like: Floats) -> int:
    """Columns of all panels together."""
    vectors = (columns - 1) // lanes(like) + 1
    return max(vectors, NARROW) * lanes(like)  # type: ignore[no-any-return]


@inline
def panel(packed: Floats, depth: int, first: int, width: int) -> Floats:
    """The panel that begins at column `first`: (depth, width)."""
    return packed[0, first * depth : (first + width) * depth].reshape(depth, width)


@inline
def new_panels(depth: int, columns: int, like: Floats) -> Floats:
    """Place for the panels of a matrix (depth, columns), one behind the other: (1, numbers)."""
    return scratch(1, depth * padded_columns(columns, like), like)


@inline
def pack(packed: Floats, b: Floats) -> None:
    """The columns of b into panels; zeros beyond."""
    depth, columns = b.shape
    first = 0
    while first < columns:
        width = panel_width(columns - first, packed)
        here = panel(packed, depth, first, width)
        if width > columns - first:
            set_zero(here)
            width = columns - first
        copy(here[:, :width], b[:, first : first + width])
        first += here.shape[1]


@inline
def pack_turned(packed: Floats, w: Floats) -> None:
    """The columns of w^T into panels; zeros beyond."""
    columns, depth = w.shape
    set_zero(packed)
    first = 0
    while first < columns:
        width = panel_width(columns - first, packed)
        here = panel(packed, depth, first, width)
        for c in range(min(width, columns - first)):
            for k in range(depth):
                here[k, c] = w[first + c, k]
        first += width


@inline
def unpack(b: Floats, packed: Floats, taller: int) -> None:
    """From panels of `taller` rows, of which the first are b's, into b."""
    depth, columns = b.shape
    first = 0
    while first < columns:
        width = panel_width(columns - first, packed)
        here = panel(packed, taller, first, width)
        width = min(width, columns - first)
        copy(b[:, first : first + width], here[:depth, :width])
        first += here.shape[1]


@inline
def odd_lines(columns: int, like: Floats) -> int:
    """`columns` rounded up to an odd number of cache lines: rows then spread over all sets."""
    lines = (columns - 1) // line(like) + 1
    return (lines + 1 - lines % 2) * line(like)  # type: ignore[no-any-return]


@inline
def as_matrix(w: Floats) -> Floats:
    """Weights (k,k,Ci,Co) as (K,Co)."""
    return w.reshape(-1, w.shape[3])


@inline
def strided(a: Floats) -> Floats:
    """The same matrix, of the type that a part of a wider one has."""
    return as_strided(a, a.shape, a.strides)


@inline
def new_windows(depth: int, total: int, like: Floats) -> Floats:
    """A tile of windows: K numbers a row, and place behind them for what a vector leaves there.

    All tiles are about as high.
    """
    columns = odd_lines(depth + NARROW * lanes(like), like)
    most = max(8 * ROWS, min(TILE_ROWS, TILE_BYTES // (columns * like.itemsize)))
    tiles = (total - 1) // most + 1
    rows = (total - 1) // tiles + 1
    windows = scratch((rows + BOTH - 1) // BOTH * BOTH, columns, like)
    set_zero(windows)  # what no window fills is multiplied, too, and left alone afterwards
    return windows


@inline
def new_padded(x: Floats, padding: int) -> Floats:
    """A map of x (N,H,W,C) with a border, all zeros: (H+2p, (W+2p)*C)."""
    _, h, w, channels = x.shape
    image = scratch(h + 2 * padding, (w + 2 * padding) * channels, x)
    set_zero(image)
    return strided(image)


@inline
def new_image(x: Floats, affine: Floats | None, padding: int) -> Floats:
    """The same for activations; nothing where x itself will do."""
    if affine is None and padding == 0 and x.strides[2] == x.shape[3] * x.itemsize:
        return strided(scratch(1, 1, x))
    return new_padded(x, padding)


@inline
def fill_image(image: Floats, x: Floats, n: int, affine: Floats | None, padding: int) -> Floats:
    """The activation of x[n] inside of the border; x[n] itself where it will do."""
    _, h, width, channels = x.shape
    if affine is None and x.strides[2] == channels * x.itemsize:  # no slice of channels
        rows = as_strided(x[n], (h, width * channels), (x.strides[1], x.itemsize))
        if padding == 0:
            return rows
        left, right = padding * channels, (padding + width) * channels
        copy(image[padding : padding + h, left:right], rows)
        return image
    inputs = pixels(x)
    for i in range(h):
        first = (n * h + i) * width
        row = image_row(image, i, padding, width, channels)
        if affine is None:
            copy(row, inputs[first : first + width])
        else:
            activate(row, inputs[first : first + width], affine)
    return image


@inline
def image_row(image: Floats, i: int, padding: int, width: int, channels: int) -> Floats:
    """Row i of the map inside of the border: (W,C)."""
    inside = image[i + padding, padding * channels :]
    return as_strided(inside, (width, channels), (channels * image.itemsize, image.itemsize))


@inline
def empty_image(
    dz: Floats,
    n: int,
    dimage: Floats,
    sums: Floats,
    x: Floats,
    affine: Floats | None,
    padding: int,
) -> None:
    """The gradient of x[n]'s activation out of `dimage`, which is zeros again, on to dz[n]."""
    _, h, width, channels = x.shape
    here = slice(n * h * width, (n + 1) * h * width)
    inputs, din = pixels(x)[here], pixels(dz)[here]
    for i in range(h):
        row = image_row(dimage, i, padding, width, channels)
        copy(din[i * width : (i + 1) * width], row)
    set_zero(dimage)
    if affine is not None:
        deactivate(din, sums, inputs, affine)


@inline
def gather_tile(
    windows: Floats,
    image: Floats,
    ready: int,
    x: Floats,
    affine: Floats | None,
    start: int,
    count: int,
    geometry: Geometry,
    needed: Floats,
) -> tuple[Floats, int]:
    """The windows of outputs `start` to `start + count`, image by image, one a row of the tile.

    `image` holds the activations of image number `ready`; returned are those of the last one.
    Meanwhile memory is asked for the rows of `needed`.
    """
    padding, area = geometry[2], geometry[5]
    at = start
    while at < start + count:
        n = at // area
        if n != ready:
            image = fill_image(image, x, n, affine, padding)
            ready = n
        stop = min((n + 1) * area, start + count)
        rows = needed[at - start : stop - start]
        gather(windows[at - start :], image, at - n * area, stop - n * area, geometry, rows)
        at = stop
    return image, ready


@inline
def gather(
    windows: Floats, image: Floats, first: int, stop: int, geometry: Geometry, needed: Floats
) -> None:
    """The windows of outputs `first` to `stop` of an image, one a row of the tile.

    Meanwhile memory is asked for as many rows of `needed`.
    """
    size, stride, _, channels, wo, _ = geometry
    length, step = size * channels, lanes(windows)
    tail, left, top = length % step, first % wo, first // wo * stride
    for q in range(stop - first):
        for c in range(0, needed.shape[1], line(needed)):
            prefetch(needed, q, c)
        for k in range(size):
            at, start = k * length, left * stride * channels
            for c in range(0, length - tail, step):
                store(windows, q, at + c, load(image, top + k, start + c, None), None)
            if tail > 0:  # the rest of the vector is overwritten, or lies behind the row's end
                c = length - tail
                store(windows, q, at + c, load(image, top + k, start + c, tail), None)
        left += 1
        if left == wo:
            left, top = 0, top + stride


@inline
def scatter_tile(
    dz: Floats,
    sums: Floats,
    dimage: Floats,
    windows: Floats,
    x: Floats,
    affine: Floats | None,
    start: int,
    count: int,
    geometry: Geometry,
) -> None:
    """The gradients of windows into `dimage`, and from there into dz once an image is whole."""
    padding, area = geometry[2], geometry[5]
    at = start
    while at < start + count:
        n = at // area
        stop = min((n + 1) * area, start + count)
        scatter(dimage, windows[at - start :], at - n * area, stop - n * area, geometry)
        at = stop
        if at == (n + 1) * area:
            empty_image(dz, n, dimage, sums, x, affine, padding)


@inline
def scatter(dimage: Floats, windows: Floats, first: int, stop: int, geometry: Geometry) -> None:
    """The gradients of windows, added to those of the pixels that they were copied from."""
    size, stride, _, channels, wo, _ = geometry
    length, step = size * channels, lanes(windows)
    tail, left, top = length % step, first % wo, first // wo * stride
    for q in range(stop - first):
        for k in range(size):
            at, start = k * length, left * stride * channels
            for c in range(0, length - tail, step):
                total = load(dimage, top + k, start + c, None) + load(windows, q, at + c, None)
                store(dimage, top + k, start + c, total, None)
            if tail > 0:
                c = length - tail
                total = load(dimage, top + k, start + c, tail) + load(windows, q, at + c, tail)
                store(dimage, top + k, start + c, total, tail)
        left += 1
        if left == wo:
            left, top = 0, top + stride
