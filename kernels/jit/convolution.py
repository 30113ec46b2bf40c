"""Dense k x k convolution as matrix products of a tile of windows: reference/convolution.py.

A window is what one output pixel sees, K = k*k*Ci numbers. So many of them lie side by side in a
tile that stays in the second-level cache, one a row, wherever in their image and in whichever image
they are. The tile serves three products:

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
from npnet.kernels.jit.pooling import pixels
from npnet.kernels.jit.target import TARGET
from npnet.kernels.jit.tiles import (
    activate,
    add_statistics,
    copy,
    deactivate,
    finish_backward,
    finish_statistics,
    scratch,
    set_origin,
    set_zero,
    through_batchnorm,
)
from npnet.kernels.jit.vector import lanes, line, load, store

ROWS, VECTORS = TARGET.blocks[-1], len(TARGET.blocks)  # of the register block
TILE_ROWS = 192 // ROWS * ROWS
TILE_BYTES = 2 * TARGET.tile_bytes

Geometry = tuple[int, int, int, int]  # kernel, stride, input channels, outputs in a row


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
    outputs, ci, size = pixels(y), x.shape[3], w.shape[0]
    weights, geometry = as_matrix(w), (size, stride, ci, wo)
    depth, total, per_image = len(weights), len(outputs), ho * wo
    panels = new_panels(depth, co, x)
    pack(panels, weights)
    windows = new_windows(depth, total, x)
    rows = len(windows)
    made = strided(scratch(rows, co // wide(x) * wide(x) + wide(x), x))
    image = new_image(x, padding)
    sums, origin = np.zeros((2, co), np.float64), np.empty((1, co), x.dtype)
    ready = -1
    for start in range(0, total, rows):
        count = min(rows, total - start)
        at = start
        while at < start + count:
            n = at // per_image
            if n != ready:
                fill_image(image, x, n, affine, padding)
                ready = n
            stop = min((n + 1) * per_image, start + count)
            gather(windows, at - start, image, at - n * per_image, stop - n * per_image, geometry)
            at = stop
        whole = (count + ROWS - 1) // ROWS * ROWS
        tile = outputs[start : start + count]
        fits = count == whole and co % wide(x) == 0
        out = tile if fits else made[:whole]
        a = windows[:whole, :depth]
        for p in range(len(panels) // depth):
            columns = slice(p * wide(x), (p + 1) * wide(x))
            block_rows(out[:, columns], a, panels[p * depth : (p + 1) * depth])
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
    dout, ci, size = pixels(dz_next), x.shape[3], w.shape[0]
    weights, geometry = as_matrix(w), (size, stride, ci, wo)
    depth, total, per_image = len(weights), len(dout), ho * wo
    windows = new_windows(depth, total, x)
    rows = len(windows)
    gradient = scratch(rows, odd_lines(co + wide(x), x), x)
    set_zero(gradient)
    sums = np.zeros((2, ci), np.float64)
    if dw is not None:
        image = new_image(x, padding)
        taller = (depth + ROWS - 1) // ROWS * ROWS
        dpanels = new_panels(taller, co, x)
        set_zero(dpanels)
    if dz is not None:
        dimage = new_padded(x, padding)
        turned = new_panels(co, depth, x)
        pack_turned(turned, weights)
    ready = -1
    for start in range(0, total, rows):
        count = min(rows, total - start)
        dy = gradient[:count, :co]
        if affine_backward is None:
            copy(dy, dout[start : start + count])
        elif y is not None:
            through_batchnorm(
                dy, dout[start : start + count], pixels(y)[start : start + count], affine_backward
            )
        if dw is not None:
            at = start
            while at < start + count:
                n = at // per_image
                if n != ready:
                    fill_image(image, x, n, affine, padding)
                    ready = n
                stop = min((n + 1) * per_image, start + count)
                gather(
                    windows, at - start, image, at - n * per_image, stop - n * per_image, geometry
                )
                at = stop
            a = windows[:count, :taller].T
            for p in range(len(dpanels) // taller):
                columns = slice(p * wide(x), (p + 1) * wide(x))
                block_rows_add(dpanels[p * taller : (p + 1) * taller], a, gradient[:count, columns])
        if dz is not None:
            whole = (count + ROWS - 1) // ROWS * ROWS
            for p in range(len(turned) // co):
                columns = slice(p * wide(x), (p + 1) * wide(x))
                block_rows(
                    windows[:whole, columns],
                    gradient[:whole, :co],
                    turned[p * co : (p + 1) * co],
                )
            at = start
            while at < start + count:
                n = at // per_image
                stop = min((n + 1) * per_image, start + count)
                scatter(
                    dimage, windows, at - start, at - n * per_image, stop - n * per_image, geometry
                )
                at = stop
                if at == (n + 1) * per_image:
                    empty_image(dz, n, dimage, sums, x, affine, padding)
    if dw is not None:
        unpack(as_matrix(dw), dpanels, taller)
    if affine is not None and dgamma is not None and dbeta is not None:
        finish_backward(dgamma, dbeta, sums, affine)


def _block_rows(add: bool) -> Callable[[Floats, Floats, Floats], None]:
    def rows(out: Floats, a: Floats, b: Floats) -> None:
        for i in range(0, len(a), ROWS):
            register_block(out, a, b, i, 0, None, ROWS, VECTORS, 1, add)

    rows.__qualname__ = f"block_rows{'_add' * add}"
    return inline(rows)


# out = a @ b and out += a @ b for one panel. The rows of `a` are a multiple of the block's.
block_rows = _block_rows(add=False)
block_rows_add = _block_rows(add=True)


@inline
def wide(like: Floats) -> int:
    """Columns of a panel."""
    return VECTORS * lanes(like)  # type: ignore[no-any-return]


@inline
def odd_lines(columns: int, like: Floats) -> int:
    """So many columns or more, an odd number of cache lines: rows then spread over all sets."""
    lines = (columns - 1) // line(like) + 1
    return (lines + 1 - lines % 2) * line(like)  # type: ignore[no-any-return]


@inline
def as_matrix(w: Floats) -> Floats:
    """Weights (k,k,Ci,Co) as (K,Co)."""
    return w.reshape(-1, w.shape[3])


@inline
def strided(a: Floats) -> Floats:
    """The same matrix, of the type that a slice of columns has."""
    return as_strided(a, a.shape, a.strides)


@inline
def new_panels(depth: int, columns: int, like: Floats) -> Floats:
    """A matrix of so many columns as panels, one below the other, each (depth, wide)."""
    return scratch(((columns - 1) // wide(like) + 1) * depth, wide(like), like)


@inline
def pack(panels: Floats, w: Floats) -> None:
    """The columns of w (K,Co) into panels; zeros beyond."""
    depth, columns = w.shape
    set_zero(panels)
    for p in range(len(panels) // depth):
        first = p * panels.shape[1]
        here = slice(first, min(first + panels.shape[1], columns))
        copy(panels[p * depth : (p + 1) * depth, : here.stop - first], w[:, here])


@inline
def pack_turned(panels: Floats, w: Floats) -> None:
    """The columns of w^T, w (K,Co), into panels of depth Co; zeros beyond."""
    depth, columns = w.shape
    width = panels.shape[1]
    set_zero(panels)
    for k in range(depth):
        first, c = k // width * columns, k % width
        for o in range(columns):
            panels[first + o, c] = w[k, o]


@inline
def unpack(w: Floats, panels: Floats, taller: int) -> None:
    """From panels of `taller` rows, of which the first K are, into w (K,Co)."""
    depth, columns = w.shape
    for p in range(len(panels) // taller):
        first = p * panels.shape[1]
        here = slice(first, min(first + panels.shape[1], columns))
        copy(w[:, here], panels[p * taller : p * taller + depth, : here.stop - first])


@inline
def new_windows(depth: int, total: int, like: Floats) -> Floats:
    """A tile of windows: K numbers a row, and place behind them for what a vector leaves there."""
    columns = odd_lines(depth + wide(like), like)
    rows = min(TILE_ROWS, TILE_BYTES // (columns * like.itemsize) // ROWS * ROWS)
    rows = min(max(rows, 8 * ROWS), (total + ROWS - 1) // ROWS * ROWS)
    return scratch(rows, columns, like)


@inline
def new_padded(x: Floats, padding: int) -> Floats:
    """A map of x (N,H,W,C) with a border, all zeros: (H+2p, (W+2p)*C)."""
    _, h, w, channels = x.shape
    image = scratch(h + 2 * padding, (w + 2 * padding) * channels, x)
    set_zero(image)
    return strided(image)


@inline
def new_image(x: Floats, padding: int) -> Floats:
    """Likewise."""
    return new_padded(x, padding)


@inline
def image_row(image: Floats, i: int, padding: int, shape: tuple[int, int]) -> Floats:
    """Row i of the map inside of the border: (W,C)."""
    channels = shape[1]
    inside = image[i + padding, padding * channels :]
    return as_strided(inside, shape, (channels * image.itemsize, image.itemsize))


@inline
def fill_image(image: Floats, x: Floats, n: int, affine: Floats | None, padding: int) -> None:
    """The activation of x[n] inside of the border."""
    _, h, width, channels = x.shape
    inputs = pixels(x)
    for i in range(h):
        first = (n * h + i) * width
        row = image_row(image, i, padding, (width, channels))
        if affine is None:
            copy(row, inputs[first : first + width])
        else:
            activate(row, inputs[first : first + width], affine)


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
    image = slice(n * h * width, (n + 1) * h * width)
    inputs, din = pixels(x)[image], pixels(dz)[image]
    for i in range(h):
        row = image_row(dimage, i, padding, (width, channels))
        copy(din[i * width : (i + 1) * width], row)
    set_zero(dimage)
    if affine is not None:
        deactivate(din, sums, inputs, affine)


@inline
def gather(
    windows: Floats, row: int, image: Floats, first: int, stop: int, geometry: Geometry
) -> None:
    """The windows of outputs `first` to `stop` of an image, into rows of the tile from `row` on."""
    size, stride, channels, wo = geometry
    length, step = size * channels, lanes(windows)
    tail = length % step
    for q in range(first, stop):
        i, left = q // wo * stride, q % wo * stride * channels
        for k in range(size):
            at = k * length
            for c in range(0, length - tail, step):
                store(windows, row, at + c, load(image, i + k, left + c, None), None)
            if tail > 0:  # the rest of the vector is overwritten, or lies behind the row's end
                c = length - tail
                store(windows, row, at + c, load(image, i + k, left + c, tail), None)
        row += 1


@inline
def scatter(
    dimage: Floats, windows: Floats, row: int, first: int, stop: int, geometry: Geometry
) -> None:
    """The gradients of windows, added to those of the pixels that they were copied from."""
    size, stride, channels, wo = geometry
    length, step = size * channels, lanes(windows)
    tail = length % step
    for q in range(first, stop):
        i, left = q // wo * stride, q % wo * stride * channels
        for k in range(size):
            at = k * length
            for c in range(0, length - tail, step):
                total = load(dimage, i + k, left + c, None) + load(windows, row, at + c, None)
                store(dimage, i + k, left + c, total, None)
            if tail > 0:
                c = length - tail
                total = load(dimage, i + k, left + c, tail) + load(windows, row, at + c, tail)
                store(dimage, i + k, left + c, total, tail)
        row += 1
