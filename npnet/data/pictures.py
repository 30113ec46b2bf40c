"""Pictures from a user's files. Needs the `images` extra for anything but .npy.

Training packs what `read_square` makes of a file, and prediction reads files by it, too: a network
meets what it was trained on.
"""

import os
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
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
# Of a JPEG as few pixels are decoded as leave so many for each that is kept, across.
DETAIL = 3
LARGE = 4_000_000  # pixels: of such pictures one is decoded at a time
_BITS, _INTERPRETATION, _WHITE_IS_ZERO = 258, 262, 0  # tags of a TIFF, and what one may say


def read_pictures(path: Path, stored_size: int) -> NDArray[np.uint8]:
    """The pictures in a file, uint8 (N,H,W,3).

    A .npy file holds one, (H,W,3), or several, (N,H,W,3), which stay as they are. Any other is
    read by `read_square`. Raises NpnetError if the file is not a picture, or has more than
    MOST_PIXELS.
    """
    if path.suffix.lower() != ".npy":
        with quiet():
            return read_square(path, stored_size)[None]
    try:
        with open_file(path) as file:
            pixels = _array(file, path)
    except OSError as error:
        raise NpnetError(f"cannot read the picture {path}: {error.strerror or error}") from error
    if pixels.size == 0:
        raise NpnetError(f"{path} holds no pixels: its shape is {pixels.shape}")
    return pixels


def read_square(path: Path, size: int) -> NDArray[np.uint8]:
    """The picture in a file of FORMATS, uint8 (size,size,3); of an animated one, the first.

    It is the largest centred square, scaled by Pillow's bicubic filter, which averages where it
    makes smaller. Its colours are those that a viewer shows on white, with 255 for white whatever
    its depth; a colour profile is left aside. It may be called in several threads, within `quiet`.
    Raises NpnetError if the file is not a picture, or has more than MOST_PIXELS.
    """
    try:
        with open_file(path) as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise NpnetError(f"cannot read the picture {path}: it is empty")
            return _picture(file, path, size)
    except OSError as error:  # Pillow raises one for a file that was cut short, too
        raise NpnetError(f"cannot read the picture {path}: {error.strerror or error}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without Pillow's warnings, of broken notes in a file whose picture is whole."""
    with warnings.catch_warnings():  # which all threads of a process share
        warnings.simplefilter("ignore")
        yield


def check_pillow(path: Path) -> None:
    """Raise NpnetError, naming `path`, if Pillow is missing."""
    try:
        import PIL.Image  # noqa: F401
    except ImportError as error:
        raise NpnetError(
            f"reading {path} needs Pillow: pip install 'npnet[images]', or give a .npy file"
        ) from error


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


_one_at_a_time = threading.Lock()


def _picture(file: BinaryIO, path: Path, size: int) -> NDArray[np.uint8]:
    check_pillow(path)
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(file, formats=FORMATS) as picture:
            _check_size(picture.width * picture.height, path)
            picture.draft(None, (DETAIL * size, DETAIL * size))
            large = picture.width * picture.height > LARGE
            with _one_at_a_time if large else nullcontext():
                turned = _upright(picture)
                upright = _on_white(_of_eight_bits(turned, picture, path))
                square = ImageOps.fit(upright, (size, size), Image.Resampling.BICUBIC)
    except UnidentifiedImageError as error:
        raise NpnetError(
            f"cannot read the picture {path}: it is none of {', '.join(FORMATS)}"
        ) from error
    except (NpnetError, OSError, MemoryError):
        raise
    except Exception as error:  # of a broken file Pillow raises many kinds
        reason = str(error) or type(error).__name__
        raise NpnetError(f"cannot read the picture {path}: {reason}") from error
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
