"""The last section: host and versions; temperature, clock and throttling while training."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from xml.etree.ElementTree import Element

from npnet.study.figures import Line, Panel
from npnet.study.report import words
from npnet.study.report.groups import Group, Named
from npnet.study.report.log import throttling
from npnet.study.report.page import line_figure, node, table
from npnet.study.report.section import Section, section, titled, under_its_name
from npnet.study.report.values import flat, known

MOST_HOSTS = 8  # of a figure


class Sensor(NamedTuple):
    """A column of log.csv, and which of a host's values is the one to worry about."""

    column: str
    title: str
    unit: str
    worst: Callable[..., float | None]
    word: str


SENSORS = (
    Sensor("temperature_celsius", "temperature", "°C", max, "hottest"),
    Sensor("clock_mhz", "clock", "MHz", min, "slowest"),
)


def machine(groups: Sequence[Group]) -> Section:
    content = [_facts(machines_of(groups))]
    for place, group in enumerate(groups):
        parts: list[Element] = []
        silent = []
        for part, each in enumerate(group.in_detail):
            found = _health(f"host{place}-{part}-", each)
            parts += found
            silent += [each.label] if each.run.log.rows and not found else []
        if silent:
            sentence = "neither temperature, clock nor throttling are known."
            parts.append(node("p", f"{words.listed(silent)}: {sentence}"))
        content += under_its_name(group, groups, parts)
    return section("machine", "Machine", content)


def machines_of(groups: Sequence[Group]) -> list[tuple[str, Mapping[str, Any]]]:
    """Each different machine (or set of versions), and whose it is."""
    found: list[tuple[list[str], Mapping[str, Any]]] = []
    for group in groups:
        owners = [(each.letter or each.label, each.run.config.machine) for each in group.runs]
        if group.study is not None:
            owners.append((group.study.name, dict(group.study.machine)))
        for owner, values in owners:
            same = next((names for names, other in found if other == values), None)
            if same is not None:
                same.append(owner)
            elif values:
                found.append(([owner], values))
    return [(words.listed(names), values) for names, values in found]


def _facts(machines: Sequence[tuple[str, Mapping[str, Any]]]) -> Element | None:
    if not machines:
        return None
    texts = [dict(flat(_readable(values))) for _, values in machines]
    keys = list(dict.fromkeys(key for found in texts for key in found))
    head = ["fact", *(f"of {names}" for names, _ in machines)]
    return table(
        "Host, versions, commit of npnet (+: with changes)",
        head if len(machines) > 1 else ["fact", "value"],
        [[key.replace("_", " "), *(found.get(key) for found in texts)] for key in keys],
    )


def _readable(values: Mapping[str, Any]) -> dict[str, Any]:
    """With the memory in GiB."""
    size = values.get("memory_bytes")
    if not isinstance(size, int | float) or isinstance(size, bool):
        return dict(values)
    named = {("memory" if key == "memory_bytes" else key): each for key, each in values.items()}
    return named | {"memory": f"{size / 2**30:.1f} GiB"}


def _health(key: str, each: Named) -> list[Element]:
    """What the hosts of a run told; nothing, if they did not."""
    figures = [_sensor(f"{key}{sensor.title}-", each, sensor) for sensor in SENSORS]
    told = [element for element in figures if element is not None]
    parts = [node("div", *told, class_="grid")] if told else []
    states = [
        (epoch, host, throttling(rows))
        for host, epochs in each.run.log.hosts.items()
        for epoch, rows in epochs.items()
        if throttling(rows)
    ]
    throttled = [(str(epoch), *rest) for epoch, *rest in sorted(states) if rest[1] != "no"]
    if throttled:
        head = ["epoch", "host", "throttled"]
        title = titled(each, "hosts that were throttled")
        return [*parts, table(title, head, throttled, labels=2)]
    if states:
        return [*parts, node("p", titled(each, "no host was throttled."))]
    return parts


def _sensor(key: str, each: Named, sensor: Sensor) -> Element | None:
    """The worst value of each host's ranks by epoch; of many hosts, the worst."""
    told: dict[str, tuple[tuple[float, float | None], ...]] = {}
    extremes: dict[str, float] = {}
    for host, epochs in each.run.log.hosts.items():
        points = tuple(
            (float(epoch), sensor.worst(known(row[sensor.column] for row in rows), default=None))
            for epoch, rows in epochs.items()
        )
        extreme = sensor.worst(known(y for _, y in points), default=None)
        if extreme is not None:
            told[host], extremes[host] = points, extreme
    ordered = sorted(told, key=lambda host: extremes[host], reverse=sensor.worst is max)
    chosen = sorted(ordered[:MOST_HOSTS])
    note = f"At the end of each epoch, in {sensor.unit}."
    if len(told) > len(chosen):
        note += f" Of {len(told)} hosts the {len(chosen)} {sensor.word} are shown."
    lines = tuple(Line(f"host {host}", told[host], look) for look, host in enumerate(chosen))
    title = titled(each, f"{sensor.title} of the hosts")
    return line_figure(key, Panel(title, "epoch", sensor.unit, lines, note, from_zero=False))
