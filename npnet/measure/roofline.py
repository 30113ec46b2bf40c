"""What this core could reach at best, and how near to it a kernel comes.

The roofline model (Williams, Waterman and Patterson 2009, doi 10.1145/1498765.1498785): a kernel
that makes `intensity` floating-point operations for each byte it must move runs at no more than

    min(peak, intensity * bandwidth)

Both numbers are measured, on one core: the peak with a matrix product that never leaves the
first-level cache, the bandwidth with a copy of arrays that no cache holds. Two things can carry a
kernel above its roof: arrays so small that they stay in a cache in spite of all, and reading much
more than writing, which memory does faster than a copy.
"""

import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from npnet.measure.benchmark import Timing

COPY_BYTES = 128 * 2**20  # of each of the two arrays: several times a core's last cache
SAMPLE_SECONDS = 5e-3  # of a measurement of the peak
TRIALS, SAMPLES = 5, 7  # the best of TRIALS medians, each of SAMPLES samples


@dataclass(frozen=True)
class Roof:
    """The two bounds of one core: GFLOP/s in float32, and GB/s of a copy, read and written."""

    peak_gflops: float
    copy_gbytes: float

    @property
    def ridge(self) -> float:
        """The intensity, FLOP/byte, at which the two bounds meet."""
        return self.peak_gflops / self.copy_gbytes

    def gflops(self, intensity: float) -> float:
        """The bound, GFLOP/s, of a kernel with `intensity` FLOP/byte."""
        return min(self.peak_gflops, intensity * self.copy_gbytes)

    def percent(self, timing: Timing) -> float:
        """How much of its bound a kernel reached."""
        return 100 * timing.gflops / self.gflops(timing.intensity)

    def record(self, timing: Timing) -> dict[str, Any]:
        """The timing's fields, and the roof above it."""
        return asdict(timing) | {
            "gflops": timing.gflops,
            "gbytes": timing.gbytes,
            "intensity": timing.intensity,
            "roof_gflops": self.gflops(timing.intensity),
            "roof_percent": self.percent(timing),
        }


@dataclass(frozen=True)
class Total:
    """All kernels of a training step together: their time, and the least their roofs allow, ms."""

    ms: float
    roof_ms: float

    @property
    def roof_percent(self) -> float:
        return 100 * self.roof_ms / self.ms


def total(timings: Iterable[Timing], roof: Roof) -> Total:
    """The sum over the kernels that a training step runs, each as often as it does."""
    times = [(t.uses * t.ms_median, roof.percent(t) / 100) for t in timings if t.uses]
    return Total(sum(ms for ms, _ in times), sum(ms * share for ms, share in times))


def measure_roof(copy_bytes: int = COPY_BYTES) -> Roof:
    """Both bounds of the core that runs this, in about a second; `copy_bytes`: of an array."""
    return Roof(_peak_gflops(), _copy_gbytes(copy_bytes))


def _peak_gflops() -> float:
    from npnet.kernels.jit import peak  # here, so that only a measurement loads the compiler

    out, a, b = peak.operands()

    def seconds(times: int) -> float:
        return _cpu_seconds(lambda: peak.multiply_repeatedly(out, a, b, times))

    seconds(1)  # compile
    times = 1
    while seconds(times) < SAMPLE_SECONDS:
        times *= 2
    flops: int = 2 * out.size * a.shape[1] * times
    return flops / _best(lambda: seconds(times)) / 1e9


def _copy_gbytes(size: int) -> float:
    source = np.ones(size // 4, np.float32)
    target = np.zeros_like(source)
    target[:] = source  # the pages are there before the clock runs
    best = _best(lambda: _cpu_seconds(lambda: np.copyto(target, source)))
    return 2 * source.nbytes / best / 1e9


def _best(sample: Callable[[], float]) -> float:
    """The least of several medians: what an undisturbed core does."""
    return min(median(sample() for _ in range(SAMPLES)) for _ in range(TRIALS))


def _cpu_seconds(action: Callable[[], None]) -> float:
    start = time.process_time()
    action()
    return time.process_time() - start
