"""The rows of jit/target.py that test_twins_of_rows.py compiles for."""

import os

from npnet.kernels.jit.options import config
from npnet.kernels.jit.target import TARGETS, executable_rows, target_row
from npnet.parallel.launched import launched_size


def code_of(row):
    """What of a row decides on machine code; the rest are the lengths of loops."""
    target = TARGETS[row]
    return target.vector_bytes, target.blocks, target.nan_comes_through


# Of rows with the same code one does, the host's own or the first.
DIFFERENT = {code_of(row): row for row in (*reversed(executable_rows()), target_row())}
# None without the compiler, nor on ranks, which would each compile for them.
ALONE = bool(config.DISABLE_JIT) or launched_size() is not None
OTHERS = tuple(
    row
    for row in executable_rows()
    if not ALONE and row in DIFFERENT.values() and row != target_row()
)
# Double precision is the same text under any row: the first of two others does for all. Then the
# host's own is compiled by the gradient check of a network only.
FLOAT64_APART = len(OTHERS) > 1 and "NPNET_TARGET" not in os.environ
