"""The counts of a training step, kept in records/ by core and compared exactly.

Of each kernel: calls, the FLOP that they need, instructions, cycles by llvm-mca, lines that each
cache fetched, how many of those from memory were asked for ahead, and bytes from and to memory by
the number of processes that share the last cache.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import llvmlite.binding as llvm
import numba

from bench.arm.cores import LINE, RANKS, Core
from bench.arm.mca import find
from npnet.errors import NpnetError
from npnet.files import write_atomically

if TYPE_CHECKING:
    from bench.arm.cost import Cost

Counts = dict[str, Any]
BATCH = 12  # images of the step


def file_of(core: Core) -> Path:
    return Path(__file__).with_name("records") / f"{core.name}.json"


def counts_of(costs: "Iterable[Cost]", core: Core) -> Counts:
    """What is kept of a training step; the most expensive kernel first."""
    kernels = {}
    for cost in sorted((cost for cost in costs if cost.in_step), key=lambda cost: -cost.cycles):
        kernels[cost.kernel] = {
            "calls": cost.calls,
            "flops": round(cost.flops),
            "instructions": cost.instructions,
            "cycles": round(cost.cycles),
            **(through_caches(cost.lines) if cost.lines else {}),
        }
    return {"compiled_by": compiler(core), "kernels": kernels}


def through_caches(hierarchies: Sequence[Sequence[int]]) -> Counts:
    """What is kept of Caches.lines: a rank's that is alone, and its bytes by ranks."""
    alone = hierarchies[0]
    return {
        "misses": {f"L{level}": lines for level, lines in enumerate(alone[1:-1], 1)},
        "asked_ahead": alone[-1],
        "memory_bytes": {
            str(ranks): memory_bytes(lines) for ranks, lines in zip(RANKS, hierarchies, strict=True)
        },
    }


def part_of(kept: Counts, counts: Counts) -> Counts:
    """What is kept of that which `counts` has: some kernels, and of each all or a part."""
    kernels = {
        name: {what: value for what, value in kept["kernels"].get(name, {}).items() if what in each}
        for name, each in counts["kernels"].items()
    }
    return kept | {"kernels": kernels}


def memory_bytes(lines: Sequence[int]) -> int:
    """Written to and read from memory, by what went through one hierarchy (see Caches.lines)."""
    return LINE * (lines[0] + lines[-2])


def compiler(core: Core) -> str:
    """What the counts depend on besides the kernels."""
    release = ".".join(map(str, llvm.llvm_version_info))
    return f"Numba {numba.__version__}, LLVM {release}, {find(core)}"


def load(core: Core) -> Counts:
    """What is kept of a core. Raises NpnetError where the file is missing or damaged."""
    path = file_of(core)
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found["compiled_by"], str) or not isinstance(found["kernels"], dict):
            raise TypeError
    except (OSError, ValueError, TypeError, KeyError):
        raise NpnetError(
            f"{path} is missing or damaged: get it back from git, or count anew with "
            f"python -m bench.arm.static --target {core.name} --write"
        ) from None
    return cast(Counts, found)


def save(counts: Counts, core: Core) -> None:
    write_atomically(file_of(core), (json.dumps(counts, indent=1) + "\n").encode())


def differences(counts: Counts, kept: Counts, core: Core) -> Iterator[str]:
    """A line for each kernel whose counts are not those that are kept.

    Another compiler makes other code: then only what is worse by more than a fiftieth is told.
    """
    same = counts["compiled_by"] == kept["compiled_by"]
    for name in {**kept["kernels"], **counts["kernels"]}:
        then, now = (flat(each["kernels"].get(name, {})) for each in (kept, counts))
        changed = [
            f"{what} {then.get(what, 0):,} -> {now.get(what, 0):,}"
            for what in {**then, **now}
            if (
                then.get(what) != now.get(what)
                if same
                else is_worse(what, then.get(what, 0), now.get(what, 0))
            )
        ]
        if changed:
            yield f"{name} on {core.name}: {', '.join(changed)}"


def is_worse(what: str, then: int, now: int) -> bool:
    """By more than a fiftieth. Of what is asked for ahead, less is worse."""
    return now < 0.98 * then if what == "asked ahead" else now > 1.02 * then


def flat(kernel: dict[str, Any], before: str = "") -> dict[str, int]:
    """Numbers by their path, such as "misses L1"."""
    found: dict[str, int] = {}
    for key, value in kernel.items():
        name = f"{before} {key}".strip().replace("_", " ")
        found |= flat(value, name) if isinstance(value, dict) else {name: value}
    return found
