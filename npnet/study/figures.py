"""Figures of runs and studies, for picture files and for the report. Needs the `plots` extra.

A `Panel` says what stands on one pair of axes: lines of points, and words. From it the report makes
a figure of its own and the table beside it, and a study's picture a corner of a larger figure.
"""

import io
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from npnet.errors import NpnetError
from npnet.study.paper import TABLE_1, TABLE_3, BatchRow, ScalingRow

Row = Mapping[str, Any]
Number = float | None

INK, GREY, GROUND = "#000000", "#808080", "#ffffff"
# Told apart with any colour vision, and by their markers where there is no colour. Okabe and Ito's
# hues, the light ones darkened to stand out from white.
COLOURS = (
    "#0072b2", "#d55e00", "#00875f", "#a8478f", "#9a6f00", "#3b2a8c", "#6b6b6b", "#8c1d40",
)  # fmt: skip
MARKERS = "os^DvPX*"
# Dark and light take turns, so that neighbours in a bar differ in a grey print, too.
PHASE_COLOURS = {
    "input": "#3b2a8c",
    "forward": "#7cc4ee",
    "backward": "#0072b2",
    "wait": "#f28e2b",
    "transfer": "#8c1d40",
    "update": "#8fd175",
    "test": "#00875f",
    "checkpoint": "#e8be3c",
    "other": "#8a8a8a",
}
PHASES = tuple(PHASE_COLOURS)

WIDTH, HEIGHT = 5.0, 2.9  # inches of a panel without its legend: readable on a phone
LEGEND_ROW = 0.17  # inches
TEXT = 8.5  # points
LONGEST_LABEL = 42  # characters
NOT_KNOWN = "not known"
LOG_FROM = 20  # largest over smallest number, from which an axis is logarithmic


@dataclass(frozen=True)
class Line:
    """Points (x, y) with a name. `look` numbers colour and marker; None is the paper's.

    A y of None is not known; such a point is not drawn.
    """

    label: str
    points: tuple[tuple[float, Number], ...]
    look: int | None = None
    dashed: bool = False
    marked: bool = True

    @property
    def drawn(self) -> list[tuple[float, float]]:
        return [(x, y) for x, y in self.points if y is not None]


@dataclass(frozen=True)
class Panel:
    """Lines on one pair of axes. `x` and `y` name what the axes show, with units; `note` explains.

    `counts`: x are numbers of ranks or images, whose ratio matters. `percent`: y ends at 100.
    `level`: a height with a name, such as chance. `ideal`: a thin line for each, in proportion to
    x, that is 1 where the line is. `absent` says what a y of None means.
    """

    title: str
    x: str
    y: str
    lines: tuple[Line, ...]
    note: str
    counts: bool = False
    percent: bool = False
    level: tuple[float, str] | None = None
    ideal: bool = False
    from_zero: bool = True
    absent: str = NOT_KNOWN

    @property
    def has_data(self) -> bool:
        return any(line.drawn for line in self.lines)

    @property
    def has_own_data(self) -> bool:
        """Not the paper's alone."""
        return any(line.drawn for line in self.lines if line.look is not None)


@dataclass(frozen=True)
class Bars:
    """Stacked bars of seconds by phase. A bar has one or more parts, one behind the other."""

    title: str
    bars: tuple[tuple[str, tuple[Mapping[str, float], ...]], ...]
    share: bool = False  # in percent of the bar

    @property
    def has_data(self) -> bool:
        return any(sum(part.values()) > 0 for _, parts in self.bars for part in parts)

    @property
    def phases(self) -> list[str]:
        """Those that took any time."""
        parts = [part for _, parts in self.bars for part in parts]
        return [phase for phase in PHASES if any(part.get(phase, 0.0) > 0 for part in parts)]


