"""What a Raspberry Pi should reach, predicted from the counts of a training step.

    python -m bench.arm.predict

Of each kernel (records/*.json, written by bench.arm.static), with n ranks on a board:

    arithmetic = cycles / clock,    memory = n * bytes(n) / bandwidth    [s]

Bytes are those of one rank that has an n-th of the shared cache; the ranks share the bandwidth. A
kernel takes the longer of the two if loads run ahead of the arithmetic, and both one after the
other if they do not: the step lies between the two sums, and n ranks train n*12 images in it.

What this cannot know: how far a core's prefetching hides memory, and what the second cache costs
(lines that it answers are counted and take no time here); wrong guesses of branches; misses of the
address translation; the step's NumPy part and Python (some percent on a PC); the input and what
ranks exchange; a board that is throttled. Assumed: each rank has a core to itself at full clock.
"""

import argparse
from collections.abc import Iterator
from typing import Any, NamedTuple

from bench.arm.command import one_line
from bench.arm.cores import CORES, RANKS, Core
from bench.arm.counts import BATCH, load


class Board(NamedTuple):
    """A board: its clock in Hz, and how much it can read and write together, bytes/s."""

    name: str
    core: Core
    clock: float
    bandwidth: float


BOARDS = (
    # STREAM, all arrays far larger than the caches: 4.8 (triad) to 5.5 (copy) GB/s.
    # www.sci-pi.org.uk/bench/stream.html
    Board("Raspberry Pi 4B", CORES["cortex-a72"], 1.5e9, 4.8e9),
    # tinymembench copies 4.9 to 5.7 GB/s, each byte read and written.
    # github.com/geerlingguy/sbc-reviews, issue 21
    Board("Raspberry Pi 5", CORES["cortex-a76"], 2.4e9, 10e9),
)


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    print("\n".join(map(row, kernel_rows())), end="\n\n")
    print("\n".join(map(row, board_rows())))


def row(cells: list[str]) -> str:
    """A line of a table, in Markdown."""
    return f"| {' | '.join(cells)} |"


def board_rows() -> Iterator[list[str]]:
    """images/s of each board by its ranks."""
    yield ["predicted images/s", *(f"{ranks} rank{'s' * (ranks > 1)}" for ranks in RANKS)]
    yield ["---"] * (1 + len(RANKS))
    for board in BOARDS:
        name = f"{board.name}, {board.clock / 1e9:g} GHz, {board.bandwidth / 1e9:g} GB/s"
        kernels = [*load(board.core)["kernels"].values()]
        bounds = [images_per_second(board, kernels, ranks) for ranks in RANKS]
        yield [name, *(f"{slow:.0f} to {fast:.0f}" for slow, fast in bounds)]


def images_per_second(
    board: Board, kernels: list[dict[str, Any]], ranks: int
) -> tuple[float, float]:
    """By a step's kernels: where memory waits for arithmetic, and where they run together."""
    times = [seconds(board, kernel, ranks) for kernel in kernels]
    images = ranks * BATCH
    return images / sum(map(sum, times)), images / sum(map(max, times))


def seconds(board: Board, kernel: dict[str, Any], ranks: int) -> tuple[float, float]:
    """Of all calls in a step: arithmetic, memory."""
    moved = ranks * kernel["memory_bytes"][str(ranks)]
    return kernel["cycles"] / board.clock, moved / board.bandwidth


def kernel_rows() -> Iterator[list[str]]:
    """The step and its kernels on both cores, one rank alone on the board."""
    counts = [load(core)["kernels"] for core in CORES.values()]
    yield ["", *(name for core in CORES for name in (f"{core}: % of peak", "M instructions", "MB"))]
    yield ["---"] * (1 + 3 * len(CORES))
    yield ["training step", *cells([list(each.values()) for each in counts])]
    for name in hot(counts[0]):
        yield [f"`{name}`", *cells([[each[name]] for each in counts])]


def cells(kernels_of_cores: list[list[dict[str, Any]]]) -> Iterator[str]:
    """Of some kernels together, as each core runs them."""
    for core, kernels in zip(CORES.values(), kernels_of_cores, strict=True):
        yield f"{100 * total('flops', kernels) / total('cycles', kernels) / core.peak:.1f}"
        yield f"{total('instructions', kernels) / 1e6:.1f}"
        yield f"{sum(kernel['memory_bytes']['1'] for kernel in kernels) / 1e6:.1f}"


def total(what: str, kernels: list[dict[str, Any]]) -> int:
    return sum(kernel[what] for kernel in kernels)


def hot(kernels: dict[str, Any]) -> list[str]:
    """Those that take a hundredth of the step's cycles, the most expensive first."""
    step = total("cycles", list(kernels.values()))
    return [name for name, kernel in kernels.items() if kernel["cycles"] >= 0.01 * step]


if __name__ == "__main__":
    with one_line():
        main()
