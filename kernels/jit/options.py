"""The one place where Numba is told how to compile, and where its machine code is kept."""

import hashlib
import os
import platform
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import llvmlite
import llvmlite.binding as llvm
import numba

from npnet.kernels.jit.cache import GuardedCache, for_numba, open_folder
from npnet.kernels.jit.helper import HelperCompiler, without_constants
from npnet.kernels.jit.target import TARGET

config: Any = numba.core.config  # its settings appear at run time
Function = TypeVar("Function", bound=Callable[..., object])

# Licences to reorder floating-point arithmetic, one by one: fuse a multiplication with an addition,
# reorder sums, ignore the sign of zero. Not granted: "no NaNs" and "no infinities", because a loss
# that explodes must be seen to explode.
FASTMATH = {"contract", "reassoc", "nsz"}

HOUSE = Path(__file__).parents[1]  # kernels/, which is npnet.kernels
# By their look, not by parsing: that takes a tenth of a second, at every start.
IMPORT = re.compile(r"^\s*(?:from|import) +(npnet\.kernels[.\w]*)(?: +import +([\w ,]*))?", re.M)

WITHOUT_EFFECT = {"NUMBA_NUM_THREADS", "NUMBA_CACHE_DIR"}  # on machine code
NUMBAS_FILE = Path(".numba_config.yaml")  # where Numba looks for settings besides


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
    before = config.CACHE_DIR
    with for_numba(directory) if directory is not None else nullcontext("") as folder:
        config.CACHE_DIR = folder
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
    helper = compiled(function)  # the function itself, where the compiler is off
    return cast(Function, helper if config.DISABLE_JIT else without_constants(helper))


@cache
def cache_directory() -> str | None:
    """A folder for machine code that fits these sources and this processor, or None.

    Numba itself looks only at the file of the cached function, so the name carries a hash of all
    that the code depends on: what it was compiled from, by what, how, and for what, the row of
    target.py included.
    """
    if config.DISABLE_JIT:
        return None
    key = hashlib.sha256()
    for path in sources():
        key.update(path.relative_to(HOUSE).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    compiler = f"Numba {numba.__version__} llvmlite {llvmlite.__version__}"
    key.update("\0".join((compiler, *compiler_settings(), target(), str(TARGET))).encode())
    return open_folder(f"{platform.node()}-{key.hexdigest()[:16]}")


def sources() -> list[Path]:
    """The files of this folder, and those of kernels/ that they import, and so on.

    What stands in another file may become a part of the code, as the numbers of arrays.py do.
    """
    found: set[Path] = set()
    waiting = list(Path(__file__).parent.rglob("*.py"))
    while waiting:
        path = waiting.pop()
        if path not in found and path.is_file():
            found.add(path)
            for module, names in IMPORT.findall(path.read_text(encoding="utf-8")):
                for name in (module, *(f"{module}.{part}" for part in re.findall(r"\w+", names))):
                    place = HOUSE.joinpath(*name.split(".")[2:])
                    waiting += [place.with_suffix(".py"), place / "__init__.py"]
    return sorted(found)


def compiler_settings() -> Iterator[str]:
    """What Numba was told to do otherwise than usual, such as NUMBA_OPT or NUMBA_CPU_NAME."""
    for name, value in sorted(os.environ.items()):
        if name.startswith("NUMBA_") and name not in WITHOUT_EFFECT:
            yield f"{name}={value}"
    if NUMBAS_FILE.is_file():
        yield NUMBAS_FILE.read_text(encoding="utf-8", errors="replace")


def target() -> str:
    """The processor as Numba's compiler sees it: its name and the features it may use."""
    try:
        features = sorted(name for name, on in llvm.get_host_cpu_features().items() if on)
    except RuntimeError:  # LLVM does not know this processor
        features = []
    return f"{platform.machine()} {llvm.get_host_cpu_name()} {','.join(features)}"
