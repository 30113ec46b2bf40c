"""The roof, and how far below it a kernel stays."""

import pytest

from npnet.measure.benchmark import Timing
from npnet.measure.roofline import Roof, total

ROOF = Roof(peak_gflops=100.0, copy_gbytes=20.0)


def timing(flops: int, moved: int, ms: float, uses: int = 1) -> Timing:
    return Timing("kernel", "case", uses, flops, moved, ms, 1.0)


def test_the_roof_rises_to_the_peak() -> None:
    assert ROOF.ridge == 5
    assert [ROOF.gflops(x) for x in (0.5, 5, 50)] == [10, 100, 100]


@pytest.mark.parametrize(
    ("flops", "moved", "ms", "percent"),
    [
        (10**6, 4 * 10**6, 0.2, 100),  # 4 MB at 20 GB/s
        (10**6, 4 * 10**6, 0.8, 25),
        (10**8, 10**6, 2.0, 50),  # 0.1 GFLOP at 100 GFLOP/s is 1 ms
    ],
)
def test_percent_of_the_roof(flops: int, moved: int, ms: float, percent: float) -> None:
    assert ROOF.percent(timing(flops, moved, ms)) == pytest.approx(percent)


def test_total_counts_each_kernel_as_often_as_a_step_runs_it() -> None:
    timings = [timing(10**8, 10**6, 2.0, uses=3), timing(10**6, 4 * 10**6, 0.2), timing(1, 1, 9, 0)]
    step = total(timings, ROOF)
    assert step.ms == pytest.approx(6.2)
    assert step.roof_ms == pytest.approx(3.2)
    assert step.roof_percent == pytest.approx(100 * 3.2 / 6.2)
