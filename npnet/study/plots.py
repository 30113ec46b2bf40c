"""Pictures of data and runs. Needs the `plots` extra."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from npnet.data.augmentation import Augmentation, draw
from npnet.data.batches import ImageInput, not_augmented
from npnet.data.dataset import Dataset
from npnet.data.held_out import labels_of
from npnet.errors import NpnetError
from npnet.kernels import backend as kernels_of
from npnet.measure.benchmark import Timing
from npnet.measure.roofline import Roof
from npnet.model.config import ModelConfig
from npnet.study.collapse import Row
from npnet.study.figures import blank, save
from npnet.study.paper import TABLE_3
from npnet.study.report.log import Log, read_log
from npnet.study.report.values import plain, read_json
from npnet.training.judgement import Judgement
from npnet.training.lr_find import EXPLODED, RangeTest
from npnet.training.run_folder import RunFolder

CURVES = ("loss", "acc", "test_loss", "test_acc", "val_loss", "val_acc")


def contact_sheet(dataset: Dataset, path: Path, columns: int = 12) -> None:
    """Write a picture with a row of training images for each class (the first ten classes)."""
    names = list(dataset.classes)[:10]
    labels = labels_of(dataset, "train")
    figure = blank(figsize=(columns * 0.6 + 1.2, len(names) * 0.6))
    axes = figure.subplots(len(names), 1, squeeze=False)[:, 0]
    for label, (name, axis) in enumerate(zip(names, axes, strict=True)):
        chosen = dataset.read("train", np.flatnonzero(labels == label)[:columns]).pixels
        axis.imshow(np.concatenate(list(chosen), axis=1), interpolation="nearest")
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
        axis.set(xticks=[], yticks=[])
    save(figure, path)


def augmentation_sheet(
    dataset: Dataset, recipe: Augmentation, size: int, path: Path, columns: int = 12
) -> None:
    """Write a picture with a row for each of ten training images: as it is stored, and then as
    epoch after epoch of a recipe sees it, `size` pixels across."""
    total = dataset.size("train")
    chosen = np.random.default_rng(0).permutation(total)[:10]
    images = dataset.read("train", chosen)
    grey = ModelConfig("mobilenet_v2", 2, mean=(0, 0, 0), std=(1, 1, 1))  # bytes stay as they are
    image_input = ImageInput(grey, kernels_of("reference"))
    seen = np.empty((columns, len(chosen), size, size, 3), np.float32)
    for column in range(columns):
        batch = not_augmented(images.pixels, images.labels)
        if column > 0:
            drawn = draw(recipe, total, dataset.image_size, seed=0, epoch=column - 1)
            batch = replace(batch, **{name: numbers[chosen] for name, numbers in drawn.items()})
        image_input.fill(seen[column], batch)
    each = size + max(2, size // 12)  # with a gap, or mirror images would melt into one
    sheet = np.full((len(chosen) * each, columns * each, 3), 255, np.uint8)
    for column, row in np.ndindex(columns, len(chosen)):
        place = np.s_[row * each : row * each + size, column * each : column * each + size]
        sheet[place] = seen[column, row].round()
    figure = blank(figsize=(columns, len(chosen) + 0.3))
    axis = figure.subplots()
    axis.imshow(sheet, interpolation="nearest")
    axis.xaxis.tick_top()
    names = ["as stored", *(f"epoch {number}" for number in range(1, columns))]
    axis.set_xticks(np.arange(columns) * each + size / 2, names, fontsize="small")
    axis.set_yticks([])
    axis.tick_params(length=0)
    axis.spines[:].set_visible(False)
    save(figure, path)


def runs_in(paths: Sequence[Path]) -> list[Path]:
    """The run folders among `paths`, and those that lie in one of them, such as runs/."""
    found = []
    for path in paths:
        inside = sorted(log.parent for log in path.glob("*/log.csv"))
        found += [path] if RunFolder(path).log.exists() or not inside else inside
    return list(dict.fromkeys(found))


def training_curves(runs: Sequence[Path], path: Path) -> None:
    """Write a picture of loss and accuracy by epoch: training solid, test dashed, a colour a run.

    Where images were held out, their scores stand in the place of the test's.
    `runs` are run folders. Training figures are the mean over ranks. The legend tells the runs
    apart by what differs between them; what does not is the title.
    """
    figure = blank(figsize=(10, 4.5))
    axes = figure.subplots(1, 2)
    common, labels = _describe(runs)
    last, splits = 1, set()
    for run, label, colour in zip(runs, labels, _colours(len(runs)), strict=True):
        epochs, columns = _read_log(RunFolder(run))
        last = max([last, *epochs])
        split = "test" if np.isnan(columns["val_acc"]).all() else "val"
        splits.add({"test": "test", "val": "validation"}[split])
        for axis, name in zip(axes, ("loss", "acc"), strict=True):
            test = columns[f"{split}_{name}"]
            axis.plot(epochs, columns[name], ".-", color=colour, label=label)
            axis.plot(epochs, test, "o--", color=colour, markerfacecolor="white")
    axes[0].set(ylabel="cross-entropy, nats", title="Loss")
    axes[1].set(ylabel="accuracy", title="Accuracy", ylim=(0, 1))
    for axis in axes:
        axis.set(xlabel="epoch", xlim=(0.5, last + 0.5))
        axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axis.grid(alpha=0.3)
    figure.suptitle(
        f"{common}\nsolid: training, dashed: {' or '.join(sorted(splits))}", fontsize="medium"
    )
    if len(runs) > 1:
        handles, _ = axes[0].get_legend_handles_labels()
        columns_of_legend = max(1, min(len(runs), 130 // (max(map(len, labels)) + 6)))
        figure.legend(handles, labels, loc="outside lower center", ncols=columns_of_legend)
    save(figure, path)


FEW, MANY = 20, 150  # classes: up to FEW a cell has a number, beyond MANY no class has its name
CELL, SMALL_CELL = 0.5, 0.17  # inches
SMALLEST_SIDE, LARGEST_SIDE = 2.5, 26.0  # inches, of the cells together
TOLD = 10  # pairs below the matrix
LONGEST_NAME, LONGEST_IN_CAPTION = 24, 18  # characters


def confusion(judgement: Judgement, title: str, path: Path) -> None:
    """Write a picture of the confusion matrix: a row a class, a column a prediction.

    The colour is the part of the row, on a scale on which few errors are seen, too. Below stand the
    most frequent errors in words.
    """
    cells, count = judgement.confusion, len(judgement.classes)
    parts = cells / np.maximum(cells.sum(axis=1, keepdims=True), 1)
    names = [plain(name, LONGEST_NAME) for name in judgement.classes]
    few = count <= FEW
    side = min(max(count * (CELL if few else SMALL_CELL), SMALLEST_SIDE), LARGEST_SIDE)
    figure = blank(figsize=(side + 3.2, side + 3.2))
    axis = figure.subplots()
    image = axis.imshow(parts**0.5, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    bar = figure.colorbar(
        image, ax=axis, shrink=min(1, 4 / side), ticks=np.sqrt((0, 0.01, 0.1, 0.25, 0.5, 1))
    )
    bar.ax.set_yticklabels(("0", "1 %", "10 %", "25 %", "50 %", "100 %"))
    bar.set_label("part of a class")
    size = 9 if few else 6.5
    if count <= MANY:
        words = {"fontsize": size, "parse_math": False}
        axis.set_xticks(range(count), names, rotation=90, **words)
        axis.set_yticks(range(count), names, **words)
    axis.tick_params(length=0)
    axis.set_xticks(np.arange(-0.5, count), minor=True)
    axis.set_yticks(np.arange(-0.5, count), minor=True)
    axis.grid(which="minor", color="black", alpha=0.12, linewidth=0.4)
    axis.tick_params(which="minor", length=0)
    for row, column in np.argwhere(cells) if few else ():
        colour = "white" if parts[row, column] > 0.4 else "black"
        look = {"ha": "center", "va": "center", "fontsize": size, "color": colour}
        axis.text(column, row, str(cells[row, column]), **look)
    axis.set(xlabel="predicted class", ylabel="true class")
    axis.set_title(title, fontsize="medium", parse_math=False)
    figure.supxlabel(_most_confused(judgement), fontsize=9, parse_math=False)
    save(figure, path)


def _most_confused(judgement: Judgement) -> str:
    """A line for each of the most frequent errors."""
    pairs = [
        f"{plain(pair.label, LONGEST_NAME)} taken for {plain(pair.predicted, LONGEST_NAME)}: "
        f"{pair.images} ({100 * pair.share:.0f} %)"
        for pair in judgement.confusions()[:TOLD]
    ]
    return "\n".join(["Most frequent errors", *pairs]) if pairs else "No errors"


def errors(
    judgement: Judgement,
    names: Mapping[int, str],
    pixels: NDArray[np.uint8],
    title: str,
    path: Path,
    columns: int = 5,
) -> None:
    """Write a picture of images that were taken for others: their classes, and how sure that was.

    `names`: what the images are called, by their indices in the split that was judged; `pixels`
    (n,H,W,3) are theirs.
    """
    columns = max(1, min(columns, len(names)))
    rows = -(-len(names) // columns) or 1
    width = max(1.9 * columns + 0.2, 7)  # the title's
    figure = blank(figsize=(width, 2.35 * rows + 0.5))
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes:
        axis.set_axis_off()
    if not names:
        axes[0].text(0.5, 0.5, "No errors", ha="center", va="center")
    for axis, (index, name), image in zip(axes, names.items(), pixels, strict=False):
        label, predicted = (
            plain(judgement.classes[found[index]], LONGEST_IN_CAPTION)
            for found in (judgement.labels, judgement.predicted)
        )
        own, other = np.exp(-judgement.losses[index]), judgement.probabilities[index]
        axis.imshow(image, interpolation="nearest")
        axis.set_title(
            f"{label} ({_percent(own)})\ntaken for {predicted} ({_percent(other)})\n"
            f"{plain(name, LONGEST_IN_CAPTION)}",
            fontsize=7,
            parse_math=False,
        )
    figure.suptitle(title, fontsize="medium", parse_math=False)
    save(figure, path)


def _percent(part: float) -> str:
    return f"{100 * part:.2g} %" if part < 0.1 else f"{100 * part:.0f} %"


def range_test(found: RangeTest, title: str, path: Path) -> None:
    """Write a picture of a range test's loss by learning rate, with the rate that it suggests."""
    figure = blank(figsize=(8, 4.5))
    axis = figure.subplots()
    rates = [each.lr for each in found.tries]
    axis.semilogx(rates, [each.loss for each in found.tries], ".", color="C0", alpha=0.35)
    axis.semilogx(rates, [each.smoothed for each in found.tries], "-", color="C0", label="smoothed")
    if found.risen is not None:
        axis.axvline(
            found.risen.lr, color="C3", ls=":", label=f"risen by 10 %: {found.risen.lr:.2g}"
        )
    if found.suggestion is not None:
        axis.axvline(found.suggestion, color="C2", label=f"suggested: {found.suggestion:.2g}")
    highest = max(each.smoothed for each in found.tries)
    least = found.least.smoothed
    axis.set_ylim(0.8 * least, 1.05 * min(highest, EXPLODED * least))
    axis.set(xlabel="learning rate", ylabel="training loss, nats")
    axis.set_title(f"{title}: the rate grows at each step", fontsize="medium", parse_math=False)
    axis.grid(alpha=0.3)
    axis.legend()
    save(figure, path)


