"""Studies as runs of `npnet train`: start them, go on where they stopped, read what they left.

A study is a folder. Each case is a run in a folder of its own, started through mpiexec; what it
prints is kept beside in `<case>.txt`. `study.json` says what each case is, so that the same folder
never holds two studies, and later the rows of the study's table.
"""

import json
import math
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from npnet.errors import NpnetError
from npnet.files import write_atomically, write_table
from npnet.machine import program, telemetry
from npnet.machine.sensors import oom_kills
from npnet.parallel.launch import environment_of_launcher, prepare
from npnet.schema import checked_fields, known_fields
from npnet.status import BAD_INPUT, INTERRUPTED, STOPPED
from npnet.training.claim import Claim
from npnet.training.results import Summary
from npnet.training.run_folder import RunFolder
from npnet.untrusted import read_object

Row = dict[str, Any]
ERROR = "npnet: error: "  # begins a run's own line about what was wrong
SECONDS_TO_SAVE = 60.0  # what a run may take until it has saved itself
ADVICE = "remove its folder to run again"
AGAIN = f"; {ADVICE}"
SCALAR = str | int | float  # True is an int
# Numbers of a summary that others are divided by.
POSITIVE = (
    *("world", "epochs", "batch_per_node", "batch_per_rank", "wall_seconds", "train_seconds"),
    *("images_per_second", "steps"),
)


@dataclass(frozen=True)
class Case:
    """A run of a study. The runs of a `group` repeat each other.

    `arguments` are `npnet train`'s; `work` is in any unit, for the time that is left.
    """

    name: str
    group: str
    ranks: int
    arguments: tuple[str, ...]
    epochs: int
    work: float
    ranks_per_node: int | None = None


class Reporter(Protocol):
    """Is told how a study goes on."""

    def started(self, case: Case, resumed: Path | None) -> None: ...

    def line(self, case: Case, text: str) -> None:
        """What the run prints."""

    def ended(self, case: Case, error: str | None) -> None: ...


