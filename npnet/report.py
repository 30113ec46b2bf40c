"""What a run reports: an epoch of a rank, the summary of all, and who is told."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from npnet.evaluate import Score

if TYPE_CHECKING:
    from npnet.trainer import Trainer


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

    `wall_seconds` covers training and testing, `images_per_second` training alone, on all ranks.
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
    dataset: str
    location: str
    recipe: str
    sync: str


class Reporter(Protocol):
    """Who is told of a run's course. Each rank has its own; the engine itself prints nothing."""

    def started(self, trainer: "Trainer") -> None: ...

    def step_finished(self, epoch: int, step: int, images: int) -> None: ...

    def epoch_finished(self, result: EpochResult, test: Score | None) -> None: ...

    def finished(self, summary: Summary) -> None: ...
