"""From stored bytes to the network's input: crop, flip, resize and normalise in one pass."""

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
    """As reference.image_forward: four source bytes to a target value, nothing stored between."""
    n_images, size, _, channels = y.shape
    h, w = pixels.shape[1:3]
    for n in range(n_images):
        image = pixels[index[n]]
        dy, dx = shift_yx[n]
        for i in range(size):
            top, a = source(i, h, size)
            bottom = min(top + 1, h - 1)
            for j in range(size):
                left, b = source(j, w, size)
                right = min(left + 1, w - 1)
                if flip[n]:
                    left, right = w - 1 - left, w - 1 - right
                for c in range(channels):
                    upper = (1 - b) * at(image, top + dy, left + dx, c) + b * at(
                        image, top + dy, right + dx, c
                    )
                    lower = (1 - b) * at(image, bottom + dy, left + dx, c) + b * at(
                        image, bottom + dy, right + dx, c
                    )
                    y[n, i, j, c] = ((1 - a) * upper + a * lower - mean[c]) * rstd[c]


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
