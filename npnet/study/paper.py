"""The paper's own figures, which the studies stand beside.

Papakyriakou and Barbounakis, Deep Learning for Edge AI: MobileNetV2 CNN Training over ARM-based
Clusters: 24 Raspberry Pi 4B, two ranks a node, CIFAR-10, width 0.5.
"""

from collections.abc import Sequence
from typing import NamedTuple


class BatchRow(NamedTuple):
    """Table 1, one Raspberry Pi, two ranks, 200 steps at 128x128: seconds, images/s, MB, %."""

    batch_per_node: int
    batch_per_rank: int
    avg_epoch_s: float
    mean_step_s: float
    throughput_img_s: float
    peak_rss_mb: float
    process_cpu_pct: float


class ScalingRow(NamedTuple):
    """Table 3, ten epochs: accuracies and efficiency in %, losses in nats, seconds."""

    nodes: int
    np: int
    epochs: int
    test_acc_pct: float
    test_loss: float
    mean_train_loss: float
    mean_train_acc_pct: float
    wall_s: float
    speedup: float
    efficiency_pct: float


TABLE_1 = (
    BatchRow(8, 4, 182.45, 0.912, 8.77, 637.7, 99.7),
    BatchRow(16, 8, 339.08, 1.695, 9.44, 640.2, 99.7),
    BatchRow(24, 12, 496.43, 2.482, 9.67, 717.7, 99.7),
    BatchRow(32, 16, 711.07, 3.555, 9.00, 806.4, 99.7),
)

# Speed-up and efficiency are over np = 2: two processes are 100 %.
TABLE_3 = (
    ScalingRow(1, 2, 10, 48.43, 1.4732, 1.5683, 43.51, 4241.69, 1.0, 100.0),
    ScalingRow(2, 4, 10, 42.59, 2.5650, 1.6322, 39.46, 2332.69, 1.81836849, 90.92),
    ScalingRow(4, 8, 10, 13.06, 2.3264, 1.8240, 30.77, 2025.94, 2.09368984, 52.34),
    ScalingRow(8, 16, 10, 10.00, 2.3046, 1.9196, 25.79, 1142.99, 3.71104734, 46.39),
    ScalingRow(12, 24, 10, 10.00, 2.3026, 1.9347, 24.96, 723.47, 5.86297980, 48.86),
    ScalingRow(16, 32, 10, 10.00, 2.3026, 2.0212, 20.53, 515.97, 8.22080741, 51.38),
    ScalingRow(20, 40, 10, 10.00, 2.3026, 2.1292, 18.95, 511.21, 8.29735333, 41.49),
    ScalingRow(24, 48, 10, 10.00, 2.3026, 1.9856, 22.27, 424.73, 9.98679160, 41.61),
)

BY_BATCH = {row.batch_per_node: row for row in TABLE_1}
BY_NP = {row.np: row for row in TABLE_3}


def beside(row: BatchRow | ScalingRow | None, names: Sequence[str]) -> dict[str, float | None]:
    """Columns that stand beside npnet's own of these names; empty where the paper has no row."""
    return {f"paper_{name}": getattr(row, name, None) for name in names}
