"""Loss and accuracy as training goes on; what batch norm's statistics do to accuracy."""

from collections.abc import Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

from npnet.study.figures import Line, Panel, collapse_panels
from npnet.study.report.groups import Group, Named, beside
from npnet.study.report.page import Cell, figure, line_figure, table
from npnet.study.report.section import Section, filled, section, under_its_name
from npnet.study.report.values import known

MARKED = 20  # epochs up to which a curve's points are marked


class Measure(NamedTuple):
    """A column of log.csv, and how it is shown."""

    column: str
    title: str
    unit: str
    scale: float


LOSS = Measure("loss", "Loss", "cross-entropy, nats", 1.0)
ACCURACY = Measure("acc", "Accuracy", "accuracy, %", 100.0)


class Clock(NamedTuple):
    """A unit of time, in seconds."""

    unit: str
    seconds: float


def curves(groups: Sequence[Group]) -> Section:
    content: list[Element] = []
    for place, group in enumerate(groups):
        figures = [
            _curves(f"curve{place}-{part}-", several)
            for part, several in enumerate(beside(group.logged))
            if not group.is_about_speed
        ]
        content += under_its_name(group, groups, figures)
    return section("curves", "Loss and accuracy", content)


def _curves(key: str, several: Sequence[Named]) -> Element | None:
    clock = _clock(several)
    panels = [_panel(several, measure, by) for by in (None, clock) for measure in (LOSS, ACCURACY)]
    caption = "Training: the mean over ranks while they train. Test: all test images."
    if any(each.run.log.split == "val" for each in several):
        caption += " Val: all images that were held out of training."
    if any(each.run.log.elapsed_is_training_alone for each in several):
        caption += " Where a log has no time since the start, its seconds of training are added up."
    return figure(key, panels, caption, _epochs_table(several, clock))


def _panel(several: Sequence[Named], measure: Measure, by: Clock | None) -> Panel:
    """A measure of all runs, by time where there is a clock, else by epoch."""
    lines = [_two(each, look, measure, by) for look, each in enumerate(several)]
    return Panel(
        f"{measure.title} by {'time' if by else 'epoch'}",
        f"{by.unit} since the start" if by else "epoch",
        measure.unit,
        tuple(line for pair in lines for line in pair),
        note="",
        percent=measure is ACCURACY,
        level=chance(several) if measure is ACCURACY else None,
    )


def _two(each: Named, look: int, measure: Measure, by: Clock | None) -> list[Line]:
    """A run's curves in training and in what was scored after each epoch, by epoch or by time."""
    log, lines = each.run.log, []
    name = f"{each.short}, " if each.letter else ""
    split = log.split
    for what, column in (("train", measure.column), (split, f"{split}_{measure.column}")):
        test, points = what == split, []
        for epoch, value in log.mean(column).items():
            time = log.elapsed[epoch]
            x = epoch if by is None else None if time is None else time / by.seconds
            if x is not None:
                points.append((float(x), None if value is None else measure.scale * value))
        marked = test or len(points) <= MARKED
        colour = look if each.letter else int(test)  # alone, a run has two colours
        lines.append(Line(f"{name}{what}", tuple(points), colour, test, marked))
    return lines


def _clock(several: Sequence[Named]) -> Clock:
    """The unit in which the runs' time is best shown."""
    longest = max(max(known(each.run.log.elapsed.values()), default=0.0) for each in several)
    if longest > 7200:
        return Clock("hours", 3600.0)
    return Clock("minutes", 60.0) if longest > 600 else Clock("seconds", 1.0)


def chance(several: Sequence[Named]) -> tuple[float, str] | None:
    """The accuracy, %, of a guess, where it is the same for all runs."""
    classes = {each.run.classes for each in several}
    only = classes.pop() if len(classes) == 1 else None
    return None if only is None else (100 / only, "chance")


def _epochs_table(several: Sequence[Named], clock: Clock) -> Element:
    losses = ("loss", "val_loss", "recalibrated_val_loss", "test_loss", "recalibrated_test_loss")
    accuracies = ("acc", "val_acc", "recalibrated_val_acc", "test_acc", "recalibrated_test_acc")
    head = ["epoch", clock.unit, "learning rate", "train loss", "val loss",
            "recalibrated val loss", "test loss", "recalibrated loss", "train acc., %",
            "val acc., %", "recalibrated val acc., %", "test acc., %",
            "recalibrated acc., %"]  # fmt: skip
    rows: list[list[Cell]] = []
    for each in several:
        log = each.run.log
        rates = log.mean("lr")
        nats = [log.mean(column) for column in losses]
        fractions = [log.mean(column) for column in accuracies]
        for epoch in log.epochs:
            time = log.elapsed[epoch]
            percents = (None if (part := each[epoch]) is None else 100 * part for each in fractions)
            rows.append(
                [
                    *([each.label] if each.letter else []),
                    str(epoch),
                    None if time is None else time / clock.seconds,
                    rates[epoch],
                    *(means[epoch] for means in nats),
                    *percents,
                ]
            )
    named = any(each.letter for each in several)
    shown = filled(["run", *head] if named else head, rows)
    return table("Loss in nats and accuracy by epoch", *shown, labels=2 if named else 1)


def batch_norm(groups: Sequence[Group]) -> Section:
    content: list[Element] = []
    for place, group in enumerate(groups):
        figures: list[Element | None] = []
        if group.study is not None and group.study.kind == "collapse":
            level = chance(group.runs) if group.runs else None
            for panel in collapse_panels(group.study.rows, level[0] if level else None):
                figures.append(line_figure(f"collapse{place}-", panel))
        both = [each for each in group.logged if _has_both(each)]
        for part, several in enumerate(beside(both)):
            figures.append(line_figure(f"norm{place}-{part}-", _by_statistics(several)))
        content += under_its_name(group, groups, figures)
    return section("batch-norm", "Batch norm: moving and recalibrated statistics", content)


def _has_both(each: Named) -> bool:
    split = each.run.log.split
    columns = (f"{split}_acc", f"recalibrated_{split}_acc")
    return all(known(each.run.log.mean(column).values()) for column in columns)


def _by_statistics(several: Sequence[Named]) -> Panel:
    lines = []
    for look, each in enumerate(several):
        name = f"{each.short}, " if each.letter else ""
        score = f"{each.run.log.split}_acc"
        for what, column in (("moving", score), ("recalibrated", f"recalibrated_{score}")):
            again = what == "recalibrated"
            points = tuple(
                (float(epoch), None if value is None else 100 * value)
                for epoch, value in each.run.log.mean(column).items()
            )
            lines.append(Line(f"{name}{what}", points, look if each.letter else int(again), again))
    return Panel(
        "Test accuracy by kind of statistics",
        "epoch",
        "test accuracy, %",
        tuple(lines),
        "The same weights, tested with batch norm's moving statistics and with statistics "
        "recalibrated from training images. A gap is the statistics' fault, not the weights'.",
        percent=True,
        level=chance(several),
    )
