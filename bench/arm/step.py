"""One real training step of MobileNetV2, whose kernels are counted while they compute.

Batch 12, 128x128, width 0.5: as the paper trains. What NumPy does, the linear layer above all,
computes too and is not counted. The caches are empty when the step begins.
"""

import sys
from collections.abc import Callable, Collection, Iterable
from types import ModuleType
from typing import cast

import numpy as np

from bench.arm.caches import Caches
from bench.arm.counting import CountedKernel
from bench.arm.counts import BATCH
from npnet.kernels import jit, reference
from npnet.kernels.registry import Kernel
from npnet.measure.benchmark import Use, step_from_bytes
from npnet.model.zoo import build, configure

ARCHITECTURE = build(configure("mobilenet_v2", classes=10))


class CountedKernels:
    """A set of kernels: the `chosen` are counted, in place of the others stand the NumPy twins."""

    def __init__(self, chosen: Collection[str], caches: Caches | None) -> None:
        self.chosen, self.caches = chosen, caches
        self.counted: dict[str, CountedKernel] = {}

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name not in self.chosen:
            return cast(Callable[..., None], getattr(reference, name))
        if name not in self.counted:
            print(f"counting {name}", file=sys.stderr, flush=True)
            self.counted[name] = CountedKernel(getattr(jit, name), self.caches)
        return self.counted[name]


def counted_step(chosen: Collection[str], caches: Caches | None) -> dict[str, CountedKernel]:
    """Make the step; what was counted of each of the `chosen` kernels that it calls, by name."""
    kernels = CountedKernels(chosen, caches)
    step_from_bytes(cast(ModuleType, kernels), BATCH, ARCHITECTURE)()
    return {name: kernel for name, kernel in kernels.counted.items() if kernel.calls}


def called(kernel: Kernel, uses: Iterable[Use]) -> CountedKernel:
    """A kernel that is called once for each use, with arguments that are drawn."""
    print(f"counting {kernel.name}", file=sys.stderr, flush=True)
    counted = CountedKernel(getattr(jit, kernel.name))
    for use in uses:
        drawn = kernel.arguments(use.case, np.random.default_rng(0), np.float32)
        counted(*(drawn | dict.fromkeys(use.absent)).values())
    return counted
