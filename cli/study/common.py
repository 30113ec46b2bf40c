"""What the studies that start runs share: options of `npnet train`, progress, the last words."""

import re
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from npnet.cli import options
from npnet.cli.bar import Progress
from npnet.cli.train import train
from npnet.cli.words import COMPILING, several

if TYPE_CHECKING:
    from npnet.study.cases import Case, Row, Study

Function = TypeVar("Function", bound=Callable[..., Any])

# What a study decides by itself, for each of its runs.
OWN = {
    "batch_per_rank", "batch_per_node", "ranks_per_node", "workers_per_rank", "epochs",
    "max_steps", "out", "resume", "trace", "progress",
}  # fmt: skip
TERMINATED = 128 + signal.SIGTERM
NP_OF_PAPER = "2,4,8,16,24,32,40,48"


class ListOf(click.ParamType):  # type: ignore[type-arg]
    """Whole numbers from 1, such as 8,16,24; sorted, each once."""

    name = "numbers"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[int]:
        if isinstance(value, list):
            return value
        try:
            numbers = sorted({int(part) for part in value.split(",")})
        except ValueError:
            numbers = []
        if not numbers or numbers[0] < 1:
            self.fail(f"{value} is not a list of numbers such as 2,4,8", param, ctx)
        return numbers


def options_of_train(*own: str) -> Callable[[Function], Function]:
    """Every option of `npnet train` that no study decides by itself, nor this one its `own`."""

    def add(function: Function) -> Function:
        parameters = function.__dict__.setdefault("__click_params__", [])
        for parameter in reversed(train.params):
            hidden = isinstance(parameter, click.Option) and parameter.hidden
            if parameter.name not in (*OWN, *own) and not hidden:
                parameters.append(parameter)
        return function

    return add


def arguments_for_train(context: click.Context) -> list[str]:
    """Those of them that were given, as `npnet train` takes them."""
    of_train = [each for each in context.command.params if each in train.params]
    return options.arguments(context, of_train)


def counts(of: str) -> Callable[[Function], Function]:
    return click.option(
        "--np",
        "counts",
        type=ListOf(),
        default=NP_OF_PAPER,
        show_default=True,
        help=f"Numbers of {of}.",
    )


def out(
    kind: str, words: str = "of the study; runs that are finished there are not run again"
) -> Callable[[Function], Function]:
    return click.option(
        "--out",
        type=click.Path(path_type=Path),
        default=Path(f"studies/{kind}"),
        show_default=True,
        help=f"Folder {words}.",
    )


def machinefile(function: Function) -> Function:
    return click.option(
        "--machinefile",
        type=click.Path(path_type=Path),
        help="The hosts, see machinefiles/; ranks are then bound to cores.  [default: this host]",
    )(function)


def repeats(function: Function) -> Function:
    return click.option(
        "--repeats",
        type=click.IntRange(1, 1000),
        default=1,
        show_default=True,
        help="Runs of each point, of which the table has the medians.",
    )(function)


progress = click.option(
    "--progress/--no-progress", default=True, help="Progress bar, or lines every 30 s."
)


def refuse_ranks() -> None:
    """Raises NpnetError, on every rank, under mpiexec."""
    from npnet.errors import NpnetError
    from npnet.parallel.communicator import connect, together
    from npnet.parallel.launched import launched_size

    if launched_size() is not None:
        with together(connect()):
            raise NpnetError("a study starts its ranks by itself: start it without mpiexec")


