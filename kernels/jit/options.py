"""The one place where Numba is told how to compile, and where its machine code is kept."""

import hashlib
import platform
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite.binding as llvm
import numba

from npnet.kernels.jit.cache import GuardedCache, open_folder
from npnet.kernels.jit.helper import HelperCompiler
from npnet.kernels.jit.target import TARGET

config: Any = numba.core.config  # its settings appear at run time
Function = TypeVar("Function", bound=Callable[..., object])

# Licences to reorder floating-point arithmetic, one by one: fuse a multiplication with an addition,
# reorder sums, ignore the sign of zero. Not granted: "no NaNs" and "no infinities", because a loss
# that explodes must be seen to explode.
FASTMATH = {"contract", "reassoc", "nsz"}


def kernel(function: Function) -> Function:
    """Compile `function` at its first call; keep the machine code on disk if a place is found.

    That of the ladder's kernels is not kept: the folder's name does not know their sources.
    """
    directory = cache_directory() if function.__module__.startswith(f"{__package__}.") else None
    compiled = numba.njit(
        cache=directory is not None,
        fastmath=FASTMATH,
        error_model="numpy",
        nogil=True,
        no_cfunc_wrapper=True,
    )
    # Numba reads the folder's name when it decorates; other users of Numba keep their own.
    before, config.CACHE_DIR = config.CACHE_DIR, directory or ""
    try:
        dispatcher = compiled(function)
    finally:
        config.CACHE_DIR = before
    if directory is not None:
        dispatcher._cache = GuardedCache(dispatcher._cache, directory)
    return cast(Function, dispatcher)


def inline(function: Function) -> Function:
    """Compile a helper of kernels, a part of each of them.

    Inlined by force: a helper that LLVM left outside would be found by its name, and Numba numbers
    names by process. Kernels that two processes compiled and a third loads from the cache could
    then call each other's. So two helpers made by one factory must not share a name, either.
    """
    assert "<locals>" not in function.__qualname__, f"give {function.__qualname__} its own name"
    compiled = numba.njit(
        fastmath=FASTMATH,
        error_model="numpy",
        forceinline=True,
        no_cpython_wrapper=True,
        no_cfunc_wrapper=True,
        pipeline_class=HelperCompiler,
    )
    return cast(Function, compiled(function))


@cache
def cache_directory() -> str | None:
    """A folder for machine code that fits these sources and this processor, or None.

    Numba itself looks only at the file of the cached function, so the name carries a hash of all
    of the kernels' sources and of what the code was compiled for, the row of target.py included.
    """
    if config.DISABLE_JIT:
        return None
    sources = b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    compiled_for = f"{numba.__version__} {target()} {TARGET}"
    key = hashlib.sha256(sources + compiled_for.encode()).hexdigest()[:16]
    return open_folder(f"{platform.node()}-{key}")


def target() -> str:
    """The processor as Numba's compiler sees it: its name and the features it may use."""
    try:
        features = sorted(name for name, on in llvm.get_host_cpu_features().items() if on)
    except RuntimeError:  # LLVM does not know this processor
        features = []
    return f"{platform.machine()} {llvm.get_host_cpu_name()} {','.join(features)}"
