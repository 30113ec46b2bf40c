"""What a kernel costs on another processor: each stretch of code, its cycles by its runs.

What is counted: all that a kernel runs, with its tiles' edges, statistics and masks, each block as
often as it really runs. What is not: waiting for memory, wrong guesses of branches, the overlap of
the end of one stretch with the start of the next, and what the kernel calls (memory for a tile).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from typing import NamedTuple

from bench.arm import assembly, mca
from bench.arm.cores import Core
from bench.arm.counting import Counted, CountedKernel
from bench.arm.flow import runs_of
from npnet.kernels.registry import Kernel
from npnet.measure.benchmark import Use


@dataclass(frozen=True)
class Loop:
    """An innermost loop. Of an iteration: instructions, multiply-adds, FLOP, cycles.

    `spills`: loads and stores of what found no register. `runs`: iterations.
    """

    label: str
    instructions: float
    fused: float
    flops: float
    cycles: float
    spills: int
    runs: int
    percent: float  # of the core's peak


HOT = 0.2  # of the multiply-adds in the loop that makes most of them


@dataclass
class Cost:
    """`calls` calls of a kernel together: cycles, and the FLOP that the registry says they need.

    `least`: the cycles if no instruction waited for another's result, see mca.py. `executed`: the
    FLOP of all its `instructions`. `lines`: see Caches.lines. `in_step`: whether they are those of
    a training step.
    """

    kernel: str
    calls: int
    in_step: bool = True
    cycles: float = 0.0
    least: float = 0.0
    flops: float = 0.0
    instructions: int = 0
    executed: int = 0
    lines: list[list[int]] = field(default_factory=list)
    loops: list[Loop] = field(default_factory=list)

    def percent(self, core: Core) -> float:
        """Of the core's peak."""
        return 100 * self.flops / (self.cycles * core.peak)

    @property
    def outside_percent(self) -> float:
        """Of the cycles: what runs in no innermost loop."""
        return 100 - 100 * sum(loop.runs * loop.cycles for loop in self.loops) / self.cycles

    def hot(self) -> list[Loop]:
        """The loops that do most of the arithmetic."""
        most = max((loop.runs * loop.fused for loop in self.loops), default=0)
        return [loop for loop in self.loops if loop.runs * loop.fused >= HOT * most > 0]

    def hot_percent(self, core: Core) -> float:
        """Of the core's peak, in the hot loops together."""
        flops = sum(loop.runs * loop.flops for loop in self.hot())
        cycles = sum(loop.runs * loop.cycles for loop in self.hot())
        return 100 * flops / (cycles * core.peak) if cycles else 0.0


class Stretch(NamedTuple):
    """Blocks that run one after the other, equally often."""

    loop: str | None
    runs: int
    instructions: tuple[str, ...]
    spills: int


def cost_of(name: str, counted: CountedKernel, core: Core, flops: float) -> Cost:
    """The cost of all calls that were counted; `flops`: what they need by the registry."""
    cost = Cost(name, counted.calls, flops=flops, lines=counted.lines.tolist())
    for code in counted.code.values():
        add_code(cost, core, code)
    cost.loops.sort(key=lambda loop: -loop.runs * loop.cycles)
    return cost


def useful_flops(kernel: Kernel, use: Use) -> float:
    """Of a call; a gradient that it does without costs nothing."""
    products = {"dz", "dw"} & set(kernel.shapes(use.case))
    part = len(products - set(use.absent)) / len(products) if products else 1
    return part * kernel.flops(use.case)


def stretches(
    blocks: Iterable[assembly.Block], counts: Mapping[tuple[str, str], int]
) -> Iterator[Stretch]:
    """What runs of the blocks, joined where one always follows the other."""
    for _, function in groupby(blocks, key=lambda block: block.function):
        members = list(function)
        ran = [pair for pair in zip(runs_of(members, counts), members, strict=True) if pair[0]]
        leaps = accumulate((not block.falls_through for _, block in ran[:-1]), initial=0)
        marks = [(runs, block.loop, leap) for (runs, block), leap in zip(ran, leaps, strict=False)]
        for (runs, loop, _), group in groupby(
            zip(marks, ran, strict=True), key=lambda marked: marked[0]
        ):
            together = [block for _, (_, block) in group]
            instructions = tuple(line for block in together for line in block.instructions)
            if instructions:
                yield Stretch(loop, runs, instructions, sum(block.spills for block in together))


def add_code(cost: Cost, core: Core, code: Counted) -> None:
    """Add what the machine code for some types of arguments has done."""
    parts = list(stretches(assembly.blocks(code.compiled.assembly), code.counts()))
    cycles = mca.cycles(core, [part.instructions for part in parts])
    cost.cycles += sum(part.runs * each.taken for part, each in zip(parts, cycles, strict=True))
    cost.least += sum(part.runs * each.least for part, each in zip(parts, cycles, strict=True))
    cost.instructions += sum(part.runs * len(part.instructions) for part in parts)
    cost.executed += sum(part.runs * flops_of(part) for part in parts)
    loops: dict[str, list[tuple[Stretch, float]]] = {}
    for part, each in zip(parts, cycles, strict=True):
        if part.loop is not None:
            loops.setdefault(part.loop, []).append((part, each.taken))
    cost.loops += [loop_of(label, members, core) for label, members in loops.items()]


def flops_of(part: Stretch) -> int:
    return sum(map(assembly.flops, part.instructions))


def loop_of(label: str, members: list[tuple[Stretch, float]], core: Core) -> Loop:
    """The sums over a loop's stretches, divided by how often its most frequent one runs."""
    runs = max(part.runs for part, _ in members)
    share = [(part, each, part.runs / runs) for part, each in members]
    cycles = sum(weight * each for _, each, weight in share)
    flops = sum(weight * flops_of(part) for part, _, weight in share)
    return Loop(
        label,
        sum(weight * len(part.instructions) for part, _, weight in share),
        sum(weight * sum(map(assembly.is_fused, part.instructions)) for part, _, weight in share),
        flops,
        cycles,
        sum(part.spills for part, _ in members),
        runs,
        100 * flops / (cycles * core.peak),
    )
