"""Hours of training in which something is killed every few minutes: nothing may be lost.

    python -m bench.soak --hours 2 --out bench/records/soak.csv

Trains on `shapes` once in peace, then again and again under `npnet launch --run --restarts`, while
ranks, their launcher or its helpers are killed at random moments. Each training must end with the
weights of the one in peace, to the bit. Prints a line a kill, and writes them as a table: what was
killed, how long it took until all its processes were gone and until a step was done again, the
steps that were lost, and the memory of a rank just before.
"""

import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median

import click
import psutil

from npnet.files import write_table
from npnet.machine import program
from npnet.training.checkpoint import load
from npnet.training.reached import Done, reached_in

LOST = re.compile(r"\[INFO\] Lost: (\d+) steps")
SECONDS_BETWEEN_LOOKS = 0.05
KINDS = ("rank", "rank", "rank", "all ranks", "launcher", "helper of the launcher")


@dataclass
class Kill:
    """One kill, and what came of it. Seconds from the start of the soak, or from the kill."""

    training: int
    second: float
    killed: str
    age: float  # seconds that the ranks had run
    rss_mb: float  # of the larger one, just before
    seconds_to_the_last_process: float
    seconds_to_a_step: float = 0.0
    steps_lost: int = 0


class Job:
    """`npnet launch` of one training in a folder, and the processes below it."""

    def __init__(self, folder: Path, options: tuple[str, ...]) -> None:
        self.folder, self.output = folder, folder.with_suffix(".txt")
        command = program.command("launch", "-n", "2", "--run", *options, "--out", str(folder))
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)

    @property
    def running(self) -> bool:
        return self.process.poll() is None

    def below(self) -> list[psutil.Process]:
        """The launcher, and all that it has started."""
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def ranks(self) -> list[psutil.Process]:
        return [process for process in self.below() if "train" in _words(process)]

    def reached(self) -> Done | None:
        """How far it is, None before its first step."""
        return reached_in(self.folder)

    def text(self) -> str:
        return self.output.read_text(errors="replace")


def _words(process: psutil.Process) -> list[str]:
    try:
        words: list[str] = process.cmdline()
    except psutil.Error:
        return []
    # Launchers name the program that they start, too.
    return words if words and "python" in words[0] else []


def kill(job: Job, kind: str) -> list[psutil.Process]:
    """The processes of the job, of which some were killed."""
    ranks, below = job.ranks(), job.below()
    helpers = [process for process in below if process not in ranks]
    if kind == "launcher":
        victims = helpers[:1]
    elif kind == "all ranks":
        victims = ranks
    else:
        victims = [random.choice(ranks if kind == "rank" else helpers[1:] or helpers)]
    for victim in victims:
        victim.send_signal(signal.SIGKILL)
    return below


def wait_for_step(job: Job) -> None:
    """Until a step is done, or the job has ended."""
    before = job.reached()
    while job.running and job.reached() in (before, None):
        time.sleep(SECONDS_BETWEEN_LOOKS)


def disturbed(job: Job, number: int, start: float, every: float) -> Iterator[Kill]:
    """Kill something of the job every so many seconds, on average, until it has ended."""
    while True:
        end = time.monotonic() + random.uniform(0.2, 1.8) * every
        while job.running and time.monotonic() < end:
            time.sleep(SECONDS_BETWEEN_LOOKS)
        if not job.running:
            return
        ranks = job.ranks()
        if len(ranks) < 2:  # between two starts
            continue
        kind, begin = random.choice(KINDS), time.monotonic()
        age = time.time() - min(rank.create_time() for rank in ranks)
        rss = max(rank.memory_info().rss for rank in ranks) / 1e6
        lost = len(LOST.findall(job.text()))
        psutil.wait_procs(kill(job, kind))
        gone = time.monotonic() - begin
        wait_for_step(job)
        found = LOST.findall(job.text())[lost:]
        steps = int(found[0]) if found else 0
        yield Kill(number, begin - start, kind, age, rss, gone, time.monotonic() - begin, steps)


def digest(folder: Path) -> str:
    return load(folder / "final.npz").digest()


def say(**values: object) -> None:
    click.echo("  ".join(f"{name} {_short(value)}" for name, value in values.items()))


@click.command()
@click.option("--hours", default=2.0, show_default=True)
@click.option("--every", default=180.0, show_default=True, help="Seconds between two kills.")
@click.option("--epochs", default=40, show_default=True)
@click.option("--checkpoint-every", default=100, show_default=True, help="Steps.")
@click.option("--seed", default=0, show_default=True, help="Of the kills.")
@click.option("--out", type=click.Path(path_type=Path), help="File for the table.")
def main(
    hours: float, every: float, epochs: int, checkpoint_every: int, seed: int, out: Path | None
) -> None:
    random.seed(seed)
    train = (
        *("train", "--dataset", "shapes", "--input-size", "32", "--width", "0.25"),
        *("--epochs", str(epochs), "--checkpoint-every", str(checkpoint_every), "--keep", "2"),
        "--no-progress",
    )
    folder = Path(tempfile.mkdtemp(prefix="npnet-soak-"))
    kills: list[Kill] = []
    calm = Job(folder / "calm", ("--", *train))
    if calm.process.wait() != 0:
        sys.exit(calm.text())
    wanted = digest(calm.folder)
    say(calm=wanted)
    start, number = time.monotonic(), 0
    while time.monotonic() - start < 3600 * hours:
        number += 1
        job = Job(folder / f"run-{number}", ("--restarts", "1000", "--", *train))
        for one in disturbed(job, number, start, every):
            kills.append(one)
            say(**asdict(one))
            if out is not None:
                write_table(out, [field.name for field in fields(Kill)], map(asdict, kills))
        if job.process.wait() != 0 or digest(job.folder) != wanted:
            sys.exit(f"training {number} is not what it is in peace: see {job.folder}")
        say(
            training=number,
            ended="with the same weights",
            hours=_short((time.monotonic() - start) / 3600),
        )
        shutil.rmtree(job.folder)
    lost = [one.steps_lost for one in kills]
    say(
        trainings=number,
        kills=len(kills),
        survived=len(kills),
        steps_lost_median=median(lost),
        steps_lost_most=max(lost),
        seconds_to_the_last_process_most=max(one.seconds_to_the_last_process for one in kills),
        seconds_to_a_step_median=median(one.seconds_to_a_step for one in kills),
        rss_mb_most=max(one.rss_mb for one in kills),
    )
    shutil.rmtree(folder)


def _short(value: object) -> object:
    return f"{value:.1f}" if isinstance(value, float) else value


if __name__ == "__main__":
    main()
