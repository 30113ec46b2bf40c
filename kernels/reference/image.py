"""From stored bytes to the network's input: crop, flip, resize and normalise in one pass."""

import numpy as np

from npnet.kernels.arrays import LUMA, Bytes, Floats, Ints


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


def image_resized_crop_forward(
    y: Floats,
    pixels: Bytes,
    index: Ints,
    box: Floats,
    color: Floats,
    mean: Floats,
    rstd: Floats,
) -> None:
    """y[n] = (jitter(resize(pixels[index[n]] in box[n])) - mean) * rstd.

    y (N,S,S,3), pixels uint8 (images,H,W,3), index int64 (N,), box float64 (N,4), color float64
    (N,3), mean, rstd float64 (3,) on the scale 0..255.

    A box is top, left, height and width, pixels of any fraction, and becomes the whole of y[n]. A
    negative height or width runs up or to the left from there: the crop is mirrored. `color` is
    brightness, contrast and saturation, see `_jitter`; 1, 1, 1 changes nothing.
    """
    size = y.shape[1]
    h, w = pixels.shape[1:3]
    for n, (top, left, height, width) in enumerate(box):
        down = _antialiased(top, height, h, size).astype(y.dtype)
        across = _antialiased(left, width, w, size).astype(y.dtype)
        image = pixels[index[n]].astype(y.dtype)
        resized = np.tensordot(down, across @ image, axes=1)
        y[n] = (_jitter(resized, *color[n]) - mean) * rstd


def _antialiased(start: float, extent: float, source: int, target: int) -> Floats:
    """(target, source): the weights by which each target pixel is a mean of source pixels.

    A triangle around the target's centre, at start + (i+0.5)*extent/target: two source pixels wide
    where the crop is enlarged, which is bilinear interpolation, and two target pixels where it is
    shrunk, so that every source pixel counts. The filter of Pillow and of torchvision's
    antialias=True. Beyond the image its edge continues; but where the crop itself leaves the image,
    there is black as far as the crop goes.
    """
    step = extent / target
    centre = start + (np.arange(target)[:, None] + 0.5) * step
    first = min(0, int(np.floor(min(start, start + extent) + 0.5)))
    last = max(source, int(np.floor(max(start, start + extent) + 0.5)))
    position = np.arange(first, last) + 0.5
    weights = np.maximum(1 - abs(position - centre) / max(abs(step), 1), 0)
    weights /= weights.sum(axis=1, keepdims=True)
    inside: Floats = np.zeros((target, source))
    low, high = max(first, 0), min(last, source)
    inside[:, low:high] = weights[:, low - first : high - first]
    return inside


def _jitter(x: Floats, brightness: float, contrast: float, saturation: float) -> Floats:
    """Colours x (S,S,3) changed by three factors, each of which leaves them as they are at 1.

    Saturation blends each pixel with its own grey (0), contrast with the mean grey of the image
    (0), brightness with black (0). These blends commute. torchvision's ColorJitter is the same in
    any order, but clips to 0..255 after each of them, where this clips once.
    """
    grey = x @ np.array(LUMA, x.dtype)
    saturated = saturation * x + (1 - saturation) * grey[..., None]
    mixed: Floats = brightness * (contrast * saturated + (1 - contrast) * grey.mean())
    return mixed.clip(0, 255)
