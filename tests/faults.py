"""Kill one of two ranks at planted points of a run's life; go on; tell what that cost.

`python -m tests.faults` prints a table, for bench/RECORDS.md; `python -m tests.faults POINT...`
some of its rows. tests/parallel/test_killed_rank.py checks some of them.
"""

import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from npnet.files import read_table
from npnet.training.checkpoint import load
from npnet.training.run_folder import OF_A_RUN, RunFolder
from tests.cifar_files import write_cifar
from tests.launch import TINY, npnet_run

EPOCHS, STEPS = 2, 2
TRAIN = ("train", *TINY, "--epochs", EPOCHS, "--max-steps", STEPS, "--batch-per-rank", 2)
TRAIN = (*TRAIN, "--checkpoint-every", 1, "--out", "run")

# Each rank leaves its number; the one that is killed leaves when, and after how many steps.
PLANT = """
import os, signal, time
from pathlib import Path
from npnet.training.optimiser import Optimiser
Path(f"pid-{rank}").write_text(str(os.getpid()))
steps = [0]
update = Optimiser.update
def count(self):
    update(self)
    steps[0] += 1
Optimiser.update = count
def die():
    time.sleep(0.2)  # the other rank goes on to where it waits for this one
    Path("killed").write_text(f"{time.time()} {steps[0]}")
    os.kill(os.getpid(), signal.SIGKILL)
def before(owner, name, number=1):
    call, calls = getattr(owner, name), [0]
    def planted(*args, **named):
        calls[0] += 1
        if calls[0] == number:
            die()
        return call(*args, **named)
    setattr(owner, name, planted)
import npnet.files, npnet.training.trainer, npnet.training.warmup
from npnet.parallel.communicator import MpiCommunicator
from npnet.training.evaluate import Evaluator
from npnet.training.run import Run
from npnet.training.run_folder import RunFolder
"""


@dataclass(frozen=True)
class Point:
    """Where a rank is killed: a line of Python after PLANT."""

    rank: int
    line: str
    backend: str = "reference"


WARMUP = "npnet.training.warmup"
POINTS = {
    "at the start": Point(1, "die()"),
    "before the run begins": Point(0, "before(Run, 'begin')"),
    "while a child compiles": Point(0, f"before({WARMUP}, '_last_told', 4)", "numba"),
    "within an epoch": Point(1, "before(Network, 'loss', 3)"),
    "within an epoch, rank 0": Point(0, "before(Network, 'loss', 4)"),
    "before its part of a sum": Point(1, "before(Optimiser, 'update', 2)"),
    "in the test": Point(1, "before(Evaluator, 'scores', 2)"),
    **{
        f"at write {number}": Point(0, f"before(os, 'replace', {number})")
        for number in range(1, 11)
    },
    "before the summary": Point(0, "before(RunFolder, 'write_summary')"),
}  # fmt: skip


@dataclass(frozen=True)
class Survival:
    """What a kill cost. `same`: the run that went on ended as one that was not killed."""

    status: int
    seconds: float  # from the kill to the end of the last process
    left: int  # processes of the run that outlived its launcher
    steps_lost: int
    same: bool


def end_state(place: Path) -> tuple[str, list[tuple[str, ...]]]:
    """The weights and momenta at the end and at the best epoch, and the log without times."""
    log = read_table(place / "run" / "log.csv")
    columns = ("epoch", "worker", "loss", "acc", "test_loss")
    rows = [tuple(row[name] for name in columns) for row in log]
    states = [load(place / "run" / name).digest() for name in ("final.npz", "best.npz")]
    return " ".join(states), rows


def undisturbed(place: Path) -> tuple[str, list[tuple[str, ...]]]:
    write_cifar(place / "data")
    outcome = npnet_run(*TRAIN, cwd=place, ranks=2, patches="pass\n")
    assert outcome.status == 0, outcome.stderr
    return end_state(place)


def killed(point: Point, place: Path, end: tuple[str, list[tuple[str, ...]]]) -> Survival:
    """Kill a run in `place` at a point, and go on with it."""
    write_cifar(place / "data")
    plant = f"{PLANT}\nif rank == {point.rank}:\n    {point.line}\n"
    arguments = (*TRAIN, "--backend", point.backend)
    cache = {"NPNET_CACHE": str(place / "cache")} if point.backend == "numba" else {}
    before = set(psutil.pids())
    outcome = npnet_run(*arguments, cwd=place, ranks=2, patches=plant, environment=cache)
    when, steps = (place / "killed").read_text().split()
    pids = [int(path.read_text()) for path in place.glob("pid-*")]
    deadline = time.time() + 30
    while (left := still_there(place, pids, before)) and time.time() < deadline:
        time.sleep(0.05)
    seconds = time.time() - float(when)
    newest = RunFolder(place / "run").newest_checkpoint()
    header = load(newest).header if newest is not None else None
    kept = header.epoch * STEPS + header.step if header is not None else 0
    names = [path.name for path in (place / "run").glob("*")]
    begun = any(map(OF_A_RUN.fullmatch, names))
    again = ("train", "--resume", "run", "--no-progress") if begun else TRAIN
    again = (*again, "--backend", "reference")  # if another was to be compiled
    gone_on = npnet_run(*again, cwd=place, ranks=2, patches="pass\n")
    same = gone_on.status == 0 and end_state(place) == end
    return Survival(outcome.status, seconds, left, max(0, int(steps) - kept), same)


def still_there(place: Path, pids: list[int], before: set[int]) -> int:
    """Processes of the run: its ranks, and others since then that work in its folder."""
    found = 0
    for process in psutil.process_iter():
        try:
            mine = process.pid in pids
            if not mine and process.pid not in before:
                mine = process.cwd() == str(place)
            found += mine and process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
    return found


def main() -> None:
    chosen = sys.argv[1:] or list(POINTS)
    rows = []
    print(
        "| rank killed | status | seconds to the end of the last process | steps lost | same end |"
    )
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        end = undisturbed(Path(folder))
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            each = killed(POINTS[name], Path(folder), end)
        rows.append(each)
        survived = "yes" if each.same else "NO"
        print(
            f"| {POINTS[name].rank}, {name} | {each.status} | {each.seconds:.1f} | "
            f"{each.steps_lost} | {survived} |",
            flush=True,
        )
    survived_all = sum(each.same and each.status != 0 and not each.left for each in rows)
    print(
        f"\n{len(rows)} faults injected, {survived_all} survived, at most "
        f"{max(each.steps_lost for each in rows)} steps lost and "
        f"{max(each.seconds for each in rows):.1f} s to the end of the last process"
    )
    sys.exit(survived_all != len(rows))


if __name__ == "__main__":
    main()
