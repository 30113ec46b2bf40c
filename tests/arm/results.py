"""What the compiled kernels return, on whatever processor this runs.

    python -m tests.arm.results ROW FILE.npz [KERNEL ...]

Every kernel, in float32, at the borders of its loops and around what the row ROW of
kernels/jit/target.py does at a time, with the arguments that tests/kernels/test_twins.py draws.
"""

import sys

import numpy as np

from npnet.kernels import jit, registry
from npnet.kernels.jit.ahead import is_compiled
from npnet.kernels.jit.target import TARGETS


def main(target, file, *names):
    found = {}
    for call, kernel, case in calls(target):
        if not names or kernel.name in names:
            arguments = drawn(kernel, case, np.float32)
            getattr(jit, kernel.name)(*arguments.values())
            for name in kernel.output_names(case):
                found[f"{call}/{name}"] = arguments[name]
    np.savez(file, **found)


def calls(target):
    """(its name, kernel, case) of each. What is NumPy's or another kernel's code is left out."""
    for kernel in filter(lambda kernel: is_compiled(kernel.name), registry.COMPILED):
        edges = registry.edge_cases(kernel.kind, TARGETS[target])
        for number, case in enumerate((*registry.border_cases(kernel.kind), *edges)):
            yield f"{kernel.name}/{number}: {case.label}", kernel, case


def drawn(kernel, case, dtype):
    """The arguments of a call. Outputs are NaN, unless they are updated, or bytes."""
    arguments = kernel.arguments(case, np.random.default_rng(7), dtype)
    for name in set(kernel.output_names(case)) - set(kernel.updates):
        if arguments[name].dtype != np.uint8:
            arguments[name][...] = np.nan
    return arguments


if __name__ == "__main__":
    main(*sys.argv[1:])