def roofline(timings: Sequence[Timing], roof: Roof, path: Path) -> None:
    """Write a picture of rate by intensity, both axes logarithmic, under the core's two bounds.

    A dot is a kernel on one of the model's shapes: its colour is the operation, a circle stands for
    a forward and a triangle for a backward kernel, and the area for its part of a step. Kernels
    that no training step runs are left out; operations below 1 % of a step share a colour.
    """
    used = [timing for timing in timings if timing.uses]
    step_ms = sum(timing.uses * timing.ms_median for timing in used)
    parts: dict[str, float] = defaultdict(float)  # of a step's time, by operation
    for timing in used:
        parts[timing.operation] += timing.uses * timing.ms_median / step_ms
    large = sorted((name for name in parts if parts[name] >= 0.01), key=parts.__getitem__)[::-1]
    colours = dict(zip(large, _colours(len(large)), strict=True))
    figure = blank(figsize=(10, 6.5))
    axis = figure.subplots()
    intensities = [timing.intensity for timing in used] + [roof.ridge]
    ends = np.array([min(intensities) / 2, roof.ridge, max(intensities) * 2])
    axis.loglog(ends, [roof.gflops(x) for x in ends], "k-", zorder=1)
    note = f"{roof.peak_gflops:.0f} GFLOP/s multiplied, {roof.copy_gbytes:.1f} GB/s copied"
    axis.set(xlabel="FLOP/byte", ylabel="GFLOP/s", title=f"One core: {note}")
    for name in (*large, "others, each below 1 %"):
        for marker, backward in (("o", False), ("v", True)):
            dots = [
                timing
                for timing in used
                if ("backward" in timing.kernel) is backward
                and (
                    timing.operation == name if name in colours else timing.operation not in colours
                )
            ]
            axis.scatter(
                [dot.intensity for dot in dots],
                [dot.gflops for dot in dots],
                [20 + 6000 * dot.uses * dot.ms_median / step_ms for dot in dots],
                color=colours.get(name, "grey"),
                marker=marker,
                alpha=0.6,
                linewidths=0,
                label=None if backward else name,
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
    table = TABLE_3 if dataset.name == "cifar10" else ()
    published = {row.np: row.test_acc_pct / 100 for row in table}
    lines = (
        ("published (the paper's Table 3)", "k:s", published),
        ("the paper's protocol, moving statistics", "C3-o", {row.np: row.moving for row in rows}),
        ("the same weights, recalibrated", "C1--o", {row.np: row.recalibrated for row in rows}),
        ("modern: gradients averaged", "C2-o", {row.np: row.modern for row in rows}),
    )
    counts = sorted({*published, *(row.np for row in rows)})
    figure = blank(figsize=(9, 5.5))
    axis = figure.subplots()
    drawn = []
    for label, style, accuracies in lines:
        points = [(count, 100 * acc) for count, acc in accuracies.items() if acc is not None]
        if points:
            drawn += axis.plot(*zip(*points, strict=True), style, label=label, markersize=5)
    chance = axis.plot(
        [min(counts), max(counts)],
        [100 / len(dataset.classes)] * 2,
        "-",
        color="grey",
        lw=0.8,
        label="chance",
    )
    axis.set_xscale("log", base=2)  # neighbours stand apart at both ends
    axis.set_xticks(counts, list(map(str, counts)), minor=False)
    axis.set_xticks([], minor=True)
    axis.set(
        xlabel="processes",
        ylabel="test accuracy, %",
        ylim=(-4, 104),
        yticks=range(0, 101, 20),
        title=f"MobileNetV2 on {dataset.name}: the collapse, its cause, and a way round it",
    )
    axis.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    figure.draw_without_rendering()  # so that the axes have their places
    _number(axis, drawn, chance)
    save(figure, path)


DIGITS = 8  # size of the numbers beside dots, points
PLACES = ((0, 9), (0, -9), (17, 0), (-17, 0), (0, 19), (0, -19), (17, 9), (17, -9))  # from a dot
CORNERS = np.array([(x, y) for x in (-1, 0, 1) for y in (-1, 0, 1)])  # of a box, and between


def _number(axis: Any, lines: Sequence[Any], others: Sequence[Any]) -> None:
    """Write its value beside each dot of `lines`, where it covers the least of what is drawn.

    Dots, lines and numbers are points on the paper with a weight; a place costs those inside it.
    """
    points = 72 / axis.figure.dpi  # of a pixel
    drawn = [points * axis.transData.transform(line.get_xydata()) for line in (*lines, *others)]
    dots = np.concatenate(drawn[: len(lines)])
    taken, weights = [dots], [np.full(len(dots), 10.0)]
    for start, end in chain.from_iterable(map(pairwise, drawn)):
        steps = np.linspace(0, 1, 2 + int(np.hypot(*(end - start)) / 3))[1:-1, None]
        taken.append(start + steps * (end - start))
        weights.append(np.full(len(steps), 2.0))
    values = [(*xy, line.get_color()) for line in lines for xy in line.get_xydata()]
    for number in np.argsort(-dots[:, 1].round(), kind="stable"):  # from the top down
        dot, (x, y, colour) = dots[number], values[number]
        half = np.array([0.32 * DIGITS * len(f"{y:.1f}"), 0.6 * DIGITS])  # of the text's box
        away = abs(np.concatenate(taken) - (dot + PLACES)[:, None])  # (places, taken, 2)
        costs = (away < half).all(2) @ np.concatenate(weights)
        place = PLACES[int(np.argmin(costs + 0.5 * np.arange(len(PLACES))))]  # rather a near one
        look = {"fontsize": DIGITS, "color": colour, "ha": "center", "va": "center"}
        axis.annotate(f"{y:.1f}", (x, y), place, textcoords="offset points", **look)
        taken.append(dot + place + half * CORNERS)
        weights.append(np.full(len(CORNERS), 100.0))


def _colours(count: int) -> list[Any]:
    """As many that the eye can tell apart."""
    if count <= 10:
        return [f"C{number}" for number in range(count)]
    from matplotlib import colormaps

    return list(colormaps["turbo"](np.linspace(0.05, 0.95, count)))


def _describe(runs: Sequence[Path]) -> tuple[str, list[str]]:
    """What the runs have in common, and a label for each: what differs, else its folder, too."""
    facts = [_facts(run) for run in runs]
    names = list(dict.fromkeys(name for each in facts for name in each))
    differing = [name for name in names if len({each.get(name) for each in facts}) > 1]
    common = ", ".join(facts[0][name] for name in names if name not in differing)
    details = [name for name in differing if name in DETAILS]
    told = [name for name in differing if name not in DETAILS]
    labels = [""] * len(runs)
    for detail in (None, *details):
        if len(set(labels)) < len(runs):
            told += [detail] if detail else []
            labels = [", ".join(each[name] for name in told if name in each) for each in facts]
    if len(set(labels)) < len(runs) or not all(labels):
        labels = [
            f"{label} ({run})" if label else str(run)
            for label, run in zip(labels, _shortest(runs), strict=True)
        ]
    return common, labels


def _shortest(runs: Sequence[Path]) -> list[str]:
    """The folders' names; their paths where two have one name."""
    names = [run.resolve().name for run in runs]
    return names if len(set(names)) == len(names) else list(map(str, runs))


DETAILS = ("batch", "lr", "epochs", "seed")  # told only of runs that are else the same


def _facts(run: Path) -> dict[str, str]:
    """What tells a run from others, in the order of a sentence; empty if it does not say."""
    try:
        config = read_json(RunFolder(run).newest_config)
        model, recipe, settings = config["model"], config["recipe"], config["settings"]
        width = {} if model["width"] is None else {"width": f"width {model['width']}"}
        told = {
            "model": model["architecture"],
            **width,
            "input": f"{model['input_size']}x{model['input_size']}",
            "dataset": config["dataset"]["name"],
            "recipe": recipe["name"],
            "np": f"np={config['world']}",
            "sync": recipe["sync"],
            "batch": f"batch {settings['batch_per_rank']}",
            "lr": f"lr {config['peak_lr']:.3g}",
            "epochs": f"epochs={settings['epochs']}",
            "seed": f"seed {settings['seed']}",
        }
    except (NpnetError, ValueError, KeyError, TypeError):
        return {}
    return {name: plain(str(words), 40) for name, words in told.items()}


def _read_log(folder: RunFolder) -> tuple[list[int], dict[str, list[float]]]:
    """Epochs, and for each column its mean over ranks, NaN where nothing was measured."""
    values: dict[str, dict[int, list[float]]] = {name: defaultdict(list) for name in CURVES}
    try:
        rows = Log(read_log(folder.log)).rows
    except NpnetError as error:
        raise NpnetError(f"{folder.path} is no run folder with a log.csv: {error}") from error
    for row in rows:
        for name in CURVES:
            known = row[name] is not None
            values[name][row["epoch"]].append(row[name] if known else math.nan)
    epochs = sorted(values["loss"])
    return epochs, {name: [float(np.mean(values[name][e])) for e in epochs] for name in CURVES}
