"""Where machine code lies on disk; what is lost or damaged there is compiled again.

Whoever can write machine code decides what runs. So its folder is the user's own, never one that
all users share, such as /tmp; and its files are sealed, because Numba takes them as it finds them.
"""

import errno
import hashlib
import os
import stat
import tempfile
import warnings
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import psutil
from numba.core.caching import IndexDataCacheFile

# File systems of other machines, as of a cluster's home folders: all ranks would load their code
# through one server, at the same time.
NETWORK = {"9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre"} | {
    *("nfs", "nfs4", "smb3", "smbfs", "sshfs")
}

NODE_LOCAL = Path("/var/tmp")  # kept when the node restarts, unlike /tmp

SEAL_BYTES = hashlib.sha256().digest_size


class CacheWarning(UserWarning):
    """Machine code cannot be kept, or not be read: nothing is lost but the time to compile it."""


def open_folder(name: str) -> str | None:
    """The folder `name` for machine code, made if it is missing; None, and a warning, without."""
    folder = root() / name
    try:
        own(folder)
        with tempfile.TemporaryFile(dir=folder):
            return str(folder)
    except OSError as error:
        warn_not_kept(folder, error)
        return None


def root() -> Path:
    """$NPNET_CACHE, else ~/.cache/npnet; a folder on this node if that lies on another machine."""
    if chosen := os.environ.get("NPNET_CACHE"):
        return Path(chosen)
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "npnet")
    if on_network(home) and not on_network(NODE_LOCAL):
        with suppress(OSError):
            return own(NODE_LOCAL / f"npnet-{os.geteuid()}")
    return home


def on_network(folder: Path) -> bool:
    """Whether `folder`, which need not exist yet, lies on a file system of another machine."""
    with suppress(OSError):
        types = {disk.mountpoint: disk.fstype for disk in psutil.disk_partitions(all=True)}
        place = folder.resolve()
        mounted = [types[str(path)] for path in (place, *place.parents) if str(path) in types]
        return bool(mounted) and mounted[0].removeprefix("fuse.") in NETWORK
    return False


def own(folder: Path) -> Path:
    """Make `folder` if it is missing. Raises OSError unless it is this user's, and only theirs."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, "not a folder but a link")
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PermissionError(errno.EPERM, "others can write there")
    return folder


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
        numbas_own._impl.locator._cache_path = folder
        files = IndexDataCacheFile(folder, numbas_own._impl.filename_base, source_stamp=None)
        self._files = numbas_own._cache_file = files
        self._pickle, self._unpickle = files._dump, files._load_data
        files._dump, files._load_data = self._sealed, self._unsealed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cache, name)

    def load_overload(self, signature: Any, context: Any) -> Any:
        """The kernel compiled for `signature`; None if there is none, or none that can be read."""
        try:
            return self._cache.load_overload(signature, context)
        except Exception:  # what unpickling raises depends on what it meets
            with suppress(OSError):
                self._cache.flush()  # or its index would not let the new code be saved
            warn_once(f"compiled kernels in {self._folder} were damaged: they are compiled anew")
            return None

    def save_overload(self, signature: Any, compiled: Any) -> None:
        try:
            self._cache.save_overload(signature, compiled)
        except Exception as error:
            warn_not_kept(self._folder, error)

    def _sealed(self, content: Any) -> bytes:
        data: bytes = self._pickle(content)
        return data + hashlib.sha256(data).digest()

    def _unsealed(self, name: str) -> Any:
        data = Path(self._files._data_path(name)).read_bytes()
        if hashlib.sha256(data[:-SEAL_BYTES]).digest() != data[-SEAL_BYTES:]:
            raise ValueError(f"{name} is damaged")
        return self._unpickle(name)
