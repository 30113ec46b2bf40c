"""Pictures from a user's files. Needs the `images` extra for anything but .npy."""

import os
import warnings
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from npnet.archive import array_header
from npnet.errors import NpnetError
from npnet.untrusted import Refused, open_file

# What Pillow may take a file for, whatever it is called. Its other readers are used less and looked
# at less, and one of them, that of EPS, starts another program on the file.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM")
MOST_PIXELS = 64_000_000  # of a file: some 800 MB while one with clear parts is read
_BITS, _INTERPRETATION, _WHITE_IS_ZERO = 258, 262, 0  # tags of a TIFF, and what one may say


def read_pictures(path: Path, stored_size: int) -> NDArray[np.uint8]:
    """The pictures in a file, uint8 (N,H,W,3).

    A .npy file holds one, (H,W,3), or several, (N,H,W,3). Of a file of FORMATS Pillow makes the
    largest centred square, `stored_size` pixels across, as small as the images that the network
    was trained on: in more detail it would not know them. Its colours are those that a viewer shows
    on white, with 255 for white whatever its depth; a colour profile is left aside. Raises
    NpnetError if the file is not a picture, or has more than MOST_PIXELS.
    """
    try:
        with open_file(path) as file:
            if path.suffix == ".npy":
                pixels = _array(file, path)
            else:
                pixels = _picture(file, path, stored_size)[None]
    except OSError as error:  # Pillow raises one for a file that was cut short, too
        raise NpnetError(f"cannot read the picture {path}: {error.strerror or error}") from error
    if pixels.size == 0:
        raise NpnetError(f"{path} holds no pixels: its shape is {pixels.shape}")
    return pixels


def _array(file: BinaryIO, path: Path) -> NDArray[np.uint8]:
    try:
        found = array_header(file, os.fstat(file.fileno()).st_size)
        shape, dtype = found.shape, np.dtype(found.dtype)
        if len(shape) not in (3, 4) or shape[-1] != 3 or dtype != np.uint8:
            raise NpnetError(
                f"{path} holds {dtype} {shape}: give uint8 (H,W,3) or (N,H,W,3), RGB from 0 to 255"
            )
        _check_size(prod(shape) // 3, path)
        pixels: NDArray[np.uint8] = found.read(file)
    except Refused as error:
        raise NpnetError(f"{path} is no array of numbers: {error}") from error
    if pixels.ndim == 3:
        pixels = pixels[None]
    return np.ascontiguousarray(pixels)


def _check_size(pixels: int, path: Path) -> None:
    if pixels > MOST_PIXELS:
        raise NpnetError(f"{path} has {pixels:,} pixels: give {MOST_PIXELS:,} at most")


def _picture(file: BinaryIO, path: Path, stored_size: int) -> NDArray[np.uint8]:
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError
    except ImportError as error:
        raise NpnetError(
            f"reading {path} needs Pillow: pip install 'npnet[images]', or give a .npy file"
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of broken notes in a file whose picture is whole
            with Image.open(file, formats=FORMATS) as picture:
                _check_size(picture.width * picture.height, path)
                turned = _upright(picture)
                upright = _on_white(_of_eight_bits(turned, picture, path))
    except UnidentifiedImageError as error:
        raise NpnetError(
            f"cannot read the picture {path}: it is none of {', '.join(FORMATS)}"
        ) from error
    except (NpnetError, OSError, MemoryError):
        raise
    except Exception as error:  # of a broken file Pillow raises many kinds
        reason = str(error) or type(error).__name__
        raise NpnetError(f"cannot read the picture {path}: {reason}") from error
    size = min(stored_size, *upright.size)
    square = ImageOps.fit(upright, (size, size), Image.Resampling.BOX)
    return np.asarray(square, dtype=np.uint8)


def _upright(picture: Any) -> Any:
    """The picture as its camera was held; as it is stored where the camera's notes are broken."""
    from PIL import ImageOps

    picture.load()  # so that what is wrong with the picture itself is not taken for a broken note
    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # Pillow's, of many kinds
        return picture


def _on_white(picture: Any) -> Any:
    """What a viewer shows of a picture that may be clear in places, mode RGB.

    White shines through, as paper does. Left to Pillow, a clear pixel would show the colour that
    its file happens to hold there.
    """
    from PIL import Image

    if "transparency" not in picture.info and picture.mode not in ("LA", "PA", "RGBA", "RGBa"):
        return picture.convert("RGB")
    colours = picture.convert("RGBA")
    white = Image.new("RGBA", colours.size, "white")
    return Image.alpha_composite(white, colours).convert("RGB")


def _of_eight_bits(picture: Any, file: Any, path: Path) -> Any:
    """A picture of deeper grey with 255 for its white; any other as it is.

    Left to Pillow, all that is above 255 would become 255. `file` is what `picture` was read from.
    Raises NpnetError for numbers of 32 bits, for nothing tells how large they are meant to be.
    """
    from PIL import Image

    if picture.mode not in ("I", "F") and not picture.mode.startswith("I;16"):
        return picture
    if picture.mode == "F" or (picture.mode == "I" and file.format not in ("PNG", "PPM")):
        raise NpnetError(
            f"{path} holds numbers that have no white (Pillow's mode {picture.mode}): save it with "
            "8 or 16 bits for each pixel and colour"
        )
    tags = file.tag_v2 if file.format == "TIFF" else {}
    white = 2 ** tags.get(_BITS, (16,))[0] - 1  # of 12 bits Pillow makes 16 as they are
    numbers = np.asarray(picture).astype(np.uint32)
    clear = picture.info.get("transparency")
    grey = (numbers * 255 + white // 2) // white
    if tags.get(_INTERPRETATION) == _WHITE_IS_ZERO:  # of 8 bits Pillow does this itself
        grey = 255 - grey
    shallow = Image.fromarray(grey.astype(np.uint8))
    if clear is not None:
        shallow.putalpha(Image.fromarray(np.where(numbers == clear, 0, 255).astype(np.uint8)))
    return shallow
