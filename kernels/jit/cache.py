"""Where machine code lies on disk; what is lost or damaged there is compiled again.

Whoever can write machine code decides what runs, and Numba unpickles what it finds. So its folder
is the user's own or root's, and so is every folder above it; no other user can write in one of
them, or replace what lies there. The folder that was found so is held open, and its files are read
and written in it whatever lies at its path later. They are sealed against damage.
"""

import errno
import grp
import hashlib
import os
import pwd
import stat
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from numba.core.caching import IndexDataCacheFile
from numba.core.runtime import rtsys

from npnet.kernels.home import chosen_home, home
from npnet.kernels.jit.compiler import loaded, put_away

# File systems of other machines, as of a cluster's home folders: all ranks would load their code
# through one server, at the same time.
NETWORK = {"9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre"} | {
    *("nfs", "nfs4", "smb3", "smbfs", "sshfs")
}

NODE_LOCAL = Path("/var/tmp")  # kept when the node restarts, unlike /tmp

DESCRIPTORS = "/proc/self/fd"  # a name for each open file of this process
HELD: dict[str, tuple[int, os.stat_result]] = {}  # folders, by descriptors that stay open

SEAL_BYTES = hashlib.sha256().digest_size


class CacheWarning(UserWarning):
    """Machine code cannot be kept, or not be read: nothing is lost but the time to compile it."""


class UntrustedError(PermissionError):
    """Another user could have put machine code there."""


def open_folder(name: str) -> str | None:
    """The folder `name` for machine code, made if it is missing; None, and a warning, without.

    Where another user could write, a private folder elsewhere is taken, and a warning tells which.
    What lies in one that cannot be written is used.
    """
    folder = root() / name
    try:
        return str(usable(folder))
    except UntrustedError as error:
        for other in fallbacks():
            with suppress(OSError):
                found = usable(other / name)
                warn_once(
                    f"compiled kernels are kept in {found}, not in {folder} ({error.strerror}): "
                    "name a folder of your own in NPNET_CACHE"
                )
                return str(found)
        warn_not_kept(folder, error)
    except OSError as error:
        warn_not_kept(folder, error)
    return None


def usable(folder: Path) -> Path:
    """`folder`, if it is or can be made the user's own. Raises OSError else."""
    own(folder)
    held(str(folder))
    try:
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError as error:
        if error.errno not in (errno.EROFS, errno.EACCES) or not any(folder.glob("*.nbi")):
            raise
        return folder


@contextmanager
def for_numba(folder: str) -> Iterator[str]:
    """A folder that Numba can write in while it decorates, for it takes no other.

    That is `folder` unless it can be read alone; GuardedCache then reads there.
    """
    if is_writable(folder):
        yield held(folder)
    else:
        with tempfile.TemporaryDirectory() as passing:
            yield passing


@cache
def is_writable(folder: str) -> bool:
    with suppress(OSError), tempfile.TemporaryFile(dir=folder):
        return True
    return False


def held(folder: str) -> str:
    """A name for `folder` by a descriptor that stays open: it means this folder to the end.

    Raises OSError where it is no longer what `own` allows. Without /proc it is the path itself.
    """
    if not os.path.isdir(DESCRIPTORS):
        return folder
    if folder not in HELD or not is_still(*HELD[folder]):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            own(Path(folder))
            status = os.fstat(descriptor)
            if not os.path.samestat(status, os.lstat(folder)):
                raise UntrustedError(errno.EPERM, f"{folder} was replaced")
        except OSError:
            os.close(descriptor)
            raise
        HELD[folder] = descriptor, status
    return f"{DESCRIPTORS}/{HELD[folder][0]}"


