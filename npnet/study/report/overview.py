"""The first two sections: what came out, and how it was made."""

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from npnet.study.report import words
from npnet.study.report.groups import Group, Named, beside
from npnet.study.report.machine import machines_of
from npnet.study.report.page import Cell, node, table
from npnet.study.report.reading import Contents
from npnet.study.report.section import Section, section, under_its_name
from npnet.study.report.values import flat, known, shown


def summary(contents: Contents, groups: Sequence[Group]) -> Section:
    facts = [("What", _what(contents)), ("Machine", _where(groups)), *words.best(groups)]
    notes = [words.notable(each) for group in groups for each in group.in_detail]
    notes += [words.notable_of_study(study) for study in contents.studies]
    items = [node("li", note) for note in notes if note]
    return section(
        "summary",
        "Summary",
        [
            node("dl", *(part for fact in facts if fact[1] for part in _pair(*fact))),
            node("h3", "What to notice"),
            node("ul", *items) if items else node("p", "Nothing out of the ordinary was found."),
            *(_results(group) for group in groups if group.runs and not group.is_about_speed),
        ],
    )


def _pair(name: str, text: str) -> tuple[Element, Element]:
    return node("dt", name), node("dd", text)


def _what(contents: Contents) -> str:
    runs = contents.all_runs
    parts = [words.counted(len(contents.runs), "run")] if contents.runs else []
    for study in contents.studies:
        parts.append(f"a {study.kind} study of {words.counted(len(study.rows), 'row')}")
    model, dataset, recipe = (
        words.listed([text for text in texts if text])
        for texts in (
            [run.model for run in runs],
            [run.dataset for run in runs],
            [run.recipe for run in runs],
        )
    )
    text = words.listed(parts)
    text += f": {model}" if model else ""
    text += f" on {dataset}" if dataset else ""
    return text + (f", recipe {recipe}" if recipe else "")


def _where(groups: Sequence[Group]) -> str:
    machines = [machine for _, machine in machines_of(groups)]
    hosts = [host for group in groups for each in group.runs for host in each.run.hosts]
    hosts = hosts or [shown(each["host"]) for each in machines if each.get("host")]
    processors = [shown(each["processor"]) for each in machines if each.get("processor")]
    return ": ".join(filter(None, (words.listed(hosts, 8), words.listed(processors))))


def _results(group: Group) -> Element:
    scored = {
        "train_acc": "train acc., %",
        "val_acc": "val acc., %",
        "test_acc": "test acc., %",
        "recalibrated_test_acc": "recalibrated, %",
    }
    if all(each.run.scores["val_acc"] is None for each in group.runs):
        del scored["val_acc"]
    head = ("run", "recipe", "ranks", "epochs", *scored.values(), "time, s", "images/s",
            "peak memory, MB")  # fmt: skip
    rows: list[list[Cell]] = []
    for each in group.runs:
        run = each.run
        scores = (run.scores[key] for key in scored)
        peaks = known(row["peak_rss_bytes"] for row in run.log.rows)
        rows.append(
            [
                each.label,
                run.recipe,
                run.world,
                len(run.log.epochs) or run.results.epochs,
                *(None if score is None else 100 * score for score in scores),
                words.wall_seconds(run),
                run.results.images_per_second,
                words.megabytes(run.results.peak_rss_bytes or max(peaks, default=None)),
            ]
        )
    return table(f"{group.title}: results", head, rows)


def configuration(groups: Sequence[Group]) -> Section:
    content: list[Element] = []
    for group in groups:
        parts: list[Element] = []
        if group.study is not None and group.study.settings:
            options = list(flat(group.study.settings))
            parts.append(table("The study's options", ["option", "value"], options))
        parts += _of_runs([each for each in group.runs if _values(each)])
        content += under_its_name(group, groups, parts)
    return section("configuration", "Configuration", content)


def _of_runs(runs: Sequence[Named]) -> list[Element]:
    """What differs between the runs, side by side; then what they have in common."""
    values = [_values(each) for each in runs]
    keys = list(dict.fromkeys(key for found in values for key in found))
    differ = [key for key in keys if len({found.get(key) for found in values}) > 1]
    parts = [
        table(
            "What differs",
            ["part", "value of", *(each.label for each in several)],
            [[*key, *(_values(each).get(key) for each in several)] for key in differ],
            labels=2,
        )
        for several in (beside(runs) if differ else ())
    ]
    title = "The same in all runs" if len(runs) > 1 else "Every value of the run"
    cards = []
    for part in dict.fromkeys(part for part, _ in keys):
        same = [key for key in keys if key[0] == part and key not in differ]
        rows = [[name, values[0][part, name]] for _, name in same]
        if rows:
            cards.append(table(f"{title}: {part}", [part, "value"], rows))
    return [*parts, node("div", *cards, class_="cards")] if cards else parts


def _values(each: Named) -> dict[tuple[str, str], str]:
    """Part and name of each value that decides a run."""
    config = each.run.config
    of_run = {
        "ranks": config.world,
        "peak learning rate": config.peak_lr,
        "resumed from": config.resumed_from,
    }
    values = {("run", name): shown(value) for name, value in of_run.items() if value is not None}
    for part in ("recipe", "model", "settings", "dataset"):
        values |= {(part, name): text for name, text in flat(getattr(config, part))}
    return values
