"""HTML as a tree, by a parser that is not the report's own."""

from html.parser import HTMLParser
from xml.etree.ElementTree import Element, TreeBuilder

VOID = {"meta", "link", "img", "br", "hr", "input"}


class _Builder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tree, self.open = TreeBuilder(), []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attributes]
        assert len(names) == len(set(names)), f"an attribute of {tag} stands twice"
        self.tree.start(tag, {name: value or "" for name, value in attributes})
        if tag in VOID:
            self.tree.end(tag)
        else:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> ends nothing"
        assert self.open.pop() == tag, f"</{tag}> ends another element"
        self.tree.end(tag)

    def handle_data(self, data: str) -> None:
        if self.open:
            self.tree.data(data)


def parse(page: str) -> Element:
    """The root of a page; its elements must be closed in order."""
    builder = _Builder()
    builder.feed(page)
    builder.close()
    assert not builder.open
    return builder.tree.close()


def text_of(element: Element) -> str:
    return " ".join("".join(element.itertext()).split())


def cells(table: Element) -> list[list[str]]:
    """The rows of a table's body."""
    return [[text_of(cell) for cell in row] for row in table.iterfind("./tbody/tr")]


def columns(table: Element) -> dict[str, list[str]]:
    """The cells below each title."""
    titles = [text_of(title) for title in table.iterfind("./thead/tr/th")]
    return dict(zip(titles, map(list, zip(*cells(table), strict=True)), strict=True))


def tables(root: Element, caption: str) -> list[Element]:
    """The tables whose caption begins so."""
    found = [
        each for each in root.iter("table") if text_of(each.find("caption")).startswith(caption)
    ]
    assert found, [text_of(each) for each in root.iter("caption")]
    return found


def captioned(root: Element, caption: str) -> Element:
    """The one table whose caption begins so."""
    (found,) = tables(root, caption)
    return found
