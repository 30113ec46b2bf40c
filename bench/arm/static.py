"""What the kernels cost on a Cortex-A72 or a Cortex-A76, computed from their machine code.

    python -m bench.arm.static                        every kernel, and a training step, on the A72
    python -m bench.arm.static --target cortex-a76 --json
    python -m bench.arm.static --check                fails, and names each kernel below its floor,
                                                      or whose counts are not those in records/;
                                                      with --kernel, those of no cache
    python -m bench.arm.static --write                keeps the counts there
    python -m bench.arm.static --target cortex-a76 --row cortex-a72      compiled by another row

Each kernel's cycles are added up over one training step of MobileNetV2 (step.py), whose loads and
stores go through a model of the caches (caches.py). Percent of the peak: a kernel's are the FLOP
that the operation needs (kernels/registry.py) by its cycles; a loop's are those of its
instructions. `fma` are its multiply-adds an iteration. Hot are the loops that make most of them.
cost.py says what is counted and what is not; above all, no load waits for memory, and what NumPy
does (the linear layer) is left out. The last line says what the same instructions would reach if
none waited for another's result: what is more takes fewer instructions.

Needs llvm-mca 19 or newer (Debian: llvm-19).
"""

import json
import os
import sys
from collections.abc import Container, Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from bench.arm.command import one_line, parser_of
from bench.arm.cores import CORES, FLOORS, Core, Floor
from bench.arm.counts import BATCH, counts_of, differences, load, memory_bytes, part_of, save
from bench.arm.cross import keep_nothing, retarget
from bench.arm.mca import find
from npnet.errors import NpnetError

if TYPE_CHECKING:  # kernels are imported when it is known what for
    from bench.arm.cost import Cost

LISTED = 5.0  # percent of a kernel's cycles that a loop takes to be printed


def main() -> None:
    parser = parser_of(__doc__, CORES)
    parser.add_argument("--row", help="of kernels/jit/target.py; the target's own")
    parser.add_argument("--kernel", default="", help="only those with this in their name")
    parser.add_argument("--json", action="store_true", help="one object a line")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--check", action="store_true", help="against the floors and the counts kept")
    what.add_argument("--write", action="store_true", help="keep the counts")
    options = parser.parse_args()
    core = CORES[options.target]
    if options.write and (options.kernel or options.row):
        parser.error(
            "--write keeps all kernels by the core's own row: leave --kernel and --row out"
        )
    kept = load(core) if options.check else None
    compile_by(core, options.row)
    others = FLOORS[core.name] if options.check or options.write else None
    costs = list(costs_of(core, options.kernel, others))
    if not costs:
        raise NpnetError(f"no kernel that is compiled has {options.kernel!r} in its name")
    if options.json:
        for cost in costs:
            rates = {"percent": cost.percent(core), "hot_percent": cost.hot_percent(core)}
            print(json.dumps(asdict(cost) | rates))
    else:
        report(costs, core)
    if options.write:
        save(counts_of(costs, core), core)
    elif kept is not None:
        counts = counts_of(costs, core)
        if options.kernel:
            kept = part_of(kept, counts)
        wrong = [*below_floor(costs, core), *differences(counts, kept, core)]
        if wrong:
            sys.exit("\n".join(wrong))
        print("all floors hold, and the counts are those that are kept", file=sys.stderr)


def compile_by(core: Core, row: str | None = None) -> None:
    """Numba compiles for `core` from now on, and explicit vectors are those of `row`, or its own.

    Raises NpnetError if there is no llvm-mca to tell what comes of it.
    """
    find(core)
    assert "npnet.kernels.jit.target" not in sys.modules  # where it reads the environment
    os.environ["NPNET_TARGET"] = row or core.row
    retarget(core)


