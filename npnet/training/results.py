"""What a run yields: an epoch of one rank, and the summary of all."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EpochResult:
    """One worker's epoch: mean loss (nats), accuracy (fraction), learning rate at the end.

    Seconds, images/s, % of a core and memory are those of its rank.
    """

    epoch: int
    worker: int
    rank: int
    host: str
    loss: float
    acc: float
    lr: float
    seconds: float
    images_per_second: float
    cpu_percent: float
    peak_rss_bytes: int


@dataclass(frozen=True)
class Summary:
    """A run's results; accuracies are fractions, losses nats. `train_*` are of the last epoch.

    `world` counts workers, which are ranks unless a rank runs several. `test_*` are with the
    running statistics, or with recalibrated ones if `bn_eval` asks for those alone.
    `wall_seconds` covers training and testing since this start, `images_per_second` training
    alone, on all ranks. `planned_bytes` are the arrays of rank 0; Python, NumPy and Numba come to
    about 180 MB on top of them in `peak_rss_bytes`, the largest of all ranks.
    """

    world: int
    epochs: int
    batch_per_node: int
    batch_per_rank: int
    workers_per_rank: int
    train_loss: float
    train_acc: float
    test_loss: float
    test_acc: float
    bn_eval: str
    recalibrated_test_loss: float | None
    recalibrated_test_acc: float | None
    wall_seconds: float
    images_per_second: float
    cpu_percent: float
    peak_rss_bytes: int
    planned_bytes: int
    dataset: str
    location: str
    recipe: str
    sync: str
