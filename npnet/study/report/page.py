"""The page: elements, tables, figures as inline SVG, and its style sheet.

Everything is built as a tree of elements, so text can not become markup. The page holds no script
and loads nothing, and its own policy forbids both.
"""

import re
from collections.abc import Sequence
from importlib.resources import files
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

from npnet.study.figures import GROUND, INK, Bars, Panel, picture, svg

Child = Element | str | None
Cell = str | float | None

# The figures' colours where the ground is dark: the same hues, lighter.
DARK = {
    "#0072b2": "#5db7f0", "#d55e00": "#ff8a4c", "#00875f": "#3ecf9f", "#a8478f": "#e58bcb",
    "#9a6f00": "#e8be3c", "#3b2a8c": "#a79bf2", "#6b6b6b": "#b4b4b4", "#8c1d40": "#f0708f",
    "#7cc4ee": "#c4e6fa", "#f28e2b": "#f6a04a", "#8fd175": "#b4e8a0", "#e8be3c": "#f2d877",
    "#8a8a8a": "#8a8a8a",
}  # fmt: skip
SVG = "{http://www.w3.org/2000/svg}"
HREF = "{http://www.w3.org/1999/xlink}href"
NOT_KNOWN = "–"
TALL = 14  # rows from which a table scrolls on the screen
LONG = 12  # letters from which a column's title is wrapped
LONG_CELL = 28  # and a cell's text
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def node(tag: str, *children: Child, **attributes: str) -> Element:
    """An element; `class_` and `aria_label` stand for class and aria-label."""
    made = Element(
        tag, {key.rstrip("_").replace("_", "-"): text for key, text in attributes.items()}
    )
    for child in children:
        if isinstance(child, str):
            if len(made):
                made[-1].tail = (made[-1].tail or "") + child
            else:
                made.text = (made.text or "") + child
        elif child is not None:
            made.append(child)
    return made


def document(title: str, body: Sequence[Element]) -> str:
    """A whole page of HTML."""
    head = node(
        "head",
        node("meta", charset="utf-8"),
        node("meta", http_equiv="Content-Security-Policy", content=POLICY),
        node("meta", name="viewport", content="width=device-width, initial-scale=1"),
        node("meta", name="color-scheme", content="light dark"),
        node("title", title),
        node("style", style()),
    )
    page = node("html", head, node("body", *body), lang="en")
    for element in page.iter():  # lines, for those who read the source
        if element.tag in ("p", "tr", "h1", "h2", "h3", "table", "figure", "section", "svg", "li"):
            element.tail = (element.tail or "") + "\n"
    text = ElementTree.tostring(page, encoding="unicode", method="html")
    return f"<!DOCTYPE html>\n{text}\n"


def style() -> str:
    """The style sheet, and the figures' colours on a light and on a dark ground."""
    sheet = files("npnet.study.report").joinpath("report.css").read_text(encoding="utf-8")
    light = "".join(f"{_variable(colour)}:{colour};" for colour in DARK)
    dark = "".join(f"{_variable(colour)}:{other};" for colour, other in DARK.items())
    on_screen = f"@media screen and (prefers-color-scheme: dark){{:root{{{dark}}}}}"
    return f":root{{{light}}}\n{on_screen}\n{sheet}"


def number(value: float) -> str:
    """Four digits, or all those before the point."""
    if abs(value) >= 1e15:
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def table(
    caption: str,
    head: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    foot: str | None = None,
    labels: int = 1,
) -> Element:
    """A table that scrolls by itself where it is wide or tall.

    The first `labels` cells of each row name it. Numbers are aligned, None is not known.
    """
    numeric = [
        any(isinstance(row[place], int | float) for row in rows) for place in range(len(head))
    ]
    kinds = ["n" if yes else "t" for yes in numeric]
    titles = [
        node("th", word, scope="col", class_=f"{kind} long" if len(word) > LONG else kind)
        for word, kind in zip(head, kinds, strict=True)
    ]
    body = []
    for row in rows:
        cells = []
        for place, (cell, kind) in enumerate(zip(row, kinds, strict=True)):
            text = cell if isinstance(cell, str) else NOT_KNOWN if cell is None else number(cell)
            look = f"{kind} long" if len(text) > LONG_CELL else kind
            if place < labels:
                cells.append(node("th", text, scope="row", class_=look))
            else:
                cells.append(node("td", text, class_=look))
        body.append(node("tr", *cells))
    made = node(
        "table",
        node("caption", caption),
        node("thead", node("tr", *titles)),
        node("tbody", *body),
    )
    look = "scroll tall" if len(rows) > TALL else "scroll"
    # A part that scrolls must be reached by the keyboard, and have a name.
    box = node("div", made, class_=look, tabindex="0", role="region", aria_label=caption)
    return box if foot is None else node("div", box, node("p", foot, class_="note"))