def scaling_panels(rows: Sequence[Row], paper: bool = True) -> list[Panel]:
    """Speed-up, efficiency, time, accuracy ... by number of processes; the paper's Table 3 beside.

    `rows` have the columns of the paper's table and more. `paper`: whether its accuracies stand
    beside, too, which are those of CIFAR-10.
    """
    ways = _ways(rows, ("scaling", "recipe", "sync"))
    targets = {row["target_acc_pct"] for row in rows if row.get("target_acc_pct") is not None}
    target = f"{min(targets):g} %" if len(targets) == 1 else "the target accuracy"
    accuracy = _lines(ways, "np", "test_acc_pct", ", test")
    accuracy += _lines(ways, "np", "mean_train_acc_pct", ", train", dashed=True)
    if paper:
        accuracy += (_paper("np", "test_acc_pct", TABLE_3, ", test"),)
        accuracy += (_paper("np", "mean_train_acc_pct", TABLE_3, ", train", dashed=True),)
    cost = _lines(ways, "np", "wait_pct", ", waiting")
    cost += _lines(ways, "np", "transfer_pct", ", transfer", dashed=True)

    def panel(title: str, y: str, lines: Iterable[Line], note: str, **options: Any) -> Panel:
        return Panel(title, "processes (np)", y, tuple(lines), note, counts=True, **options)

    def both(column: str) -> list[Line]:
        return [*_lines(ways, "np", column), _paper("np", column, TABLE_3)]

    return [
        panel(
            "Speed-up",
            "speed-up",
            both("speedup"),
            "Over the fewest processes, as the paper's two. Strong scaling: of time; weak, where "
            "more processes do more work: of images/s. Ideal: twice the processes, twice as fast.",
            ideal=True,
        ),
        panel(
            "Efficiency",
            "% of ideal speed-up",
            both("efficiency_pct"),
            "What is missing is waiting, transfer, and work that each rank repeats.",
            level=(100, "ideal"),
        ),
        panel(
            "Time of a run",
            "seconds",
            both("wall_s"),
            "All epochs, with their tests. The paper's: ten epochs of CIFAR-10, Raspberry Pi 4.",
        ),
        panel(
            "Accuracy",
            "accuracy, %",
            accuracy,
            "Of the final weights; training accuracy is the ranks' mean in the last epoch.",
            percent=True,
        ),
        panel(
            "Training loss",
            "mean loss, nats",
            both("mean_train_loss") if paper else _lines(ways, "np", "mean_train_loss"),
            "Of all ranks in the last epoch.",
        ),
        panel(
            "Throughput",
            "images/s",
            _lines(ways, "np", "images_per_second"),
            "Training images of all ranks together.",
        ),
        panel(
            "Waiting and transfer",
            "% of the ranks' time",
            cost,
            "Waiting is for the other ranks to arrive, transfer the exchange itself.",
        ),
        panel(
            f"Time to {target} test accuracy",
            "seconds",
            _lines(ways, "np", "time_to_target_s"),
            "Until a test first reached it. A cross at the upper edge: none did.",
            absent="never reached",
        ),
        panel(
            "Energy",
            "images/J",
            _lines(ways, "np", "images_per_joule"),
            "Training images for each joule that all nodes take.",
        ),
    ]


def sweep_panels(rows: Sequence[Row], paper: bool = True) -> list[Panel]:
    """Throughput, memory and time of a step by batch; the paper's Table 1 beside.

    `rows` have the columns of the paper's table and more. `paper` is as in `scaling_panels`, but
    speed and memory can be compared whatever the images are.
    """
    ways = _ways(rows, ("ranks_per_node",))

    def panel(title: str, y: str, column: str, note: str) -> Panel:
        lines = _lines(ways, "batch_per_node", column)
        lines += (_paper("batch_per_node", column, TABLE_1),)
        return Panel(title, "images a node and step", y, lines, note, counts=True)

    return [
        panel("Throughput", "images/s", "throughput_img_s", "Of a node, training."),
        panel(
            "Peak memory of a rank",
            "resident set, MB",
            "peak_rss_mb",
            "The largest of the ranks, with Python and its libraries.",
        ),
        panel("Time of a step", "seconds", "mean_step_s", "The mean over the steps of an epoch."),
    ]


def collapse_panels(rows: Sequence[Row], chance: Number = None) -> list[Panel]:
    """Accuracy by number of processes, a line for each way to train and to test."""
    ways = (
        ("the paper, published test", "published", None, False),
        ("the paper's protocol, train", "train", 4, True),
        ("the same, test, moving statistics", "moving", 1, False),
        ("the same weights, recalibrated", "recalibrated", 0, True),
        ("modern, test", "modern", 2, False),
    )
    lines = (
        Line(label, tuple((row["np"], row[column]) for row in rows), look, dashed)
        for label, column, look, dashed in ways
    )
    return [
        Panel(
            "The collapse and its cause",
            "processes (np)",
            "accuracy, %",
            tuple(line for line in lines if line.drawn),
            "The same weights tested with two kinds of batch-norm statistics: the moving ones, as "
            "they came about, and recalibrated ones, computed afterwards from training images. "
            "Beside them `modern`, whose ranks average gradients at each step.",
            counts=True,
            percent=True,
            level=None if chance is None else (chance, "chance"),
        )
    ]


