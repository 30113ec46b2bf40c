"""Sizes of a row of kernels/jit/target.py compared: tiles, ring, how far ahead memory is asked.

    python -m bench.arm.tiles
    python -m bench.arm.tiles --target cortex-a76 --sizes 96,48,16,2 --sizes 192,96,32,2

Sizes are a tile's most pixels and KB, the ring's KB, and the rows that a depthwise kernel asks for
ahead. For each, one training step (step.py) is compiled anew, counted, and led through the model of
the caches (caches.py). Printed are its cycles, the lines that each cache fetched, how many of the
last one's were asked for ahead, the memory it moves by the ranks on a board, and the images/s that
predict.py makes of it, for one rank and for four.
"""

import argparse
import re
import signal
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import NamedTuple

from bench.arm.command import one_line, parser_of
from bench.arm.cores import CORES, KB, RANKS, SMALLEST, Core
from bench.arm.counts import Counts, counts_of
from bench.arm.predict import BOARDS, images_per_second, row, total
from bench.arm.static import compile_by, costs_of


class Sizes(NamedTuple):
    tile_rows: int
    tile_kb: int
    ring_kb: int
    rows_ahead: int

    def __str__(self) -> str:
        return ",".join(map(str, self))


def sizes(text: str) -> Sizes:
    """As they stand on the command line."""
    if not re.fullmatch(r"[1-9]\d{0,4},[1-9]\d{0,4},[1-9]\d{0,4},\d{1,2}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not like 96,48,16,2: PIXELS,KB,KB,ROWS")
    return Sizes(*map(int, text.split(",")))


TARGETED = {**CORES, SMALLEST.name: SMALLEST}


def main() -> None:
    parser = parser_of(__doc__, TARGETED)
    parser.add_argument(
        "--sizes", action="append", type=sizes, help="instead of those around the row's own"
    )
    options = parser.parse_args()
    core = TARGETED[options.target]
    compile_by(core)
    candidates = options.sizes or around(core)
    levels = [f"L{level}" for level in range(1, 1 + len(core.caches))]
    boards = [board for board in BOARDS if board.core == core]
    head = ["sizes", "Mcycles", *(f"M lines, {level}" for level in levels), "asked ahead, %"]
    head += [f"MB, {ranks} rank{'s' * (ranks > 1)}" for ranks in RANKS]
    head += [f"images/s, {ranks}" for _ in boards for ranks in (1, 4)]
    print(row(head), row(["---"] * len(head)), sep="\n")
    pool = ProcessPoolExecutor(
        mp_context=get_context("spawn"),
        max_tasks_per_child=1,
        initializer=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),  # they end in silence
    )
    with pool:
        found = pool.map(counts_by, [core.name] * len(candidates), candidates)
        for candidate, counts in zip(candidates, found, strict=True):
            kernels = [*counts["kernels"].values()]
            cells = [str(candidate), f"{total('cycles', kernels) / 1e6:.1f}"]
            lines = [sum(kernel["misses"][level] for kernel in kernels) for level in levels]
            cells += [f"{each / 1e6:.2f}" for each in lines]
            cells.append(f"{100 * total('asked_ahead', kernels) / lines[-1]:.0f}")
            for ranks in RANKS:
                moved = sum(kernel["memory_bytes"][str(ranks)] for kernel in kernels)
                cells.append(f"{moved / 1e6:.0f}")
            for board in boards:
                for ranks in (1, 4):
                    slow, fast = images_per_second(board, kernels, ranks)
                    cells.append(f"{slow:.1f} to {fast:.1f}")
            print(row(cells), flush=True)


def around(core: Core) -> list[Sizes]:
    """The row's own sizes, and one of them at a time smaller or larger."""
    from npnet.kernels.jit.depthwise import ROWS_AHEAD
    from npnet.kernels.jit.target import TARGETS

    row = TARGETS[core.row]
    own = Sizes(row.tile_rows, row.tile_bytes // KB, row.ring_bytes // KB, ROWS_AHEAD)
    found = [own]
    for halves in (1, 4, 8):
        tile = own._replace(
            tile_rows=own.tile_rows * halves // 2, tile_kb=own.tile_kb * halves // 2
        )
        found += [tile, own._replace(ring_kb=own.ring_kb * halves // 2)]
    return found + [own._replace(rows_ahead=rows) for rows in (1, 4)]


def counts_by(name: str, sizes: Sizes) -> Counts:
    """Of a step by these sizes, in a process that has compiled nothing yet."""
    core = TARGETED[name]
    compile_by(core)
    from npnet.kernels import jit
    from npnet.kernels.jit import depthwise

    target = depthwise.TARGET._replace(
        tile_rows=sizes.tile_rows, tile_bytes=sizes.tile_kb * KB, ring_bytes=sizes.ring_kb * KB
    )
    for module in vars(jit).values():  # each has it as a constant of its own
        if hasattr(module, "TARGET"):
            module.TARGET = target
    depthwise.ROWS_AHEAD = sizes.rows_ahead
    return counts_of(costs_of(core, others=()), core)


if __name__ == "__main__":
    with one_line():
        main()
