"""What acts on each element of an activation on its way: reference/elementwise.py."""

import numpy as np

from npnet.kernels.arrays import Bytes, Floats
from npnet.kernels.jit.options import inline, kernel
from npnet.kernels.jit.target import TARGET
from npnet.kernels.jit.tiles import affine_vector, deactivate, finish_backward, pixels
from npnet.kernels.jit.vector import clip, lanes, load, load_bytes, repeat, store


@kernel
def activation_add_forward(
    y: Floats, x1: Floats, affine1: Floats, x2: Floats, affine2: Floats
) -> None:
    """As reference.activation_add_forward, in one pass."""
    out, left, right = pixels(y), pixels(x1), pixels(x2)
    channels, step = out.shape[1], lanes(out)
    for start in range(0, len(out), TARGET.tile_rows):
        tile = slice(start, min(start + TARGET.tile_rows, len(out)))
        for c in range(0, channels - channels % step, step):
            add_strip(out[tile], left[tile], affine1, right[tile], affine2, c, None)
        if channels % step > 0:
            c = channels - channels % step
            add_strip(out[tile], left[tile], affine1, right[tile], affine2, c, channels - c)


@inline
def add_strip(
    y: Floats, x1: Floats, affine1: Floats, x2: Floats, affine2: Floats, c: int, tail: int | None
) -> None:
    scale1, shift1, low1, high1 = affine_vector(affine1, c, tail)
    scale2, shift2, low2, high2 = affine_vector(affine2, c, tail)
    for i in range(len(y)):
        a1 = clip(scale1 * load(x1, i, c, tail) + shift1, low1, high1)
        a2 = clip(scale2 * load(x2, i, c, tail) + shift2, low2, high2)
        store(y, i, c, a1 + a2, tail)


@kernel
def activation_dropout_forward(
    y: Floats, x: Floats, affine: Floats, keep: Bytes, rate: float
) -> None:
    """As reference.activation_dropout_forward."""
    out, inputs, kept = pixels(y), pixels(x), pixels(keep)
    channels, step, factor = out.shape[1], lanes(out), 1 / (1 - rate)
    for start in range(0, len(out), TARGET.tile_rows):
        tile = slice(start, min(start + TARGET.tile_rows, len(out)))
        for c in range(0, channels - channels % step, step):
            dropout_strip(out[tile], inputs[tile], affine, kept[tile], factor, c, None)
        if channels % step > 0:
            c = channels - channels % step
            dropout_strip(out[tile], inputs[tile], affine, kept[tile], factor, c, channels - c)


@inline
def dropout_strip(
    y: Floats, x: Floats, affine: Floats, keep: Bytes, factor: float, c: int, tail: int | None
) -> None:
    scale, shift, low, high = affine_vector(affine, c, tail)
    factors = repeat(scale, factor)
    for i in range(len(y)):
        a = clip(scale * load(x, i, c, tail) + shift, low, high)
        store(y, i, c, a * (factors * load_bytes(keep, i, c, a, tail)), tail)


@kernel
def activation_dropout_backward(
    dz: Floats,
    dgamma: Floats,
    dbeta: Floats,
    dy: Floats,
    keep: Bytes,
    x: Floats,
    affine: Floats,
    rate: float,
) -> None:
    """As reference.activation_dropout_backward."""
    din, dout, kept, inputs = pixels(dz), pixels(dy), pixels(keep), pixels(x)
    channels, step, factor = inputs.shape[1], lanes(inputs), 1 / (1 - rate)
    sums = np.zeros((2, channels), np.float64)
    for start in range(0, len(inputs), TARGET.tile_rows):
        tile = slice(start, min(start + TARGET.tile_rows, len(inputs)))
        for c in range(0, channels - channels % step, step):
            keep_strip(din[tile], dout[tile], kept[tile], factor, c, None)
        if channels % step > 0:
            c = channels - channels % step
            keep_strip(din[tile], dout[tile], kept[tile], factor, c, channels - c)
        deactivate(din[tile], sums, inputs[tile], affine)
    finish_backward(dgamma, dbeta, sums, affine)


@inline
def keep_strip(
    da: Floats, dy: Floats, keep: Bytes, factor: float, c: int, tail: int | None
) -> None:
    """da = dy*keep*factor.   All (pixels,C)."""
    for i in range(len(da)):
        gradient = load(dy, i, c, tail)
        kept = load_bytes(keep, i, c, gradient, tail)
        store(da, i, c, gradient * (repeat(gradient, factor) * kept), tail)