class Study:
    """The folder of a study, whose runs have the arguments `shared` in common.

    `settings` are for those who read study.json; `rows` those of the table, once there are any.
    Raises NpnetError if the folder holds another one, or a case with other arguments.
    """

    def __init__(
        self,
        kind: str,
        folder: Path,
        cases: Sequence[Case],
        shared: Sequence[str] = (),
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.kind, self.folder, self.cases, self.shared = kind, folder, cases, list(shared)
        self.settings = dict(settings or {})
        self.groups = {case.name: case.group for case in cases}
        self.file = folder / "study.json"
        found = StudyFile.read(self.file) if self.file.exists() else None
        self.known = found.arguments(self.file) if found else {}
        self.rows: Sequence[Row] = found.rows if found else []
        if found is None:
            if any((folder / case.name).exists() for case in cases):
                raise NpnetError(f"{folder} holds runs of no study: choose another `out`")
            return
        if found.kind != kind:
            raise NpnetError(
                f"{folder} holds a study of another kind, {found.kind!s:.40}: choose another `out`"
            )
        self._check(folder, found.shared, self.shared)
        for case in cases:
            if case.name in self.known:
                self._check(folder / case.name, self.known[case.name], case.arguments)

    def _check(self, path: Path, before: Sequence[str], now: Sequence[str]) -> None:
        if list(before) != list(now):
            raise NpnetError(
                f"{path} was run with other options, {difference(before, now)}: choose another "
                f"`out`, or remove {self.folder}"
            )

    def run(
        self,
        reporter: Reporter,
        tabulate: Callable[[], Sequence[Row]],
        machinefile: Path | None = None,
    ) -> None:
        """Run each case that has not been finished yet, in order; an interrupted one goes on.

        However it ends, the rows that `tabulate` makes of what is finished are saved. Raises
        NpnetError at the end if some have failed, at once if a run is refused, if the machinefile
        holds too few ranks for one, or if the folder cannot be written.
        """
        if machinefile is not None:
            for case in self.unfinished():
                prepare(case.ranks, machinefile, case.ranks_per_node)
        self.make_folder()
        try:
            failed = self._run_claimed(reporter, tabulate, machinefile)
        except BrokenPipeError:  # of the reporter's
            raise
        except OSError as error:
            raise NpnetError(
                f"cannot write in {self.folder}: {error.strerror} ({error.filename}); make that "
                "possible, or choose another `out`"
            ) from error
        if failed:
            raise NpnetError(
                f"{len(failed)} of {len(self.cases)} runs failed ({', '.join(failed)}): see "
                f"{self.folder / failed[0]}.txt; the same command runs them again, and no other"
            )

    def _run_claimed(
        self,
        reporter: Reporter,
        tabulate: Callable[[], Sequence[Row]],
        machinefile: Path | None,
    ) -> list[str]:
        claim = Claim(self.folder)
        try:
            self.known |= {case.name: list(case.arguments) for case in self.cases}
            self.save(self.rows)
            return self._run_all(reporter, machinefile)
        finally:
            self.save(tabulate())
            claim.release()

    def make_folder(self) -> None:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise NpnetError(
                f"cannot make {self.folder}: {error.strerror}; choose another `out`"
            ) from error

    def _run_all(self, reporter: Reporter, machinefile: Path | None) -> list[str]:
        """The names of those that failed."""
        failed = []
        for case in self.unfinished():
            failure = self._run(case, reporter, machinefile)
            if failure is not None:
                failed.append(case.name)
                if failure.status == BAD_INPUT:  # as all others would be
                    raise NpnetError(f"{case.name} was refused: {failure}")
        return failed

    def unfinished(self) -> list[Case]:
        return [case for case in self.cases if not self.run_of(case).summary.exists()]

    def run_of(self, case: Case) -> RunFolder:
        return RunFolder(self.folder / case.name)

    def _run(self, case: Case, reporter: Reporter, machinefile: Path | None) -> "RunFailed | None":
        """Why the run failed, None if it did not."""
        run = self.run_of(case)
        checkpoint = run.newest_checkpoint()
        if checkpoint is None and run.path.exists():
            Claim(run.path).release()  # refused while a run is under way there
            shutil.rmtree(run.path)  # of a start that left nothing to go on with
        command = program.command("train", *case.arguments, "--out", str(run.path))
        if checkpoint is not None:
            command += ["--resume", str(run.path)]
        if case.ranks > 1 or machinefile is not None:
            launcher, ranks = prepare(case.ranks, machinefile, case.ranks_per_node)
            command = launcher.command(command, ranks)
        reporter.started(case, checkpoint)
        begin, last, said = time.monotonic(), "", ""
        output = self.folder / f"{case.name}.txt"
        with output.open("w", encoding="utf-8") as file, _started(command) as process:
            assert process.stdout is not None
            for text in process.stdout:
                file.write(text)
                file.flush()
                last = text.strip() or last
                if text.startswith(ERROR):
                    said = said or text.removeprefix(ERROR).strip()
                reporter.line(case, text.rstrip())
            status = process.wait()
        if status in (INTERRUPTED, STOPPED):  # even where Ctrl-C does not reach this process
            raise KeyboardInterrupt
        error = None
        if status != 0 or not run.summary.exists():
            said = said or f"it ended with status {status}, see {output}: {last:.200}"
            for kill in oom_kills(time.monotonic() - begin):
                said += f"; the kernel killed {kill.process} ({kill.pid}) for want of memory"
            error = RunFailed(said, status)
        reporter.ended(case, str(error) if error else None)
        return error

    def finished(self, group: str) -> list["Finished"]:
        """What the finished runs of a group left."""
        names = [name for name in self.known if self.groups.get(name, name) == group]
        runs = [RunFolder(self.folder / name) for name in names]
        return [Finished.read(run) for run in runs if run.summary.exists()]

    def save(self, rows: Sequence[Row]) -> None:
        """Write study.json and, if there are rows, the table; six digits of each number."""
        self.rows = rows
        rows = [{name: _six_digits(value) for name, value in row.items()} for row in rows]
        content = {
            "kind": self.kind,
            "npnet": telemetry.package_version("npnet"),
            "machine": telemetry.machine(),
            "settings": self.settings,
            "shared": self.shared,
            "cases": self.known,
            "rows": rows,
        }
        write_atomically(self.file, (json.dumps(content, indent=2) + "\n").encode())
        if rows:
            write_table(self.folder / f"{self.kind}.csv", list(rows[0]), rows)


@dataclass(frozen=True)
class StudyFile:
    """What is read of study.json: the arguments of its cases, and its rows."""

    kind: str
    shared: tuple[str, ...]
    cases: dict[str, Any]
    rows: tuple[dict[str, Any], ...]

    @classmethod
    def read(cls, path: Path) -> "StudyFile":
        found = cls(**checked_fields(cls, known_fields(cls, read_json(path)), str(path)))
        for row in found.rows:
            plain = all(value is None or isinstance(value, SCALAR) for value in row.values())
            if row.keys() != found.rows[0].keys() or not plain:
                raise NpnetError(f"{path}: its rows are those of no table{AGAIN}")
        return found

    def arguments(self, path: Path) -> dict[str, list[str]]:
        """Of each case, whose name is that of a folder in the study's."""
        for name, words in self.cases.items():
            if not re.fullmatch(r"\w[\w.+-]{0,100}", name):
                raise NpnetError(f"{path}: {name!r:.80} is no case's name{AGAIN}")
            if not (isinstance(words, list) and all(isinstance(each, str) for each in words)):
                raise NpnetError(f"{path}: the arguments of {name} are not a list of texts{AGAIN}")
        return self.cases


class RunFailed(NpnetError):
    """A run that ended without a summary, and its status."""

    def __init__(self, words: str, status: int) -> None:
        super().__init__(words)
        self.status = status


@dataclass(frozen=True)
class Configured:
    """What is read of config.json."""

    hosts: tuple[str, ...]
    machine: dict[str, Any]


@dataclass(frozen=True)
class Finished:
    """A finished run: its summary and its log, whose numbers are None where they are missing."""

    summary: Summary
    config: dict[str, Any]
    log: list[dict[str, float | None]]
    texts: list[dict[str, str]]

    @classmethod
    def read(cls, run: RunFolder) -> "Finished":
        """Raises NpnetError if a file is damaged, or holds what no run leaves."""
        summary = Summary(**checked_fields(Summary, read_json(run.summary), str(run.summary)))
        for name in POSITIVE:
            if not getattr(summary, name) > 0:
                raise NpnetError(f"{run.summary}: {name} is {getattr(summary, name)}{AGAIN}")
        config = read_json(run.newest_config)
        known = Configured(
            **checked_fields(Configured, known_fields(Configured, config), str(run.config))
        )
        memory = known.machine.get("memory_bytes")
        if not known.hosts or not (memory is None or (type(memory) is int and memory > 0)):
            raise NpnetError(f"{run.config} names no host, or a memory of {memory!r:.40}{AGAIN}")
        texts = run.read_log()
        log = [{name: number(value) for name, value in row.items()} for row in texts]
        for row in log:
            if not all((row.get(name) or 0) > 0 for name in ("epoch", "seconds")):
                raise NpnetError(f"{run.log} has a row without epoch or seconds{AGAIN}")
        if not any(row.get("cpu_percent") is not None for row in log):
            raise NpnetError(f"{run.log} has no column cpu_percent{AGAIN}")
        return cls(summary, config, log, texts)

    def column(self, name: str) -> list[float]:
        """The known numbers of a column of the log."""
        return [value for row in self.log if (value := row.get(name)) is not None]

    def by_epoch(self, name: str, of_ranks: Callable[[list[float]], float]) -> dict[float, float]:
        """A column by epoch, a number of those of all ranks; without epochs that lack it."""
        epochs: dict[float, list[float]] = {}
        for row in self.log:
            epoch, value = row.get("epoch"), row.get(name)
            if epoch is not None and value is not None:
                epochs.setdefault(epoch, []).append(value)
        return {epoch: of_ranks(epochs[epoch]) for epoch in sorted(epochs)}

    def share(self, name: str) -> float | None:
        """A phase's part of training, percent."""
        seconds = sum(self.column("seconds"))
        return 100 * sum(self.column(name)) / seconds if seconds else None


@contextmanager
def _started(command: Sequence[str]) -> Iterator["subprocess.Popen[str]"]:
    """A process, which does not outlive the block."""
    try:
        process = subprocess.Popen(
            command,
            env=environment_of_launcher(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
    except OSError as error:
        raise NpnetError(f"cannot start {command[0]}: {error.strerror}") from error
    with process:
        try:
            yield process
        except KeyboardInterrupt:  # it has reached the run, too, for which a second would be one
            try:
                process.wait(SECONDS_TO_SAVE)
            except subprocess.TimeoutExpired:
                process.terminate()
            raise
        except BaseException:
            process.terminate()  # the run saves itself
            raise


def _six_digits(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def medians(rows: Sequence[Row]) -> Row:
    """One row of several: the median of each column of numbers, else the first row's value.

    A number that one of them lacks is left out; one that most lack is missing in the result. What
    they have in common stays as it is: a batch of 8 is no 8.0.
    """
    result: Row = {}
    for name, first in rows[0].items():
        values = [row[name] for row in rows]
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        if not numbers:
            result[name] = first
        elif 2 * len(numbers) <= len(values):
            result[name] = None
        else:
            result[name] = numbers[0] if len(set(numbers)) == 1 else median(numbers)
    return result


def number(text: str | None) -> float | None:
    """A cell of a table, None where it holds no number."""
    try:
        value = float(text) if text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def read_json(path: Path) -> dict[str, Any]:
    """An object in a file. Raises NpnetError for anything else."""
    return read_object(path, ADVICE)


def difference(before: Sequence[str], now: Sequence[str]) -> str:
    """What tells two command lines apart, option by option."""
    theirs = _options([f"{word:.200}" for word in before])
    mine = _options(now)
    gone = " ".join(option for option in theirs if option not in mine)
    new = " ".join(option for option in mine if option not in theirs)
    return f"{gone or 'nothing'} instead of {new or 'nothing'}"


def _options(words: Sequence[str]) -> list[str]:
    """A command line's options, each with its value."""
    options: list[str] = []
    for word in words:
        if options and not word.startswith("--"):
            options[-1] += f" {word}"
        else:
            options.append(word)
    return options