def run_study(
    study: "Study",
    machinefile: Path | None,
    progress: bool,
    tabulate: "Callable[[], Sequence[Row]]",
) -> None:
    """Run what is not finished. Ctrl-C leaves what is, and says how to go on.

    However it ends, the rows that `tabulate` makes of what is finished are the study's table.
    """
    from npnet.errors import NpnetError

    refuse_ranks()
    if machinefile is not None and not machinefile.is_file():
        raise NpnetError(f"there is no machinefile {machinefile}: see machinefiles/ for examples")
    done = len(study.cases) - len(study.unfinished())
    if done:
        click.echo(f"[STUDY] {done} of {len(study.cases)} runs are finished in {study.folder}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(TERMINATED))  # and so ends the run
    try:
        study.run(StudyProgress(study, progress), tabulate, machinefile)
    except KeyboardInterrupt:
        left = len(study.unfinished())
        click.echo(
            f"\n[STUDY] Interrupted: {len(study.cases) - left} of {len(study.cases)} runs are "
            f"finished in {study.folder}; the same command goes on with the others"
        )
        raise


class StudyProgress:
    """What runs, what is done, how long all of it will take."""

    def __init__(self, study: "Study", progress: bool) -> None:
        stream = sys.stderr if sys.stderr.isatty() else None
        self.study, self.shown = study, Progress(stream, "[STUDY]") if progress else None
        todo = study.unfinished()
        self.number = len(study.cases) - len(todo)
        self.begin, self.all_work = time.monotonic(), sum(case.work for case in todo)
        self.finished, self.share = 0.0, 0.0  # work of runs that are finished; part of this one
        self.spared = 0.0  # work that took no time here: done before, or given up
        self.compiling_since: float | None = None
        self.goes_on = False

    def started(self, case: "Case", resumed: Path | None) -> None:
        self.number, self.share, self.goes_on = self.number + 1, 0.0, resumed is not None
        again = f", goes on after {resumed.stem}" if resumed else ""
        click.echo(
            f"[STUDY] Run {self.number} of {len(self.study.cases)}: {case.name}, "
            f"{several(case.ranks, 'rank')}{again}{self._left(case)}"
        )

    def line(self, case: "Case", text: str) -> None:
        self.share = share_done(text, self.share)
        now = time.monotonic()
        if COMPILING in text:
            if self.compiling_since is None:
                self.compiling_since = now
                if self.shown is not None:
                    self.shown.say(f"{case.name}: {text.removeprefix('[INFO] ')}")
        else:
            self._compiled()
        if self.goes_on and self.share:
            self.spared += self.share * case.work
            self.goes_on = False
        if self.shown is not None:
            share = self._work(case) / self.all_work
            left = self._left(case).removeprefix(", ")
            words = f"{left}{', ' * bool(left)}{case.name}: {text.removeprefix('[Root] ')}"
            self.shown.show("Study", round(1000 * share), 1000, words)

    def _compiled(self) -> None:
        """Leave out of the reckoning what compiling took: the next run finds the machine code."""
        if self.compiling_since is not None:
            self.begin += time.monotonic() - self.compiling_since
            self.compiling_since = None

    def ended(self, case: "Case", error: str | None) -> None:
        self._compiled()
        self.finished += case.work
        if self.shown is not None:
            self.shown.finish()
        if error is not None:
            self.spared += (1 - self.share) * case.work
            click.echo(f"[STUDY] {case.name} failed: {error}")

    def _work(self, case: "Case") -> float:
        return self.finished + self.share * case.work

    def _left(self, case: "Case") -> str:
        from npnet.cli.console import clock

        done = self._work(case)
        if done <= self.spared:
            return ""
        trained = time.monotonic() - self.begin
        seconds = trained * (self.all_work - done) / (done - self.spared)
        return f", about {clock(seconds)} left in all"


def plain(value: float | None, digits: int) -> str:
    """A cell of a table."""
    return "-" if value is None else f"{value:.{digits}f}"


def share_done(text: str, before: float) -> float:
    """How much of a run is done, by a line that it prints; `before` if the line does not tell."""
    found = re.search(r"Epoch (\d+)/(\d+)(?: (\d+)%)?", text)
    if not found:
        return before
    epoch, epochs, percent = int(found[1]), int(found[2]), int(found[3] or 100)
    return max(before, (epoch - 1 + percent / 100) / epochs)


def picture(path: Path, draw: Callable[[Path], None]) -> None:
    """Draw into a file, or say why there is none: the table is made all the same."""
    from npnet.errors import NpnetError

    try:
        draw(path)
    except NpnetError as error:
        click.echo(f"[STUDY] No picture: {error}")
    else:
        click.echo(f"[STUDY] Picture: {path}")
