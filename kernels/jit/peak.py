"""How fast this core can multiply at all: the register block of block.py, and nothing else.

No kernel of the network and therefore not in the registry: it has no twin, and its result is
unused. Its rate is the peak that others are compared with, see npnet/measure/roofline.py.
"""

import numpy as np

from npnet.kernels.arrays import Floats
from npnet.kernels.jit.block import multiply
from npnet.kernels.jit.options import kernel
from npnet.kernels.jit.target import TARGET

TERMS = 4096  # of each sum: many, for the block's way in and out not to count


def operands() -> tuple[Floats, Floats, Floats]:
    """out, a, b for the widest register block, float32.

    `a` is one column and `b` one row, seen TERMS times through a stride of zero: a few cache lines,
    which never leave the first level.
    """
    rows, columns = TARGET.blocks[-1], len(TARGET.blocks) * TARGET.vector_bytes // 4
    a, b = np.full((rows, 1), 0.5, np.float32), np.full((1, columns), 0.5, np.float32)
    out = np.empty((rows, columns), np.float32)
    return out, np.broadcast_to(a, (rows, TERMS)), np.broadcast_to(b, (TERMS, columns))


@kernel
def multiply_repeatedly(out: Floats, a: Floats, b: Floats, times: int) -> None:
    """out = a @ b, `times` times."""
    for _ in range(times):
        multiply(out, a, b)
