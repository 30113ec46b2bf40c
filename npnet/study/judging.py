"""The files that tell how a network was judged: a summary, tables, pictures."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npnet.data.dataset import Dataset, Split
from npnet.data.held_out import file_of
from npnet.errors import NpnetError
from npnet.files import write_atomically
from npnet.study import plots
from npnet.training.judgement import Judgement


def summary(judgement: Judgement, dataset: Dataset, split: Split) -> dict[str, Any]:
    """What evaluation.json says: scores, and of each class how it fared, the worst first."""
    scores = {f"{split}_loss": judgement.loss, f"{split}_acc": judgement.accuracy}
    if judgement.top5 is not None:
        scores[f"{split}_top5_acc"] = judgement.top5
    return scores | {
        "dataset": dataset.name,
        "split": split,
        "images": len(judgement),
        "per_class": [asdict(score) for score in judgement.per_class()],
    }


def worst(judgement: Judgement, dataset: Dataset, split: Split, most: int) -> list[dict[str, Any]]:
    """The images that it was most wrong about: index in the split, classes, how sure it was.

    `file` is "" of an image that has none.
    """
    names = judgement.classes
    return [
        {
            "index": int(index),
            "file": file_of(dataset, split, int(index)),
            "class": names[judgement.labels[index]],
            "predicted": names[judgement.predicted[index]],
            "probability": float(judgement.probabilities[index]),
            "loss": float(judgement.losses[index]),
        }
        for index in judgement.worst(most)
    ]


def make_folder(folder: Path) -> None:
    """Raises NpnetError if that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NpnetError(f"cannot make {folder}: {error.strerror}; choose another `out`") from error


def write_tables(folder: Path, judgement: Judgement, found: dict[str, Any]) -> list[Path]:
    """Write `found` as evaluation.json, and per_class.csv and confusion.csv; returns their paths.

    confusion.csv has a row for each class, a column for each that its images were taken for.
    """
    scores = [asdict(score) for score in judgement.per_class()]
    matrix = zip(judgement.classes, judgement.confusion.tolist(), strict=True)
    files = {
        "evaluation.json": json.dumps(found, indent=2) + "\n",
        "per_class.csv": _csv([list(scores[0]), *(each.values() for each in scores)]),
        "confusion.csv": _csv([["class", *judgement.classes], *([n, *row] for n, row in matrix)]),
    }
    for name, text in files.items():
        write_atomically(folder / name, text.encode(errors="backslashreplace"))
    return [folder / name for name in files]


def _csv(rows: Iterable[Iterable[Any]]) -> str:
    """Names may occur twice, as two of ImageNet's do; what is None is empty."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def draw_confusion(folder: Path, judgement: Judgement, who: str) -> Path:
    """Draw confusion.png. `who`: the network and the images."""
    path = folder / "confusion.png"
    plots.confusion(judgement, f"{who}: {100 * judgement.accuracy:.1f} % accuracy", path)
    return path


def draw_worst(
    folder: Path,
    judgement: Judgement,
    found: Sequence[Mapping[str, Any]],
    pixels: NDArray[np.uint8],
    who: str,
) -> Path:
    """Draw worst.png, of what `worst` found, and the images' `pixels` (n,H,W,3)."""
    path, wrong = folder / "worst.png", int((judgement.likelier > 0).sum())
    title = f"{who}: the worst {len(found)} of {wrong:,} errors"
    names = {each["index"]: Path(each["file"]).name or f"image {each['index']}" for each in found}
    plots.errors(judgement, names, pixels, title, path)
    return path
