"""Register blocks of the matrix product compared: which rows x vectors suit a processor.

    python -m bench.arm.blocks
    python -m bench.arm.blocks --target cortex-a76 --blocks 8,4,4 --blocks 8,6,4

The products of all 1x1 convolutions of a training step (see static.py), tile by tile as the kernels
make them: of an input and a weight, and the two of backward. A block of `8,4,4` has 8 rows where it
is one vector wide, 4 where it is two or three. Printed are cycles, percent of the peak, and for the
widest loops their own percent and how often they load or store what found no register.
"""

import argparse
import re
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.arm.command import one_line, parser_of
from bench.arm.cores import CORES, Core
from bench.arm.counts import BATCH
from bench.arm.static import compile_by
from npnet.kernels.arrays import Floats
from npnet.kernels.registry import Case
from npnet.measure.benchmark import model_uses

if TYPE_CHECKING:  # kernels are imported when it is known what for
    from bench.arm.cost import Cost

CANDIDATES = ("8,4,4", "4,4,4", "8,8,4", "8,6,6", "8,8,8", "8,8", "8,4,4,4")


def main() -> None:
    parser = parser_of(__doc__, CORES)
    parser.add_argument(
        "--blocks", action="append", type=rows, help="instead of those that are in question"
    )
    options = parser.parse_args()
    core = CORES[options.target]
    compile_by(core)
    for blocks in options.blocks or map(rows, CANDIDATES):
        cost = products(core, blocks)
        print(
            f"{','.join(map(str, blocks))}: {cost.cycles / 1e6:.1f} Mcycles, "
            f"{cost.percent(core):.1f} % of the peak; "
            + ", ".join(f"{loop.percent:.1f} % ({loop.spills} spills)" for loop in cost.hot()),
            flush=True,
        )


def rows(text: str) -> tuple[int, ...]:
    """Of a block one vector wide, two, ..: as they stand on the command line."""
    if not re.fullmatch(r"[1-9]\d?(,[1-9]\d?){1,7}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 8,4,4: rows of each width")
    return tuple(map(int, text.split(",")))


def products(core: Core, blocks: tuple[int, ...]) -> "Cost":
    """The cost of a step's 1x1 products by these register blocks."""
    from bench.arm.cost import cost_of
    from bench.arm.counting import CountedKernel
    from bench.arm.step import ARCHITECTURE

    uses = model_uses(ARCHITECTURE, BATCH)["activation_pointwise_stats_forward"]
    counted, flops = CountedKernel(function(blocks)), 0
    for use in uses.elements():
        counted(*arguments(use.case))
        flops += 3 * 2 * prod(use.case.maps) * use.case.co
    return cost_of("products", counted, core, flops)


def arguments(case: Case) -> list[Any]:
    pixels, ci, co = prod(case.maps) // case.ci, case.ci, case.co
    shapes = ((pixels, co), (pixels, ci), (ci, co), (pixels, ci), (ci, co), (co, ci))
    return [np.zeros(shape, np.float32) for shape in shapes]


def function(blocks: tuple[int, ...]) -> Any:
    """What multiplies, compiled at its first call."""
    from npnet.kernels.jit import block
    from npnet.kernels.jit.options import kernel
    from npnet.kernels.jit.tiles import tile_rows

    block.TARGET = block.TARGET._replace(blocks=blocks)
    multiply, accumulate = block._product(False, True), block._product(True, False)

    def products(y: Floats, dx: Floats, dw: Floats, x: Floats, w: Floats, turned: Floats) -> None:
        rows = tile_rows(x.shape[1] + y.shape[1], w.size, x.itemsize)
        for start in range(0, len(x), rows):
            tile = slice(start, min(start + rows, len(x)))
            multiply(y[tile], x[tile], w, (x[tile],))
            accumulate(dw, x[tile].T, y[tile], (dw,))
            multiply(dx[tile], y[tile], turned, (x[tile], y[tile], y[tile]))

    return kernel(products)


if __name__ == "__main__":
    with one_line():
        main()
