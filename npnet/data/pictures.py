"""Pictures from a user's files. Needs the `images` extra for anything but .npy."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npnet.errors import NpnetError


def read_pictures(path: Path, stored_size: int) -> NDArray[np.uint8]:
    """The pictures in a file, uint8 (N,H,W,3).

    A .npy file holds one, (H,W,3), or several, (N,H,W,3). Of any other file Pillow makes the
    largest centred square, `stored_size` pixels across, as small as the images that the network
    was trained on: in more detail it would not know them. Raises NpnetError if the file is not a
    picture.
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
    if pixels.ndim == 3:
        pixels = pixels[None]
    if pixels.ndim != 4 or pixels.shape[3] != 3 or pixels.dtype != np.uint8:
        raise NpnetError(
            f"{path} holds {pixels.dtype} {pixels.shape}: give uint8 (H,W,3) or (N,H,W,3), RGB"
        )
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
            upright = ImageOps.exif_transpose(file).convert("RGB")
    except (Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise NpnetError(f"cannot read the picture {path}: {error}") from error
    size = min(stored_size, *upright.size)
    square = ImageOps.fit(upright, (size, size), Image.Resampling.BOX)
    return np.asarray(square, dtype=np.uint8)