def costs_of(core: Core, part: str = "", others: Container[str] | None = None) -> "Iterator[Cost]":
    """The cost of each kernel with `part` in its name: in a training step, or, where it has none,
    of a call on each of a prediction's shapes. Of the latter only those in `others`, if given.
    """
    from bench.arm.caches import Caches
    from bench.arm.cost import cost_of, useful_flops
    from bench.arm.step import ARCHITECTURE, called, counted_step
    from npnet.kernels import jit, registry
    from npnet.kernels.jit.ahead import is_compiled
    from npnet.measure.benchmark import Use, model_uses

    keep_nothing(jit)
    # Of the others, another kernel's code does the work, or NumPy.
    kernels = [each for each in registry.COMPILED if is_compiled(each.name) and part in each.name]
    caches = None if part else Caches(core.shares())
    step = counted_step([kernel.name for kernel in kernels], caches)
    uses = model_uses(ARCHITECTURE, BATCH)
    for kernel in kernels:
        if kernel.name in step:
            numbers = uses[kernel.name].items()
            flops = sum(number * useful_flops(kernel, use) for use, number in numbers)
            yield cost_of(kernel.name, step[kernel.name], core, flops)
        elif others is None or kernel.name in others:
            other = Use(registry.border_cases(kernel.kind)[-1])  # of other networks
            once = [*uses[kernel.name]] or [other]  # of inference
            flops = sum(useful_flops(kernel, use) for use in once)
            cost = cost_of(kernel.name, called(kernel, once), core, flops)
            cost.in_step = False
            yield cost


def report(costs: "list[Cost]", core: Core) -> None:
    """Print the kernels, the most expensive first, those of no training step last."""
    step = sum(cost.cycles for cost in costs if cost.in_step)
    print(f"{core.name}: peak {core.peak} FLOP a cycle, pipeline {core.model} of {find(core)}")
    for cost in sorted(costs, key=lambda cost: (not cost.in_step, -cost.cycles)):
        print(
            f"\n{cost.kernel}: {of_step(cost, step)}, "
            f"{cost.instructions / 1e6:.3f} M instructions, {cost.cycles / 1e6:.3f} Mcycles, "
            f"{cost.percent(core):.1f} % of the peak{traffic([cost])}"
        )
        for loop in cost.loops:
            share, is_hot = 100 * loop.runs * loop.cycles / cost.cycles, loop in cost.hot()
            if share >= LISTED or is_hot:
                print(
                    f"    {'hot' if is_hot else '':3} {loop.label:9} "
                    f"{loop.percent:5.1f} % of the peak, {share:4.1f} % of the kernel: "
                    f"{loop.cycles:.1f} cycles, {loop.instructions:.0f} instructions, "
                    f"{loop.fused:.0f} fma, {loop.flops:.0f} FLOP, {loop.spills} spills"
                )
        print(f"        in no innermost loop: {cost.outside_percent:.1f} % of the kernel")
    if step:
        flops = sum(cost.flops for cost in costs if cost.in_step)
        least = sum(cost.least for cost in costs if cost.in_step)
        print(
            f"\nthese kernels in a step: {step / 1e6:.1f} Mcycles for {flops / 1e9:.3f} GFLOP, "
            f"{100 * flops / (step * core.peak):.1f} % of the peak"
            f"{traffic([cost for cost in costs if cost.in_step])}\n"
            f"no fewer with these instructions: {least / 1e6:.1f} Mcycles, "
            f"{100 * flops / (least * core.peak):.1f} %"
        )


def traffic(costs: "list[Cost]") -> str:
    """What went through the caches, of a rank alone on the board."""
    alone = [cost.lines[0] for cost in costs if cost.lines]
    if not alone:
        return ""
    lines = [sum(each) for each in zip(*alone, strict=True)]
    fetched = ", ".join(f"L{level} {each / 1e6:.2f}" for level, each in enumerate(lines[1:-1], 1))
    return (
        f"; M lines fetched: {fetched}, {100 * lines[-1] / max(1, lines[-2]):.0f} % of the last "
        f"asked for ahead; {memory_bytes(lines) / 1e6:.1f} MB of memory"
    )


def of_step(cost: "Cost", step: float) -> str:
    if not cost.in_step:
        return "in no training step"
    return f"{cost.calls} calls, {100 * cost.cycles / step:.1f} % of the step"


def below_floor(costs: "list[Cost]", core: Core) -> Iterator[str]:
    """A line for each kernel that has become slower than its floor allows."""
    for cost in costs:
        floor = FLOORS[core.name].get(cost.kernel, Floor(0, 0))
        hot, whole = cost.hot_percent(core), cost.percent(core)
        if hot < floor.hot or whole < floor.whole:
            yield (
                f"{cost.kernel} on {core.name}: hot loops {hot:.1f} % of the peak, floor "
                f"{floor.hot:g}; kernel {whole:.1f} %, floor {floor.whole:g}"
            )


if __name__ == "__main__":
    with one_line():
        main()
