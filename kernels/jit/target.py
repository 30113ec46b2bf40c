"""What the explicit vector code must know about the processor: one row of one table."""

from typing import NamedTuple

import llvmlite.binding as llvm


class Target(NamedTuple):
    """`vector_bytes`: a register. `blocks`: rows of the register block that is 1, 2, 3 .. wide.

    `tile_rows`, `tile_bytes`: pixels that are normalised, multiplied and summed while they stay in
    the second-level cache. `ring_bytes`: three rows that a depthwise filter reads, see there.
    `nan_comes_through`: the instructions for the smaller and the larger of two return a NaN.
    """

    vector_bytes: int
    blocks: tuple[int, ...]
    tile_rows: int
    tile_bytes: int
    ring_bytes: int
    nan_comes_through: bool = False


TARGETS = {
    "avx512": Target(64, (8, 8, 8), 192, 96 * 1024, 64 * 1024),  # 32 registers
    "avx2": Target(32, (8, 4), 192, 96 * 1024, 64 * 1024),  # 16 registers
    "cortex-a72": Target(
        16, (8, 4, 4), 96, 48 * 1024, 16 * 1024, True
    ),  # 32 registers, 32 KB first-level cache
}


def target_row() -> str:
    """The row of TARGETS that fits this processor; any 64-bit ARM counts as a Cortex-A72."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return "avx512"
    return "avx2" if features.get("avx2") else "cortex-a72"


TARGET = TARGETS[target_row()]
