"""log.csv: a row for each worker and epoch."""

import csv
import io
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from npnet.errors import NpnetError
from npnet.study.figures import PHASES
from npnet.study.report.values import Row, known, number, plain, read_text
from npnet.training.run_folder import LOG_COLUMNS, SCORES

# Columns of log.csv.
COUNTERS = ("epoch", "worker", "rank")
TEXTS = ("host", "longest_stall_phase", "throttled")
NUMBERS = tuple(name for name in LOG_COLUMNS if name not in (*COUNTERS, *TEXTS))
FRACTIONS = ("acc", *(name for name in SCORES if name.endswith("_acc")))
BELOW_ZERO = ("temperature_celsius",)  # of all numbers, these alone can be


class Log:
    """The rows of log.csv by epoch and worker; numbers are None where they are not known."""

    def __init__(self, rows: Sequence[Row]) -> None:
        last = {(row["epoch"], row["worker"]): row for row in rows}  # of a repeated epoch
        self.rows: list[Row] = [last[key] for key in sorted(last)]

    @cached_property
    def epochs(self) -> dict[int, list[Row]]:
        """The workers' rows of each epoch."""
        found: dict[int, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row["epoch"], []).append(row)
        return found

    @cached_property
    def split(self) -> str:
        """The split that epochs were scored on: "val" where images were held out, else "test"."""
        return "val" if known(row["val_acc"] for row in self.rows) else "test"

    @cached_property
    def ranks(self) -> dict[int, dict[int, Row]]:
        """A row for each rank and epoch: a rank's workers share its times and its memory."""
        found: dict[int, dict[int, Row]] = {}
        for row in self.rows:
            found.setdefault(row["rank"], {}).setdefault(row["epoch"], row)
        return dict(sorted(found.items()))

    @cached_property
    def hosts(self) -> dict[str, dict[int, list[Row]]]:
        """The rows of each host's ranks, by epoch."""
        found: dict[str, dict[int, list[Row]]] = {}
        for rank in self.ranks.values():
            for epoch, row in rank.items():
                found.setdefault(row["host"] or "?", {}).setdefault(epoch, []).append(row)
        return found

    def mean(self, column: str) -> dict[int, float | None]:
        """By epoch, the mean over those workers whose value is known."""
        means = {}
        for epoch, rows in self.epochs.items():
            found = known(row[column] for row in rows)
            means[epoch] = sum(found) / len(found) if found else None
        return means

    @cached_property
    def elapsed(self) -> dict[int, float | None]:
        """Seconds from the start of the run to the end of each epoch.

        Older logs know the seconds of training alone: then these, added up.
        """
        times = {
            epoch: max(known(row["elapsed_seconds"] for row in rows), default=None)
            for epoch, rows in self.epochs.items()
        }
        if any(time is not None for time in times.values()):
            return times
        total, sums = 0.0, {}
        for epoch, rows in self.epochs.items():
            total += max(known(row["seconds"] for row in rows), default=0.0)
            sums[epoch] = total or None
        return sums

    @cached_property
    def elapsed_is_training_alone(self) -> bool:
        return bool(self.rows) and not known(row["elapsed_seconds"] for row in self.rows)

    @cached_property
    def has_phases(self) -> bool:
        return any(sum(phases_of(row).values()) > 0 for row in self.rows)


def read_log(path: Path) -> list[Row]:
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    try:
        missing = {"epoch"} - set(reader.fieldnames or ())
        if missing:
            raise NpnetError(f"{path} is no log of a run: it has no column epoch")
        return [_checked_row(row, f"{path}: line {reader.line_num}") for row in reader]
    except csv.Error as error:
        raise NpnetError(f"cannot read {path}: {error}") from error


def _checked_row(row: Mapping[str, Any], where: str) -> Row:
    checked: dict[str, Any] = {}
    for name in COUNTERS:
        text = row.get(name) or ("" if name == "epoch" else "0")
        if not (text.isascii() and text.isdigit() and len(text) < 9):
            raise NpnetError(f"{where}: {name} is {text!r:.80}, where a number was expected")
        checked[name] = int(text)
    for name in NUMBERS:
        text = row.get(name) or ""
        try:
            value = number(float(text)) if text else None
        except ValueError:
            raise NpnetError(
                f"{where}: {name} is {text!r:.80}, where a number was expected"
            ) from None
        if value is not None and (value < 0 and name not in BELOW_ZERO):
            value = None
        if value is not None and (value > 1 and name in FRACTIONS):
            value = None
        checked[name] = value
    for name in TEXTS:
        checked[name] = plain(row.get(name) or "")
    return checked


def throttling(rows: Sequence[Row]) -> str:
    """What the ranks of a host told of it in an epoch: words, "no", or nothing."""
    told = [row["throttled"] for row in rows if row["throttled"]]
    return next((words for words in told if words != "no"), "no" if told else "")


def phases_of(row: Row) -> dict[str, float]:
    """Seconds of each phase, 0 where it is not known."""
    return {phase: row[f"{phase}_seconds"] or 0.0 for phase in PHASES}
