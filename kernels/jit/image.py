"""From stored bytes to the network's input: crop, flip, resize and normalise in one pass."""

from typing import Any

import numpy as np

from npnet.kernels.arrays import LUMA, Bytes, Floats, Ints
from npnet.kernels.jit.options import inline, kernel

RED, GREEN, BLUE = LUMA


@kernel
def image_forward(
    y: Floats,
    pixels: Bytes,
    index: Ints,
    shift_yx: Ints,
    flip: Bytes,
    mean: Floats,
    rstd: Floats,
) -> None:
    """As reference.image_forward: the window's few rows across first, then between them down.

    Blending commutes with normalising, so that is done on the way across, where numbers are few.
    Which two pixels make one across, all rows of an image have in common.
    """
    n_images, size, _, channels = y.shape
    h, w = pixels.shape[1:3]
    across = np.empty((h, size * channels), y.dtype)
    columns, weights = np.empty((2, size), np.int64), np.empty((2, size), np.float64)
    for n in range(n_images):
        image = pixels[index[n]]
        dy, dx = shift_yx[n]
        columns_of_window(columns, weights, w, dx, flip[n])
        for row in range(h):
            if 0 <= row + dy < h:
                resize_row(across[row], image[row + dy], columns, weights, mean, rstd)
            else:
                black_row(across[row], mean, rstd)
        for i in range(size):
            top, weight = source(i, h, size)
            a = y.dtype.type(weight)
            upper, lower, out = across[top], across[min(top + 1, h - 1)], y[n, i].reshape(-1)
            for k in range(len(out)):
                out[k] = upper[k] + a * (lower[k] - upper[k])


@inline
def columns_of_window(columns: Ints, weights: Floats, w: int, dx: int, flip: int) -> None:
    """For each target pixel of a row, its two source pixels and their weights; 0 outside: black."""
    size = columns.shape[1]
    for j in range(size):
        left, b = source(j, w, size)
        for side, column, weight in ((0, left, 1 - b), (1, min(left + 1, w - 1), b)):
            column = (w - 1 - column if flip else column) + dx
            inside = 0 <= column < w
            columns[side, j], weights[side, j] = (column, weight) if inside else (0, 0.0)


@inline
def resize_row(
    out: Floats, row: Bytes, columns: Ints, weights: Floats, mean: Floats, rstd: Floats
) -> None:
    """One row of the cropped and flipped window, resized across and normalised.   out (S*C,)."""
    channels = len(mean)
    for j in range(columns.shape[1]):
        left, right = columns[0, j], columns[1, j]
        for c in range(channels):
            value = weights[0, j] * row[left, c] + weights[1, j] * row[right, c]
            out[j * channels + c] = (value - mean[c]) * rstd[c]


@inline
def black_row(out: Floats, mean: Floats, rstd: Floats) -> None:
    for k in range(len(out)):
        c = k % len(mean)
        out[k] = (0.0 - mean[c]) * rstd[c]


@inline
def source(target: int, source_size: int, target_size: int) -> tuple[int, float]:
    """The first of the two source pixels of a target pixel, and the weight of the second."""
    position = (target + 0.5) * (source_size / target_size) - 0.5
    position = min(max(position, 0.0), source_size - 1.0)
    first = int(position)
    return first, position - first


@kernel
def image_resized_crop_forward(
    y: Floats,
    pixels: Bytes,
    index: Ints,
    box: Floats,
    color: Floats,
    mean: Floats,
    rstd: Floats,
) -> None:
    """As reference.image_resized_crop_forward: a row of the output at a time, first its source rows
    down to one, which runs along memory, then across; the colours once the image's mean is known.
    """
    n_images, size, _, _ = y.shape
    h, w = pixels.shape[1:3]
    taps = 3
    for n in range(n_images):
        taps = max(taps, 2 * int(max(abs(box[n, 2]), abs(box[n, 3])) / size) + 3)
    first = np.empty((2, size), np.int64)
    count = np.empty((2, size), np.int64)
    weights = np.empty((2, size, taps), y.dtype)
    down = np.empty(3 * w, y.dtype)
    for n in range(n_images):
        antialiased(first[0], count[0], weights[0], box[n, 0], box[n, 2], h)
        antialiased(first[1], count[1], weights[1], box[n, 1], box[n, 3], w)
        start, stop = w, 0  # the columns that are read
        for j in range(size):
            start = min(start, first[1, j])
            stop = max(stop, first[1, j] + count[1, j])
        image, columns = pixels[index[n]].reshape(h, 3 * w), down[3 * start : 3 * stop]
        for i in range(size):
            columns[:] = 0
            for t in range(count[0, i]):
                row, weight = image[first[0, i] + t, 3 * start : 3 * stop], weights[0, i, t]
                for k in range(len(row)):
                    columns[k] += weight * row[k]
            for j in range(size):
                red = green = blue = y.dtype.type(0)
                for t in range(count[1, j]):
                    k, weight = 3 * (first[1, j] + t), weights[1, j, t]
                    red += weight * down[k]
                    green += weight * down[k + 1]
                    blue += weight * down[k + 2]
                y[n, i, j, 0], y[n, i, j, 1], y[n, i, j, 2] = red, green, blue
        jitter_and_normalise(y[n].reshape(-1), color[n], mean, rstd)


@inline
def antialiased(
    first: Ints, count: Ints, weights: Floats, start: float, extent: float, source: int
) -> None:
    """For each target pixel, its first source pixel, their number, and their weights (S,taps).

    Only pixels of the image are listed; the weights of black ones count in the sum all the same.
    """
    size = len(first)
    step = extent / size
    width = max(abs(step), 1.0)
    low = min(0, int(np.floor(min(start, start + extent) + 0.5)))
    high = max(source, int(np.floor(max(start, start + extent) + 0.5)))
    for i in range(size):
        centre = start + (i + 0.5) * step
        begin = max(low, int(np.floor(centre - width + 0.5)))
        end = min(high, int(np.floor(centre + width + 0.5)))
        total = 0.0
        for k in range(begin, end):
            total += max(0.0, 1 - abs(k + 0.5 - centre) / width)
        first[i] = max(begin, 0)
        count[i] = max(0, min(end, source) - first[i])
        for t in range(count[i]):
            weights[i, t] = max(0.0, 1 - abs(first[i] + t + 0.5 - centre) / width) / total


@inline
def jitter_and_normalise(x: Floats, color: Floats, mean: Floats, rstd: Floats) -> None:
    """x (S*S*3,), the resized colours, in place: clip(gain*x + mix*grey + offset), normalised."""
    brightness, contrast, saturation = color[0], color[1], color[2]
    total = 0.0
    for k in range(0, len(x), 3):
        total += grey(x, k)
    gain = x.dtype.type(brightness * contrast * saturation)
    mix = x.dtype.type(brightness * contrast * (1 - saturation))
    offset = x.dtype.type(brightness * (1 - contrast) * total / (len(x) // 3))
    black, white = x.dtype.type(0), x.dtype.type(255)
    for k in range(0, len(x), 3):
        same = mix * grey(x, k) + offset
        for c in range(3):
            value = min(max(gain * x[k + c] + same, black), white)
            x[k + c] = (value - mean[c]) * rstd[c]


@inline
def grey(x: Floats, k: int) -> Any:
    """The luma of the pixel that begins at k."""
    one = x.dtype.type
    return one(RED) * x[k] + one(GREEN) * x[k + 1] + one(BLUE) * x[k + 2]
