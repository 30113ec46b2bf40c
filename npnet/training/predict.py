"""What a trained network sees in a user's pictures."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from npnet.data.batches import ImageInput, not_augmented
from npnet.data.pictures import read_pictures
from npnet.errors import NpnetError
from npnet.kernels import backend as kernels_of
from npnet.training.checkpoint import load

BATCH = 12


@dataclass(frozen=True)
class Prediction:
    """The likeliest classes of one picture, with their probabilities, the likeliest first."""

    path: Path
    index: int  # in its file
    several: bool  # pictures in that file
    ranking: tuple[tuple[str, float], ...]


def predict_pictures(
    checkpoint: Path,
    paths: Sequence[Path],
    top: int,
    backend: str = "numba",
    refused: Callable[[NpnetError], object] | None = None,
) -> Iterator[Prediction]:
    """Predict each picture of each file, file by file.

    Raises NpnetError if the checkpoint or a file cannot be read; but where there is `refused`, it
    is called with the error of each file that cannot be, and the others are predicted.
    """
    saved = load(checkpoint)
    inference = saved.inference(BATCH, backend)
    image_input = ImageInput(saved.header.model, kernels_of(backend))
    for path in paths:
        try:
            pixels = read_pictures(path, saved.header.model.stored_size)
        except NpnetError as error:
            if refused is None:
                raise
            refused(error)
            continue
        for start in range(0, len(pixels), BATCH):
            part = pixels[start : start + BATCH]
            batch = not_augmented(part, np.zeros(len(part), np.int64))
            image_input.fill(inference.images, batch)
            inference.forward(len(batch))
            inference.loss(batch.labels)  # for the probabilities; the labels are placeholders
            for row, probabilities in enumerate(inference.probabilities[: len(batch)], start):
                best = np.argsort(-probabilities)[:top]
                ranking = tuple((saved.header.classes[k], float(probabilities[k])) for k in best)
                yield Prediction(path, row, len(pixels) > 1, ranking)
