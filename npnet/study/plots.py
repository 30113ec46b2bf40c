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
from npnet.measure.benchmark import Timing
from npnet.measure.roofline import Roof
from npnet.study.collapse import PAPER_TEST_ACC, Row
from npnet.training.run_folder import RunFolder

CURVES = ("loss", "acc", "test_loss", "test_acc")


def _figure(**options: Any) -> Any:
    """A matplotlib figure that needs no display."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NpnetError("pictures need matplotlib: pip install 'npnet[plots]'") from error
    return Figure(layout="constrained", **options)


def save(figure: Any, path: Path) -> None:
    """Write a figure as a picture. Raises NpnetError if it cannot be."""
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
    save(figure, path)


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
    save(figure, path)


def roofline(timings: Sequence[Timing], roof: Roof, path: Path) -> None:
    """Write a picture of rate by intensity, both axes logarithmic, under the core's two bounds.

    A dot is a kernel on one of the model's shapes: its colour is the kind of operation, a circle
    stands for a forward and a triangle for a backward kernel, and the area for its part of a step.
    Kernels that no training step runs are left out.
    """
    used = [timing for timing in timings if timing.uses]
    step_ms = sum(timing.uses * timing.ms_median for timing in used)
    figure = _figure(figsize=(10, 6.5))
    axis = figure.subplots()
    intensities = [timing.intensity for timing in used] + [roof.ridge]
    ends = np.array([min(intensities) / 2, roof.ridge, max(intensities) * 2])
    axis.loglog(ends, [roof.gflops(x) for x in ends], "k-", zorder=1)
    note = f"{roof.peak_gflops:.0f} GFLOP/s multiplied, {roof.copy_gbytes:.1f} GB/s copied"
    axis.set(xlabel="FLOP/byte", ylabel="GFLOP/s", title=f"One core: {note}")
    for number, kind in enumerate(dict.fromkeys(timing.kind for timing in used)):
        for marker, backward in (("o", False), ("v", True)):
            dots = [t for t in used if t.kind == kind and ("backward" in t.kernel) is backward]
            axis.scatter(
                [dot.intensity for dot in dots],
                [dot.gflops for dot in dots],
                [20 + 6000 * dot.uses * dot.ms_median / step_ms for dot in dots],
                color=f"C{number}",
                marker=marker,
                alpha=0.6,
                linewidths=0,
                label=None if backward else kind,
            )
    axis.grid(alpha=0.3, which="both")
    legend = axis.legend(title="circle forward, triangle backward;\narea: part of a step's time")
    for handle in legend.legend_handles:
        handle.set_sizes([60])
    save(figure, path)


def collapse(rows: Sequence[Row], dataset: Dataset, path: Path) -> None:
    """Write a picture of test accuracy by number of workers, a line a way to train and test.

    The paper's own line is drawn whole where the dataset is the paper's.
    """
    published = PAPER_TEST_ACC if dataset.name == "cifar10" else {}
    moving = {row.np: row.moving for row in rows}
    recalibrated = {row.np: row.recalibrated for row in rows}
    lines = (  # the last: where the numbers stand, in points from their dots
        ("published (the paper's Table 3)", "k:s", published, (0, -14)),
        ("the paper's protocol, moving statistics", "C3-o", moving, (-18, 0)),
        ("the same weights, recalibrated", "C1--o", recalibrated, (0, 7)),
        ("modern: gradients averaged", "C2-o", {row.np: row.modern for row in rows}, (0, 7)),
    )
    figure = _figure(figsize=(8, 5))
    axis = figure.subplots()
    for label, style, accuracies, place in lines:
        points = [(count, 100 * acc) for count, acc in accuracies.items() if acc is not None]
        if points:
            axis.plot(*zip(*points, strict=True), style, label=label)
        for x, y in points:
            axis.annotate(f"{y:.1f}", (x, y), place, textcoords="offset points", ha="center")
    axis.axhline(100 / len(dataset.classes), color="grey", linewidth=0.8)  # chance
    axis.set(
        xlabel="processes",
        xticks=sorted({*published, *(row.np for row in rows)}),
        ylabel="test accuracy, %",
        ylim=(0, 100),
        title=f"MobileNetV2 on {dataset.name}: the collapse, its cause, and a way round it",
    )
    axis.grid(alpha=0.3)
    axis.legend(loc="center right", fontsize="small")
    save(figure, path)


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
