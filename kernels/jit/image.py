"""From stored bytes to the network's input: crop, flip, resize and normalise in one pass."""

import numpy as np

from npnet.kernels.arrays import Bytes, Floats, Ints
from npnet.kernels.jit.options import inline, kernel


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
    """
    n_images, size, _, channels = y.shape
    h = pixels.shape[1]
    across = np.empty((h, size * channels), y.dtype)
    for n in range(n_images):
        image = pixels[index[n]]
        dy, dx = shift_yx[n]
        for row in range(h):
            resize_row(across[row], image, row + dy, dx, flip[n], mean, rstd)
        for i in range(size):
            top, weight = source(i, h, size)
            a = y.dtype.type(weight)
            upper, lower, out = across[top], across[min(top + 1, h - 1)], y[n, i].reshape(-1)
            for k in range(len(out)):
                out[k] = upper[k] + a * (lower[k] - upper[k])


@inline
def resize_row(
    out: Floats, image: Bytes, row: int, dx: int, flip: int, mean: Floats, rstd: Floats
) -> None:
    """One row of the cropped and flipped window, resized across and normalised.   out (S*C,)."""
    w, channels = image.shape[1], len(mean)
    size = len(out) // channels
    for j in range(size):
        left, b = source(j, w, size)
        right = min(left + 1, w - 1)
        if flip:
            left, right = w - 1 - left, w - 1 - right
        for c in range(channels):
            value = (1 - b) * at(image, row, left + dx, c) + b * at(image, row, right + dx, c)
            out[j * channels + c] = (value - mean[c]) * rstd[c]


@inline
def source(target: int, source_size: int, target_size: int) -> tuple[int, float]:
    """The first of the two source pixels of a target pixel, and the weight of the second."""
    position = (target + 0.5) * (source_size / target_size) - 0.5
    position = min(max(position, 0.0), source_size - 1.0)
    first = int(position)
    return first, position - first


@inline
def at(image: Bytes, i: int, j: int, c: int) -> float:
    """image[i,j,c], black outside the image."""
    if 0 <= i < image.shape[0] and 0 <= j < image.shape[1]:
        return float(image[i, j, c])
    return 0.0
