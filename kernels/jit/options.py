"""The one place where Numba is told how to compile, and where its machine code is kept."""

import errno
import hashlib
import os
import platform
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite.binding as llvm
import numba

config: Any = numba.core.config  # its settings appear at run time
Function = TypeVar("Function", bound=Callable[..., object])

# Licences to reorder floating-point arithmetic, one by one: fuse a multiplication with an addition,
# reorder sums, ignore the sign of zero. Not granted: "no NaNs" and "no infinities", because a loss
# that explodes must be seen to explode.
FASTMATH = {"contract", "reassoc", "nsz"}


def kernel(function: Function) -> Function:
    """Compile `function` at its first call; keep the machine code on disk if a place is found."""
    directory = cache_directory()
    compiled = numba.njit(
        cache=directory is not None, fastmath=FASTMATH, error_model="numpy", nogil=True
    )
    # Numba reads the folder's name when it decorates; other users of Numba keep their own.
    before, config.CACHE_DIR = config.CACHE_DIR, directory or ""
    try:
        return cast(Function, compiled(function))
    finally:
        config.CACHE_DIR = before


def inline(function: Function) -> Function:
    """Compile a helper of kernels; LLVM merges it into its callers."""
    return cast(Function, numba.njit(fastmath=FASTMATH, error_model="numpy")(function))


@cache
def cache_directory() -> str | None:
    """A folder for machine code that fits these sources and this processor, or None.

    Numba itself looks only at the file of the cached function, so the name carries a hash of all
    of the kernels' sources and of what the code was compiled for. Whoever can write there decides
    what runs, so it is never a folder that all users share, such as /tmp.
    """
    if config.DISABLE_JIT:
        return None
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    key = hashlib.sha256(sources + f"{numba.__version__} {target()}".encode()).hexdigest()[:16]
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    root = Path(os.environ.get("NPNET_CACHE") or Path(home, "npnet"))
    folder = root / f"{platform.node()}-{key}"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
        if status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise PermissionError(errno.EPERM, "others can write there")
        with tempfile.TemporaryFile(dir=folder):
            return str(folder)
    except OSError as error:
        warnings.warn(
            f"compiled kernels cannot be kept in {folder} ({error.strerror}), so each start "
            "compiles anew: name a folder of your own in NPNET_CACHE",
            stacklevel=2,
        )
        return None


def target() -> str:
    """The processor as Numba's compiler sees it: its name and the features it may use."""
    try:
        features = sorted(name for name, on in llvm.get_host_cpu_features().items() if on)
    except RuntimeError:  # LLVM does not know this processor
        features = []
    return f"{platform.machine()} {llvm.get_host_cpu_name()} {','.join(features)}"