def is_still(descriptor: int, status: os.stat_result) -> bool:
    """Whether it is open on that folder: a program may close what it does not know."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), status)
    return False


def fallbacks() -> tuple[Path, ...]:
    """Where machine code is kept if others can write in the place that was meant."""
    return home(), NODE_LOCAL / f"npnet-{os.geteuid()}"


def root() -> Path:
    """$NPNET_CACHE, else ~/.cache/npnet; a folder on this node if that lies on another machine."""
    if (chosen := chosen_home()) is not None:
        return chosen
    if on_network(home()) and not on_network(NODE_LOCAL):
        with suppress(OSError):
            return own(NODE_LOCAL / f"npnet-{os.geteuid()}")
    return home()


def on_network(folder: Path) -> bool:
    """Whether `folder`, which need not exist yet, lies on a file system of another machine."""
    with suppress(OSError):
        types = {disk.mountpoint: disk.fstype for disk in psutil.disk_partitions(all=True)}
        place = folder.resolve()
        mounted = [types[str(path)] for path in (place, *place.parents) if str(path) in types]
        return bool(mounted) and mounted[0].removeprefix("fuse.") in NETWORK
    return False


def own(folder: Path) -> Path:
    """Make `folder`, private, if it is missing.

    Raises OSError if that fails, and UntrustedError unless it, and each folder above, is safe.
    """
    for place in reversed((folder, *folder.parents)):
        if not place.is_dir():
            check_above(place)
            with suppress(FileExistsError):
                place.mkdir(mode=0o700)
    check_above(folder)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "not a folder but a link")
    check(folder, status)
    return folder


def check_above(place: Path) -> None:
    """Raise UntrustedError if another user could replace `place`, or what lies on the way."""
    for path in (place.absolute(), place.resolve()):
        for parent in path.parents:
            status = parent.lstat()
            if status.st_mode & stat.S_ISVTX and status.st_uid in trusted():
                continue  # as in /tmp, each user has only their own things there to replace
            check(parent, status)


def check(path: Path, status: os.stat_result) -> None:
    """Raise UntrustedError if another user owns `path` or, but for a link, can write it."""
    if status.st_uid not in trusted():
        raise UntrustedError(errno.EPERM, f"{path} belongs to another user")
    writers = status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    if stat.S_ISLNK(status.st_mode) or not writers:
        return
    if writers & stat.S_IWOTH or not is_private(status.st_gid):
        raise UntrustedError(errno.EPERM, f"others can write there: {path}")


def trusted() -> set[int]:
    """This user and root; the owner of / stands for root where root has another number."""
    return {0, os.geteuid(), os.stat("/").st_uid}


@cache
def is_private(group: int) -> bool:
    """Whether a group is that of this user alone, as many systems make one for each user."""
    with suppress(KeyError):
        user, known = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
        return group == user.pw_gid and known.gr_name == user.pw_name and not known.gr_mem
    return False


def warn_not_kept(folder: Path | str, error: Exception) -> None:
    reason = getattr(error, "strerror", None) or error
    warn_once(
        f"compiled kernels cannot be kept in {folder} ({reason}), so each start compiles anew: "
        "name a folder of your own in NPNET_CACHE"
    )


@cache
def warn_once(message: str) -> None:
    """One warning of a kind, not one for each kernel."""
    warnings.warn(message, CacheWarning, stacklevel=1)


class GuardedCache:
    """Numba's cache of one kernel. A file that is damaged or cannot be written costs a compilation.

    Behind the contents of each file stands their SHA-256, where unpickling does not look. A flipped
    bit in machine code would otherwise be run. Numba asks where the sources lie and of what date
    they are; here neither counts, because `folder` is named after what they say: a second clone of
    npnet loads what the first compiled.
    """

    def __init__(self, numbas_own: Any, folder: str) -> None:
        self._cache, self._folder = numbas_own, folder
        self._open(held(folder))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def _open(self, place: str) -> None:
        """Let Numba look for its files there."""
        self._place = self._cache._impl.locator._cache_path = place
        files = IndexDataCacheFile(place, self._cache._impl.filename_base, source_stamp=None)
        self._files = self._cache._cache_file = files
        self._pickle, self._unpickle = files._dump, files._load_data
        files._dump, files._load_data = self._sealed, self._unsealed
        self._index, files._load_index = files._load_index, self._own_index

    def _open_again(self) -> None:
        """Where the folder has another name now. Raises OSError where it is not to be had."""
        if (place := held(self._folder)) != self._place:
            self._open(place)

    def load_overload(self, signature: Any, context: Any) -> Any:
        """The kernel compiled for `signature`; None if there is none, or none that can be read.

        Numba would make the compiler ready first, which takes a third of a second.
        """
        try:
            self._open_again()
        except OSError:
            return None
        try:
            rtsys.initialize(context)
            compiled = self._cache._load_overload(signature, context)
            if compiled is not None:
                put_away(compiled.library)
        except Exception:  # what unpickling raises depends on what it meets
            with suppress(OSError):
                self._cache.flush()  # or its index would not let the new code be saved
            warn_once(f"compiled kernels in {self._folder} were damaged: they are compiled anew")
            return None
        if compiled is not None:
            loaded()
        return compiled

    def save_overload(self, signature: Any, compiled: Any) -> None:
        try:
            self._open_again()
            self._cache.save_overload(signature, compiled)
        except Exception as error:
            warn_not_kept(self._folder, error)

    def _sealed(self, content: Any) -> bytes:
        data: bytes = self._pickle(content)
        return data + hashlib.sha256(data).digest()

    def _own_index(self) -> Any:
        """The index, whose names Numba unpickles."""
        path = Path(self._files._index_path)
        with suppress(FileNotFoundError):
            check(Path(self._folder, path.name), path.lstat())
        return self._index()

    def _unsealed(self, name: str) -> Any:
        path = Path(self._files._data_path(name))
        try:
            check(Path(self._folder, name), path.lstat())
        except UntrustedError as error:  # Numba would take an OSError for a missing file
            raise ValueError(error.strerror) from error
        data = path.read_bytes()
        if hashlib.sha256(data[:-SEAL_BYTES]).digest() != data[-SEAL_BYTES:]:
            raise ValueError(f"{name} is damaged")
        return self._unpickle(name)
