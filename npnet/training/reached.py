"""How far a run has got, noted at each step: so that what a kill has cost can be said."""

import os
import struct
import weakref
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

_NUMBERS = struct.Struct("<qq")


class Done(NamedTuple):
    """How far a run is: epochs finished, and steps of the next one."""

    epochs: int
    steps: int = 0


class Reached:
    """A note in a run's folder, which stays there where the run is killed.

    It is removed by `remove`, or when this object or the process is gone. To note is one small
    write into the system's memory; the disk sees it now and then.
    """

    def __init__(self, folder: Path) -> None:
        self._descriptor: int | None = None
        path = _path(folder.absolute())
        with suppress(OSError):  # the run is worth more than the note
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
        self.remove = weakref.finalize(self, _remove, path, self._descriptor)

    def note(self, done: Done) -> None:
        if self._descriptor is not None and self.remove.alive:
            with suppress(OSError):
                os.pwrite(self._descriptor, _NUMBERS.pack(*done), 0)


def _remove(path: Path, descriptor: int | None) -> None:
    if descriptor is not None:
        os.close(descriptor)
    with suppress(OSError):
        path.unlink(missing_ok=True)


def reached_in(folder: Path) -> Done | None:
    """How far the run got that was last under way there, None if that is not known."""
    try:
        with _path(folder).open("rb") as file:
            numbers = file.read(_NUMBERS.size + 1)
    except OSError:
        return None
    if len(numbers) != _NUMBERS.size:
        return None
    done = Done(*_NUMBERS.unpack(numbers))
    return done if min(done) >= 0 else None


def _path(folder: Path) -> Path:
    return folder / ".npnet-reached"
