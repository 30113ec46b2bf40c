"""Timing of kernels on the shapes that a model really has."""

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from npnet.architecture import Architecture, mobilenet_v2
from npnet.kernels import backend as kernels_of
from npnet.kernels.registry import KERNELS, Case, Kernel

# Arguments are rotated through so many bytes, more than the last cache holds: in training, too, an
# array has long left the cache when it is needed again.
ROTATION_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Timing:
    """CPU time of one call: median in ms, spread (quartiles) in percent of it, and rates.

    `uses` is how often a training step runs the kernel on this shape.
    """

    kernel: str
    case: str
    uses: int
    ms_median: float
    spread_percent: float
    gflops: float
    gbytes: float


def model_cases(architecture: Architecture, batch: int) -> dict[str, Counter[Case]]:
    """For each kind of kernel, the cases that a training step runs, and how often."""
    cases: dict[str, Counter[Case]] = {kernel.kind: Counter() for kernel in KERNELS}
    for block in architecture.blocks:
        for operation in block.operations:
            if not operation.is_convolution:
                continue
            (h, w, ci), (ho, wo, co) = operation.input_shape, operation.output_shape
            label = f"{h}x{w}x{ci}->{ho}x{wo}x{co}"
            cases[operation.kind][Case(label, batch, h, w, ci, co, operation.stride)] += 1
            cases["batchnorm"][Case(f"{ho}x{wo}x{co}", batch, ho, wo, co, co)] += 1
        if block.shortcut:
            cases["activation"][Case(f"{ho}x{wo}x{co}", batch, ho, wo, co, co)] += 1
    features = architecture.operations[-1].input_shape[-1]
    head = Case(f"{ho}x{wo}x{features}->{architecture.classes}", batch, ho, wo, features,
                architecture.classes)  # fmt: skip
    cases["head"][head] += 1
    parameters = architecture.parameter_count
    cases["sgd"][Case(f"{parameters:,} parameters", ci=1, co=parameters)] += 1
    size = architecture.input_size
    cases["image"][Case(f"32x32->{size}x{size}", batch, size, size, 3, 3)] += 1
    return cases


def measure_kernels(
    backend: str, name: str, batch: int, width: float, input_size: int, repeats: int
) -> Iterator[Timing]:
    """Time every kernel with `name` in its name on every shape that a training step gives it."""
    cases = model_cases(mobilenet_v2(width, input_size, 10), batch)
    kernels = kernels_of(backend)
    for kernel in KERNELS:
        if name in kernel.name:
            for case, uses in cases[kernel.kind].items():
                yield _measure(kernels, kernel, case, uses, repeats)


def _measure(kernels: Any, kernel: Kernel, case: Case, uses: int, repeats: int) -> Timing:
    function, moved = getattr(kernels, kernel.name), kernel.bytes_moved(case)
    copies = max(2, min(16, ROTATION_BYTES // max(moved, 1)))
    rng = np.random.default_rng(0)
    calls = [list(kernel.arguments(case, rng, np.float32).values()) for _ in range(copies)]
    function(*calls[0])  # compile
    rounds = max(1, round(2e-3 / _seconds(function, calls[1:2]) / copies))
    samples = sorted(_seconds(function, calls * rounds) for _ in range(repeats))
    middle = median(samples)
    quarter = len(samples) // 4
    return Timing(
        kernel.name,
        case.label,
        uses,
        1e3 * middle,
        100 * (samples[-1 - quarter] - samples[quarter]) / middle,
        kernel.flops(case) / middle / 1e9,
        moved / middle / 1e9,
    )


def _seconds(function: Any, calls: list[list[Any]]) -> float:
    """Mean CPU time of a call, seconds."""
    start = time.process_time()
    for arguments in calls:
        function(*arguments)
    return max(time.process_time() - start, 1e-9) / len(calls)
