"""What a run yields: an epoch of one rank, and the summary of all."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from npnet.machine import telemetry
from npnet.model.architecture import Architecture
from npnet.model.memory import training_bytes
from npnet.parallel.workers import Workers
from npnet.training.evaluate import Scores
from npnet.training.settings import Settings

if TYPE_CHECKING:
    from npnet.training.trainer import Trainer


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
    model: str
    recipe: str
    sync: str


def planned_bytes(
    architecture: Architecture, settings: Settings, workers: Workers
) -> dict[str, int]:
    """The arrays that a rank keeps from start to end, bytes."""
    arrays = training_bytes(architecture, settings.batch_per_rank, settings.dtype)
    images = sum(worker.shard.images.pixels.nbytes for worker in workers)
    rows = {"rows of workers": workers.nbytes} if len(workers) > 1 else {}
    return {"images": images} | arrays | rows


def epoch_results(trainer: "Trainer", epoch: int, watch: telemetry.Stopwatch) -> list[EpochResult]:
    """What each worker of this rank reached in the epoch that `watch` has timed."""
    seconds, comm = watch.seconds, trainer.comm
    images = sum(worker.tally.images for worker in trainer.workers)
    return [
        EpochResult(
            epoch=epoch + 1,
            worker=worker.number,
            rank=comm.rank,
            host=comm.hosts[comm.rank],
            loss=worker.tally.loss / max(worker.tally.images, 1),
            acc=worker.tally.hits / max(worker.tally.images, 1),
            lr=trainer.optimiser.lr,
            seconds=seconds,
            images_per_second=images / seconds,
            cpu_percent=watch.cpu_percent,
            peak_rss_bytes=telemetry.peak_rss_bytes(),
        )
        for worker in trainer.workers
    ]


def summarise(
    trainer: "Trainer",
    history: Sequence[Sequence[EpochResult]],
    test: Scores,
    watch: telemetry.Stopwatch,
) -> Summary:
    """The same on every rank. `history` holds this rank's results, epoch by epoch."""
    comm, settings = trainer.comm, trainer.settings
    ranks = comm.gather((watch.seconds, watch.cpu_percent, telemetry.peak_rss_bytes()))
    wall, cpu, peak = zip(*ranks, strict=True)
    trained = [(each[0].images_per_second * each[0].seconds, each[0].seconds) for each in history]
    images, seconds = (sum(column) for column in zip(*trained, strict=True))
    images, seconds = zip(*comm.gather((images, seconds)), strict=True)
    workers = comm.of_all([(result.loss, result.acc) for result in history[-1]])
    loss, acc = zip(*workers, strict=True)
    recalibrated = test.recalibrated
    return Summary(
        world=trainer.world,
        epochs=settings.epochs,
        batch_per_node=settings.batch_per_rank * settings.ranks_per_node,
        batch_per_rank=settings.batch_per_rank,
        workers_per_rank=settings.workers_per_rank,
        train_loss=sum(loss) / len(loss),
        train_acc=sum(acc) / len(acc),
        test_loss=test.main.loss,
        test_acc=test.main.accuracy,
        bn_eval=settings.bn_eval,
        recalibrated_test_loss=recalibrated.loss if recalibrated else None,
        recalibrated_test_acc=recalibrated.accuracy if recalibrated else None,
        wall_seconds=max(wall),
        images_per_second=sum(images) / max(seconds),
        cpu_percent=sum(cpu) / len(cpu),
        peak_rss_bytes=max(peak),
        planned_bytes=sum(trainer.planned_bytes.values()),
        dataset=trainer.dataset.name,
        location=trainer.dataset.location,
        model=trainer.network.architecture.name,
        recipe=trainer.recipe.name,
        sync=trainer.recipe.sync,
    )
