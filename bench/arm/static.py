"""What the kernels cost on a Cortex-A72 or a Cortex-A76, computed from their machine code.

    python -m bench.arm.static                        every kernel, and a training step, on the A72
    python -m bench.arm.static --target cortex-a76 --json
    python -m bench.arm.static --check                fails, and names each kernel below its floor
    python -m bench.arm.static --target cortex-a76 --row cortex-a72      compiled by another row

Each kernel's cycles are added up over one training step of MobileNetV2: batch 12, 128x128, width
0.5. Percent of the peak: a kernel's are the FLOP that the operation needs (kernels/registry.py) by
its cycles; a loop's are those of its instructions. `fma` are its multiply-adds an iteration. Hot
are the loops that make most of them. cost.py says what is counted and what is not; above all, no
load waits for memory, and what NumPy does (the linear layer) is left out.

Needs llvm-mca 19 or newer (Debian: llvm-19).
"""

import argparse
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from bench.arm.cores import CORES, FLOORS, Core
from bench.arm.cross import keep_nothing, retarget
from bench.arm.mca import find
from npnet.errors import NpnetError
from npnet.kernels import SettingError

if TYPE_CHECKING:  # kernels are imported when it is known what for
    from bench.arm.cost import Cost
    from npnet.measure.benchmark import Use

BATCH = 12
LISTED = 5.0  # percent of a kernel's cycles that a loop takes to be printed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", choices=CORES, default="cortex-a72")
    parser.add_argument("--row", help="of kernels/jit/target.py; the target's own")
    parser.add_argument("--kernel", default="", help="only those with this in their name")
    parser.add_argument("--json", action="store_true", help="one object a line")
    parser.add_argument("--check", action="store_true", help="hold kernels against their floors")
    options = parser.parse_args()
    core = CORES[options.target]
    try:
        find(core)
        compile_by(options.row or core.name, core)
        names = [*FLOORS[core.name]] if options.check else None
        costs = list(costs_of(core, options.kernel, names))
        if not costs:
            raise NpnetError(f"no kernel that is compiled has {options.kernel!r} in its name")
    except (NpnetError, SettingError) as error:
        sys.exit(f"bench.arm.static: {error}")
    if options.json:
        for cost in costs:
            rates = {"percent": cost.percent(core), "hot_percent": cost.hot_percent(core)}
            print(json.dumps(asdict(cost) | rates))
    else:
        report(costs, core)
    if options.check and (below := list(below_floor(costs, core))):
        sys.exit("\n".join(below))


def compile_by(row: str, core: Core) -> None:
    """Numba compiles for `core` from now on, and explicit vectors are those of `row`."""
    assert "npnet.kernels.jit.target" not in sys.modules  # where it reads the environment
    os.environ["NPNET_TARGET"] = row
    retarget(core)


def costs_of(core: Core, part: str = "", names: list[str] | None = None) -> "Iterator[Cost]":
    """The cost of each kernel in a training step, or of a call where the step has none."""
    from bench.arm.cost import cost_of
    from npnet.kernels import jit, registry
    from npnet.kernels.jit.ahead import is_compiled
    from npnet.measure.benchmark import Use

    keep_nothing(jit)
    uses = uses_in_step()
    for kernel in registry.COMPILED:
        if (
            is_compiled(kernel.name)  # else another kernel's code or NumPy's does it
            and part in kernel.name
            and (names is None or kernel.name in names)
        ):
            in_step = {use: number for use, number in uses[kernel.name].items() if number}
            once = dict.fromkeys(uses[kernel.name], 1)  # of inference
            other = {Use(registry.border_cases(kernel.kind)[-1]): 1}  # of other networks
            dispatcher = getattr(jit, kernel.name)
            cost = cost_of(core, kernel, dispatcher, in_step or once or other)
            cost.in_step = bool(in_step)
            yield cost


def uses_in_step() -> "dict[str, Counter[Use]]":
    """By kernel: what it is called with in a training step, and how often."""
    from npnet.measure.benchmark import model_uses
    from npnet.model.zoo import build, configure

    return model_uses(build(configure("mobilenet_v2", classes=10)), BATCH)


def report(costs: "list[Cost]", core: Core) -> None:
    """Print the kernels, the most expensive first, those of no training step last."""
    step = sum(cost.cycles for cost in costs if cost.in_step)
    print(f"{core.name}: peak {core.peak} FLOP a cycle, pipeline {core.model} of {find(core)}")
    for cost in sorted(costs, key=lambda cost: (not cost.in_step, -cost.cycles)):
        print(
            f"\n{cost.kernel}: {of_step(cost, step)}, "
            f"{cost.cycles / 1e6:.3f} Mcycles, {cost.percent(core):.1f} % of the peak"
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
        print(
            f"\nthese kernels in a step: {step / 1e6:.1f} Mcycles for {flops / 1e9:.3f} GFLOP, "
            f"{100 * flops / (step * core.peak):.1f} % of the peak"
        )


def of_step(cost: "Cost", step: float) -> str:
    if not cost.in_step:
        return "in no training step"
    return f"{cost.calls} calls, {100 * cost.cycles / step:.1f} % of the step"


def below_floor(costs: "list[Cost]", core: Core) -> Iterator[str]:
    """A line for each kernel that has become slower than its floor allows."""
    for cost in costs:
        floor = FLOORS[core.name][cost.kernel]
        hot, whole = cost.hot_percent(core), cost.percent(core)
        if hot < floor.hot or whole < floor.whole:
            yield (
                f"{cost.kernel} on {core.name}: hot loops {hot:.1f} % of the peak, floor "
                f"{floor.hot:g}; kernel {whole:.1f} %, floor {floor.whole:g}"
            )


if __name__ == "__main__":
    main()