def panel_table(panel: Panel) -> Element:
    """The numbers of a panel: a row for each x, a column for each line."""
    lines = [line for line in panel.lines if line.points]
    values = [dict(line.points) for line in lines]
    rows: list[list[Cell]] = []
    for x in sorted({x for points in values for x in points}):
        found: list[Cell] = []
        for points, line in zip(values, lines, strict=True):
            y = points.get(x)
            absent = y is None and x in points and line.look is not None
            found.append(panel.absent if absent and panel.absent != "not known" else y)
        rows.append([number(x), *found])
    begins = panel.y.startswith(panel.title.lower())
    caption = panel.title + panel.y[len(panel.title) :] if begins else f"{panel.title}: {panel.y}"
    return table(caption, [panel.x, *(line.label for line in lines)], rows)


def bars_table(bars: Bars, first: str, epochs: Sequence[str] = ()) -> Element:
    """The numbers of stacked bars: seconds, or percent where the figure shows shares.

    `first` heads the column of the bars' labels, `epochs` are those of a bar's parts.
    """
    phases, rows = bars.phases, []
    for label, parts in bars.bars:
        for place, seconds in enumerate(parts):
            total = sum(seconds.get(phase, 0.0) for phase in phases)
            scale = 100 / total if bars.share and total else 1.0
            labels = [label, epochs[place]] if epochs else [label]
            rows.append([*labels, *(scale * seconds.get(phase, 0.0) for phase in phases), total])
    unit = "% of the time" if bars.share else "seconds"
    head = [first, *(["epoch"] if epochs else []), *phases, "sum, s"]
    return table(f"{bars.title}: {unit}", head, rows, labels=2 if epochs else 1)


def line_figure(key: str, panel: Panel) -> Element | None:
    """A panel with its note and its numbers; None if it has nothing to show."""
    return figure(key, [panel], panel.note, panel_table(panel))


def figure(
    key: str, panels: Sequence[Panel | Bars], caption: str, numbers: Element
) -> Element | None:
    """One or more panels with a caption and their numbers; None if they have nothing to show.

    `key` must differ from those of the page's other figures.
    """
    drawn = [panel for panel in panels if panel.has_data]
    if not drawn:
        return None
    pictures = [inline(panel, f"{key}{place}") for place, panel in enumerate(drawn)]
    details = node("details", node("summary", "Numbers"), numbers, open="open")
    return node(
        "figure",
        node("div", *pictures, class_="panels"),
        node("figcaption", caption),
        details,
        class_="several" if len(drawn) > 1 else "beside",
    )


def inline(panel: Panel | Bars, key: str) -> Element:
    """A panel as an SVG element of the page.

    matplotlib's names get `key` in front, as several figures stand on one page; its style sheet,
    which would rule the whole page, goes; colours and letters become the page's.
    """
    root = ElementTree.fromstring(svg(picture([panel])))
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag == f"{SVG}metadata" or (child.tag == f"{SVG}defs" and not _uses(child)):
                parent.remove(child)
    used = {element.attrib[HREF][1:] for element in root.iter() if HREF in element.attrib}
    for element in root.iter():
        element.tag = element.tag.removeprefix(SVG)
        name = element.attrib.pop("id", None)
        if name in used:
            element.set("id", f"{key}-{name}")
        if HREF in element.attrib:
            element.set("href", f"#{key}-{element.attrib.pop(HREF)[1:]}")
        element.attrib.pop("clip-path", None)  # nothing is drawn beyond the axes
        if "style" in element.attrib:
            element.set("style", _page_style(element.attrib["style"], element.tag))
        for name in ("d", "x", "y", "transform"):
            if name in element.attrib:
                element.set(name, re.sub(r"\d+\.\d{3,}", _two_places, element.attrib[name]))
    for name in ("version", "width", "height"):
        root.attrib.pop(name, None)
    root.set("role", "img")
    root.set("aria-label", _in_words(panel))
    root.set("class", "plot")
    return root


def _uses(defs: Element) -> bool:
    """Whether a list of definitions holds shapes, not only a style sheet or the axes' frames."""
    return any(child.tag not in (f"{SVG}style", f"{SVG}clipPath") for child in defs)


def _page_style(text: str, tag: str) -> str:
    declarations = dict(part.split(":", 1) for part in text.split(";") if ":" in part)
    style = {name.strip(): value.strip() for name, value in declarations.items()}
    for name in ("font", "font-family"):
        style.pop(name, None)
    if tag == "text" and "font" in text:
        size = re.search(r"([\d.]+)px", text)
        if size:
            style["font-size"] = f"{size[1]}px"
        if "bold" in text or "700" in text:
            style["font-weight"] = "600"
    return ";".join(f"{name}:{_page_colour(value)}" for name, value in style.items())


def _page_colour(value: str) -> str:
    if value == INK:
        return "currentColor"
    if value == GROUND:
        return "var(--ground)"
    return f"var({_variable(value)})" if value in DARK else value


def _variable(colour: str) -> str:
    return f"--c{colour[1:]}"


def _two_places(match: re.Match[str]) -> str:
    return f"{float(match[0]):.2f}"


def _in_words(panel: Panel | Bars) -> str:
    """What is read aloud instead of a picture; the numbers follow in the table."""
    if isinstance(panel, Bars):
        what = f"stacked bars of {', '.join(panel.phases)}, for {len(panel.bars)} bars"
    else:
        lines = [line.label for line in panel.lines if line.drawn]
        what = f"{panel.y} by {panel.x}, for {', '.join(lines)}"
    return f"{panel.title}: {what}. The numbers are in the table below."
