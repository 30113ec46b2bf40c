"""A lock on a file, which the system lifts when its process ends, however that ends.

A file that merely exists, or one that names a process, could not tell whether its owner lives:
hosts share folders, and Raspberry Pis out of the box share even their names.
"""

import fcntl
import os
import platform
import struct
import sys
import time
import warnings
import weakref
from contextlib import suppress
from pathlib import Path

SECONDS_BETWEEN_TRIES = 0.02

# From the first byte to the last, as fcntl(2) takes it.
_WHOLE = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


class Held(Exception):
    """Another process, or another lock of this one, has it; the text says who."""


class Lock:
    """Held from here until `release`, or until this object or the process is gone.

    Its file is removed then; one that a kill has left does no harm. Another holder is waited for up
    to `seconds`, after which `Held` is raised. Raises OSError if the file cannot be made. Where the
    file system knows no locks, a warning says so of `what`.
    """

    def __init__(self, path: Path, what: str, seconds: float = 0.0) -> None:
        path = path.absolute()  # for its removal, wherever the process is by then
        end = time.monotonic() + seconds
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                _lock(descriptor, what)
            except Held:
                os.close(descriptor)
                if time.monotonic() >= end:
                    raise
                time.sleep(SECONDS_BETWEEN_TRIES)
                continue
            except BaseException:
                os.close(descriptor)
                raise
            if _lies_at(path, descriptor):
                break
            os.close(descriptor)  # the holder before has just removed it
        self.release = weakref.finalize(self, _release, path, descriptor)
        with suppress(OSError):  # a full disk is met again, by the files that count
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())


def _lock(descriptor: int, what: str) -> None:
    try:
        if sys.platform == "linux":
            # Of this open file, not of the process: a second run in the same process is another
            # one too. And unlike those of flock(2), an NFS server and its clients see each other's.
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _WHOLE)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace")
        raise Held(holder or "just started") from error
    except OSError as error:
        warnings.warn(
            f"{what} cannot be locked ({error.strerror}): see to it that no other run writes there",
            stacklevel=3,
        )


def _lies_at(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:
        return False


def _release(path: Path, descriptor: int) -> None:
    with suppress(OSError):
        if _lies_at(path, descriptor):
            path.unlink()  # before the lock is lifted: nobody may have it by then
    os.close(descriptor)
