"""The folder that a run leaves: config.json, log.csv, summary.json, checkpoints.

Beside the folder, `scaling_results.csv` gathers one row a run, in the columns of the paper (its
Figures 7 and 8, where a line break hides that `mean_train_acc_pct` is one name) and, behind them,
some more.
"""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from itertools import count
from pathlib import Path
from typing import Any

from npnet.errors import NpnetError
from npnet.files import append_rows, locked, read_table, write_atomically
from npnet.training.checkpoint import Checkpoint, save
from npnet.training.claim import Claim
from npnet.training.costs import AfterEpoch, StepSeconds
from npnet.training.results import EpochResult, Summary

# What two rows of the table of runs have in common if they did the same work.
WORK = (
    "epochs", "batch_per_rank", "dataset", "model", "width", "input_size", "recipe", "sync",
)  # fmt: skip
SCORES = ("test_loss", "test_acc", "recalibrated_test_loss", "recalibrated_test_acc")
LOG_COLUMNS = (
    *(field.name for field in fields(EpochResult) if field.name != "phases"),
    *(field.name for record in (StepSeconds, AfterEpoch) for field in fields(record)),
    *SCORES,
)


class RunFolder:
    """Written by rank 0 alone, and by one run at a time; every file is replaced as a whole.

    `proposed`: the name is a default. If it is taken, `create` puts a number behind it, and `path`
    changes.
    """

    def __init__(self, path: Path, proposed: bool = False) -> None:
        self.path, self.proposed = path, proposed
        self._claim: Claim | None = None

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def log(self) -> Path:
        return self.path / "log.csv"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def scaling_results(self) -> Path:
        return self.path.parent / "scaling_results.csv"

    @property
    def trial_results(self) -> Path:
        """The same of runs that were cut short by `max_steps`."""
        return self.path.parent / "trial_results.csv"

    @property
    def final(self) -> Path:
        return self.path / "final.npz"

    def epoch(self, number: int) -> Path:
        """The checkpoint after epoch `number`, counted from 1."""
        return self.path / f"epoch-{number:03d}.npz"

    def newest_checkpoint(self, before: int) -> Path | None:
        """That of the last epoch that is in the log, too, and is not epoch `before` or later.

        A run that was killed between the two would go on with an epoch missing in its log.
        """
        logged = {row.get("epoch") for row in self.read_log()}
        numbers = (number for number in range(before - 1, 0, -1) if str(number) in logged)
        return next((path for path in map(self.epoch, numbers) if path.exists()), None)

    def create(self, resumed: Checkpoint | None = None) -> None:
        """Make the folder, claim it and prove that it can be written, before any work is done.

        A folder that holds a run is only written by the run that continues it, from one of its own
        checkpoints; the log then forgets the epochs that are repeated. Raises NpnetError else, or
        if another run is under way there.
        """
        try:
            self._make()
            own = resumed is not None and self._holds(resumed)
            if not own:
                self._refuse_a_run()  # without a trace in its folder
            claim = Claim(self.path)
        except OSError as error:
            raise NpnetError(
                f"cannot make the run folder {self.path}: {error.strerror}; choose another `out`"
            ) from error
        try:
            if not own:
                self._refuse_a_run()  # it may have come and gone since
            self._prove_writable()
            if resumed is not None and own:
                self._forget_after(resumed.header.epoch)
        except BaseException:
            claim.release()
            raise
        self._claim = claim

    def _make(self) -> None:
        if not self.proposed:
            self.path.mkdir(parents=True, exist_ok=True)
            return
        first = self.path
        first.parent.mkdir(parents=True, exist_ok=True)
        for number in count(2):
            try:
                self.path.mkdir()  # one alone succeeds, of all that try
            except FileExistsError:
                self.path = first.with_name(f"{first.name}-{number}")
            else:
                return

    def _holds(self, checkpoint: Checkpoint) -> bool:
        origin = checkpoint.path
        return origin is not None and origin.resolve().parent == self.path.resolve()

    def _refuse_a_run(self) -> None:
        if self.log.exists():
            raise NpnetError(
                f"{self.path} holds a run already: choose another `out`, or continue that run "
                f"with `resume` {self.path}/epoch-NNN.npz"
            )

    def _prove_writable(self) -> None:
        for table in (self.scaling_results, self.trial_results):
            if table.exists() and not (table.is_file() and os.access(table, os.R_OK | os.W_OK)):
                raise NpnetError(
                    f"cannot add a row to {table}: move it away or choose another `out`"
                )
            read_table(table)  # or a run would end with an error
        probe = self.path / ".npnet-writable"  # a name that no file of the user's has
        write_atomically(probe, b"")
        probe.unlink()

    def _forget_after(self, epoch: int) -> None:
        if self.log.exists():
            append_rows(self.log, LOG_COLUMNS, [], keep=lambda row: self._epoch_of(row) <= epoch)

    def _epoch_of(self, row: Mapping[str, str]) -> int:
        try:
            return int(row["epoch"])
        except (KeyError, ValueError) as error:
            raise NpnetError(
                f"{self.log} has a row without an epoch: mend it, or move it away"
            ) from error

    def write_config(self, config: Mapping[str, Any]) -> None:
        write_atomically(self.config, _json(config))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        """Write the last of a run's files; the folder is free after it."""
        write_atomically(self.summary, _json(summary))
        if self._claim is not None:
            self._claim.release()

    def save_epoch(self, number: int, state: Checkpoint) -> None:
        save(self.epoch(number), state)

    def save_final(self, state: Checkpoint) -> None:
        save(self.final, state)

    def append_log(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add one row a worker for the epoch just finished."""
        append_rows(self.log, LOG_COLUMNS, rows)

    def read_log(self) -> list[dict[str, str]]:
        """The rows of the log, none where there is none. Raises NpnetError if it is broken."""
        return read_table(self.log)

    def append_result(self, summary: Summary) -> None:
        """Add the run's row to the table of all runs beside this folder; trials have their own.

        The paper's columns, then npnet's. `speedup` is over the last row of the same work on two
        ranks, as the paper counts it.
        """
        table = self.scaling_results if summary.max_steps is None else self.trial_results
        with locked(table):
            self._append_result(table, summary)

    def _append_result(self, table: Path, summary: Summary) -> None:
        work = {name: str(getattr(summary, name)) for name in WORK}
        two = [
            row["global_time_sec"]
            for row in read_table(table)
            if row.get("world") == "2" and all(row.get(name) == work[name] for name in WORK)
        ]
        row = {
            "world": summary.world,
            "epochs": summary.epochs,
            "batch_per_node": summary.batch_per_node,
            "batch_per_rank": summary.batch_per_rank,
            "mean_train_loss": f"{summary.train_loss:.4f}",
            "mean_train_acc_pct": f"{100 * summary.train_acc:.2f}",
            "global_time_sec": f"{summary.wall_seconds:.2f}",
            "cifar_dir": summary.location,
            "test_loss": _number(summary.test_loss),
            "test_acc_pct": _number(summary.test_acc, 100, 2),
            **work,
            "steps": summary.steps,
            "train_sec": f"{summary.train_seconds:.2f}",
            "test_sec": f"{summary.test_seconds:.2f}",
            "images_per_second": f"{summary.images_per_second:.1f}",
            "speedup": _ratio(two[-1] if two else "", summary.wall_seconds),
            "run": self.path.resolve().name,
        }
        append_rows(table, tuple(row), [row], keep=lambda other: other.get("run") != row["run"])


def _number(value: float | None, factor: float = 1, digits: int = 4) -> str:
    return "" if value is None else f"{factor * value:.{digits}f}"


def _ratio(before: str, seconds: float) -> str:
    """Of a time in a table, which people may have edited, to `seconds`."""
    try:
        return f"{float(before) / seconds:.3f}"
    except (ValueError, ZeroDivisionError):
        return ""


def _json(value: Mapping[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()
