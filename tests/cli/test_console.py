"""Where a progress bar is drawn, and that it fits there; and that nothing else is written to."""

import fcntl
import itertools
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cifar_files import write_cifar
from tests.launch import SOURCES, TINY, clean_environment, launcher, npnet_run

BEFORE = "what a night of training said\n"

# It hands on what its ranks print through a pipe, as launchers do, and bears one's name.
LAUNCHER = '#!/bin/sh\n"$@" 2>&1 | cat >&2\n'

# Draws on what it finds, and tells what that is on standard error, which is the launcher's pipe.
LOOK = """
import sys
from npnet.cli.console import terminal
stream = terminal()
if stream is not None:
    print("drawn", file=stream, flush=True)
print("bar" if stream is not None else "no bar", file=sys.stderr)
"""


@contextmanager
def screen(columns: int, rows: int = 24) -> Iterator[tuple[int, bytearray]]:
    """A terminal of that size: the end to write to, and all that was written, once it is closed."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))
    seen = bytearray()

    def read() -> None:
        try:
            while data := os.read(master, 4096):
                seen.extend(data)
        except OSError:  # nobody holds the other end any more
            pass

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield slave, seen
    finally:
        os.close(slave)
        reader.join(60)
        os.close(master)


def start(line: Sequence[str | Path], cwd: Path, **streams: object) -> int:
    """Run to the end; returns the status."""
    environment = clean_environment() | {"PYTHONPATH": str(SOURCES)}
    return subprocess.run(
        [str(part) for part in line], cwd=cwd, env=environment, timeout=120, **streams
    ).returncode


@pytest.fixture
def look(tmp_path: Path) -> list[str | Path]:
    """The command that looks for a terminal from under something called mpiexec."""
    command = tmp_path / "mpiexec"
    command.write_text(LAUNCHER)
    command.chmod(0o755)
    return [command, sys.executable, "-c", LOOK]


@pytest.mark.parametrize("mode", ["ab", "r+b"])
def test_a_log_keeps_what_it_held(look: list[str | Path], tmp_path: Path, mode: str) -> None:
    log = tmp_path / "all.log"
    log.write_text(BEFORE)
    with open(log, mode) as file:
        file.seek(0, os.SEEK_END)
        assert start(look, tmp_path, stderr=file) == 0
    assert log.read_text() == BEFORE + "no bar\n"


def test_what_is_no_terminal_is_not_drawn_on(look: list[str | Path], tmp_path: Path) -> None:
    reading, writing = os.pipe()
    assert start(look, tmp_path, stderr=writing) == 0
    os.close(writing)
    with open(reading, encoding="utf-8") as file:
        assert file.read() == "no bar\n"
    with open("/dev/null", "w") as null:
        assert start(look, tmp_path, stderr=null) == 0


def test_the_launcher_s_terminal_is_drawn_on(look: list[str | Path], tmp_path: Path) -> None:
    with screen(80) as (slave, seen):
        assert start(look, tmp_path, stderr=slave) == 0
    assert seen.decode().split() == ["drawn", "bar"]


@pytest.mark.mpi
def test_a_run_s_log_keeps_the_runs_before(tmp_path: Path) -> None:
    """As of `mpiexec -n 2 npnet train ... >> all.log 2>&1`."""
    write_cifar(tmp_path / "data")
    log = tmp_path / "all.log"
    log.write_text(BEFORE)
    npnet = [sys.executable, "-c", "import npnet.cli.main as entry; entry.main()"]
    with open(log, "ab") as file:
        line = [*launcher(), "-n", "2", *npnet, "train", *TINY[:-1], "--out", "run"]
        assert start(line, tmp_path, stdin=subprocess.DEVNULL, stdout=file, stderr=file) == 0
    text = log.read_text()
    assert text.startswith(BEFORE)
    assert "[SUMMARY] world=2" in text


RUN = """
import sys, types
from npnet.cli.console import TrainingProgress
shard = types.SimpleNamespace(steps=40, full_steps=40, total=480)
worker = types.SimpleNamespace(shard=shard)
settings = types.SimpleNamespace(epochs=200)
progress = TrainingProgress(sys.stderr)
run = types.SimpleNamespace(first_step=0)
progress.start(
    types.SimpleNamespace(workers=[worker], settings=settings, first_epoch=0, run_files=run)
)
for epoch in range(2):
    for step in range(40):
        progress.step(epoch)
    progress.finish_epoch()
"""

FETCH = """
import sys
from pathlib import Path
from npnet.data import fetch
def fake(name, folder, url, progress):
    for received in range(0, 170_000_001, 10_000_000):
        progress(received, {total})
    return Path("x")
fetch.fetch = fake
import npnet.cli.main as entry
entry.limit_threads = lambda threads=None: 1
entry.main(["data", "fetch", "cifar10"])
"""

CHECK = """
from npnet.measure import gradcheck
check = gradcheck.Check("name", "case", 1.0, 1.0)
several = [gradcheck.Family(f"family {n}", iter([check] * 3), n > 5) for n in range(10)]
gradcheck.families = lambda backend, model: several
import npnet.cli.main as entry
entry.limit_threads = lambda threads=None: 1
entry.main(["gradcheck"])
"""

COMPILE = """
import sys
from types import SimpleNamespace
from npnet.cli.console import Console
with Console(SimpleNamespace(rank=0), 1, progress=True).compiling() as show:
    for kernels in range(100):
        show(kernels, 100)
