"""Compiling kernels before they are called, on all cores of this computer."""

import os
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import suppress
from multiprocessing import get_context
from typing import Any

import psutil
from numba.core.dispatcher import Dispatcher
from numba.core.typing.typeof import Purpose, typeof

from npnet.kernels import backend

Types = tuple[Any, ...]  # of a kernel's arguments, as Numba calls them

BYTES_PER_PROCESS = 350 * 2**20  # while it compiles

# They take longest, in this order. Begun first, none of them keeps the other cores waiting.
LONGEST = (
    "expand_depthwise3x3_stats_backward",
    "activation_depthwise3x3_stats_backward",
    "activation_conv_stats_backward",
    "activation_pointwise_stats_backward",
    "expand_depthwise3x3_stats_forward",
    "stem3x3_stats_forward",
    "separable_inference",
    "activation_depthwise3x3_stats_forward",
    "activation_pointwise_stats_forward",
    "inverted_residual_inference",
)


def is_compiled(name: str) -> bool:
    """Whether there is machine code of a kernel. Some are a line of NumPy."""
    return isinstance(getattr(backend("numba"), name), Dispatcher)


def types_of(arguments: Iterable[object]) -> Types:
    """What a kernel is compiled for when it is called with these arguments."""
    return tuple(typeof(argument, Purpose.argument) for argument in arguments)


def compile_ahead(
    calls: Mapping[str, Iterable[Types]],
    begin_process: Callable[[], object],
    show: Callable[[int, int], object],
) -> None:
    """Compile each kernel for the types it is called with; the machine code is kept on disk.

    The kernels are shared out over processes, each of which calls `begin_process` at first. All
    code of one kernel comes from one process, which writes its index. `show` takes how many are
    done, and how many there are. Raises what a compilation raises, and BrokenProcessPool where a
    process is killed.
    """
    use_all_cores()
    count = processes_at_once(len(os.sched_getaffinity(0)), psutil.virtual_memory().available)
    order = sorted(calls, key=lambda name: (*LONGEST, name).index(name))
    show(0, len(order))
    compile_kernel(order[-1], calls[order[-1]])  # what the compiler sets up once, all inherit
    with ProcessPoolExecutor(count, get_context("fork"), begin_process) as pool:
        jobs = [pool.submit(compile_kernel, name, calls[name]) for name in order[:-1]]
        try:
            for done, job in enumerate(as_completed(jobs), 2):
                job.result()
                show(done, len(order))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def compile_kernel(name: str, calls: Iterable[Types]) -> None:
    for types in calls:
        getattr(backend("numba"), name).compile(types)


def use_all_cores() -> None:
    """Run on every core that the system allows: mpiexec binds a rank to its own, or to a few."""
    with suppress(OSError):
        os.sched_setaffinity(0, range(os.cpu_count() or 1))


def processes_at_once(cores: int, free_bytes: int) -> int:
    """One a core, as far as the memory goes, and one at least."""
    return max(1, min(cores, free_bytes // BYTES_PER_PROCESS))
