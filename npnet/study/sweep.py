"""`sweep`: which batch, and how many ranks a node, as the paper's section 3.2.3 asks.

Each pair is trained for a few hundred steps and not tested. The table is the paper's Table 1 with
more columns behind, of which the last are its own figures.
"""

from collections.abc import Sequence
from itertools import product
from statistics import fmean
from typing import NamedTuple

from npnet.errors import NpnetError
from npnet.study.cases import Case, Finished, Row, Study, medians
from npnet.study.paper import BY_BATCH, beside

MOST_MEMORY = 80.0  # percent of a node's: what its system and its cache of files need is the rest
LEAST_CPU = 80.0  # percent of a core, else what was measured is the other programs
AS_GOOD = 0.01  # of the highest throughput
# Of the paper's Table 1: what it measured.
BESIDE = ("avg_epoch_s", "mean_step_s", "throughput_img_s", "peak_rss_mb", "process_cpu_pct")


class Point(NamedTuple):
    """A batch a node, shared by so many ranks."""

    batch_per_node: int
    ranks_per_node: int

    @property
    def name(self) -> str:
        return f"batch{self.batch_per_node:03d}-ranks{self.ranks_per_node}"


def points(batches: Sequence[int], ranks: Sequence[int]) -> list[Point]:
    """All pairs that share a batch evenly. Raises NpnetError if there is none."""
    pairs = [Point(batch, rank) for rank, batch in product(ranks, batches) if batch % rank == 0]
    if not pairs:
        raise NpnetError(
            f"no batch of {batches} can be shared evenly by {ranks} ranks: give multiples to "
            "`batch_per_node`"
        )
    return pairs


def cases(
    chosen: Sequence[Point],
    arguments: Sequence[str],
    epochs: int,
    max_steps: int,
    repeats: int,
    nodes: int,
) -> list[Case]:
    """The runs, `repeats` of each point."""
    return [
        Case(
            name=f"{point.name}-{repeat + 1}",
            group=point.name,
            ranks=point.ranks_per_node * nodes,
            arguments=(
                *("--batch-per-node", str(point.batch_per_node)),
                *("--ranks-per-node", str(point.ranks_per_node)),
                *("--epochs", str(epochs), "--max-steps", str(max_steps), "--evaluate", "never"),
                *arguments,
            ),
            epochs=epochs,
            work=epochs * max_steps * point.batch_per_node,
            ranks_per_node=point.ranks_per_node,
        )
        for point in chosen
        for repeat in range(repeats)
    ]


def table(study: Study, chosen: Sequence[Point]) -> list[Row]:
    """A row for each point that has a finished run, medians over its repeats."""
    rows = []
    for point in chosen:
        runs = study.finished(point.name)
        if runs:
            row = medians([_row(run) for run in runs]) | {"throttled": _throttled(runs)}
            paper = BY_BATCH.get(row["batch_per_node"]) if row["ranks_per_node"] == 2 else None
            rows.append(row | beside(paper, BESIDE))
    return rows


def _row(run: Finished) -> Row:
    """A finished run as a row of the table: seconds, images/s, MB (10^6 bytes), percent."""
    summary = run.summary
    epochs = list(run.by_epoch("seconds", max).values())
    ranks_per_node = summary.batch_per_node // summary.batch_per_rank
    memory = run.config.get("machine", {}).get("memory_bytes")
    images = summary.steps * summary.batch_per_rank * summary.world * len(epochs)
    return {
        "batch_per_node": summary.batch_per_node,
        "batch_per_rank": summary.batch_per_rank,
        "avg_epoch_s": fmean(epochs),
        "mean_step_s": fmean(epochs) / summary.steps,
        "throughput_img_s": images / sum(epochs),
        "peak_rss_mb": summary.peak_rss_bytes / 1e6,
        "process_cpu_pct": fmean(run.column("cpu_percent")),
        "ranks_per_node": ranks_per_node,
        "world": summary.world,
        "system_cpu_pct": _mean(run.column("system_cpu_percent")),
        "process_cpu_max_pct": max(run.column("cpu_percent")),
        "system_cpu_max_pct": max(run.column("system_cpu_percent"), default=None),
        "node_memory_pct": 100 * ranks_per_node * summary.peak_rss_bytes / memory
        if memory
        else None,
        "swap_mb": _scaled(max(run.column("swap_bytes"), default=None), 1e-6),
        "temperature_max_c": max(run.column("temperature_celsius"), default=None),
        "clock_min_mhz": min(run.column("clock_mhz"), default=None),
        "throttled": _throttled([run]),
        "wait_pct": run.share("wait_seconds"),
    }


def best(rows: Sequence[Row]) -> tuple[Row, str]:
    """The row to take, and why in a sentence.

    Of the points that leave a node some memory, do not swap and are not throttled, the fastest; of
    points within 1 % of it, the one that takes the least memory.
    """
    sound = [row for row in rows if not _objections(row)]
    among = sound or list(rows)
    fastest = max(among, key=lambda row: row["throughput_img_s"])
    as_good = [
        row
        for row in among
        if row["throughput_img_s"] >= (1 - AS_GOOD) * fastest["throughput_img_s"]
    ]
    chosen = min(as_good, key=lambda row: row["node_memory_pct"] or row["peak_rss_mb"])
    why = [f"{chosen['throughput_img_s']:.1f} images/s"]
    if len(as_good) > 1:
        why.append(f"within {100 * AS_GOOD:.0f} % of the fastest and with less memory")
    else:
        why.append("the fastest" + ("" if sound == list(rows) else " of those without objection"))
    if chosen["node_memory_pct"] is not None:
        why.append(f"{chosen['node_memory_pct']:.0f} % of the node's memory")
    if not sound:
        why.append("though none is without objection")
    why += _objections(chosen)
    for other in rows:
        if other["throughput_img_s"] > fastest["throughput_img_s"]:
            name = Point(other["batch_per_node"], other["ranks_per_node"])
            why.append(f"not {name.name}, which is faster: {' and '.join(_objections(other))}")
    return chosen, "; ".join(why)


def _objections(row: Row) -> list[str]:
    found = []
    if (row["node_memory_pct"] or 0) > MOST_MEMORY:
        found.append(f"it takes {row['node_memory_pct']:.0f} % of the node's memory")
    if row["swap_mb"]:
        found.append(f"it swapped {row['swap_mb']:.0f} MB out")
    if row["process_cpu_pct"] < LEAST_CPU:
        found.append(f"its ranks had {row['process_cpu_pct']:.0f} % of a core: the host was busy")
    if row["throttled"] not in ("", "no", None):
        found.append(f"the processor was throttled ({row['throttled']})")
    return found


def _throttled(runs: Sequence[Finished]) -> str:
    words = [row["throttled"] for run in runs for row in run.texts if row.get("throttled")]
    return next((each for each in words if each != "no"), "no" if words else "")


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else factor * value
