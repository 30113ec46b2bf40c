"""Augmentation in numbers: what the image kernels are told about each image of an epoch."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from npnet.data.seeds import AUGMENTATION, generator


class Augmentation(Protocol):
    """How training images differ from epoch to epoch, see training/recipe.py."""

    @property
    def flip(self) -> bool: ...
    @property
    def crop_padding(self) -> int: ...
    @property
    def crop_scale(self) -> float: ...
    @property
    def crop_ratio(self) -> float: ...
    @property
    def color_jitter(self) -> float: ...


def draw(recipe: Augmentation, count: int, side: int, seed: int, epoch: int) -> dict[str, Any]:
    """For each of the `count` images of a split, `side` pixels across, fields of its `Batch`.

    A few numbers an image, drawn for all of them at once: they depend on the seed, the epoch and
    the image alone, and not on who trains on it.
    """
    rng = generator(seed, AUGMENTATION, epoch)
    drawn: dict[str, Any] = {}
    drawn["flip"] = rng.integers(0, 1 + recipe.flip, count, dtype=np.uint8)
    padding = recipe.crop_padding
    drawn["shift_yx"] = rng.integers(-padding, padding + 1, (count, 2))
    if recipe.crop_scale < 1:
        drawn["box"] = random_boxes(rng, count, side, recipe.crop_scale, recipe.crop_ratio)
    if recipe.color_jitter > 0:
        drawn["color"] = random_colors(rng, count, recipe.color_jitter)
    return drawn


def random_boxes(
    rng: np.random.Generator, count: int, side: int, scale: float, ratio: float
) -> NDArray[np.float64]:
    """Crops (count,4) of square images: top, left, height, width, in pixels of the `side` stored.

    The random resized crop of Szegedy et al. 2015, section 6: its area is `scale` to 1 of the
    image's, its aspect (width / height) is 1/ratio to ratio, uniform in its logarithm, its place is
    any inside. Where a large crop of an extreme aspect would not fit, its aspect is drawn from
    those that do.
    """
    chance = rng.random((count, 4))
    area = scale + (1 - scale) * chance[:, 0]
    widest = np.minimum(np.log(ratio), -np.log(area))
    aspect = np.exp(widest * (2 * chance[:, 1] - 1))
    size = np.minimum(np.sqrt([area / aspect, area * aspect]).T, 1)
    corner = (1 - size) * chance[:, 2:]
    boxes: NDArray[np.float64] = side * np.concatenate((corner, size), axis=1)
    return boxes


def random_colors(rng: np.random.Generator, count: int, jitter: float) -> NDArray[np.float64]:
    """Factors (count,3) of brightness, contrast and saturation, each from 1-jitter to 1+jitter."""
    return rng.uniform(1 - jitter, 1 + jitter, (count, 3))