def _ways(rows: Sequence[Row], keys: Sequence[str]) -> dict[str, list[Row]]:
    """The rows by what sets them apart beside their x."""
    varying = [key for key in keys if len({row.get(key) for row in rows}) > 1]
    ways: dict[str, list[Row]] = {}
    for row in rows:
        words = (_words(key, row.get(key)) for key in varying)
        ways.setdefault(", ".join(words) or "this study", []).append(row)
    return ways


def _words(key: str, value: Any) -> str:
    if value is None:
        return f"no {key}"
    return f"{value:g} rank{'s' * (value > 1)} a node" if key == "ranks_per_node" else str(value)


def _lines(
    ways: Mapping[str, Sequence[Row]], x: str, y: str, suffix: str = "", dashed: bool = False
) -> tuple[Line, ...]:
    lines = (
        Line(label + suffix, tuple((row[x], row.get(y)) for row in rows), look, dashed)
        for look, (label, rows) in enumerate(ways.items())
    )
    return tuple(line for line in lines if line.drawn)


def _paper(
    x: str,
    y: str,
    table: Sequence[BatchRow] | Sequence[ScalingRow],
    suffix: str = "",
    dashed: bool = False,
) -> Line:
    points = tuple((getattr(row, x), getattr(row, y)) for row in table)
    return Line(f"the paper{suffix}", points, None, dashed)


def scaling(rows: Sequence[Row], paper: bool = True) -> Any:
    """A figure of a scaling study; `rows` are those of its study.json."""
    return picture([panel for panel in scaling_panels(rows, paper) if panel.has_own_data])


def sweep(rows: Sequence[Row], paper: bool = True) -> Any:
    """A figure of a batch sweep; `rows` are those of its study.json."""
    return picture([panel for panel in sweep_panels(rows, paper) if panel.has_own_data])


def phases(title: str, bars: Sequence[tuple[str, Sequence[Mapping[str, float]]]]) -> Any:
    """A figure of stacked bars: a label, and one or more dicts of seconds by phase, for each."""
    return picture([Bars(title, tuple((label, tuple(parts)) for label, parts in bars))])


def picture(panels: Sequence[Panel | Bars]) -> Any:
    """A matplotlib figure of one or more panels, two beside each other.

    Raises NpnetError where there is none, or no matplotlib.
    """
    if not panels:
        raise NpnetError("there are no numbers yet to draw a picture of")
    columns = min(2, len(panels))
    rows = -(-len(panels) // columns)
    heights = [_height(panel) for panel in panels]
    tallest = [max(heights[row * columns : (row + 1) * columns]) for row in range(rows)]
    figure = blank(figsize=(WIDTH * columns, sum(tallest)))
    grid = figure.subplots(rows, columns, squeeze=False, height_ratios=tallest)
    for number, axes in enumerate(grid.flat):
        if number < len(panels):
            draw(axes, panels[number])
        else:
            axes.set_axis_off()
    return figure


def save(figure: Any, path: Path) -> None:
    """Write a picture file. Raises NpnetError if that fails."""
    try:
        with _any_script():
            figure.savefig(path, dpi=100)
    except (OSError, ValueError) as error:
        raise NpnetError(f"cannot write the picture {path}: {error}") from error


def svg(figure: Any) -> bytes:
    """The figure as SVG: text stays text, the ground is transparent, the same each time."""
    import matplotlib

    content = io.BytesIO()
    look: Any = {"svg.fonttype": "none", "svg.hashsalt": "npnet"}
    with _any_script(), matplotlib.rc_context(look):
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None})
    return content.getvalue()


@contextmanager
def _any_script() -> Iterator[None]:
    """No warning of names in a script that matplotlib's own font does not have."""
    with warnings.catch_warnings():
        for words in ("Glyph ", "Matplotlib currently does not support"):
            warnings.filterwarnings("ignore", message=words, category=UserWarning)
        yield


