"""Where the time went: phases of each run, each rank and each epoch."""

from collections.abc import Iterable, Sequence
from xml.etree.ElementTree import Element

from npnet.machine.clock import STEP
from npnet.study.figures import PHASES, Bars
from npnet.study.report import words
from npnet.study.report.groups import Group, Named
from npnet.study.report.log import Log, phases_of
from npnet.study.report.page import Cell, bars_table, figure, node, table
from npnet.study.report.section import Section, filled, section, titled, under_its_name
from npnet.study.report.values import Row, known

MOST_RANKS = 24  # of a figure of ranks
MOST_LANES = 8  # of a figure of ranks and epochs
MOST_PARTS = 12  # of a rank's time line


def ranks(groups: Sequence[Group]) -> Section:
    content: list[Element] = []
    for place, group in enumerate(groups):
        timed = [each for each in group.runs if each.run.log.has_phases]
        parts = [_by_run(f"runs{place}-", timed)]
        for part, each in enumerate(each for each in group.in_detail if each in timed):
            key = f"ranks{place}-{part}"
            parts += [
                _slowest(each),
                _by_rank(f"{key}-", each),
                _by_epoch(f"{key}-epochs-", each),
                _rank_table(each),
            ]
        content += under_its_name(group, groups, parts)
    return section("ranks", "Where the time went", content)


def _slowest(each: Named) -> Element | None:
    sentence = words.slowest(each.run)
    return node("p", titled(each, sentence)) if sentence else None


def _by_run(key: str, several: Sequence[Named]) -> Element | None:
    if len(several) < 2:
        return None
    bars = tuple((each.label, (together(_rows(each.run.log)),)) for each in several)
    panel = Bars("Phases of each run", bars, share=True)
    caption = "Each run's time by phase, in percent, over all its ranks and epochs."
    return figure(key, [panel], caption, bars_table(panel, "run"))


def _rows(log: Log) -> Iterable[Row]:
    return (row for rank in log.ranks.values() for row in rank.values())


def together(rows: Iterable[Row]) -> dict[str, float]:
    """Seconds of each phase, added up."""
    total = dict.fromkeys(PHASES, 0.0)
    for row in rows:
        for phase, seconds in phases_of(row).items():
            total[phase] += seconds
    return total


def _by_rank(key: str, each: Named) -> Element | None:
    log = each.run.log
    chosen, note = _some(log, MOST_RANKS)
    bars = tuple((_label(log, rank), (together(log.ranks[rank].values()),)) for rank in chosen)
    panel = Bars(titled(each, "time of each rank"), bars)
    caption = (
        "All epochs together. Waiting is for the other ranks to arrive, transfer the exchange "
        f"itself: the rank that waits least is the one that the others wait for. {note}"
    )
    return figure(key, [panel], caption, bars_table(panel, "rank"))


def _by_epoch(key: str, each: Named) -> Element | None:
    """A time line for each rank: its phases, epoch after epoch, or some epochs together."""
    log = each.run.log
    if len(log.epochs) < 2:
        return None
    chosen, note = _some(log, MOST_LANES)
    epochs = list(log.epochs)
    size = -(-len(epochs) // MOST_PARTS)
    parts = [epochs[start : start + size] for start in range(0, len(epochs), size)]
    bars = tuple(
        (_label(log, rank), tuple(_of_epochs(log, rank, part) for part in parts)) for rank in chosen
    )
    panel = Bars(titled(each, "epoch after epoch"), bars)
    behind = "an epoch" if size == 1 else f"{size} epochs together"
    caption = f"The same from left to right as time went by, {behind} behind the other. {note}"
    spans = [str(part[0]) if len(part) == 1 else f"{part[0]} to {part[-1]}" for part in parts]
    return figure(key, [panel], caption, bars_table(panel, "rank", spans))


def _of_epochs(log: Log, rank: int, epochs: Sequence[int]) -> dict[str, float]:
    done = log.ranks[rank]
    return together(done[epoch] for epoch in epochs if epoch in done)


def _some(log: Log, most: int) -> tuple[list[int], str]:
    """All ranks; or, of many, those that compute longest and shortest, and a sentence on that."""
    if len(log.ranks) <= most:
        return list(log.ranks), ""
    ordered = sorted(log.ranks, key=lambda rank: _computing(together(log.ranks[rank].values())))
    chosen = sorted([*ordered[: most // 2], *ordered[most // 2 - most :]])
    return chosen, f"Of {len(log.ranks)} ranks those that compute longest and shortest are shown."


def _computing(total: dict[str, float]) -> float:
    return sum(total[phase] for phase in STEP)


def _label(log: Log, rank: int) -> str:
    host = next(iter(log.ranks[rank].values()))["host"]
    return f"{rank} {host}".strip()


def _rank_table(each: Named) -> Element:
    head = ("rank", "host", "computing, s", "of it processor, s", "longest stall, s", "in", "epoch",
            "step", "peak memory, MB", "memory at the end, MB", "swap, MB")  # fmt: skip
    rows: list[list[Cell]] = []
    for rank, epochs in each.run.log.ranks.items():
        found = list(epochs.values())
        cpu = known(row["work_cpu_seconds"] for row in found)
        stall = max(found, key=lambda row: row["longest_stall_seconds"] or 0.0)
        stalled = stall["longest_stall_seconds"] is not None
        rows.append(
            [
                str(rank),
                found[0]["host"] or None,
                _computing(together(found)),
                sum(cpu) if cpu else None,
                stall["longest_stall_seconds"],
                stall["longest_stall_phase"] or None,
                stall["epoch"] if stalled else None,
                stall["longest_stall_step"],
                words.megabytes(max(known(row["peak_rss_bytes"] for row in found), default=None)),
                words.megabytes(found[-1]["rss_bytes"]),
                words.megabytes(found[-1]["swap_bytes"]),
            ]
        )
    return table(titled(each, "ranks"), *filled(head, rows))
