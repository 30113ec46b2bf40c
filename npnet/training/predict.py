"""What a trained network sees in a user's pictures."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from npnet.data.batches import ImageInput, not_augmented
from npnet.data.pictures import read_pictures
from npnet.errors import NpnetError
from npnet.kernels import backend as kernels_of
from npnet.model.inference import Inference
from npnet.model.weights import Weights

BATCH = 12
# Of a folder's files, those that are taken for pictures.
SUFFIXES = (
    *(".bmp", ".gif", ".jpeg", ".jpg", ".npy", ".pbm", ".pgm"),
    *(".png", ".ppm", ".tif", ".tiff", ".webp"),
)


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one picture, with their probabilities, the likeliest first."""

    path: Path
    index: int  # in its file
    several: bool  # pictures in that file
    ranking: tuple[tuple[str, float], ...]


def predict_pictures(
    weights: Weights,
    paths: Sequence[Path],
    top: int,
    backend: str = "numba",
    refused: Callable[[NpnetError], object] | None = None,
) -> Iterator[Prediction]:
    """Predict each picture of each file, file by file; of a folder, the files of `pictures_in`.

    Classes that nothing names are called by their numbers. Raises NpnetError if a file cannot be
    read; but where there is `refused`, it is called with the error of each file that cannot be, and
    the others are predicted.
    """
    model = weights.config
    names = weights.classes or tuple(map(str, range(model.classes)))
    inference = Inference(weights.architecture, weights.parameters(), BATCH, backend)
    image_input = ImageInput(model, kernels_of(backend))
    for path, pixels in _read(paths, model.stored_size, refused):
        for start in range(0, len(pixels), BATCH):
            part = pixels[start : start + BATCH]
            batch = not_augmented(part, np.zeros(len(part), np.int64))
            image_input.fill(inference.images, batch)
            inference.forward(len(batch))
            inference.loss(batch.labels)  # for the probabilities; the labels are placeholders
            for row, probabilities in enumerate(inference.probabilities[: len(batch)], start):
                if not np.isfinite(probabilities).all():
                    raise NpnetError(
                        f"{weights.source} makes numbers that are not finite of {path}: no class "
                        "can be told by these weights"
                    )
                best = np.argsort(-probabilities)[:top]
                ranking = tuple((names[k], float(probabilities[k])) for k in best)
                yield Prediction(path, row, len(pixels) > 1, ranking)


def _read(
    paths: Sequence[Path], stored_size: int, refused: Callable[[NpnetError], object] | None
) -> Iterator[tuple[Path, NDArray[np.uint8]]]:
    """Each file and its pictures, uint8 (N,H,W,3)."""
    left = list(reversed(paths))
    while left:
        path = left.pop()
        try:
            if os.path.isdir(path):
                left += reversed(pictures_in(path))
                continue
            pixels = read_pictures(path, stored_size)
        except NpnetError as error:
            if refused is None:
                raise
            refused(error)
            continue
        yield path, pixels


def pictures_in(folder: Path) -> list[Path]:
    """The pictures in a folder and in the folders below, sorted by path.

    What its name does not tell to be a picture (SUFFIXES) is left out, and what is hidden; folders
    behind links are not entered. Raises NpnetError if there is none, or a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise NpnetError(f"cannot read {error.filename}: {error.strerror}") from error

    found = []
    for place, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        shown = [Path(place, name) for name in names if not name.startswith(".")]
        found += [path for path in shown if path.suffix.lower() in SUFFIXES]
    if not found:
        raise NpnetError(f"{folder} holds no pictures: give one of {' '.join(SUFFIXES)}")
    return sorted(found)
