"""Run npnet as a user does: as one process, or as ranks under the mpiexec beside this Python."""

import atexit
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import npnet

Popen = subprocess.Popen[str]
SOURCES = Path(npnet.__file__).parents[1]

# A run of well under a second, beside the options that a test is about.
TINY = (
    *("--input-size", "32", "--width", "0.1", "--max-steps", "2", "--epochs", "1"),
    *("--backend", "reference", "--no-progress"),
)

# Of launchers, of thread counts and of npnet: what the test run was started with is not inherited.
_FOREIGN = re.compile(
    r"PMI|OMPI_|OPAL_|PRTE_|HYDR?[AI]_|MPI|SLURM_|.*_NUM_THREADS$|NPNET_|PYTHONWARNINGS$"
)

# Python cannot say how a rank left when the launcher ended the others: each writes it down first.
_START = """
import os
rank = int(os.environ.get("PMI_RANK") or os.environ.get("OMPI_COMM_WORLD_RANK") or 0)
{patches}
try:
    import npnet.cli.main as entry
    entry.main()
except SystemExit as leaving:
    with open(os.path.join(os.environ["STATUS_FOLDER"], str(rank)), "w") as file:
        file.write(str(leaving.code))
    raise
"""

# The engine loads NumPy, before which `main` wants to set the thread counts.
ENGINE_FIRST = """
import npnet.cli.main, npnet.cli.options
npnet.cli.main.limit_threads = npnet.cli.options.limit_threads = lambda threads=None: 1
from npnet.model.network import Network
from npnet.training.trainer import Trainer
"""


def killed_in(epoch: int) -> str:
    """A patch: the process is killed as epoch `epoch`, counted from 0, begins."""
    return f"""
import os, signal
train_epoch = Trainer.train_epoch
def die(self, epoch):
    if epoch == {epoch}:
        os.kill(os.getpid(), signal.SIGKILL)
    return train_epoch(self, epoch)
Trainer.train_epoch = die
"""


# A patch: what one rank does in its second step. The others wait for it in their next collective.
IN_STEP = """
from npnet.training.optimiser import Optimiser
update = Optimiser.update
calls = 0
def fail(self):
    global calls
    calls += 1
    if rank == {rank} and calls == 2:
        import os, signal, sys, time
        {deed}
    update(self)
Optimiser.update = fail
"""


@dataclass(frozen=True)
class Outcome:
    """What a run left. `statuses` are the ranks' own; None for one that was ended from outside."""

    status: int
    stdout: str
    stderr: str
    seconds: float
    statuses: tuple[int | None, ...]

    @property
    def errors(self) -> list[str]:
        """npnet's own lines on standard error, without the words that begin each."""
        begin = "npnet: error: "
        lines = self.stderr.splitlines()
        return [line.removeprefix(begin) for line in lines if line.startswith(begin)]

    @property
    def error(self) -> str:
        """The one line of a run that was refused: non-zero, no traceback, no second line."""
        assert self.status != 0, self
        assert "Traceback" not in self.stderr, self.stderr
        assert "Warning: " not in self.stderr, self.stderr
        assert len(self.errors) == 1, self
        return self.errors[0]


SERIAL_AND_MPI = pytest.mark.parametrize(
    "ranks", [None, pytest.param(2, marks=pytest.mark.mpi)], ids=["serial", "mpi"]
)


def npnet_run(
    *arguments: str | Path,
    cwd: Path,
    ranks: int | None = None,
    environment: Mapping[str, str] | None = None,
    of_rank: Sequence[Mapping[str, str]] = (),
    patches: str = "",
    timeout: float = 60,
    started: bool = False,
) -> Outcome:
    """Run `npnet ARGUMENTS` in `cwd`; with `ranks`, under mpiexec.

    `environment` is added for all ranks, `of_rank[r]` for rank r. `patches` is Python that runs
    first, to plant a fault; it knows `rank`, `Network` and `Trainer`.

    One process without ranks and without an environment of its own is forked from one that has
    loaded the engine, as it was loaded before `patches`, too. Where its start is what a test is
    about, it is `started`.
    """
    forked = not started and ranks is None and environment is None
    first = "from npnet.model.network import Network\nfrom npnet.training.trainer import Trainer\n"
    script = _START.format(patches=(first if forked else ENGINE_FIRST) + patches if patches else "")
    command = [sys.executable, "-c", script, *map(str, arguments)]
    with tempfile.TemporaryDirectory(prefix="npnet-") as folder:
        added = {"STATUS_FOLDER": folder, "PYTHONPATH": str(SOURCES), **(environment or {})}
        if ranks is None:
            line = command
        elif of_rank:
            parts = [["-n", "1", "env", *_pairs(of_rank[r]), *command] for r in range(ranks)]
            line = [*launcher(), *functools.reduce(lambda one, two: [*one, ":", *two], parts)]
        else:
            line = [*launcher(), "-n", str(ranks), *command]
        start = time.monotonic()
        if forked:
            status, stdout, stderr = _forks().run(
                script, arguments, cwd, clean_environment() | added, Path(folder), timeout
            )
        else:
            status, stdout, stderr = _run(line, cwd, clean_environment() | added, timeout)
        seconds = time.monotonic() - start
        files = [Path(folder, str(rank)) for rank in range(ranks or 1)]
        texts = [file.read_text() if file.exists() else "" for file in files]
        statuses = tuple(int(text) if text else None for text in texts)
    return Outcome(status, stdout, stderr, seconds, statuses)