def blank(**options: Any) -> Any:
    """A matplotlib figure that needs no display.

    matplotlib reads a matplotlibrc of the current folder, which may have it run LaTeX: where npnet
    is the first to load it, its own defaults count. A notebook that has loaded it keeps its look.
    """
    first = "matplotlib" not in sys.modules
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        raise NpnetError("pictures need matplotlib: pip install 'npnet[plots]'") from error
    if first:
        matplotlib.rcdefaults()
    figure: Any = Figure(layout="constrained", **options)
    figure.get_layout_engine().set(h_pad=0.08, w_pad=0.06)
    return figure


def draw(axes: Any, panel: Panel | Bars) -> None:
    """Draw a panel on matplotlib's axes."""
    axes.set_title(
        panel.title, fontsize=TEXT + 1.5, loc="left", fontweight="bold", parse_math=False
    )
    axes.tick_params(labelsize=TEXT, width=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_linewidth(0.6)
    axes.grid(color=GREY, alpha=0.3, linewidth=0.5)
    axes.set_axisbelow(True)
    if isinstance(panel, Bars):
        _draw_bars(axes, panel)
    else:
        _draw_lines(axes, panel)


def _draw_lines(axes: Any, panel: Panel) -> None:
    axes.set_xlabel(panel.x, fontsize=TEXT)
    axes.set_ylabel(panel.y, fontsize=TEXT)
    for line in panel.lines:
        if not line.drawn:
            continue
        x, y = zip(*line.drawn, strict=True)
        look = _look(line)
        axes.plot(x, y, label=short(line.label), **look)
        if panel.ideal:
            one = next((place for place, height in line.drawn if height == 1.0), x[0])
            axes.plot(x, [place / one for place in x], color=look["color"], **_THIN)
    if panel.ideal:
        axes.plot([], [], color=INK, label="ideal", **_THIN)
    if panel.level is not None:
        axes.axhline(panel.level[0], color=INK, label=panel.level[1], **_THIN)
    _scale(axes, panel)
    _mark_absent(axes, panel)
    _legend(axes, _entries(panel))


_THIN = {"linewidth": 0.8, "linestyle": (0, (1, 2))}


def _look(line: Line) -> dict[str, Any]:
    style: Any = (0, (4, 2)) if line.dashed else "-"
    look = {"linestyle": style, "linewidth": 1.5, "markersize": 4.5, "clip_on": False}
    if line.look is None:
        return look | {"color": INK, "marker": "x" if line.dashed else "+", "linewidth": 1.0}
    marker = MARKERS[line.look % len(MARKERS)] if line.marked else ""
    look |= {"color": COLOURS[line.look % len(COLOURS)], "marker": marker}
    return look | ({"markerfacecolor": GROUND} if line.dashed else {})


def _scale(axes: Any, panel: Panel) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, NullLocator

    counts = sorted({x for line in panel.lines for x, _ in line.points})
    if panel.counts and counts and counts[0] > 0:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xticks(_apart(counts))
    elif all(count == int(count) for count in counts):  # epochs
        axes.xaxis.set_major_locator(MaxNLocator(nbins="auto", integer=True))
    heights = [y for line in panel.lines for _, y in line.drawn]
    if panel.percent:
        axes.set_ylim(0, max([100, *heights]))
    elif heights and min(heights) > 0 and (panel.ideal or max(heights) > LOG_FROM * min(heights)):
        axes.set_yscale("log")
        decades = max(heights) / min(heights)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 2000 else (1,)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif panel.from_zero:
        axes.set_ylim(bottom=min([0, *heights]))
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(lambda value, place: f"{value:,.6g}")


def _apart(counts: Sequence[float], ratio: float = 1.15) -> list[float]:
    """Those numbers whose labels would not touch each other on a logarithmic axis."""
    kept: list[float] = []
    for count in counts:
        if not kept or count > ratio * kept[-1]:
            kept.append(count)
    return kept


def _mark_absent(axes: Any, panel: Panel) -> None:
    """Crosses at the upper edge where a value that was looked for does not exist."""
    for line in panel.lines:
        x = _absent(panel, line)
        if x:
            height = axes.get_xaxis_transform()
            look = {"color": _look(line)["color"], "marker": "x", "linestyle": "", "clip_on": False}
            axes.plot(x, [1.0] * len(x), transform=height, label=panel.absent, **look)


def _absent(panel: Panel, line: Line) -> list[float]:
    """The x of values that do not exist, which is more than not known."""
    if panel.absent == NOT_KNOWN:
        return []
    return [x for x, y in line.points if y is None]


def _draw_bars(axes: Any, panel: Bars) -> None:
    from matplotlib.patches import PathPatch
    from matplotlib.path import Path as Outline

    corners: dict[str, list[tuple[float, float]]] = {phase: [] for phase in panel.phases}
    longest = 0.0
    for lane, (_, parts) in enumerate(panel.bars):
        total = sum(part.get(phase, 0.0) for part in parts for phase in panel.phases)
        scale = 100 / total if panel.share and total else 1.0
        left = 0.0
        for part in parts:
            for phase in panel.phases:
                right = left + scale * part.get(phase, 0.0)
                if right > left:
                    low, high = lane - 0.38, lane + 0.38
                    box = [(left, low), (right, low), (right, high), (left, high), (left, low)]
                    corners[phase] += box
                left = right
        longest = max(longest, left)
    thickness = 0.15 if any(len(parts) > 1 for _, parts in panel.bars) else 0.4
    drawn = [phase for phase, points in corners.items() if points]
    for phase in drawn:  # one path a phase, not one a box: a smaller file
        points = corners[phase]
        codes = [Outline.MOVETO, *[Outline.LINETO] * 3, Outline.CLOSEPOLY] * (len(points) // 5)
        look = {"facecolor": PHASE_COLOURS[phase], "edgecolor": GROUND, "linewidth": thickness}
        axes.add_patch(PathPatch(Outline(points, codes), label=phase, **look))
    axes.set_xlim(0, longest or 1)
    axes.set_ylim(len(panel.bars) - 0.5, -0.5)
    labels = [short(label, 22) for label, _ in panel.bars]
    axes.set_yticks(range(len(labels)), labels, parse_math=False)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("% of the time" if panel.share else "seconds", fontsize=TEXT)
    axes.xaxis.set_major_formatter(lambda value, place: f"{value:,.6g}")
    _legend(axes, drawn)


def _height(panel: Panel | Bars) -> float:
    if isinstance(panel, Bars):
        body = 0.9 + min(0.3, 5 / len(panel.bars)) * len(panel.bars)
        return body + LEGEND_ROW * _legend_rows(panel.phases)
    return HEIGHT + LEGEND_ROW * _legend_rows(_entries(panel))


def _entries(panel: Panel) -> list[str]:
    """What the legend lists."""
    words = [line.label for line in panel.lines if line.drawn]
    words += ["ideal"] if panel.ideal else []
    words += [panel.level[1]] if panel.level is not None else []
    words += [panel.absent] if any(_absent(panel, line) for line in panel.lines) else []
    return [short(word) for word in words]


def _legend_columns(entries: Sequence[str]) -> int:
    longest = max(map(len, entries), default=0)
    return max(1, min(3, len(entries), 66 // (longest + 7)))


def _legend_rows(entries: Sequence[str]) -> int:
    return -(-len(entries) // _legend_columns(entries))


def _legend(axes: Any, entries: Sequence[str]) -> None:
    """Below the axes and their label, where no data can lie."""
    from matplotlib.transforms import ScaledTranslation

    handles, labels = axes.get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    if not unique:
        return
    below = ScaledTranslation(0, -32 / 72, axes.figure.dpi_scale_trans)
    legend = axes.legend(
        unique.values(),
        unique.keys(),
        loc="upper left",
        bbox_to_anchor=(0, 0),
        bbox_transform=axes.transAxes + below,
        ncols=_legend_columns(entries),
        fontsize=TEXT - 0.5,
        frameon=False,
        borderaxespad=0,
        handlelength=2.6,
        columnspacing=1.2,
        borderpad=0,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def short(label: str, longest: int = LONGEST_LABEL) -> str:
    """A label that fits into a legend and that matplotlib does not take for a hidden one."""
    label = label if len(label) <= longest else f"{label[: longest - 1]}…"
    return f" {label}" if label.startswith("_") else label
