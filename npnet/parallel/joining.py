"""A bound on the time in which the ranks of a job find each other.

MPI starts when every process that the launcher started has joined. If one never does, because it
runs another program, the others wait inside of MPI, where Python's threads and signals do not run:
mpi4py keeps Python's lock. So a small process watches each, and ends it. That is this file, run as
a program: it knows the standard library alone, and nothing of npnet is loaded twice.
"""

import os
import platform
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

NOTICE = 60.0  # seconds, until it is said that others are awaited
LIMIT = 300.0  # seconds; the slowest card loads Python and NumPy in less
SPEAKERS = 2  # the first ranks speak: one of them may be missing itself


@contextmanager
def watched(rank: int, size: int, limit: float, environment: Mapping[str, str]) -> Iterator[None]:
    """In this block the process is ended if that takes longer than `limit` seconds; 0: never."""
    command = [sys.executable, "-I", "-S", __file__]
    words = (os.getpid(), rank, size, limit, platform.node())
    watcher = subprocess.Popen(
        [*command, *map(str, words)], stdin=subprocess.PIPE, env=dict(environment)
    )
    try:
        yield
    finally:
        assert watcher.stdin is not None
        watcher.stdin.close()
        watcher.wait()


def watch(process: int, rank: int, size: int, limit: float, host: str) -> None:
    """Return when standard input ends, as it does with the process, or after ending that."""
    notice = min(NOTICE, limit / 2) if limit else NOTICE
    who = f"rank {rank} ({host})"
    waits = f"the other processes of {size} to join: does each run the same command of npnet?"
    if _ended_within(notice):
        return
    if rank < SPEAKERS:
        _say(f"[WAIT] {who} has waited {notice:g} s for {waits}")
    if _ended_within(limit - notice if limit else None):
        return
    if rank < SPEAKERS:
        _say(f"npnet: error: {who} has waited {limit:g} s for {waits}")
    _ended_within(0.5 if rank < SPEAKERS else 3.0)  # mpiexec has to pass the words on
    os.kill(process, signal.SIGKILL)


def _say(line: str) -> None:
    """In one write. Elsewhere the engine leaves this to its caller, who cannot speak now."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _ended_within(seconds: float | None) -> bool:
    return bool(select.select([sys.stdin], [], [], seconds)[0])


if __name__ == "__main__":
    watch(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), sys.argv[5])
