"""A claim: what one run at a time has on its folder.

It is a lock on a file there. The system lifts it when its process ends, however that ends, so a run
that was killed holds nothing. A file alone, or one that names a process, could not tell: hosts
share folders, and Raspberry Pis out of the box share even their names.
"""

import fcntl
import os
import platform
import struct
import sys
import warnings
import weakref
from contextlib import suppress
from pathlib import Path

from npnet.errors import NpnetError

FILE = ".npnet-lock"  # stays behind, and does no harm, where a run was killed

# From the first byte to the last, as fcntl(2) takes it.
_WHOLE = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)


class Claim:
    """Held from here until `release`, or until this object or the process is gone.

    Raises NpnetError where another run holds the folder, of which nothing is touched. Where the
    file system knows no locks, that is told in a warning.
    """

    def __init__(self, folder: Path) -> None:
        path = (folder / FILE).absolute()  # for its removal, wherever the process is by then
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                _lock(descriptor, folder)
            except BaseException:
                os.close(descriptor)
                raise
            if _lies_at(path, descriptor):
                break
            os.close(descriptor)  # the run before has just removed it
        self.release = weakref.finalize(self, _release, path, descriptor)
        with suppress(OSError):  # a full disk is met again, by the files that count
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {platform.node()}".encode())


def _lock(descriptor: int, folder: Path) -> None:
    try:
        if sys.platform == "linux":
            # Of this open file, not of the process: a second run in the same process is another
            # one too. And unlike those of flock(2), an NFS server and its clients see each other's.
            fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _WHOLE)
        else:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError) as error:
        holder = os.pread(descriptor, 200, 0).decode(errors="replace") or "just started"
        raise NpnetError(
            f"{folder} is held by another run ({holder}): choose another `out`, or wait for its end"
        ) from error
    except OSError as error:
        warnings.warn(
            f"{folder} cannot be locked ({error.strerror}): see to it that no other run has the "
            "same `out`",
            stacklevel=2,
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
