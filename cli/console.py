"""What a training run says: the paper's lines (its Figures 7 and 8), and a progress bar."""

import os
import stat
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import mean
from typing import TextIO

import psutil

from npnet.cli.bar import Progress
from npnet.cli.streams import say
from npnet.cli.words import COMPILING, as_options, printable
from npnet.machine import telemetry, threads
from npnet.parallel.communicator import Communicator
from npnet.parallel.workers import Workers
from npnet.training import advice
from npnet.training.doubts import doubts
from npnet.training.evaluate import Scores
from npnet.training.results import EpochResult, Summary
from npnet.training.trainer import Trainer
from npnet.training.warmup import Show

CIFAR = ("cifar10", "cifar100")  # whose place the paper's lines name
COLUMNS = 100  # of a line of the header
WORTH_A_WORD = 0.05  # of an epoch's time


class Console:
    """A rank's reporter. Every rank prints its own epochs, rank 0 whatever concerns all."""

    def __init__(self, comm: Communicator, thread_count: int, progress: bool) -> None:
        self.comm, self.threads = comm, thread_count
        self.root = comm.rank == 0
        self.progress = TrainingProgress(terminal()) if progress and self.root else None
        self.epochs_kept = 0  # whole epochs of which there is a checkpoint
        self._features: Progress | None = None
        self.said: list[str] = []  # of a run that goes on: from where, and what changes

    @contextmanager
    def compiling(self) -> Iterator[Show]:
        """On every rank, while some compile; takes how many kernels are done, of how many."""
        if self.root:
            say(
                f"[INFO] {COMPILING} for this processor, once: about half a minute, "
                "some minutes on a Raspberry Pi"
            )
        if self.progress is None:
            yield lambda done, total: None
            return
        progress, begin = Progress(self.progress.stream), time.monotonic()

        def show(done: int, total: int | None) -> None:
            words = (
                f"{done}{f' of {total}' if total else ''} done, {clock(time.monotonic() - begin)}"
            )
            progress.show(f"{COMPILING}:", done, total, words)

        try:
            yield show
        finally:
            progress.finish()

    def computing(self, split: str, done: int, total: int) -> None:
        """Features of a split are computed."""
        if self.progress is None:
            return
        if self._features is None:
            self._features = Progress(self.progress.stream)
        self._features.show(f"Features of the {split} images:", done, total, "")
        if done == total:
            self._features.finish()
            self._features = None

    def started(self, trainer: Trainer) -> None:
        self.epochs = trainer.settings.epochs
        self.dataset, self.trainer = trainer.dataset, trainer
        if self.root:
            self._print_header(trainer)
        workers = trainer.workers
        several = f"workers={span(workers)} " if len(workers) > 1 else ""
        shards = "/".join(dict.fromkeys(str(len(worker.shard)) for worker in workers))
        say(
            f"[Rank {self.comm.rank}] world={trainer.world} {several}"
            f"batch/rank={trainer.settings.batch_per_rank} shard={shards} samples (uint8, NHWC)"
        )
        if self.progress:
            self.progress.start(trainer)

    def _print_header(self, trainer: Trainer) -> None:
        place = "CIFAR dir" if trainer.dataset.name in CIFAR else "Dataset"
        say(f"[INFO] {place}: {trainer.dataset.location}")
        for line in self.said:
            say(f"[INFO] {line}")
        settings, architecture = trainer.settings, trainer.network.architecture
        model = architecture.config
        say(
            f"[INFO] {model.architecture} width={model.width} input={model.input_size} "
            f"classes={architecture.classes} parameters={architecture.parameter_count:,} "
            f"backend={settings.backend} threads/rank={self.threads}"
        )
        planned = trainer.planned_bytes
        parts = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in planned.items())
        say(f"[INFO] Arrays of a rank: {sum(planned.values()) / 1e6:.1f} MB ({parts})")
        values = trainer.recipe.as_dict() | {
            "batch_per_rank": settings.batch_per_rank,
            "lr": trainer.recipe.peak_lr(trainer.global_batch),
        }
        del values["lr_base"]
        recipe = " ".join(f"{key}={plain(value)}" for key, value in values.items())
        say("\n".join(folded("[INFO] ", f"Recipe {recipe}")))
        here = self.comm.nodes.count(self.comm.nodes[0])
        warning = threads.oversubscription(here, self.threads, telemetry.node_cores())
        if warning:
            say(f"[WARNING] {warning}")
        for doubt in doubts(trainer):
            say(f"[WARNING] {as_options(doubt)}")

    def step_finished(self, epoch: int, step: int, images: int) -> None:
        self.epochs_kept = epoch
        if self.root and (epoch, step + 1) == (self.trainer.first_epoch, advice.STEPS):
            words = advice.sentence(self.trainer)
            if words:
                if self.progress:
                    self.progress.finish_epoch()
                say("\n".join(folded("[NETWORK] ", words)))
        if self.progress:
            self.progress.step(epoch)

    def epoch_finished(self, results: list[EpochResult], scores: Scores | None) -> None:
        if self.progress:
            self.progress.finish_epoch()
        epoch, several = results[0].epoch, f", {len(results)} workers" if len(results) > 1 else ""
        loss, acc = mean(result.loss for result in results), mean(result.acc for result in results)
        seconds, phases = results[0].seconds, results[0].phases
        waiting = ""
        if phases.wait_seconds > WORTH_A_WORD * seconds:
            waiting = f" ({phases.wait_seconds:.2f}s of it waiting for others)"
        say(
            f"[Rank {self.comm.rank}{several}] Epoch {epoch}/{self.epochs} loss={loss:.4f} "
            f"acc={acc:.4f} time={seconds:.2f}s{waiting}"
        )
        if self.root and scores is not None and epoch < self.epochs:
            split = self.trainer.split
            say(
                f"[Root] Epoch {epoch}/{self.epochs} {split} acc: {scores.main.accuracy:.4f} | "
                f"{split} loss: {scores.main.loss:.4f}{recalibrated(scores)}"
            )

    def finished(self, summary: Summary) -> None:
        if not self.root:
            return
        wall, loss = summary.wall_seconds, summary.train_loss
        epoch, acc = summary.epochs, 100 * summary.train_acc
        if summary.stopped_early:
            say(
                f"[Root] Stopped early, after epoch {epoch} of {self.epochs}: none was better than "
                f"epoch {summary.best_epoch}, which best.npz is of"
            )
        say(f"[Root] Global wall time: {wall:.2f}s")
        say(f"[Root] Mean train acc (epoch {epoch}): {acc:.2f}% | Mean train loss: {loss:.4f}")
        if summary.val_acc is not None:
            say(f"[Root] Val acc: {summary.val_acc:.4f} | Val loss: {summary.val_loss:.4f}")
        if summary.test_acc is not None:
            say(f"[Root] Test acc: {summary.test_acc:.4f} | Test loss: {summary.test_loss:.4f}")
        best, folder = self.trainer.run_files.best, self.trainer.run_files.folder
        if best.epoch and folder is not None:
            split, place = self.trainer.split, printable(folder.best)
            say(f"[Root] Best: epoch {best.epoch}, {split} acc: {best.accuracy:.4f} | {place}")
        if summary.bn_eval == "both" and summary.test_acc is not None:
            say(
                "[Root] The same weights with recalibrated statistics: test acc: "
                f"{summary.recalibrated_test_acc:.4f} | "
                f"test loss: {summary.recalibrated_test_loss:.4f}"
            )
        say(
            f"[Root] {summary.images_per_second:.1f} images/s | "
            f"Peak RSS (max across ranks): {summary.peak_rss_bytes / 1e6:.1f} MB, "
            f"{summary.planned_bytes / 1e6:.1f} MB of it planned arrays | "
            f"CPU% Process (mean over ranks): {summary.cpu_percent:.1f}"
        )
        if summary.slowest is not None:
            say(f"[Root] What slowed it: {summary.slowest}")
        place = "cifar_dir" if summary.dataset in CIFAR else "dataset"
        say(
            f"[SUMMARY] world={summary.world} epochs={summary.epochs} "
            f"batch/node={summary.batch_per_node} loss={loss:.4f} acc={acc:.2f}% "
            f"time={wall:.2f}s {place}={summary.location}"
        )


