"""The folder that a run leaves: config.json, log.csv, summary.json, checkpoints.

Beside the folder, `scaling_results.csv` gathers one row a run, in the columns of the paper (its
Figures 7 and 8, where a line break hides that `mean_train_acc_pct` is one name) and, behind them,
some more.
"""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields
from itertools import count
from pathlib import Path
from typing import Any

from npnet.errors import NotWritten, NpnetError
from npnet.files import append_rows, flush_folder, locked, read_table, sweep, write_atomically
from npnet.training.best import Best
from npnet.training.checkpoint import Checkpoint, load, save
from npnet.training.claim import Claim
from npnet.training.costs import AfterEpoch, StepSeconds
from npnet.training.reached import Done, Reached
from npnet.training.results import EpochResult, Summary

# What two rows of the table of runs have in common if they did the same work.
WORK = (
    "epochs", "batch_per_rank", "dataset", "model", "width", "input_size", "recipe", "sync",
)  # fmt: skip
SCORES = tuple(
    f"{kind}{split}_{what}"
    for split in ("test", "val")
    for kind in ("", "recalibrated_")
    for what in ("loss", "acc")
)
LOG_COLUMNS = (
    *(field.name for field in fields(EpochResult) if field.name != "phases"),
    *(field.name for record in (StepSeconds, AfterEpoch) for field in fields(record)),
    *SCORES,
)
# The names of a run's files, of which one is enough to make a folder a run's.
OF_A_RUN = re.compile(
    r"config(-\d+)?\.json|log\.csv|summary\.json|(final|best)\.npz|(epoch|step-\d+)-\d+\.npz"
)
PROBE = ".npnet-writable"  # a name that no file of the user's has


# Of each file of a run: its name, when it was written, its size.
Stamp = tuple[tuple[str, int, int], ...]


