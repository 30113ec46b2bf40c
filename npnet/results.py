"""What a run yields: an epoch of one rank, and the summary of all."""

from dataclasses import dataclass


@dataclass(frozen=True)
class EpochResult:
    """One rank's epoch: mean loss (nats), accuracy (fraction), seconds, images/s, % of a core."""

    epoch: int
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

    `wall_seconds` covers training and testing since this start, `images_per_second` training
    alone, on all ranks. `planned_bytes` are the arrays of rank 0; Python, NumPy and Numba come to
    about 180 MB on top of them in `peak_rss_bytes`, the largest of all ranks.
    """

    world: int
    epochs: int
    batch_per_node: int
    batch_per_rank: int
    train_loss: float
    train_acc: float
    test_loss: float
    test_acc: float
    wall_seconds: float
    images_per_second: float
    cpu_percent: float
    peak_rss_bytes: int
    planned_bytes: int
    dataset: str
    location: str
    recipe: str
    sync: str
