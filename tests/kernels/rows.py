"""The rows of jit/target.py that test_twins_of_rows.py compiles for."""

import os

from npnet.kernels.jit.options import config
from npnet.kernels.jit.target import executable_rows, target_row
from npnet.parallel.launched import launched_size

# None without the compiler, nor on ranks, which would each compile for them.
ALONE = bool(config.DISABLE_JIT) or launched_size() is not None
OTHERS = () if ALONE else tuple(row for row in executable_rows() if row != target_row())
# Double precision is the same text under any row: the first of two others does for all. Then the
# host's own is compiled by the gradient check of a network only.
FLOAT64_APART = len(OTHERS) > 1 and "NPNET_TARGET" not in os.environ
