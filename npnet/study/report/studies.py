"""Scaling and batch sweep, with the paper's tables beside."""

from collections.abc import Callable, Sequence
from xml.etree.ElementTree import Element

from npnet.study.figures import Panel, scaling_panels, sweep_panels
from npnet.study.paper import TABLE_1, TABLE_3, BatchRow, ScalingRow
from npnet.study.report import words
from npnet.study.report.page import line_figure, node, table
from npnet.study.report.reading import Study
from npnet.study.report.section import Section, filled, section
from npnet.study.report.values import Row

Draw = Callable[[Sequence[Row], bool], Sequence[Panel]]
PaperTable = Sequence[BatchRow] | Sequence[ScalingRow]

THEIR_SPEEDUP = (
    "The speed-up is over the fewest processes: of time or, in weak scaling, of images/s. The "
    "paper's: Raspberry Pi 4B, two ranks a node, ten epochs of CIFAR-10."
)
THEIR_NODE = "The paper's: a Raspberry Pi 4B, two ranks, 200 steps of 128x128 images an epoch."


def scaling(studies: Sequence[Study]) -> Section:
    found = [study for study in studies if study.kind == "scale"]
    parts = _studies("scaling", found, scaling_panels, TABLE_3, "Table 3", THEIR_SPEEDUP)
    return section("scaling", "Scaling", parts)


def forecast(studies: Sequence[Study]) -> Section:
    """By a formula, beside what the paper measured."""
    parts: list[Element] = []
    found = [study for study in studies if study.kind == "forecast"]
    for place, study in enumerate(found):
        panels = scaling_panels(study.rows, paper=False)
        rows = [[row[column] for column in study.columns] for row in study.rows]
        head = [words.TITLES[column] for column in study.columns]
        parts += [
            *([node("h3", study.name)] if len(found) > 1 else []),
            node("p", "Computed from the time of a step and the network's rates: no run was made."),
            _figures(f"forecast{place}", panels),
            table("What was computed", *filled(head, rows)),
        ]
    return section("forecast", "Forecast", parts)


def _figures(key: str, panels: Sequence[Panel]) -> Element:
    """A figure for each panel with points of its own."""
    own = [panel for panel in panels if panel.has_own_data]
    figures = [line_figure(f"{key}-{number}-", panel) for number, panel in enumerate(own)]
    return node("div", *figures, class_="grid")


def batch_sweep(studies: Sequence[Study]) -> Section:
    found = [study for study in studies if study.kind == "sweep"]
    parts = _studies("sweep", found, sweep_panels, TABLE_1, "Table 1", THEIR_NODE)
    return section("sweep", "Batch size", parts)


def _studies(
    key: str, studies: Sequence[Study], draw: Draw, paper: PaperTable, name: str, note: str
) -> list[Element]:
    """Of each study: a figure for each panel with points of its own, then whole tables."""
    parts: list[Element] = []
    for place, study in enumerate(studies):
        if len(studies) > 1:
            parts.append(node("h3", study.name))
        columns = list(paper[0]._fields)
        ours = [
            [f"this study, {way(row)}", *(row[column] for column in columns)] for row in study.rows
        ]
        theirs = [["the paper", *row] for row in paper]
        head = ["from", *(words.TITLES[column] for column in columns)]
        further = [columns[1 if key == "scaling" else 0]]
        further += [column for column in study.columns if column not in columns]
        rest = [[row[column] for column in further] for row in study.rows]
        parts += [
            _figures(f"{key}{place}", draw(study.rows, _comparable(study))),
            table(f"The paper's {name} and this study", head, [*ours, *theirs], note),
            table(
                "What else was measured",
                *filled([words.TITLES[column] for column in further], rest),
            ),
        ]
    return parts


def way(row: Row) -> str:
    """What tells a study's rows apart that have a row of the paper in common."""
    if "scaling" in row:
        return str(row["scaling"])
    return f"{words.counted(row['ranks_per_node'], 'rank')} a node"


def _comparable(study: Study) -> bool:
    """Whether the paper's accuracies are of the same images: its runs tell, else its options."""
    trained = {run.dataset for run in study.runs} - {None}
    return trained <= {"cifar10"} and study.settings.get("dataset") in (None, "cifar10")