def programs_run(*programs: Sequence[str], cwd: Path, timeout: float = 60) -> Outcome:
    """Run each program on a rank of its own, under one mpiexec."""
    parts = [["-n", "1", *program] for program in programs]
    line = [*launcher(), *functools.reduce(lambda one, two: [*one, ":", *two], parts)]
    start = time.monotonic()
    environment = clean_environment() | {"PYTHONPATH": str(SOURCES)}
    status, stdout, stderr = _run(line, cwd, environment, timeout)
    return Outcome(status, stdout, stderr, time.monotonic() - start, ())


def npnet_started(*arguments: str, cwd: Path, stderr: int = subprocess.DEVNULL) -> Popen:
    """npnet in the background, in a group of processes of its own, as a terminal starts it."""
    return subprocess.Popen(
        [sys.executable, "-m", "npnet", *arguments],
        cwd=cwd,
        env=clean_environment() | {"PYTHONPATH": str(SOURCES)},
        stdout=subprocess.DEVNULL,
        stderr=stderr,
        text=True,
        start_new_session=True,
    )


def wait_for(path: Path, seconds: float = 60) -> None:
    """Until the file is there, or so long."""
    deadline = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.02)


def clean_environment() -> dict[str, str]:
    """This process's environment without what would steer npnet or MPI."""
    kept = {name: value for name, value in os.environ.items() if not _FOREIGN.match(name)}
    # Open MPI wants to be told twice.
    return kept | {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}


def _pairs(variables: Mapping[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in variables.items()]


@functools.cache
def launcher() -> tuple[str, ...]:
    """The launcher of this Python's MPI, or else of the system's, with its own options."""
    beside = Path(sys.executable).parent / "mpiexec"
    path = str(beside) if beside.exists() else shutil.which("mpiexec")
    if path is None:
        pytest.skip("no mpiexec is installed")
    version = subprocess.run(
        [path, "--version"], capture_output=True, text=True, env=clean_environment(), check=True
    )
    return (path, "--oversubscribe") if "Open MPI" in version.stdout else (path,)


class Forks:
    """Runs that are forked from one process, see forks.py."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.forks", ENGINE_FIRST],
            cwd=SOURCES,
            env=clean_environment() | {"PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        atexit.register(self._process.communicate)

    def run(
        self,
        script: str,
        arguments: Sequence[object],
        cwd: Path,
        environment: Mapping[str, str],
        folder: Path,
        timeout: float,
    ) -> tuple[int, str, str]:
        """The status of a Python script, and what it said, as _run gives them."""
        outputs = {name: folder / name for name in ("stdout", "stderr")}
        request = {
            "script": script,
            "arguments": list(map(str, arguments)),
            "cwd": str(cwd),
            "environment": dict(environment),
            **{name: str(path) for name, path in outputs.items()},
        }
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        child, late = int(self._process.stdout.readline()), threading.Event()

        def end() -> None:
            late.set()
            os.killpg(child, signal.SIGKILL)

        timer = threading.Timer(timeout, end)
        timer.start()
        status = int(self._process.stdout.readline())
        timer.cancel()
        stdout, stderr = (path.read_text(errors="replace") for path in outputs.values())
        if late.is_set():
            pytest.fail(f"still running after {timeout} s\n{stdout}\n{stderr}")
        return status, stdout, stderr


@functools.cache
def _forks() -> Forks:
    """One for all tests of this process."""
    return Forks()


def _run(
    line: Sequence[str], cwd: Path, environment: Mapping[str, str], timeout: float
) -> tuple[int, str, str]:
    process = subprocess.Popen(
        line,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        stdout, stderr = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        process.terminate()  # the launcher takes its ranks along
        try:
            stdout, stderr = process.communicate(timeout=5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
        pytest.fail(f"still running after {timeout} s\n{stdout}\n{stderr}")
    return process.returncode, stdout, stderr