class RunFolder:
    """What is on disk of a run: written by rank 0 alone, and by one run at a time.

    Every file is the old one or the new one as a whole, and files are written in one order:

    | when       | what, in this order                                | what that says          |
    |------------|----------------------------------------------------|-------------------------|
    | at a start | lock, what to forget, config.json                  | a run                   |
    | on the way | step-NNN-SSSSSS.npz; then, the one before is       | some steps more         |
    |            | removed                                            |                         |
    | an epoch   | epoch-NNN.npz, then its rows in log.csv; then, its | one epoch more          |
    |            | steps are removed, and what is not to keep; then,  |                         |
    |            | if it is the best so far, best.npz                 |                         |
    | at the end | final.npz, its row in the table, then summary.json | finished                |
    | to forget  | summary.json, its row, final.npz, best.npz if it   | no longer finished; at  |
    |            | is of a later epoch, then checkpoints from the     | every moment, a run     |
    |            | last on, then their rows in log.csv                |                         |

    So an epoch counts if it is in the log, for then its checkpoint is there; and a run is finished
    if it has a summary, for then all else is there. A run that is killed between any two of these
    goes on from the newest checkpoint that counts, and forgets what came after it: files of an
    epoch that is made once more, or of a branch that was given up. What killed writes have left is
    swept. Each start has a config of its own, config-2.json and so on.

    best.npz is made from the checkpoint of the log's best epoch, which is always kept: so it can be
    made again at any time (`best_to_save`).

    `proposed`: the name is a default. If it is taken, `create` puts a number behind it, and `path`
    changes. `continued`: the run that lies there, if any, is this one.
    """

    def __init__(self, path: Path, proposed: bool = False, continued: bool = False) -> None:
        self.path, self.proposed, self.continued = path, proposed, continued
        self.expected: Stamp | None = None  # what was read of it before it was claimed
        self._claim: Claim | None = None
        self._reached: Reached | None = None
        self._epoch_of_best = 0  # of best.npz; 0: there is none

    @property
    def config(self) -> Path:
        """Of the first start."""
        return self.path / "config.json"

    @property
    def newest_config(self) -> Path:
        """Of the last start."""
        newest = self.config
        for path in self._configs():
            if not path.exists():
                return newest
            newest = path
        return newest

    def _configs(self) -> Iterator[Path]:
        """The names of the configs of all starts, one after the other without end."""
        yield self.config
        yield from (self.path / f"config-{number}.json" for number in count(2))

    @property
    def log(self) -> Path:
        return self.path / "log.csv"

    @property
    def summary(self) -> Path:
        return self.path / "summary.json"

    @property
    def scaling_results(self) -> Path:
        return self._beside / "scaling_results.csv"

    @property
    def trial_results(self) -> Path:
        """The same of runs that were cut short by `max_steps`."""
        return self._beside / "trial_results.csv"

    @property
    def _beside(self) -> Path:
        """The folder of this one, also where that is called `.`"""
        return Path(os.path.normpath(self.path / os.pardir))

    @property
    def final(self) -> Path:
        return self.path / "final.npz"

    @property
    def best(self) -> Path:
        return self.path / "best.npz"

    def epoch(self, number: int) -> Path:
        """The checkpoint after epoch `number`, counted from 1."""
        return self.path / f"epoch-{number:03d}.npz"

    def step(self, done: Done) -> Path:
        """The checkpoint after some steps of the epoch behind those that are finished."""
        return self.path / f"step-{done.epochs + 1:03d}-{done.steps:06d}.npz"

    def checkpoints(self) -> list[tuple[Done, Path]]:
        """All that are there, whether they count or not, the newest first."""
        found = []
        for path in self._files():
            if match := re.fullmatch(r"epoch-(\d+)\.npz", path.name):
                found.append((Done(int(match[1])), path))
            elif match := re.fullmatch(r"step-(\d+)-(\d+)\.npz", path.name):
                found.append((Done(int(match[1]) - 1, int(match[2])), path))
        return sorted(found, reverse=True)

    def _files(self) -> list[Path]:
        """The run's files, as far as their names tell."""
        try:
            return [path for path in self.path.iterdir() if OF_A_RUN.fullmatch(path.name)]
        except (FileNotFoundError, NotADirectoryError):
            return []

    def stamp(self) -> Stamp:
        """What tells whether a run has written anything meanwhile."""
        found = [(path.name, path.stat()) for path in self._files()]
        return tuple(sorted((name, each.st_mtime_ns, each.st_size) for name, each in found))

    def valid_checkpoints(self) -> list[Path]:
        """Those to go on from, the newest first.

        A run that was killed between a checkpoint and its rows would go on with an epoch missing in
        its log.
        """
        logged = self._epochs_in_log()
        return [path for done, path in self.checkpoints() if _counts(done, logged)]

    def _epochs_in_log(self) -> set[int]:
        return {self._epoch_of(row) for row in self.read_log()}

    def newest_checkpoint(self) -> Path | None:
        """The one to go on from."""
        return next(iter(self.valid_checkpoints()), None)

    def later_than(self, checkpoint: Checkpoint | None) -> list[Path]:
        """Checkpoints that going on from this one would forget, the newest first."""
        done = _done(checkpoint)
        return [path for later, path in self.checkpoints() if later > done]

    def create(self, resumed: Checkpoint | None = None) -> None:
        """Make the folder, claim it and prove that it can be written, before any work is done.

        A folder that holds a run is only written by the run that continues it: what came after the
        checkpoint `resumed` is forgotten then, or all without one. Raises NpnetError else, or if
        another run is under way there.
        """
        try:
            self.make()
            if resumed is not None and self.holds(resumed):
                self.continued = True
            if not self.continued:
                self._refuse_a_run()  # without a trace in its folder
            claim = Claim(self.path)
        except OSError as error:
            raise NpnetError(
                f"cannot make the run folder {self.path}: {error.strerror}; choose another `out`"
            ) from error
        try:
            if not self.continued:
                self._refuse_a_run()  # it may have come and gone since
            elif self.expected is not None and self.expected != self.stamp():
                raise NpnetError(
                    f"the run in {self.path} has gone on meanwhile, in another process: start this "
                    "one again if it is still wanted"
                )
            (self.path / PROBE).unlink(missing_ok=True)
            sweep(self.path, f"{OF_A_RUN.pattern}|{re.escape(PROBE)}")
            self._prove_writable()
            if self.continued:
                elsewhere = resumed is not None and not self.holds(resumed)
                self._forget_after(_done(resumed), check=not elsewhere)
        except BaseException:
            claim.release()
            raise
        self._claim, self._reached = claim, Reached(self.path)

    def make(self) -> None:
        """Make the folder; a `proposed` one alone, under a name that nothing has yet."""
        if not self.proposed:
            self.path.mkdir(parents=True, exist_ok=True)
            flush_folder(self.path.parent)
            return
        first = self.path
        first.parent.mkdir(parents=True, exist_ok=True)
        for number in count(2):
            try:
                self.path.mkdir()  # one alone succeeds, of all that try
            except FileExistsError:
                self.path = first.with_name(f"{first.name}-{number}")
            else:
                flush_folder(self.path.parent)
                return

    def holds(self, checkpoint: Checkpoint) -> bool:
        """Whether it is one of this folder's files."""
        origin = checkpoint.path
        return origin is not None and origin.resolve().parent == self.path.resolve()

    def _refuse_a_run(self) -> None:
        found = sorted(path.name for path in self._files())
        if found:
            raise NpnetError(
                f"{self.path} holds a run already ({found[0]}): choose another `out`, or continue "
                f"that run with `resume` {self.path}"
            )

    def _prove_writable(self) -> None:
        for table in (self.scaling_results, self.trial_results):
            if table.exists() and not (table.is_file() and os.access(table, os.R_OK | os.W_OK)):
                raise NpnetError(
                    f"cannot add a row to {table}: move it away or choose another `out`"
                )
            read_table(table)  # or a run would end with an error
        probe = self.path / PROBE
        write_atomically(probe, b"")
        probe.unlink()

    def _forget_after(self, done: Done, check: bool = True) -> None:
        """Go back to `done`. Raises NpnetError where the log lacks that epoch, if it should not.

        Its checkpoint is then one of a branch that was given up, or never counted.
        """
        logged = self._epochs_in_log()
        if check and not _counts(done, {epoch for epoch in logged if epoch <= done.epochs}):
            raise NpnetError(
                f"{self.log} has no epoch {done.epochs}: `resume` {self.path} goes on from its "
                "last one, and another `out` leaves it as it is"
            )
        try:
            self._remove(self.summary)
            self._forget_results()
            self._remove(self.final)
            self._find_best(done)
            for later, path in self.checkpoints():
                if later > done:
                    self._remove(path)
            self._forget_epochs(done.epochs)
        except OSError as error:
            raise NpnetError(
                f"cannot go on in {self.path}: {error.strerror} ({error.filename}); make that "
                "possible, or choose another `out`"
            ) from error

    def _find_best(self, done: Done) -> None:
        """See which epoch best.npz is of; remove it if that comes after `done`, or is not known."""
        try:
            self._epoch_of_best = load(self.best).header.epoch
        except NpnetError:
            self._epoch_of_best = 0
        if not 0 < self._epoch_of_best <= done.epochs:
            self._epoch_of_best = 0
            self._remove(self.best)

    def best_to_save(self) -> Path | None:
        """The checkpoint of the log's best epoch, unless best.npz is of that epoch already.

        None, too, where nobody has scored an epoch, or where that checkpoint is gone.
        """
        best = Best.of(self.read_log()).epoch
        path = self.epoch(best)
        return path if best not in (0, self._epoch_of_best) and path.exists() else None

    def save_best(self, state: Checkpoint) -> None:
        save(self.best, state)
        self._epoch_of_best = state.header.epoch

    def _remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        flush_folder(self.path)

    def kept(self) -> str:
        """What there is to go on from, in words."""
        newest = self.newest_checkpoint()
        return f"{newest} is kept" if newest is not None else "no checkpoint is there yet"

    def _forget_results(self) -> None:
        """Take the run's row out of the tables."""
        for table in (self.scaling_results, self.trial_results):
            if any(map(self._is_mine, read_table(table))):
                with locked(table):
                    append_rows(table, (), [], keep=lambda row: not self._is_mine(row))

    def _is_mine(self, row: Mapping[str, str]) -> bool:
        """Whether a row of a table is of this run."""
        return row.get("run") == self.path.resolve().name

    def _forget_epochs(self, last: int) -> None:
        """Take the epochs after `last` out of the log."""
        if any(epoch > last for epoch in self._epochs_in_log()):
            append_rows(self.log, LOG_COLUMNS, [], keep=lambda row: self._epoch_of(row) <= last)

    def _epoch_of(self, row: Mapping[str, str]) -> int:
        try:
            return int(row["epoch"])
        except (KeyError, ValueError) as error:
            raise NpnetError(
                f"{self.log} has a row without an epoch: mend it, or move it away"
            ) from error

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Say in a file of its own what a start is, and never in that of another start.

        Raises NpnetError if another run was faster, as on a disk that knows no locks.
        """
        for path in self._configs():
            try:
                write_atomically(path, _json(config), exclusive=True)
                break
            except FileExistsError as error:
                if not self.continued:
                    raise NpnetError(
                        f"{self.path} holds a run already: choose another `out`"
                    ) from error

    def note(self, done: Done) -> None:
        """Say how far the run is now, which a later start reads if this one is killed."""
        if self._reached is not None:
            self._reached.note(done)

    def save_epoch(self, number: int, state: Checkpoint) -> None:
        save(self.epoch(number), state)

    def save_step(self, state: Checkpoint) -> None:
        """Save an epoch under way; the newest alone is kept."""
        done = _done(state)
        save(self.step(done), state)
        with _removing():
            self._remove_steps(before=done)

    def append_log(self, rows: Sequence[Mapping[str, Any]], keep: int | None = None) -> None:
        """Add one row a worker for the epoch just finished, whose checkpoint is there.

        Checkpoints of its steps are of no use then, nor those of epochs that are not to `keep`.
        """
        append_rows(self.log, LOG_COLUMNS, rows)
        with _removing():
            self._clear_up(keep)

    def _remove_steps(self, before: Done) -> None:
        for done, path in self.checkpoints():
            if done.steps and done < before:
                self._remove(path)

    def _clear_up(self, keep: int | None) -> None:
        """Remove checkpoints within epochs that are finished, and of epochs not to `keep`.

        Those are all but the newest `keep`, and the best, see Best.
        """
        log = self.read_log()
        self._remove_steps(before=Done(max(map(self._epoch_of, log), default=0)))
        if keep is None:
            return
        epochs = [(done.epochs, path) for done, path in self.checkpoints() if not done.steps]
        best = Best.of(log).epoch
        for number, path in epochs[keep:]:
            if number != best:
                self._remove(path)

    def read_log(self) -> list[dict[str, str]]:
        """The rows of the log, none where there is none. Raises NpnetError if it is broken."""
        return read_table(self.log)

    def finish(
        self, state: Checkpoint, summary: Summary, in_table: bool, keep: int | None = None
    ) -> None:
        """Write the last of a run's files; the folder is free after it."""
        with _removing():
            self._clear_up(keep)
        save(self.final, state)
        if in_table:
            self.append_result(summary)
        self.write_summary(asdict(summary))

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        write_atomically(self.summary, _json(summary))
        if self._reached is not None:
            self._reached.remove()
        if self._claim is not None:
            self._claim.release()

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
        append_rows(table, tuple(row), [row], keep=lambda other: not self._is_mine(other))


@contextmanager
def _removing() -> Iterator[None]:
    """Raise NotWritten where the disk refuses to remove a file."""
    try:
        yield
    except OSError as error:
        what = f"cannot remove {error.filename}: {error.strerror}"
        raise NotWritten(what, "make the disk writable") from error


def _done(checkpoint: Checkpoint | None) -> Done:
    if checkpoint is None:
        return Done(0)
    return Done(checkpoint.header.epoch, checkpoint.header.step)


def _counts(done: Done, logged: set[int]) -> bool:
    """Whether a checkpoint counts, given the epochs in the log.

    Of a run that began as another's continuation the log lacks the first epochs.
    """
    if not done.steps:
        return done.epochs in logged or not done.epochs
    return done.epochs + 1 not in logged and (
        done.epochs in logged or done.epochs < min(logged, default=done.epochs + 1)
    )


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
