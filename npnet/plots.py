"""Pictures of data and runs. Needs the `plots` extra; nothing else in npnet imports matplotlib."""

import csv
import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from npnet.data.dataset import Dataset
from npnet.errors import NpnetError
from npnet.run_folder import RunFolder

CURVES = ("loss", "acc", "test_loss", "test_acc")


def _figure(**options: Any) -> Any:
    """A matplotlib figure that needs no display."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NpnetError("pictures need matplotlib: pip install 'npnet[plots]'") from error
    return Figure(layout="constrained", **options)


def _save(figure: Any, path: Path) -> None:
    try:
        figure.savefig(path, dpi=100)
    except (OSError, ValueError) as error:
        raise NpnetError(f"cannot write the picture {path}: {error}") from error


def contact_sheet(dataset: Dataset, path: Path, columns: int = 12) -> None:
    """Write a picture with a row of training images for each class (the first ten classes)."""
    names = list(dataset.classes)[:10]
    images = dataset.read("train", np.arange(min(2000, dataset.size("train"))))
    figure = _figure(figsize=(columns * 0.6 + 1.2, len(names) * 0.6))
    axes = figure.subplots(len(names), 1, squeeze=False)[:, 0]
    for label, (name, axis) in enumerate(zip(names, axes, strict=True)):
        chosen = images.pixels[images.labels == label][:columns]
        axis.imshow(np.concatenate(list(chosen), axis=1), interpolation="nearest")
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
        axis.set(xticks=[], yticks=[])
    _save(figure, path)


def training_curves(runs: Sequence[Path], path: Path) -> None:
    """Write a picture of loss and accuracy by epoch: training solid, test dashed, a colour a run.

    `runs` are run folders. Training figures are the mean over ranks.
    """
    figure = _figure(figsize=(10, 4))
    loss_axis, acc_axis = figure.subplots(1, 2)
    for number, run in enumerate(runs):
        epochs, columns = _read_log(RunFolder(run))
        for axis, name in ((loss_axis, "loss"), (acc_axis, "acc")):
            colour = f"C{number}"
            axis.plot(epochs, columns[name], colour, label=f"{_label(run)}, train")
            axis.plot(epochs, columns[f"test_{name}"], f"{colour}o--", label=f"{_label(run)}, test")
    loss_axis.set(xlabel="epoch", ylabel="cross-entropy, nats", title="Loss")
    acc_axis.set(xlabel="epoch", ylabel="accuracy", title="Accuracy", ylim=(0, 1))
    for axis in (loss_axis, acc_axis):
        axis.grid(alpha=0.3)
    acc_axis.legend(fontsize="small")
    _save(figure, path)


def _label(run: Path) -> str:
    try:
        config = json.loads(RunFolder(run).config.read_text(encoding="utf-8"))
        return f"{config['recipe']['name']} np={config['world']} {config['recipe']['sync']}"
    except (OSError, ValueError, KeyError):
        return run.name


def _read_log(folder: RunFolder) -> tuple[list[int], dict[str, list[float]]]:
    """Epochs, and for each column its mean over ranks, NaN where nothing was measured."""
    values: dict[str, dict[int, list[float]]] = {name: defaultdict(list) for name in CURVES}
    try:
        with folder.log.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name in CURVES:
                    values[name][int(row["epoch"])].append(float(row[name] or "nan"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise NpnetError(f"{folder.path} is no run folder with a log.csv: {error}") from error
    epochs = sorted(values["loss"])
    return epochs, {name: [float(np.mean(values[name][e])) for e in epochs] for name in CURVES}
