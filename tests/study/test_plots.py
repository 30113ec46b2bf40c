"""What the pictures show: no two things with one label, no number on another."""

import csv
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from npnet.measure.benchmark import Timing
from npnet.measure.roofline import Roof
from npnet.study import plots
from npnet.study.collapse import Row
from tests.datasets import Toy

pytest.importorskip("matplotlib", reason="pictures need the plots extra")


@pytest.fixture
def pictures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that would have been written."""
    figures: list[Any] = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    return figures


def write_run(folder: Path, epochs: int = 1, **different: Any) -> Path:
    """A run folder of `epochs` rows; of what it ran, `different` values."""
    usual = {"architecture": "mobilenet_v2", "width": 0.5, "input_size": 64, "name": "modern"}
    values = usual | {"world": 2, "sync": "gradients", "batch_per_rank": 12, "seed": 42} | different
    config = {
        "model": {name: values[name] for name in ("architecture", "width", "input_size")},
        "recipe": {name: values[name] for name in ("name", "sync")},
        "settings": {"epochs": epochs} | {k: values[k] for k in ("batch_per_rank", "seed")},
        "dataset": {"name": "shapes"},
        "world": values["world"],
        "peak_lr": 0.1,
    }
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    with (folder / "log.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ("epoch", *plots.CURVES))
        writer.writeheader()
        for epoch in range(1, epochs + 1):
            writer.writerow(dict.fromkeys(plots.CURVES, 0.5) | {"epoch": epoch})
    return folder


def legend(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize(
    ("one", "two", "labels"),
    [
        ({"world": 2}, {"world": 8}, ["np=2", "np=8"]),
        ({}, {"architecture": "squeezenet1_1"}, ["mobilenet_v2", "squeezenet1_1"]),
        ({"sync": "weights"}, {"world": 4}, ["np=2, weights", "np=4, gradients"]),
        ({"seed": 1}, {"seed": 2}, ["seed 1", "seed 2"]),
        ({"seed": 1}, {"world": 4}, ["np=2", "np=4"]),  # a detail that nobody needs
        ({}, {}, ["one", "two"]),
    ],
)
def test_labels_tell_runs_apart(
    tmp_path: Path, pictures: list[Any], one: Any, two: Any, labels: list[str]
) -> None:
    runs = [write_run(tmp_path / "one", **one), write_run(tmp_path / "two", **two)]
    plots.training_curves(runs, Path("x.png"))
    assert legend(pictures[0]) == labels


def test_labels_of_three_runs_of_which_two_are_the_same(
    tmp_path: Path, pictures: list[Any]
) -> None:
    worlds = {"a": 2, "b": 2, "c": 4}
    runs = [write_run(tmp_path / name, world=world) for name, world in worlds.items()]
    plots.training_curves(runs, Path("x.png"))
    assert legend(pictures[0]) == ["np=2 (a)", "np=2 (b)", "np=4 (c)"]


def test_labels_of_runs_that_do_not_say_what_they_are(tmp_path: Path, pictures: list[Any]) -> None:
    runs = [write_run(tmp_path / place / "run") for place in "ab"]
    for run in runs:
        (run / "config.json").write_text("{")
    plots.training_curves(runs, Path("x.png"))
    assert legend(pictures[0]) == list(map(str, runs))


@pytest.mark.parametrize("epochs", [1, 2, 3, 40])
def test_epochs_are_whole_numbers_and_one_is_seen(
    tmp_path: Path, pictures: list[Any], epochs: int
) -> None:
    plots.training_curves([write_run(tmp_path / "run", epochs)], Path("x.png"))
    figure = pictures[0]
    figure.draw_without_rendering()
    for axis in figure.axes:
        low, high = axis.get_xlim()
        ticks = [tick for tick in axis.get_xticks() if low <= tick <= high]
        assert ticks
        assert all(tick == round(tick) for tick in ticks)
        assert len(axis.lines) == 2
        assert all(line.get_marker() in (".", "o") for line in axis.lines)


def test_more_runs_than_usual_colours(tmp_path: Path, pictures: list[Any]) -> None:
    runs = [write_run(tmp_path / str(n), world=n) for n in range(1, 14)]
    plots.training_curves(runs, Path("x.png"))
    colours = {str(line.get_color()) for line in pictures[0].axes[0].lines}
    assert len(colours) == len(runs)


def test_the_runs_of_a_folder(tmp_path: Path) -> None:
    runs = [write_run(tmp_path / "runs" / name) for name in ("a", "b")]
    (tmp_path / "runs" / "under-way").mkdir()
    assert plots.runs_in([tmp_path / "runs"]) == runs
    assert plots.runs_in([runs[1], tmp_path / "runs"]) == [runs[1], runs[0]]
    assert plots.runs_in([tmp_path / "absent"]) == [tmp_path / "absent"]  # which is then refused


def test_the_roofline_calls_kernels_what_its_table_calls_them(pictures: list[Any]) -> None:
    names = ("pool_forward", "pool_backward", "conv_backward_input", "sgd_update", "tiny_forward")
    timings = [
        Timing(name, "case", 1, 10**6, 10**6, 1e-3 if "tiny" in name else 1.0, 1.0)
        for name in names
    ]
    plots.roofline(timings, Roof(100.0, 10.0), Path("x.png"))
    labels = [text.get_text() for text in pictures[0].axes[0].get_legend().get_texts()]
    assert sorted(labels) == ["conv", "others, each below 1 %", "pool", "sgd_update"]
    assert labels[0] == "pool"  # the largest part first


class Cifar(Toy):
    name = "cifar10"


# Accuracies of paper's protocol, of its weights recalibrated, of modern; as made, and worse.
MEASURED = {2: (0.664, 0.690, 0.834), 16: (0.1, 0.384, None), 48: (0.1, 0.306, 0.833)}
WHOLE = {
    2: (0.665, 0.690, 0.834),
    4: (0.641, 0.655, 0.835),
    8: (0.310, 0.570, 0.834),
    16: (0.100, 0.384, 0.833),
    24: (0.100, 0.352, 0.833),
    32: (0.100, 0.341, 0.832),
    40: (0.100, 0.322, 0.832),
    48: (0.100, 0.306, 0.833),
}
CROWDED = WHOLE | {2: (0.47, 0.49, 0.51), 8: (0.13, 0.15, 0.17), 16: (0.10, 0.12, 0.11)}


@pytest.mark.parametrize("table", [MEASURED, WHOLE, CROWDED], ids=["measured", "whole", "crowded"])
@pytest.mark.parametrize("dataset", [Cifar(), Toy()], ids=["beside the paper", "alone"])
def test_no_number_lies_on_another(pictures: list[Any], table: Any, dataset: Toy) -> None:
    rows = [Row(count, None, None, *accuracies) for count, accuracies in table.items()]
    plots.collapse(rows, dataset, Path("x.png"))
    figure = pictures[0]
    (axis,) = figure.axes
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in axis.texts]
    given = sum(value is not None for values in table.values() for value in values)
    assert len(boxes) == given + 8 * isinstance(dataset, Cifar)
    for one, two in combinations(axis.texts, 2):
        assert not one.get_window_extent().overlaps(two.get_window_extent()), (one, two)
    frame = axis.get_window_extent()
    assert all(frame.y0 < box.y0 and box.y1 < frame.y1 for box in boxes)


def test_held_out_images_are_shown_in_place_of_the_test(
    tmp_path: Path, pictures: list[Any]
) -> None:
    runs = [write_run(tmp_path / "with", 3), write_run(tmp_path / "without", 3)]
    log = (runs[1] / "log.csv").read_text().splitlines()
    keep = [line.rsplit(",", 2)[0] for line in log]  # without the columns of val
    (runs[1] / "log.csv").write_text("\n".join(keep) + "\n")
    plots.training_curves(runs, Path("x.png"))
    plots.training_curves(runs[1:], Path("x.png"))
    assert "dashed: test or validation" in pictures[0].get_suptitle()
    assert pictures[1].get_suptitle().endswith("dashed: test")
