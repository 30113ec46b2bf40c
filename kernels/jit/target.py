"""What the explicit vector code must know about the processor: one row of one table.

$NPNET_TARGET names another row than the one that fits, to test or to measure it.
"""

import os
import platform
from typing import NamedTuple

import llvmlite.binding as llvm

from npnet.kernels import SettingError


class Target(NamedTuple):
    """`vector_bytes`: a register. `blocks`: rows of the register block that is 1, 2, 3 .. wide.

    `tile_rows`, `tile_bytes`: pixels that are normalised, multiplied and summed while they stay in
    the second-level cache. `ring_bytes`: three rows that a depthwise filter reads, see there.
    `nan_comes_through`: the instructions for the smaller and the larger of two return a NaN.
    `hide_index`: a load that steps its pointer has the vector unit repeat a number in all lanes.
    """

    vector_bytes: int
    blocks: tuple[int, ...]
    tile_rows: int
    tile_bytes: int
    ring_bytes: int
    nan_comes_through: bool = False
    hide_index: bool = False


TARGETS = {
    "avx512": Target(64, (8, 8, 8), 192, 96 * 1024, 64 * 1024),  # 32 registers
    "avx2": Target(32, (8, 4, 4), 192, 96 * 1024, 64 * 1024),  # 16 registers
    # 32 registers. Their caches: 32 KB, and 1 MB for four cores; 64 KB and 512 KB for each. The
    # sizes, and that they suit each of these: bench/RECORDS.md, by `python -m bench.arm.tiles`.
    "cortex-a72": Target(16, (8, 4, 4, 4), 96, 48 * 1024, 16 * 1024, True, True),
    "cortex-a76": Target(16, (8, 4, 4, 4), 96, 48 * 1024, 32 * 1024, True, True),
    "armv8": Target(16, (8, 4, 4, 4), 96, 48 * 1024, 16 * 1024, True, True),  # any other
}


def executable_rows() -> tuple[str, ...]:
    """The rows of TARGETS whose code this host can execute: all, if the compiler is new enough.

    A vector wider than the registers is no obstacle, LLVM makes it of several, so the row only runs
    slower than on its own processor. But `minimum` and `maximum`, through which a NaN comes, are no
    instructions of x86, and LLVM can compose them since version 17.
    """
    composes = not on_x86() or llvm.llvm_version_info >= (17,)
    return tuple(name for name, row in TARGETS.items() if composes or not row.nan_comes_through)


def on_x86() -> bool:
    return platform.machine() in ("x86_64", "AMD64")


def target_row() -> str:
    """The row of TARGETS that NPNET_TARGET names, or else the one that fits this processor."""
    name = os.environ.get("NPNET_TARGET")
    if not name:
        return fitting_row()
    if name not in TARGETS:
        raise SettingError(
            f"NPNET_TARGET={name} is no row of kernels/jit/target.py: "
            f"choose one of {', '.join(TARGETS)}"
        )
    if name not in executable_rows():
        raise SettingError(
            f"NPNET_TARGET={name} cannot be compiled for this processor by this LLVM: "
            f"choose one of {', '.join(executable_rows())}, or install a newer Numba"
        )
    return name


def fitting_row() -> str:
    """This processor's row. An ARM core is known by its name, which LLVM reads off implementer and
    part in /proc/cpuinfo; one that has no row of its own, and an old x86, takes the plain one.
    """
    if not on_x86():
        name = llvm.get_host_cpu_name()
        return name if name in TARGETS else "armv8"
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return "avx512"
    return "avx2" if features.get("avx2") else "armv8"


TARGET = TARGETS[target_row()]
