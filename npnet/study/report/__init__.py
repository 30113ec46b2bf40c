"""A page that shows runs and studies: summary, configuration, curves, time by rank, scaling."""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from xml.etree.ElementTree import Element

import npnet
from npnet.files import write_atomically
from npnet.study.report import curves, machine, overview, ranks, studies
from npnet.study.report.groups import groups_of
from npnet.study.report.page import NOT_KNOWN, document, node
from npnet.study.report.reading import Contents, read
from npnet.study.report.values import plain
from npnet.study.report.words import counted, listed


def report(paths: Sequence[Path], out: Path) -> None:
    """Write one self-contained page of HTML about the runs and studies in `paths`.

    A path is the folder of a run or of a study, or one that holds such. Raises NpnetError if a path
    holds neither, a file is damaged, matplotlib is missing, or `out` cannot be written.
    """
    write_atomically(out, _page(read(paths)).encode())


def _page(contents: Contents) -> str:
    groups = groups_of(contents)
    sections = (
        overview.summary(contents, groups),
        curves.curves(groups),
        ranks.ranks(groups),
        studies.scaling(contents.studies),
        studies.forecast(contents.studies),
        studies.batch_sweep(contents.studies),
        curves.batch_norm(groups),
        overview.configuration(groups),
        machine.machine(groups),
    )
    parts = [part for part in sections if part is not None]
    title = _title(contents)
    body = [
        node("header", node("h1", title), _places(contents), _navigation(parts)),
        node("main", *parts),
        node(
            "footer",
            f"Made by npnet {npnet.__version__} on {date.today().isoformat()}. "
            f"{NOT_KNOWN} stands for what is not known.",
        ),
    ]
    return document(title, body)


def _title(contents: Contents) -> str:
    names = [run.name for run in contents.runs] + [study.name for study in contents.studies]
    if len(names) == 1:
        return f"npnet report: {names[0]}"
    counts = ((len(contents.runs), "run"), (len(contents.studies), "study"))
    return f"npnet report: {listed([counted(count, word) for count, word in counts if count])}"


def _places(contents: Contents) -> Element:
    folders = [run.folder for run in contents.runs] + [study.folder for study in contents.studies]
    return node("p", f"From {listed([plain(str(path)) for path in folders])}.", class_="quiet")


def _navigation(parts: Sequence[Element]) -> Element:
    links = []
    for part in parts:
        heading = part[0]
        links.append(node("li", node("a", heading.text or "", href=f"#{heading.get('id')}")))
    return node("nav", node("ul", *links), aria_label="Sections")