def recalibrated(scores: Scores) -> str:
    """What stands behind a line of scores where both kinds of statistics were tried."""
    if scores.moving is None or scores.recalibrated is None:
        return ""
    return f" | recalibrated: {scores.recalibrated.accuracy:.4f}"


def span(workers: Workers) -> str:
    return f"{workers[0].number}-{workers[-1].number}"


class TrainingProgress:
    """Images/s and time left, while a run is under way."""

    def __init__(self, stream: TextIO | None) -> None:
        self.stream = stream

    def start(self, trainer: Trainer) -> None:
        shard, self.epochs = trainer.workers[0].shard, trainer.settings.epochs
        self.steps = shard.steps * len(trainer.workers)  # of an epoch, on this rank
        self.images_per_step = shard.total / shard.full_steps / len(trainer.workers)
        self.before = trainer.run_files.first_step * len(trainer.workers)  # of the first epoch
        self.all_steps = (self.epochs - trainer.first_epoch) * self.steps - self.before
        self.done, self.begin = 0, time.monotonic()
        self.progress = Progress(self.stream, "[Root]")

    def step(self, epoch: int) -> None:
        self.done += 1
        left = self.all_steps - self.done
        speed = self.done / (time.monotonic() - self.begin)
        text = f"{speed * self.images_per_step:.0f} images/s, {clock(left / speed)} left in all"
        done_of_epoch = (self.before + self.done - 1) % self.steps + 1
        self.progress.show(f"Epoch {epoch + 1}/{self.epochs}", done_of_epoch, self.steps, text)

    def finish_epoch(self) -> None:
        self.progress.finish()


LAUNCHERS = {"mpiexec", "mpiexec.hydra", "mpirun", "orterun", "prterun"}


def terminal() -> TextIO | None:
    """Where a bar can be drawn: standard error or, as mpiexec pipes that, mpiexec's own."""
    if sys.stderr.isatty():
        return sys.stderr
    for parent in psutil.Process().parents():
        if parent.name() in LAUNCHERS:
            return _terminal_at(f"/proc/{parent.pid}/fd/2")
    return None


def _terminal_at(path: str) -> TextIO | None:
    """Another process's stream, if it is a terminal; nothing else is ever opened for writing.

    It may be the user's log: to open that would cut it off, and to open a pipe would keep its
    reader waiting. What stands there may change after the first look, so it is opened in a way
    that changes nothing, and looked at again.
    """
    try:
        if not stat.S_ISCHR(os.stat(path).st_mode):
            return None
        descriptor = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return None
    if not os.isatty(descriptor):
        os.close(descriptor)
        return None
    os.set_blocking(descriptor, True)
    return open(descriptor, "w", encoding="utf-8")


def folded(begin: str, text: str) -> list[str]:
    """Lines of at most COLUMNS characters, each of which begins with `begin`, for grep.

    A number stays with its %.
    """
    lines = textwrap.wrap(
        text.replace(" %", "\0%"),
        COLUMNS - len(begin),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [begin + line.replace("\0", " ") for line in lines]


def plain(value: object) -> str:
    """A recipe's value in a line: 0.133333, not 0.13333333333333333; a colour without blanks."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return str(value).replace(" ", "")


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
