"""From stored bytes to the network's input: crop, flip, resize and normalise in one pass."""

import numpy as np

from npnet.kernels.arrays import Bytes, Floats, Ints


def image_forward(
    y: Floats,
    pixels: Bytes,
    index: Ints,
    shift_yx: Ints,
    flip: Bytes,
    mean: Floats,
    rstd: Floats,
) -> None:
    """y[n] = (resize(flip(crop(pixels[index[n]]))) - mean) * rstd.

    y (N,S,S,3), pixels uint8 (images,H,W,3), index int64 (N,), shift_yx int64 (N,2), flip uint8
    (N,), mean, rstd float64 (3,) on the scale 0..255.

    Cropping by shift_yx = (dy,dx), |dy| <= H, |dx| <= W, moves the window over the image, black
    outside it: the padded random crop of He et al. 2016, section 4.2. flip = 1 mirrors left and
    right. Resizing is bilinear with half-pixel centres, source = (i+0.5)*H/S - 0.5; beyond the
    window's edge its edge pixels continue.
    """
    n, size = y.shape[:2]
    h, w = pixels.shape[1:3]
    top, row_weight = _bilinear(h, size)
    left, column_weight = _bilinear(w, size)
    for i in range(n):
        window = _crop(pixels[index[i]].astype(y.dtype), *shift_yx[i])
        if flip[i]:
            window = window[:, ::-1]
        bottom, right = np.minimum(top + 1, h - 1), np.minimum(left + 1, w - 1)
        a, b = row_weight.astype(y.dtype)[:, None, None], column_weight.astype(y.dtype)[:, None]
        upper = window[top][:, left] * (1 - b) + window[top][:, right] * b
        lower = window[bottom][:, left] * (1 - b) + window[bottom][:, right] * b
        y[i] = (upper * (1 - a) + lower * a - mean) * rstd


def _bilinear(source: int, target: int) -> tuple[Ints, Floats]:
    """For each target pixel the first of its two source pixels and the weight of the second."""
    position = (np.arange(target) + 0.5) * (source / target) - 0.5
    position = np.clip(position, 0, source - 1)
    first = np.floor(position).astype(np.int64)
    return first, position - first


def _crop(image: Floats, dy: int, dx: int) -> Floats:
    """The window of the image's own size that starts at (dy,dx), zero where it leaves the image."""
    h, w, _ = image.shape
    window = np.zeros_like(image)
    top, bottom, left, right = max(dy, 0), min(h + dy, h), max(dx, 0), min(w + dx, w)
    window[top - dy : bottom - dy, left - dx : right - dx] = image[top:bottom, left:right]
    return window
