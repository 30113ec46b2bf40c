"""The report: what it shows, that a stranger's files cannot harm it, and how it looks."""

import html
import itertools
import json
import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from xml.etree.ElementTree import Element, tostring

import pytest

pytest.importorskip("matplotlib", reason="pictures need the plots extra")

from npnet.errors import NpnetError
from npnet.study.figures import (
    COLOURS,
    PHASE_COLOURS,
    PHASES,
    Bars,
    collapse_panels,
    phases,
    picture,
    save,
    scaling,
    scaling_panels,
    sweep,
    sweep_panels,
)
from npnet.study.paper import TABLE_1, TABLE_3
from npnet.study.report import report
from npnet.study.report.log import COUNTERS, NUMBERS, TEXTS
from npnet.study.report.page import DARK, NOT_KNOWN, bars_table, number, panel_table, style
from npnet.study.report.values import LONGEST_TEXT
from npnet.training.run_folder import LOG_COLUMNS
from tests.cifar_files import write_cifar
from tests.launch import TINY, npnet_run
from tests.study.html_tree import captioned, cells, columns, parse, tables, text_of
from tests.study.report_files import (
    SECONDS,
    SLOWEST,
    collapse_rows,
    forecast_rows,
    log_rows,
    scale_rows,
    sweep_rows,
    write_log,
    write_run,
    write_study,
)

SCRIPT = "<script>alert(1)</script>"
HOSTILE = f"\"'&amp;<b>{SCRIPT}"
FOLDER = "a \"b\" 'c' & <d> $x_{$ _"


