"""What a run yields: an epoch of one rank, and the summary of all."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from npnet.data.dataset import Split
from npnet.machine import telemetry
from npnet.machine.clock import Times
from npnet.model.architecture import Architecture
from npnet.model.memory import training_bytes
from npnet.parallel.workers import Workers
from npnet.training.costs import RankCosts, StepSeconds
from npnet.training.evaluate import Scores
from npnet.training.settings import Settings
from npnet.training.stragglers import slowest

if TYPE_CHECKING:
    from npnet.training.trainer import Trainer


@dataclass(frozen=True)
class EpochResult:
    """One worker's epoch: mean loss (nats), accuracy (fraction), learning rate at the end.

    Seconds, images/s, % of a core and memory are those of its rank. `seconds` are of training
    alone, and hold the waiting for other ranks that `phases` tells apart.
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
    rss_bytes: int
    phases: StepSeconds

    def columns(self) -> dict[str, Any]:
        """As a row of the log, see RunFolder."""
        row = asdict(self)
        phases: dict[str, Any] = row.pop("phases")
        return row | phases


@dataclass(frozen=True)
class Summary:
    """A run's results; accuracies are fractions, losses nats. `train_*` are of the last epoch.

    `world` counts workers, which are ranks unless a rank runs several. `test_*` and `val_*` are of
    the last weights, with the running statistics, or with recalibrated ones if `bn_eval` asks for
    those alone; None of a split that is empty or was not scored. `epochs` are those that were made,
    fewer than planned if the run `stopped_early`; `best_epoch`: see Best, None if none was scored.
    `wall_seconds` covers all of the run, of which an interrupted one's starts have each a part;
    `train_seconds` and `test_seconds` are those of the slowest rank. `images_per_second` are of
    training alone, on all ranks, since this start, or of the last epoch if that was made before.
    `slowest` is a sentence about the rank that the others waited for, if there is one.
    `planned_bytes` are the arrays of rank 0; Python, NumPy and Numba come to about 130 MB on top of
    them in `peak_rss_bytes`, the largest of all ranks.
    """

    world: int
    epochs: int
    batch_per_node: int
    batch_per_rank: int
    workers_per_rank: int
    train_loss: float
    train_acc: float
    test_loss: float | None
    test_acc: float | None
    bn_eval: str
    recalibrated_test_loss: float | None
    recalibrated_test_acc: float | None
    val_loss: float | None
    val_acc: float | None
    best_epoch: int | None
    stopped_early: bool
    wall_seconds: float
    train_seconds: float
    test_seconds: float
    images_per_second: float
    cpu_percent: float
    peak_rss_bytes: int
    planned_bytes: int
    dataset: str
    location: str
    model: str
    width: float
    input_size: int
    recipe: str
    sync: str
    steps: int
    max_steps: int | None
    slowest: str | None


def planned_bytes(
    architecture: Architecture, settings: Settings, workers: Workers
) -> dict[str, int]:
    """The arrays that a rank keeps from start to end, bytes."""
    arrays = training_bytes(architecture, settings.batch_per_rank, settings.dtype)
    images = sum(worker.shard.nbytes for worker in workers)
    rows = {"rows of workers": workers.nbytes} if len(workers) > 1 else {}
    exchange = {"exchange": workers.buckets.nbytes} if workers.buckets.nbytes else {}
    return {"images": images} | arrays | rows | exchange


def epoch_results(trainer: "Trainer", epoch: int, times: Times) -> list[EpochResult]:
    """What each worker of this rank reached in the training that took `times`."""
    seconds, comm = times.seconds, trainer.comm
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
            cpu_percent=times.cpu_percent,
            peak_rss_bytes=telemetry.peak_rss_bytes(),
            rss_bytes=telemetry.rss_bytes(),
            phases=StepSeconds.of(times),
        )
        for worker in trainer.workers
    ]


def summarise(
    trainer: "Trainer",
    history: Sequence[Sequence[EpochResult]],
    scores: Mapping[Split, Scores],
) -> Summary:
    """The same on every rank. `history` holds this rank's results, epoch by epoch.

    It is empty where the last epoch was finished before this start; then the log tells.
    """
    comm, settings, meter = trainer.comm, trainer.settings, trainer.meter
    before, epochs = trainer.run_files.before, [results[0] for results in history]
    ranks = comm.gather(
        RankCosts(
            rank=comm.rank,
            host=comm.hosts[comm.rank],
            images=sum(each.images_per_second * each.seconds for each in epochs),
            elapsed=meter.elapsed,
            train_seconds=before.train + sum(each.seconds for each in epochs),
            test_seconds=before.test + trainer.test_seconds,
            peak_rss_bytes=telemetry.peak_rss_bytes(),
            times=meter.total,
            health=meter.health,
        )
    )
    last = [(result.loss, result.acc) for result in history[-1]] if history else None
    workers = comm.of_all(last) if last is not None else list(before.last)
    loss, acc = zip(*workers, strict=True)
    test, val = scores.get("test"), scores.get("val")
    recalibrated = test.recalibrated if test else None
    done = trainer.first_epoch + len(history)
    config = trainer.network.architecture.config
    trained = max(each.train_seconds for each in ranks) - before.train
    speed = sum(each.images for each in ranks) / trained if history else before.images_per_second
    return Summary(
        world=trainer.world,
        epochs=done,
        batch_per_node=settings.batch_per_rank * settings.ranks_per_node,
        batch_per_rank=settings.batch_per_rank,
        workers_per_rank=settings.workers_per_rank,
        train_loss=sum(loss) / len(loss),
        train_acc=sum(acc) / len(acc),
        test_loss=test.main.loss if test else None,
        test_acc=test.main.accuracy if test else None,
        bn_eval=settings.bn_eval,
        recalibrated_test_loss=recalibrated.loss if recalibrated else None,
        recalibrated_test_acc=recalibrated.accuracy if recalibrated else None,
        val_loss=val.main.loss if val else None,
        val_acc=val.main.accuracy if val else None,
        best_epoch=trainer.run_files.best.epoch or None,
        stopped_early=done < settings.epochs,
        wall_seconds=max(each.elapsed for each in ranks),
        train_seconds=max(each.train_seconds for each in ranks),
        test_seconds=max(each.test_seconds for each in ranks),
        images_per_second=speed,
        cpu_percent=sum(each.times.cpu_percent for each in ranks) / len(ranks),
        peak_rss_bytes=max(each.peak_rss_bytes for each in ranks),
        planned_bytes=sum(trainer.planned_bytes.values()),
        dataset=trainer.dataset.name,
        location=trainer.dataset.location,
        model=trainer.network.architecture.name,
        width=config.width,
        input_size=config.input_size,
        recipe=trainer.recipe.name,
        sync=trainer.recipe.sync,
        steps=trainer.steps,
        max_steps=settings.max_steps,
        slowest=slowest(ranks),
    )
