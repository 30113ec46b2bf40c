"""Resized crops and colours against Pillow, whose filter and whose blends are the field's."""

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from npnet.kernels import jit, reference

BACKENDS = pytest.mark.parametrize("kernels", [jit, reference], ids=["jit", "reference"])
NEUTRAL = (1.0, 1.0, 1.0)


def picture(side):
    """Random blocks and noise: edges and single pixels."""
    rng = np.random.default_rng(side)
    blocks = rng.integers(40, 200, (-(-side // 4), -(-side // 4), 3))
    noise = rng.integers(-40, 41, (side, side, 3))
    return (blocks.repeat(4, 0).repeat(4, 1)[:side, :side] + noise).astype(np.uint8)


def seen(kernels, image, size, box, color=NEUTRAL):
    """What the kernel makes of a box of an image, on the scale 0..255."""
    y = np.full((1, size, size, 3), np.nan)
    kernels.image_resized_crop_forward(
        y, image[None], np.zeros(1, np.int64), np.array([box], float), np.array([color]),
        np.zeros(3), np.ones(3),
    )  # fmt: skip
    return y[0]


def pillows(image, size, box):
    """The same by Pillow, in floating point."""
    top, left, height, width = box
    corners = (left, top, left + width, top + height)
    planes = [Image.fromarray(image[..., c].astype(np.float32)) for c in range(3)]
    resized = [p.resize((size, size), Image.Resampling.BILINEAR, box=corners) for p in planes]
    return np.stack([np.asarray(plane) for plane in resized], axis=-1)


@BACKENDS
@pytest.mark.parametrize(
    ("side", "size", "box"),
    [
        (40, 24, (0, 0, 40, 40)),  # shrunk by 1.67
        (40, 9, (0, 0, 40, 40)),  # by more than 4
        (40, 32, (2.5, 2.5, 35, 35)),  # the centre of an evaluation
        (40, 16, (3.2, 11.7, 30.1, 21.4)),
        (40, 33, (20.6, 1.3, 9.8, 14.9)),  # enlarged
        (40, 40, (0, 0, 40, 40)),
        (8, 32, (0, 0, 8, 8)),
        (3, 1, (0, 0, 3, 3)),
    ],
)
def test_a_resized_crop_is_pillow_s(kernels, side, size, box):
    image = picture(side)
    assert np.abs(seen(kernels, image, size, box) - pillows(image, size, box)).max() < 1e-3


@BACKENDS
def test_a_crop_of_whole_pixels_is_a_slice(kernels):
    image = picture(20)
    assert np.allclose(seen(kernels, image, 7, (4, 9, 7, 7)), image[4:11, 9:16])


@BACKENDS
def test_a_negative_extent_mirrors(kernels):
    image, box = picture(20), (1.5, 2.5, 15, 12)
    straight = seen(kernels, image, 9, box)
    assert np.allclose(seen(kernels, image, 9, (1.5, 14.5, 15, -12)), straight[:, ::-1])
    assert np.allclose(seen(kernels, image, 9, (16.5, 2.5, -15, 12)), straight[::-1])


@BACKENDS
def test_a_crop_that_leaves_the_image_is_black_there(kernels):
    """As far as it goes, and the image's own edge continues where it does not leave."""
    white = np.full((8, 8, 3), 200, np.uint8)
    inside = seen(kernels, white, 8, (-2, 3, 8, 8))
    assert not inside[:2].any()
    assert not inside[:, 5:].any()
    assert np.allclose(inside[2:, :5], 200)
    half = seen(kernels, white, 16, (-2, 0, 8, 8))  # between black and white
    assert np.allclose(half[:, 7, 0], [0, 0, 0, 50, 150, *[200] * 11])
    assert not seen(kernels, white, 4, (9, 0, 8, 8)).any()


@BACKENDS
@pytest.mark.parametrize("padding", [(0, 0), (3, -2), (-4, 4)])
def test_a_shifted_crop_is_what_the_kernel_of_shifts_makes(kernels, padding):
    """But at the window's edge, where that one repeats it and this one sees the pixel behind."""
    image, y = picture(16), np.empty((1, 40, 40, 3))
    kernels.image_forward(
        y, image[None], np.zeros(1, np.int64), np.array([padding]), np.zeros(1, np.uint8),
        np.zeros(3), np.ones(3),
    )  # fmt: skip
    edge = slice(2, -2)
    assert np.allclose(seen(kernels, image, 40, (*padding, 16, 16))[edge, edge], y[0, edge, edge])


@BACKENDS
@pytest.mark.parametrize("color", [(1.3, 1, 1), (1, 0.6, 1), (1, 1, 0.4), (0.8, 1.2, 1.3)])
def test_colours_are_blended_as_pillow_does(kernels, color):
    image = Image.fromarray(picture(24) // 2 + 50)  # nothing is clipped
    brightness, contrast, saturation = color
    expected = ImageEnhance.Brightness(image).enhance(brightness)
    expected = ImageEnhance.Contrast(expected).enhance(contrast)
    expected = ImageEnhance.Color(expected).enhance(saturation)
    found = seen(kernels, np.asarray(image), 24, (0, 0, 24, 24), color)
    assert np.abs(found - np.asarray(expected)).max() < 3.5  # which rounds down, each time


@BACKENDS
def test_colours_end_at_black_and_white(kernels):
    image = picture(12)
    bright = seen(kernels, image, 12, (0, 0, 12, 12), (1.9, 1.9, 1))
    assert (bright.min(), bright.max()) == (0, 255)
    grey = seen(kernels, image, 12, (0, 0, 12, 12), (1, 1, 0))
    assert np.allclose(grey, grey[..., :1])
    assert np.allclose(seen(kernels, image, 12, (0, 0, 12, 12), (1, 0, 1)), grey.mean())
