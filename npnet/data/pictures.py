"""Pictures from a user's files. Needs the `images` extra for anything but .npy."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npnet.errors import NpnetError

_BITS, _INTERPRETATION, _WHITE_IS_ZERO = 258, 262, 0  # tags of a TIFF, and what one may say


def read_pictures(path: Path, stored_size: int) -> NDArray[np.uint8]:
    """The pictures in a file, uint8 (N,H,W,3).

    A .npy file holds one, (H,W,3), or several, (N,H,W,3). Of any other file Pillow makes the
    largest centred square, `stored_size` pixels across, as small as the images that the network
    was trained on: in more detail it would not know them. Its colours are those that a viewer shows
    on white, with 255 for white whatever its depth. Raises NpnetError if the file is not a picture.
    """
    try:
        pixels = _array(path) if path.suffix == ".npy" else _picture(path, stored_size)[None]
    except OSError as error:  # Pillow raises one for a file that it does not know, too
        raise NpnetError(f"cannot read the picture {path}: {error.strerror or error}") from error
    if pixels.size == 0:
        raise NpnetError(f"{path} holds no pixels: its shape is {pixels.shape}")
    return pixels


def _array(path: Path) -> NDArray[np.uint8]:
    try:
        pixels: NDArray[Any] = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise NpnetError(f"{path} is no array of numbers: {error}") from error
    if pixels.ndim not in (3, 4) or pixels.shape[-1] != 3 or pixels.dtype != np.uint8:
        raise NpnetError(
            f"{path} holds {pixels.dtype} {pixels.shape}: give uint8 (H,W,3) or (N,H,W,3), RGB "
            "from 0 to 255"
        )
    if pixels.ndim == 3:
        pixels = pixels[None]
    return np.ascontiguousarray(pixels)


def _picture(path: Path, stored_size: int) -> NDArray[np.uint8]:
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise NpnetError(
            f"reading {path} needs Pillow: pip install 'npnet[images]', or give a .npy file"
        ) from error
    try:
        with Image.open(path) as file:
            turned = ImageOps.exif_transpose(file)
            upright = _on_white(_of_eight_bits(turned, file, path))
    except (Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise NpnetError(f"cannot read the picture {path}: {error}") from error
    size = min(stored_size, *upright.size)
    square = ImageOps.fit(upright, (size, size), Image.Resampling.BOX)
    return np.asarray(square, dtype=np.uint8)


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