def page_of(*paths: Path, out: Path) -> str:
    report(paths, out / "page.html")
    return (out / "page.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Every kind of folder, and the page about them."""
    place = tmp_path_factory.mktemp("everything")
    runs = place / "runs"
    write_run(runs / "modern", ranks=4, epochs=6)
    write_run(runs / "paper", ranks=16, epochs=3, recipe="paper")
    write_run(runs / "part", ranks=2, epochs=2, planned=6)
    studies = place / "studies"
    for kind in ("sweep", "scale", "collapse", "forecast"):
        write_study(studies / kind, kind)
    write_run(studies / "scale" / "np02", ranks=2, epochs=2)
    write_run(studies / "scale" / "np04", ranks=4, epochs=2)
    return place, page_of(runs, studies, out=place)


@pytest.fixture
def root(everything: tuple[Path, str]) -> Element:
    return parse(everything[1])


def test_every_section_is_there_and_linked(root: Element) -> None:
    titles = [text_of(heading) for heading in root.iter("h2")]
    assert titles == [
        "Summary",
        "Loss and accuracy",
        "Where the time went",
        "Scaling",
        "Forecast",
        "Batch size",
        "Batch norm: moving and recalibrated statistics",
        "Configuration",
        "Machine",
    ]
    assert [text_of(link) for link in root.iterfind(".//nav//a")] == titles


def test_the_summary_says_what_is_to_be_seen(root: Element) -> None:
    facts = {
        text_of(name): text_of(value)
        for name, value in zip(root.iter("dt"), root.iter("dd"), strict=True)
    }
    assert facts["What"].startswith(
        "3 runs, a collapse study of 8 rows, a forecast study of 9 rows"
    )
    assert facts["Machine"].startswith("pi-01, pi-02")
    assert "Raspberry Pi 4" in facts["Machine"]
    best = log_rows(4, 6, 6, "modern", 0.0)[0]["test_acc"]
    assert facts["Best result"].startswith(f"{100 * best:.1f} % test accuracy")
    assert facts["Study sweep"] == "fastest at 24 images a node and step on 2 ranks: 18.37 images/s"
    assert facts["Study scale"] == (
        "scaling strong, 48 processes: speed-up 20.6, efficiency 85.82 %"
    )
    assert "at 10 %, the same weights recalibrated at 31 %" in facts["Study collapse"]
    notes = [text_of(item) for item in root.iterfind(".//section/ul/li")]
    (part,) = [note for note in notes if note.startswith("C part: ")]
    assert "2 of 6 epochs were trained." in part
    (modern,) = [note for note in notes if note.startswith("A modern: ")]
    assert f"A modern: R{SLOWEST[1:]}." in modern
    assert "The longest stall was 1.7 s in transfer: step 57 of epoch 2, rank 1 (pi-01)." in modern
    assert "pi-02 was throttled (frequency capped) in 3 of 6 epochs." in modern
    (paper,) = [note for note in notes if note.startswith("B paper: ")]
    assert "10.0 %, is that of chance for 10 classes" in paper
    assert "it is the running statistics that are wrong" in paper
    assert "Study scale: 40 and 48 processes never reached the target accuracy." in notes
    assert "Study sweep: The host was throttled at 32 images a node." in notes


def test_only_what_differs_stands_side_by_side(root: Element) -> None:
    found = {tuple(row[:2]): row[2:] for row in cells(tables(root, "What differs")[0])}
    assert found["recipe", "name"] == ["modern", "paper", "modern"]
    assert found["run", "ranks"] == ["4", "16", "2"]
    assert found["settings", "epochs"] == ["6", "3", "6"]
    assert ("settings", "seed") not in found
    assert ["freeze", "none"] in cells(tables(root, "The same in all runs: recipe")[0])


def test_curves_show_each_epoch_s_mean(root: Element) -> None:
    found = columns(tables(root, "Loss in nats")[0])
    assert found["run"] == ["A modern"] * 6 + ["B paper"] * 3 + ["C part"] * 2
    assert found["epoch"][:6] == ["1", "2", "3", "4", "5", "6"]
    rows = log_rows(4, 3, 6, "modern", 0.0)
    loss = sum(row["loss"] for row in rows) / 4
    assert found["train loss"][2] == f"{loss:.4g}"
    assert found["test acc., %"][2] == f"{100 * rows[0]['test_acc']:.4g}"
    assert found["recalibrated acc., %"][2] == f"{100 * rows[0]['recalibrated_test_acc']:.4g}"
    assert float(found["minutes"][5]) > float(found["minutes"][4])


def test_the_time_of_each_rank_adds_up(root: Element) -> None:
    found = columns(captioned(root, "A modern: time of each rank"))
    assert found["rank"] == ["0 pi-01", "1 pi-01", "2 pi-02", "3 pi-02"]
    rows = [row for epoch in range(1, 7) for row in log_rows(4, epoch, 6, "modern", 0.0)]
    for rank in range(4):
        mine = [row for row in rows if row["rank"] == rank]
        for phase in PHASES:
            total = sum(row[f"{phase}_seconds"] for row in mine)
            assert found[phase][rank] == number(total)
    assert float(found["wait"][3]) < min(float(each) for each in found["wait"][:3])
    lanes = columns(captioned(root, "A modern: epoch after epoch"))
    assert lanes["epoch"] == ["1", "2", "3", "4", "5", "6"] * 4
    ranks = columns(captioned(root, "A modern: ranks"))
    assert ranks["longest stall, s"] == ["0.03", "1.7", "0.03", "0.03"]


def test_a_study_shows_the_run_with_the_most_ranks(root: Element) -> None:
    titles = {text_of(table.find("caption")) for table in root.iter("table")}
    assert "E np04: time of each rank: seconds" in titles
    assert "D np02: time of each rank: seconds" not in titles


def test_many_ranks_and_epochs_are_drawn_in_part(tmp_path: Path) -> None:
    """Of ranks, the slowest and the fastest; of epochs, some together."""
    write_run(tmp_path / "run", ranks=30, epochs=25)
    root = parse(page_of(tmp_path / "run", out=tmp_path))
    found = columns(captioned(root, "Time of each rank"))
    assert len(found["rank"]) == 24
    assert "3 pi-02" in found["rank"]
    lanes = columns(captioned(root, "Epoch after epoch"))
    assert lanes["epoch"][:9] == ["1 to 3", "4 to 6", "7 to 9", "10 to 12", "13 to 15",
                                  "16 to 18", "19 to 21", "22 to 24", "25"]  # fmt: skip
    assert len(lanes["rank"]) == 8 * 9
    captions = [text_of(caption) for caption in root.iter("figcaption")]
    assert any("Of 30 ranks those that compute longest" in caption for caption in captions)
    assert len(columns(captioned(root, "Ranks"))["rank"]) == 30


def test_the_paper_s_tables_stand_beside(root: Element) -> None:
    table = captioned(root, "The paper's Table 3 and this study")
    theirs = [row for row in cells(table) if row[0] == "the paper"]
    assert theirs == [["the paper", *map(number, row)] for row in TABLE_3]
    assert len(cells(table)) == 2 * len(TABLE_3)
    table = captioned(root, "The paper's Table 1 and this study")
    theirs = [row for row in cells(table) if row[0] == "the paper"]
    assert theirs == [["the paper", *map(number, row)] for row in TABLE_1]
    never = columns(captioned(root, "Time to 80 % test accuracy"))["this study"]
    assert never[-3:] == [number(1300 / scale_rows()[5]["speedup"]), *["never reached"] * 2]


def test_the_paper_s_accuracies_stand_beside_those_of_its_images_alone(tmp_path: Path) -> None:
    study = write_study(tmp_path / "shapes", "scale")
    run = write_run(study / "strong-np02-1", ranks=1, epochs=1)
    summary = (run / "summary.json").read_text()
    (run / "summary.json").write_text(summary.replace("cifar10", "shapes"))
    root = parse(page_of(study, out=tmp_path))
    assert list(columns(captioned(root, "Accuracy"))) == [
        "processes (np)", "this study, test", "this study, train",
    ]  # fmt: skip
    assert "the paper" in columns(captioned(root, "Speed-up"))


def test_a_forecast_stands_beside_the_paper_s_time(root: Element) -> None:
    table = columns(captioned(root, "What was computed"))
    assert table["sync"] == ["gradients"] * 3 + ["weights"] * 3 + ["gather-bcast"] * 3
    assert table["time, s"] == [number(row["wall_s"]) for row in forecast_rows()]
    (energy,) = tables(root, "Energy")
    assert columns(energy)["weights"] == [
        number(row["images_per_joule"]) for row in forecast_rows() if row["sync"] == "weights"
    ]
    speedups = [columns(each) for each in tables(root, "Speed-up")]
    assert [list(found) for found in speedups] == [
        ["processes (np)", "this study", "the paper"],
        ["processes (np)", "gradients", "weights", "gather-bcast", "the paper"],
    ]
    assert "no run was made" in text_of(root)


def test_speed_up_is_ideal_where_the_study_says_it_is_one() -> None:
    """A study that has one process, too, counts over two."""
    rows = [row | {"np": row["np"] / 2, "speedup": row["np"] / 4} for row in scale_rows()[:3]]
    assert [row["np"] for row in rows] == [1, 2, 4]
    (axes,) = picture(scaling_panels(rows)[:1]).axes
    ours, ideal, *_ = axes.get_lines()
    assert list(ours.get_ydata()) == list(ideal.get_ydata()) == [0.5, 1, 2]


def test_short_runs_of_a_sweep_have_no_curves(tmp_path: Path) -> None:
    study = write_study(tmp_path / "study", "sweep")
    write_run(study / "batch008-ranks2-1", ranks=2, epochs=1)
    titles = [text_of(each) for each in parse(page_of(study, out=tmp_path)).iter("h2")]
    assert "Where the time went" in titles
    assert "Batch size" in titles
    assert "Loss and accuracy" not in titles


def test_names_in_any_script(tmp_path: Path) -> None:
    """matplotlib's own font lacks these letters, which is nothing to warn of."""
    page = page_of(write_run(tmp_path / "訓練", ranks=1, epochs=1), out=tmp_path)
    assert "npnet report: 訓練" in text_of(parse(page))
    write_run(tmp_path / "ट्रेनिंग", ranks=1, epochs=1)
    labels = [text_of(each) for each in parse(page_of(tmp_path, out=tmp_path)).iter("text")]
    assert any("訓練" in label for label in labels)


def test_collapse_and_batch_norm(root: Element) -> None:
    found = columns(captioned(root, "The collapse and its cause"))
    assert found["the paper, published test"][:3] == ["48.43", "42.59", "13.06"]
    assert found["the same, test, moving statistics"][3] == "10"
    assert found["the same weights, recalibrated"][3] == "38"
    assert found["the same weights, recalibrated"][4] == NOT_KNOWN
    assert (
        columns(tables(root, "Test accuracy by kind of statistics")[0])["B paper, moving"][:3]
        == ["10"] * 3
    )


def test_the_machine_and_its_heat(root: Element) -> None:
    facts = dict(row[:2] for row in cells(captioned(root, "Host, versions")))
    assert facts["processor"] == "Raspberry Pi 4 Model B Rev 1.4"
    assert facts["memory"] == "7.6 GiB"
    assert facts["commit"] == "0123456789ab"
    heat = columns(captioned(root, "A modern: temperature of the hosts"))
    assert float(heat["host pi-02"][5]) > float(heat["host pi-01"][5]) + 10
    clock = columns(captioned(root, "A modern: clock of the hosts"))
    assert clock["host pi-02"] == ["1,500"] * 3 + ["1,000"] * 3
    states = cells(captioned(root, "A modern: hosts that were throttled"))
    assert states == [[epoch, "pi-02", "frequency capped"] for epoch in ("4", "5", "6")]


def test_figures_can_be_read_without_seeing_them(root: Element) -> None:
    assert root.get("lang") == "en"
    levels = [int(each.tag[1]) for each in root.iter() if re.fullmatch("h[1-6]", each.tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(new <= old + 1 for old, new in itertools.pairwise(levels))
    figures = list(root.iter("figure"))
    assert len(figures) > 20
    for figure in figures:
        plots = list(figure.iter("svg"))
        assert plots
        assert all(plot.get("role") == "img" and plot.get("aria-label") for plot in plots)
        assert figure.find("figcaption") is not None
        assert figure.find("details").get("open") is not None
        assert figure.find("details//table") is not None
    for table in root.iter("table"):
        assert text_of(table.find("caption"))
        assert all(title.get("scope") == "col" for title in table.iterfind("./thead/tr/th"))
        rows = table.findall("./tbody/tr")
        assert rows
        assert all(row.find("th").get("scope") == "row" for row in rows)
    for box in root.iter("div"):
        if "scroll" in (box.get("class") or ""):
            assert box.get("tabindex") == "0"
            assert box.get("aria-label")


PANELS = [
    *(panel for panel in scaling_panels(scale_rows()) if panel.has_own_data),
    scaling_panels(forecast_rows())[-1],
    *sweep_panels(sweep_rows()),
    *collapse_panels(collapse_rows(), 10.0),
]


@pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.title)
def test_a_figure_and_its_table_show_the_same_numbers(panel) -> None:
    (axes,) = picture([panel]).axes
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.get_lines()}
    found = table_of(panel_table(panel))
    assert len(panel.lines) == len(found) - 1
    for line in panel.lines:
        written = [cell for cell in found[line.label] if cell not in (NOT_KNOWN, "never reached")]
        assert written == [number(y) for y in drawn[line.label]]
        assert written


def test_a_bar_is_as_long_as_its_row(tmp_path: Path) -> None:
    bars = Bars("title", (("a", (SECONDS,)), ("b", (SECONDS, SECONDS))))
    (axes,) = picture([bars]).axes
    found = table_of(bars_table(bars, "rank", ["1", "2"]))
    total = sum(SECONDS.values())
    assert found["sum, s"] == [number(total)] * 3
    assert axes.get_xlim()[1] == pytest.approx(2 * total)
    for patch, (phase, seconds) in zip(axes.patches, ordered(SECONDS), strict=True):
        assert patch.get_label() == phase
        boxes = patch.get_path().vertices.reshape(3, 5, 2)
        for box in boxes:
            assert box[:, 0].max() - box[:, 0].min() == pytest.approx(seconds)
        assert found[phase] == [number(seconds)] * 3


def ordered(seconds: dict[str, float]) -> list[tuple[str, float]]:
    return [(phase, seconds[phase]) for phase in PHASES if phase in seconds]


def table_of(element: Element) -> dict[str, list[str]]:
    """The columns of a table that stands alone."""
    return columns(parse(tostring(element, encoding="unicode", method="html")).find("table"))


def test_studies_can_be_saved_as_pictures(tmp_path: Path) -> None:
    bars = [("rank 0", [SECONDS]), ("$_ x_{", [SECONDS, SECONDS])]
    for name, figure in (
        ("scaling", scaling(scale_rows())),
        ("sweep", sweep(sweep_rows())),
        ("phases", phases("$_ x_{", bars)),
    ):
        save(figure, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(NpnetError, match="cannot write the picture"):
        save(scaling(scale_rows()), tmp_path / "none" / "x.png")
    with pytest.raises(NpnetError, match="no numbers yet"):
        sweep([])


def luminance(colour: str) -> float:
    """Relative, as the Web Content Accessibility Guidelines 2.2 define it."""
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_colours_stand_out_on_both_grounds() -> None:
    """3:1 is what the guidelines ask of graphical objects (1.4.11)."""
    assert {*COLOURS, *PHASE_COLOURS.values()} == set(DARK)
    light, dark = re.findall(r"--ground: (#\w{6})", style())
    assert (light, dark) == ("#ffffff", "#14171b")
    for colour in COLOURS:
        assert contrast(colour, light) > 3
        assert contrast(DARK[colour], dark) > 3
    for one, other in itertools.pairwise(PHASES):  # neighbours, printed in grey
        assert contrast(PHASE_COLOURS[one], PHASE_COLOURS[other]) > 1.5


def test_figures_have_no_colour_of_their_own(root: Element) -> None:
    """But for the grid's grey: all others are the page's, which knows light and dark."""
    found = set()
    for plot in root.iter("svg"):
        for element in plot.iter():
            style = dict(
                part.split(":") for part in (element.get("style") or "").split(";") if part
            )
            found |= {style[name] for name in ("fill", "stroke", "color") if name in style}
            assert "font-family" not in style
    variables = {f"var(--c{colour[1:]})" for colour in DARK}
    assert found <= {"none", "currentColor", "var(--ground)", "#808080", *variables}
    assert len(found & variables) > 10


def assert_harmless(page: str) -> Element:
    """Nothing in the page runs, loads or styles by what a file said."""
    root = parse(page)
    tags = {element.tag for element in root.iter()}
    assert not tags & {"script", "b", "img", "iframe", "object", "embed", "link", "base", "form"}
    names = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(names) == len(set(names))
    for element in root.iter():
        for name, value in element.attrib.items():
            assert not name.startswith("on"), name
            assert "url(" not in value, value
            if name in ("href", "src", "action", "xlink:href"):
                assert value.startswith("#"), value
                assert value[1:] in names
    (sheet,) = root.iter("style")
    assert "url(" not in sheet.text
    assert "@import" not in sheet.text
    (policy,) = [m.get("content") for m in root.iter("meta") if m.get("http-equiv")]
    assert policy.startswith("default-src 'none'; style-src 'unsafe-inline'")
    return root


def test_the_page_is_harmless_and_whole(everything: tuple[Path, str]) -> None:
    page = everything[1]
    assert "http:" not in page
    assert "https:" not in page
    assert_harmless(page)
    assert page.startswith("<!DOCTYPE html>\n")


def test_words_of_files_and_folders_never_become_markup(tmp_path: Path) -> None:
    """Wherever a text can come from: names of folders, and every text and key of every file."""
    folder = write_run(tmp_path / FOLDER, ranks=2, epochs=2)
    hostile(folder / "config.json", keep=("architecture", "classes", "epochs"))
    hostile(folder / "summary.json")
    rows = [row for epoch in (1, 2) for row in log_rows(2, epoch, 2, "modern", 0.0)]
    for row in rows:
        row |= {"host": HOSTILE, "throttled": HOSTILE, "longest_stall_phase": HOSTILE}
        row |= {"longest_stall_seconds": 3.0, HOSTILE: HOSTILE}
    write_log(folder, rows)
    write_run(tmp_path / f"{FOLDER}2", ranks=2, epochs=2)
    study = write_study(tmp_path / "study" / FOLDER, "scale", npnet=HOSTILE)
    hostile(study / "study.json", keep=("kind",))
    other = write_study(tmp_path / "study" / "sweep", "sweep")
    hostile(other / "study.json", keep=("kind",))
    write_run(study / f"<i>{FOLDER}", ranks=2, epochs=2)
    page = page_of(folder, tmp_path / f"{FOLDER}2", study, other, out=tmp_path)
    root = assert_harmless(page)
    assert SCRIPT not in page
    said = text_of(root)
    assert said.count(HOSTILE) > 30
    assert FOLDER in said
    labels = [text_of(text) for text in root.iter("text")]
    assert any(FOLDER[:10] in label for label in labels)
    assert any(HOSTILE[:10] in label for label in labels)


def hostile(path: Path, keep: tuple[str, ...] = ()) -> None:
    """Put markup in place of each text of a JSON file, and in new keys beside the old."""

    def changed(value: object, key: str = "") -> object:
        if isinstance(value, dict):
            old = {name: changed(each, name) for name, each in value.items()}
            return old | {f"{HOSTILE}{key}": HOSTILE}
        if isinstance(value, list):
            return [changed(each, key) for each in value]
        return HOSTILE if isinstance(value, str) and key not in keep else value

    path.write_text(json.dumps(changed(json.loads(path.read_text()))))


def test_long_texts_and_control_codes_are_tamed(tmp_path: Path) -> None:
    long = "x" * 1_000_000
    odd = "a\x00b\x1b[31m\u202ec\ud800d"
    folder = write_run(tmp_path / "run", ranks=2, epochs=2)
    config = json.loads((folder / "config.json").read_text())
    config["settings"] |= {"long": long, long: 1, "odd\x07": "a\x00b\x1b[31m\u202ec", "deep": [[1]]}
    config["settings"] |= {f"key{number}": number for number in range(5000)}
    config["settings"]["surrogate"] = odd
    config["model"]["classes"] = [10]
    config["machine"]["memory_bytes"] = 10**400
    (folder / "config.json").write_text(json.dumps(config))
    rows = log_rows(2, 1, 1, "modern", 0.0)
    rows[0]["host"] = long[:100_000]
    write_log(folder, rows)
    page = page_of(folder, out=tmp_path)
    assert len(page) < 500_000
    assert not any(code in page for code in ("\x00", "\x1b", "\u202e", "\x07"))
    assert "x" * (LONGEST_TEXT + 1) not in page
    assert "key5" in page
    assert "key4999" not in page
    assert_harmless(page)


ABSURD = ("nan", "inf", "-inf", "1e999", "1e300", "-5", "", "9" * 5000)


def test_absurd_numbers_of_a_log_count_as_not_known(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", ranks=len(ABSURD) + 1, epochs=2)
    rows = [row for epoch in (1, 2) for row in log_rows(9, epoch, 2, "modern", 0.0)]
    for row, value in zip(rows, ABSURD, strict=False):
        row |= {name: value for name in NUMBERS if name != "temperature_celsius"}
    write_log(folder, rows)
    root = parse(page_of(folder, out=tmp_path))
    known = rows[len(ABSURD)]
    assert columns(captioned(root, "Loss in nats"))["train loss"][0] == number(known["loss"])
    waited = columns(captioned(root, "Epoch after epoch"))["wait"]
    assert "0" in waited
    assert not {text_of(cell) for cell in root.iter("td")} & {*ABSURD, "1e+300"}


ABSURD_JSON = ("NaN", "Infinity", "1e999", "-5.5", "9" * 400)


def test_absurd_numbers_of_json_count_as_not_known(tmp_path: Path) -> None:
    """Whatever number of a study or a summary it is."""
    paths = []
    for kind in ("sweep", "scale", "collapse"):
        paths.append(write_study(tmp_path / kind, kind))
        content = json.loads((paths[-1] / "study.json").read_text())
        for place, row in enumerate(content["rows"][:5]):
            names = [name for name, each in row.items() if isinstance(each, float)]
            row |= dict.fromkeys(names, f"number {place}") | {"temperature_max_c": None}
        text = json.dumps(content)
        for place, value in enumerate(ABSURD_JSON):
            text = text.replace(f'"number {place}"', value)
        (paths[-1] / "study.json").write_text(text)
    paths.append(write_run(tmp_path / "run", ranks=1, epochs=1))
    summary = (paths[-1] / "summary.json").read_text()
    values = itertools.cycle(ABSURD_JSON)
    changed = re.sub(r"\d+\.\d+", lambda match: next(values), summary)
    (paths[-1] / "summary.json").write_text(changed)
    words = {text_of(cell) for cell in parse(page_of(*paths, out=tmp_path)).iter("td")}
    assert not words & {"nan", "inf", "-inf", "-5.5"}
    assert NOT_KNOWN in words


def test_old_logs_without_the_new_columns_are_read(tmp_path: Path) -> None:
    """A log alone, as of the records of this project."""
    old = [name for name in log_rows(1, 1, 1, "modern", 0.0)[0] if name in OLD_COLUMNS]
    (tmp_path / "old").mkdir()
    rows = [row for epoch in (1, 2) for row in log_rows(2, epoch, 2, "modern", 0.0)]
    write_log(tmp_path / "old", [{name: row[name] for name in old} for row in rows])
    root = parse(page_of(tmp_path / "old", out=tmp_path))
    found = columns(captioned(root, "Loss in nats"))
    assert found["seconds"] == [number(total) for total in sums(max_seconds(rows))]
    assert "its seconds of training are added up" in text_of(root)
    assert "Where the time went" not in text_of(root)
    assert "neither temperature, clock nor throttling are known" in text_of(root)


OLD_COLUMNS = (
    "epoch", "worker", "rank", "host", "loss", "acc", "lr", "seconds", "images_per_second",
    "cpu_percent", "peak_rss_bytes", "test_loss", "test_acc",
)  # fmt: skip


def max_seconds(rows: list[dict]) -> list[float]:
    return [max(row["seconds"] for row in rows if row["epoch"] == epoch) for epoch in (1, 2)]


def sums(values: list[float]) -> list[float]:
    return [math.fsum(values[: place + 1]) for place in range(len(values))]


def test_an_epoch_that_was_repeated_counts_once(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", ranks=2, epochs=2)
    rows = [row for epoch in (1, 2) for row in log_rows(2, epoch, 2, "modern", 0.0)]
    write_log(folder, [*rows, *({**row, "loss": 0.125} for row in rows[2:])])
    found = columns(captioned(parse(page_of(folder, out=tmp_path)), "Loss in nats"))
    assert found["epoch"] == ["1", "2"]
    assert found["train loss"][1] == "0.125"


def test_the_log_s_columns_are_known() -> None:
    assert set(LOG_COLUMNS) <= {*COUNTERS, *TEXTS, *NUMBERS}


def test_a_run_that_npnet_made(tmp_path: Path) -> None:
    write_cifar(tmp_path / "data")
    how = ("--epochs", 2, "--bn-eval", "both", "--out", "runs/first")
    assert npnet_run("train", *TINY, *how, cwd=tmp_path).status == 0
    outcome = npnet_run("study", "report", "runs", cwd=tmp_path, started=True)
    assert outcome.status == 0, outcome.stderr
    assert outcome.stdout == "wrote runs/report.html\n"
    root = assert_harmless((tmp_path / "runs" / "report.html").read_text(encoding="utf-8"))
    summary = json.loads((tmp_path / "runs/first/summary.json").read_text())
    found = columns(captioned(root, "The run: results"))
    assert found["test acc., %"] == [number(100 * summary["test_acc"])]
    recipe = dict(cells(captioned(root, "Every value of the run: recipe")))
    assert recipe["name"] == "modern"
    assert recipe["nesterov"] == "yes"


def test_order_is_kept_and_nothing_is_shown_twice(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write_run(tmp_path / "runs" / name, ranks=1, epochs=1)
    study = write_study(tmp_path / "study", "scale")
    case = write_run(study / "np01", ranks=1, epochs=1)
    paths = [tmp_path / "runs" / "c", tmp_path / "runs", case, study, tmp_path / "runs" / "b"]
    root = parse(page_of(*paths, out=tmp_path))
    results = [columns(t)["run"] for t in root.iter("table") if "results" in text_of(t[0])]
    assert results == [["A c", "B a", "C b"], ["D np01"]]


def test_the_same_page_each_time(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", ranks=2, epochs=1)
    assert page_of(folder, out=tmp_path) == page_of(folder, out=tmp_path)


def refusal(*paths: Path, out: Path) -> str:
    with pytest.raises(NpnetError) as caught:
        report(paths, out / "page.html")
    assert not (out / "page.html").exists()
    return str(caught.value)


def test_a_log_that_people_have_edited(tmp_path: Path) -> None:
    """A byte order mark, Windows' line ends, and a separator of lines within a name."""
    log = write_run(tmp_path / "run", ranks=1, epochs=2) / "log.csv"
    text = log.read_text().replace("pi-01", '"pi\u2028\x0b01"')
    log.write_text("\ufeff" + text.replace("\n", "\r\n"), newline="")
    assert "pi 01" in page_of(tmp_path / "run", out=tmp_path)


def test_a_folder_that_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "empty holds neither a run nor a study" in refusal(tmp_path / "empty", out=tmp_path)
    assert "No such file" in refusal(tmp_path / "none", out=tmp_path)
    (tmp_path / "file").write_text("")
    assert "Not a directory" in refusal(tmp_path / "file", out=tmp_path)
    line = npnet_run("study", "report", "empty", "--out", "x.html", cwd=tmp_path).error
    assert line.startswith("empty holds neither a run nor a study")
    assert not (tmp_path / "x.html").exists()


BAD = {
    "log.csv": {
        "": "has no column epoch",
        "a,b\n1,2\n": "has no column epoch",
        "epoch,loss\n1,many\n": "line 2: loss is 'many', where a number was expected",
        "epoch,loss\n1,1\n-1,2\n": "line 3: epoch is '-1', where a number was expected",
        "epoch,loss\n1.5,2\n": "line 2: epoch is '1.5'",
        "epoch,rank\n1,x\n": "line 2: rank is 'x'",
        "epoch,loss\n\xb2,2\n": "line 2: epoch is",
        "epoch\n" + "9" * 200_000: "cannot read",
    },
    "config.json": {
        "[": "cannot read",
        "[]": "holds list instead of named fields",
        '{"world": "two"}': "world is 'two', where a whole number was expected",
        '{"hosts": "pi"}': "hosts is 'pi'",
        '{"model": [1]}': "model is [1]",
        '{"machine": {"x": ' + "[" * 100_000: "cannot read",
        '{"world": ' + "9" * 5000 + ".x}": "cannot read",
    },
    "summary.json": {
        "null": "holds NoneType instead of named fields",
        '{"test_acc": "high"}': "test_acc is 'high', where a finite number was expected",
        '{"slowest": 3}': "slowest is 3, where a text was expected",
        '{"model": "\\ud800"}': "model is",
    },
    "study.json": {
        "{}": "lacks the field 'kind'",
        '{"kind": "sweet", "rows": []}': "kind is 'sweet', where one of sweep, scale",
        '{"kind": [], "rows": []}': "kind is []",
        '{"kind": "scale", "rows": 3}': "rows is 3",
        '{"kind": "scale", "rows": [3]}': "rows is 3",
        '{"kind": "scale", "rows": [{}]}': "row 1 lacks the field 'np'",
        '{"kind": "scale", "rows": [{"np": 1}, {"np": "x"}]}': "row 2: np is 'x'",
        '{"kind": "scale", "rows": [{"np": NaN}]}': "row 1: np is None",
        '{"kind": "sweep", "rows": [{"batch_per_node": 1, "throttled": 7}]}': "throttled is 7",
    },
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [(name, content, words) for name, each in BAD.items() for content, words in each.items()],
    ids=lambda value: value[:30],
)
def test_a_damaged_file_is_named(name: str, content: str, words: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / name).write_text(content)
    message = refusal(folder, out=tmp_path)
    assert f"run/{name}" in message
    assert words in message
    assert len(message) < 600


def test_a_file_that_is_no_text_or_far_too_large(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(b"epoch\n\xff\xfe")
    assert "cannot read" in refusal(tmp_path, out=tmp_path)
    with (tmp_path / "log.csv").open("wb") as file:
        file.truncate(2**40)  # of holes
    assert "larger than 67,108,864 bytes" in refusal(tmp_path, out=tmp_path)


def test_unknown_keys_and_columns_are_left_aside(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", ranks=1, epochs=1)
    for name in ("config.json", "summary.json"):
        content = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(content | {"of the future": [1]}))
    study = write_study(tmp_path / "study", "scale", future=1)
    content = json.loads((study / "study.json").read_text())
    content["rows"][0]["future"] = {}
    (study / "study.json").write_text(json.dumps(content))
    assert "of the future" not in page_of(folder, study, out=tmp_path)


def test_without_matplotlib_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_run(tmp_path / "run", ranks=1, epochs=1)
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert "pip install 'npnet[plots]'" in refusal(folder, out=tmp_path)


def test_a_page_that_cannot_be_written(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", ranks=1, epochs=1)
    assert "cannot write" in refusal(folder, out=tmp_path / "none")


BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
WIDTHS = (360, 1600)

# Each frame is a window of its own width. An element may be wider than it only inside of a box that
# scrolls by itself.
MEASURE = """
addEventListener("load", () => {
  const found = [...document.querySelectorAll("iframe")].map(frame => {
    const page = frame.contentDocument, root = page.documentElement;
    const wide = [...page.body.querySelectorAll("*")].filter(each =>
      each.getBoundingClientRect().right > root.clientWidth + 1 && !each.closest(".scroll"));
    const plots = [...page.querySelectorAll("svg")].map(each => each.getBoundingClientRect());
    const letters = [...page.querySelectorAll("svg text")].map(
      each => each.getBoundingClientRect().height);
    return {
      width: root.clientWidth, scroll: root.scrollWidth,
      wide: wide.map(each => each.tagName + "." + each.className),
      narrowest: Math.min(...plots.map(each => each.width)),
      smallest: Math.min(...letters),
      ground: frame.contentWindow.getComputedStyle(page.body).backgroundColor,
      ink: frame.contentWindow.getComputedStyle(page.querySelector("svg text")).fill,
      dark: frame.contentWindow.matchMedia("(prefers-color-scheme: dark)").matches,
    };
  });
  document.body.replaceChildren(JSON.stringify(found));
});
"""


def browser(*arguments: str, place: Path) -> subprocess.CompletedProcess[str]:
    if BROWSER is None:
        pytest.skip("no chromium and no google-chrome is installed to look at the page with")
    line = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            f"--user-data-dir={place / 'profile'}", "--enable-logging=stderr"]  # fmt: skip
    return subprocess.run(
        [*line, *arguments], capture_output=True, text=True, timeout=180, check=True
    )


def measured(page: str, place: Path, *options: str) -> list[dict]:
    """What a browser makes of a page in windows of several widths."""
    frames = "".join(
        f'<iframe style="width:{width}px;height:900px;border:0" srcdoc="{html.escape(page)}">'
        "</iframe>"
        for width in WIDTHS
    )
    wrapper = place / "wrapper.html"
    wrapper.write_text(
        f"<!DOCTYPE html><meta charset=utf-8><body>{frames}<script>{MEASURE}</script>"
    )
    shown = browser(*options, "--dump-dom", wrapper.as_uri(), place=place)
    return json.loads(html.unescape(re.search(r"<body>(.*)</body>", shown.stdout, re.S)[1]))


def crowded(place: Path) -> str:
    """A page with long names that have no place to break."""
    long = "long_" * 20
    study = write_study(place / long, "scale")
    write_run(study / long, ranks=2, epochs=2)
    write_run(study / "other", ranks=2, epochs=2)
    return page_of(study, out=place)


@pytest.mark.parametrize("which", ["everything", "crowded"])
def test_nothing_sticks_out_of_a_narrow_or_a_wide_window(
    which: str, everything: tuple[Path, str], tmp_path: Path
) -> None:
    if BROWSER is None:
        pytest.skip("no chromium and no google-chrome is installed to look at the page with")
    page = everything[1] if which == "everything" else crowded(tmp_path / "runs")
    for found, width in zip(measured(page, tmp_path), WIDTHS, strict=True):
        assert found["wide"] == []
        assert found["scroll"] == found["width"]
        assert found["width"] > width - 30  # but for a scroll bar
        assert found["narrowest"] > 250
        assert found["smallest"] > 7  # CSS pixels


def test_light_and_dark(everything: tuple[Path, str], tmp_path: Path) -> None:
    (light, _), (dark, _) = (
        measured(everything[1], tmp_path, f"--blink-settings=preferredColorScheme={scheme}")
        for scheme in (1, 0)
    )
    assert (light["dark"], light["ground"], light["ink"]) == (
        False, "rgb(255, 255, 255)", "rgb(27, 31, 36)",
    )  # fmt: skip
    assert (dark["dark"], dark["ground"], dark["ink"]) == (
        True, "rgb(20, 23, 27)", "rgb(228, 231, 235)",
    )  # fmt: skip


def test_the_browser_has_nothing_to_complain_of(
    everything: tuple[Path, str], tmp_path: Path
) -> None:
    path = tmp_path / "page.html"
    path.write_text(everything[1], encoding="utf-8")
    shown = browser("--dump-dom", path.as_uri(), place=tmp_path)
    assert "Where the time went" in shown.stdout
    assert "CONSOLE" not in shown.stderr
    broken = everything[1].replace("<h1>", "<script>alert(1)</script><h1>")
    path.write_text(broken, encoding="utf-8")  # what the page's own policy refuses, is told
    assert "CONSOLE" in browser("--dump-dom", path.as_uri(), place=tmp_path).stderr


def test_it_can_be_printed(everything: tuple[Path, str], tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(everything[1], encoding="utf-8")
    browser(f"--print-to-pdf={tmp_path / 'page.pdf'}", path.as_uri(), place=tmp_path)
    pages = re.search(rb"/Count (\d+)", (tmp_path / "page.pdf").read_bytes())
    assert 5 < int(pages[1]) < 60
