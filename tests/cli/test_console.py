"""Where a progress bar is drawn, and that nothing else is written to."""

import fcntl
import os
import pty
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
from tests.launch import SOURCES, TINY, clean_environment, launcher

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
