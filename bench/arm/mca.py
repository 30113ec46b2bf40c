"""llvm-mca: how many cycles a processor takes for some instructions, again and again.

And how many at least: as many as its busiest unit needs, or as it takes to hand them all out.
It knows latencies and units. It does not know caches (each load hits the first level) and branches
(each is foreseen).
"""

import json
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, cast

from bench.arm.cores import Core
from npnet.errors import NpnetError

ITERATIONS = 200


class Cycles(NamedTuple):
    """Of an iteration. `least`: if no instruction waited for another's result."""

    taken: float
    least: float


def cycles(core: Core, regions: Sequence[Sequence[str]]) -> list[Cycles]:
    """Cycles an iteration of each list of instructions, repeated ITERATIONS times."""
    program = find(core)
    text = []
    for number, instructions in enumerate(regions):
        text += [f"# LLVM-MCA-BEGIN {number}", *instructions, f"# LLVM-MCA-END {number}"]
    views = run(program, core, "\n".join(text) + "\n")["CodeRegions"]
    assert len(views) == len(regions)
    summaries = [view["SummaryView"] for view in views]
    taken = [summary["TotalCycles"] / ITERATIONS for summary in summaries]
    least = [summary["BlockRThroughput"] for summary in summaries]
    return list(map(Cycles, taken, least))


def run(program: str, core: Core, text: str) -> dict[str, Any]:
    """What llvm-mca says, as its JSON. Raises NpnetError with its own message."""
    command = [program, "-mtriple=aarch64-linux-gnu", f"-mcpu={core.model}", *core.options]
    command += ["-json", "-instruction-info=false", "-resource-pressure=false"]
    command += [f"-iterations={ITERATIONS}"]
    result = subprocess.run(command, input=text, capture_output=True, text=True)
    if result.returncode:
        errors = [line for line in result.stderr.splitlines() if "error" in line]
        raise NpnetError(f"{program}: {errors[0] if errors else result.stderr.strip()}")
    return cast(dict[str, Any], json.loads(result.stdout))


@cache
def find(core: Core) -> str:
    """The newest llvm-mca that has this core's pipeline. Raises NpnetError without one."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    found = {path.name for folder in folders for path in Path(folder).glob("llvm-mca*")}
    for name in sorted(found, key=version, reverse=True):
        if shutil.which(name) and knows(name, core):
            return name
    raise NpnetError(
        f"no llvm-mca here knows the pipeline of {core.model}: install LLVM 19 or newer, on Debian "
        "the package llvm-19"
    )


def version(name: str) -> int:
    """Debian's llvm-mca-19 is 19; one without a number comes last."""
    return int("".join(re.findall(r"-(\d+)$", name)) or 0)


def knows(program: str, core: Core) -> bool:
    """Whether it has the core's own pipeline, and the options that it takes."""
    try:
        units = run(program, core, "nop")["TargetInfo"]["Resources"]
    except NpnetError:
        return False
    return all(unit.startswith(core.unit) for unit in units)
