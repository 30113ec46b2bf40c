"""What the sections have in common."""

from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element

from npnet.study.report.groups import Group, Named
from npnet.study.report.page import Cell, node

Section = Element | None  # None where there is nothing to show


def section(key: str, title: str, content: Iterable[Element | None]) -> Section:
    """A section under its heading, which links find by `key`."""
    parts = [part for part in content if part is not None]
    if not parts:
        return None
    return node("section", node("h2", title, id=key), *parts, aria_labelledby=key)


def under_its_name(
    group: Group, groups: Sequence[Group], content: Iterable[Element | None]
) -> list[Element]:
    """What is shown of a group, under its name if the page has several."""
    parts = [part for part in content if part is not None]
    return [node("h3", group.title), *parts] if parts and len(groups) > 1 else parts


def titled(each: Named, text: str) -> str:
    """A title about one run of several; or by itself, with a capital."""
    return f"{each.short}: {text}" if each.letter else text[:1].upper() + text[1:]


def filled(
    head: Sequence[str], rows: Sequence[Sequence[Cell]]
) -> tuple[list[str], list[list[Cell]]]:
    """A table without the columns of which nothing is known."""
    places = [place for place in range(len(head)) if any(row[place] is not None for row in rows)]
    return [head[place] for place in places], [[row[place] for place in places] for row in rows]