"""

BARS = pytest.mark.parametrize(
    "script",
    [RUN, FETCH.format(total="170_000_000"), FETCH.format(total=None), CHECK, COMPILE],
    ids=["training", "fetching", "fetching so much", "gradients", "compiling"],
)


# What is printed beside a bar.
NO_BAR = re.compile(r"cifar10 is in x|\[INFO\] |gradient  +case|name  +case|30 checks, 0 failed")


def drawn(script: str, columns: int, cwd: Path) -> list[str]:
    """What was drawn on each line of a terminal, each time that it was drawn."""
    with screen(columns) as (slave, seen):
        line = [sys.executable, "-c", script]
        assert start(line, cwd, stdout=slave, stderr=slave) == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode())  # a cursor's moves have no width
    return [line for line in re.split(r"[\r\n]+", text) if not NO_BAR.match(line)]


@BARS
@pytest.mark.parametrize("columns", [1, 10, 50, 80, 200])
def test_a_bar_fits_the_terminal(script: str, columns: int, tmp_path: Path) -> None:
    """The last column stays free: some terminals go to the next line when it is written to."""
    lines = drawn(script, columns, tmp_path)
    assert max(map(len, lines)) < max(columns, 2)


@BARS
def test_a_bar_on_a_terminal_that_does_not_tell_its_width(script: str, tmp_path: Path) -> None:
    """As over a serial line: as on most terminals."""
    lines = drawn(script, 0, tmp_path)
    assert 15 < max(map(len, lines)) < 80


def test_a_bar_says_how_far_it_is(tmp_path: Path) -> None:
    lines = [line.rstrip() for line in drawn(RUN, 100, tmp_path)]
    for half in ("Epoch 1/200  [###############---------------]   50%  ", "Epoch 2/200  [####"):
        assert [line for line in lines if line.startswith(half)]
    assert all(line.endswith(" left in all") for line in lines if line)
    narrow = [line.rstrip() for line in drawn(RUN, 25, tmp_path)]
    assert [line for line in narrow if line.startswith("Epoch 1/200  50% ")]


def test_a_bar_becomes_narrower_with_its_terminal() -> None:
    from npnet.cli.bar import Bar

    def resize(columns: int) -> None:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 24, columns, 0, 0))

    with screen(100) as (slave, seen), open(os.dup(slave), "w", encoding="utf-8") as stream:
        bar = Bar(stream, "label", 10)
        for done, columns in itertools.zip_longest(range(11), (100, 100, 100), fillvalue=40):
            resize(columns)
            bar.show(done, "some words")
        bar.finish()
    lines = re.split(r"[\r\n]+", seen.decode())
    assert max(map(len, lines)) > 50
    assert max(map(len, lines[-5:])) < 40


NOW_AND_THEN = "import npnet.cli.bar; npnet.cli.bar.SECONDS_BETWEEN_LINES = {seconds}\n"


@pytest.mark.parametrize(("seconds", "count"), [(-1, 1 + 10 + 30 + 1), (3600, 1)])
def test_a_gradient_check_through_a_pipe_says_where_it_is(
    tmp_path: Path, seconds: int, count: int
) -> None:
    """At its start, then now and then; on standard error, as the table is for other programs."""
    lines = CHECK.splitlines(keepends=True)
    patches = NOW_AND_THEN.format(seconds=seconds) + "".join(lines[:-3])
    outcome = npnet_run("gradcheck", cwd=tmp_path, patches=patches)
    said = outcome.stderr.splitlines()
    assert said[0] == "[INFO] Checking the gradients of 10 operations and networks"
    assert len(said) == count
    assert all(line.startswith("[INFO] Checking gradients ") for line in said[1:])
    assert "[INFO]" not in outcome.stdout
    assert "30 checks, 0 failed" in outcome.stdout


@pytest.mark.parametrize("progress", [True, False])
def test_a_compilation_through_a_pipe_says_where_it_is(tmp_path: Path, progress: bool) -> None:
    script = NOW_AND_THEN.format(seconds=-1) + COMPILE.replace("=True", f"={progress}")
    result = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=clean_environment() | {"PYTHONPATH": str(SOURCES)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.stdout.startswith("[INFO] Compiling the kernels for this processor, once")
    said = result.stderr.splitlines()
    assert len(said) == (100 if progress else 0)
    assert all(
        re.match(r"\[INFO\] Compiling the kernels: \d+% \d+ of 100 done, 0:00:", line)
        for line in said
    )


def test_a_long_line_of_the_header_is_folded() -> None:
    from npnet.cli.console import folded

    words = [f"name_{n}={'value-' * (n % 7)}" for n in range(60)]
    lines = folded("[INFO] ", " ".join(["Recipe", *words]))
    assert len(lines) > 5
    assert max(map(len, lines)) <= 100
    assert min(map(len, lines[:-1])) > 50
    assert all(line.startswith("[INFO] ") for line in lines)
    assert " ".join(line.removeprefix("[INFO] ") for line in lines).split() == ["Recipe", *words]
