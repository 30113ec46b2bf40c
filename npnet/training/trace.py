"""The time line of all ranks in Chrome's trace format, which ui.perfetto.dev draws.

One complete event (`"ph": "X"`) a phase, microseconds; a process is a node, a thread a rank. The
format is a JSON array whose closing bracket may be missing, so the file of a run that was killed
is whole up to its last epoch.
Source: Trace Event Format, https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

import json
import os
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from npnet.errors import NpnetError
from npnet.machine.clock import Event
from npnet.parallel.communicator import Communicator, together

EXCHANGES = 9  # to compare clocks by


class Trace:
    """Written by rank 0, epoch by epoch. Raises NpnetError, on every rank, if it cannot be begun.

    Until `start` what the file held before stays: it may be the time line of an earlier run.
    """

    def __init__(self, path: Path, comm: Communicator) -> None:
        self.path, self.comm, self.begin = path, comm, time.perf_counter()
        with together(comm):
            if comm.rank == 0:
                self._check_file()
                self._write("", "a")

    def start(self) -> None:
        """Replace the file; from here on all is recorded."""
        comm = self.comm
        names: list[dict[str, Any]] = []
        for rank, (host, node) in enumerate(zip(comm.hosts, comm.nodes, strict=True)):
            here = {"ph": "M", "pid": node, "tid": rank}
            names.append({"name": "process_name", "args": {"name": host}} | here)
            names.append({"name": "thread_name", "args": {"name": f"rank {rank}"}} | here)
        with together(comm):
            if comm.rank == 0:
                self._write("[\n" + ",\n".join(map(json.dumps, names)), "w")
        self.ahead = ahead_of_root(comm, time.perf_counter)
        comm.clock.events = []

    def flush(self) -> None:
        """Add all that ranks did since the last call."""
        clock = self.comm.clock
        events, clock.events = clock.events or [], []
        ranks = self.comm.gather(
            [event._replace(begin=event.begin - self.ahead) for event in events]
        )
        if self.comm.rank == 0:
            lines = [self._line(rank, event) for rank, done in enumerate(ranks) for event in done]
            self._append("".join(",\n" + json.dumps(line) for line in lines))

    def _line(self, rank: int, event: Event) -> dict[str, Any]:
        return {
            "name": event.phase,
            "ph": "X",
            "pid": self.comm.nodes[rank],
            "tid": rank,
            "ts": round(1e6 * (event.begin - self.begin), 1),
            "dur": round(1e6 * event.seconds, 1),
            "args": {"epoch": event.epoch, "step": event.step},
        }

    def finish(self) -> None:
        """Close the array. Nothing is recorded any more."""
        self.flush()
        self.comm.clock.events = None
        if self.comm.rank == 0:
            self._append("\n]\n")

    def _append(self, text: str) -> None:
        """Add to the file, or leave it as it was and warn: a run is worth more than its trace."""
        size = self.path.stat().st_size if self.path.exists() else 0
        try:
            self._write(text, "a")
        except NpnetError as error:
            with suppress(OSError):
                os.truncate(self.path, size)
            warnings.warn(f"{error}; the run goes on, its time line has a gap", stacklevel=2)

    def _check_file(self) -> None:
        """Another file is not overwritten: a slip would cost a run its log."""
        try:
            with self.path.open("rb") as file:
                begin = file.read(1)
        except OSError:
            return
        if begin not in (b"", b"["):
            raise NpnetError(f"{self.path} is no trace but another file: give another to `trace`")

    def _write(self, text: str, mode: str) -> None:
        try:
            with self.path.open(mode, encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise NpnetError(
                f"cannot write {self.path}: {error.strerror}; give another file to `trace`"
            ) from error


def ahead_of_root(comm: Communicator, clock: Callable[[], float]) -> float:
    """Seconds that this rank's clock is ahead of rank 0's. All ranks must call.

    Right after an exchange it is the same moment for all, to within the time of a message.
    """
    moments = []
    for _ in range(EXCHANGES):
        comm.sum(np.zeros(1))
        moments.append(clock())
    of_root = comm.broadcast(moments)
    return median(mine - theirs for mine, theirs in zip(moments, of_root, strict=True))
