"""Training: the way of one batch, from a shard's bytes to the updated parameters."""

from dataclasses import asdict, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

import npnet
from npnet.data.batches import Batch, ImageInput, training_shards
from npnet.data.dataset import Dataset
from npnet.data.seeds import DROPOUT, generator
from npnet.errors import NpnetError
from npnet.kernels import backend as kernels_of
from npnet.kernels.arrays import Floats
from npnet.machine import telemetry
from npnet.model.inference import Inference
from npnet.model.memory import training_bytes
from npnet.model.mobilenet_v2 import mobilenet_v2
from npnet.model.network import BatchNorm, Network
from npnet.model.parameters import initialise
from npnet.parallel.communicator import (
    Communicator,
    agree,
    together,
)
from npnet.parallel.strategies import STRATEGIES
from npnet.parallel.workers import Worker, Workers, workers_of
from npnet.training.checkpoint import VERSION, Checkpoint, Header
from npnet.training.evaluate import (
    Score,
    Scores,
    evaluate,
    recalibrate,
)
from npnet.training.guard import Guard
from npnet.training.recipe import Recipe
from npnet.training.results import EpochResult, Summary
from npnet.training.run_folder import RunFolder
from npnet.training.settings import Settings


class Reporter(Protocol):
    """Who is told of a run's course. Each rank has its own; the engine itself prints nothing."""

    def started(self, trainer: "Trainer") -> None: ...

    def step_finished(self, epoch: int, step: int, images: int) -> None: ...

    def epoch_finished(self, results: list[EpochResult], test: Scores | None) -> None: ...

    def finished(self, summary: Summary) -> None: ...


class Trainer:
    """A rank of a training run.

    Raises NpnetError, the same on every rank, if the data or the settings do not fit.
    """

    def __init__(
        self,
        dataset: Dataset,
        recipe: Recipe,
        settings: Settings,
        comm: Communicator,
        reporter: Reporter,
        folder: RunFolder | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> None:
        self.dataset, self.recipe, self.settings = dataset, recipe, settings
        self.comm, self.reporter, self.folder = comm, reporter, folder
        mine, self.world = workers_of(comm, settings.workers_per_rank)
        with together(comm):
            settings.check(recipe)
            architecture = mobilenet_v2(
                settings.width, settings.input_size, len(dataset.classes), recipe.dropout
            )
            shards = training_shards(
                dataset,
                recipe,
                settings.batch_per_rank,
                settings.seed,
                mine,
                self.world,
                settings.max_steps,
            )
            dataset.size("test")  # damaged files come to light now, not after an epoch
        agree(comm, self._what_ranks_share(checkpoint))
        self.network = Network(
            architecture,
            settings.batch_per_rank,
            settings.backend,
            settings.dtype,
            BatchNorm(
                recipe.bn_momentum, recipe.bn_epsilon, comm.sum if settings.sync_bn else None
            ),
        )
        self.parameters = self.network.parameters
        self.inference = Inference(
            architecture,
            self.parameters,
            settings.batch_per_rank,
            settings.backend,
            recipe.bn_epsilon,
        )
        self.velocity: Floats = np.zeros_like(self.parameters.values)
        self.kernels = kernels_of(settings.backend)
        self.image_input = ImageInput(recipe, self.kernels)
        self.synchroniser = STRATEGIES[recipe.sync](recipe.sync_steps)
        self.workers = Workers(
            shards,
            self.parameters,
            self.velocity,
            comm,
            own_weights=not self.synchroniser.every_step,
            deterministic=settings.deterministic,
        )
        self.first_epoch = 0
        self.resumed_from = str(checkpoint.path) if checkpoint is not None else None
        self.training_seconds, self.trained_images = 0.0, 0  # of this rank, so far
        initialise(self.parameters, recipe.initialiser, settings.seed, recipe.zero_gamma)
        if checkpoint is not None:
            self._continue_from(checkpoint)
        self.workers.start_equal()
        self.guard = Guard(
            self.parameters, self.synchroniser, comm, folder, self.first_epoch, self.resumed_from
        )
        if folder is not None:
            with together(comm):
                if comm.rank == 0:
                    folder.create(checkpoint)
                    folder.write_config(self.config() | {"resumed_from": self.resumed_from})
            folder.path = comm.broadcast(folder.path)  # another one, if its name was taken

    @property
    def planned_bytes(self) -> dict[str, int]:
        """The arrays that this rank keeps from start to end."""
        settings, architecture = self.settings, self.network.architecture
        arrays = training_bytes(architecture, settings.batch_per_rank, settings.dtype)
        images = sum(worker.shard.images.pixels.nbytes for worker in self.workers)
        rows = {"rows of workers": self.workers.nbytes} if len(self.workers) > 1 else {}
        return {"images": images} | arrays | rows

    @property
    def global_batch(self) -> int:
        return self.settings.batch_per_rank * self.world

    @property
    def steps(self) -> int:
        """Of an epoch, the same for every worker."""
        steps: int = self.workers[0].shard.steps
        return steps

    @property
    def initial_statistics_left(self) -> float:
        """Which part of the running statistics will still be their initial value at the end.

        0 where they are not meant to change, or were formed by another run before.
        """
        if self.settings.freeze_bn or self.first_epoch:
            return 0.0
        return self.recipe.bn_momentum ** (self.settings.epochs * self.steps)

    @np.errstate(over="ignore", invalid="ignore")  # a divergence is told in one line, at the loss
    def run(self) -> Summary:
        """Train from the first epoch to the last, then test. Returns the same on every rank."""
        self.reporter.started(self)
        watch = telemetry.Stopwatch()
        test: Scores | None = None
        results: list[EpochResult] = []
        for epoch in range(self.first_epoch, self.settings.epochs):
            results = self.train_epoch(epoch)
            last = epoch + 1 == self.settings.epochs
            if last or self.settings.evaluate_each_epoch:
                test = self.evaluate()
            self.guard.check_state(epoch, test.main.loss if test else None)
            self.reporter.epoch_finished(results, test)
            self._save_epoch(epoch, results, test)
        assert test is not None  # the last epoch is always tested
        summary = self._summarise(results, test, watch)
        self._save_summary(summary)
        self.comm.barrier()  # what the others print comes before the last word
        self.reporter.finished(summary)
        return summary

    def evaluate(self) -> Scores:
        """Loss and accuracy on the test images, with the statistics that `bn_eval` asks for."""
        statistics, choice = self.parameters.statistics, self.settings.bn_eval
        moving = self._score() if choice != "recalibrated" else None
        if choice == "moving":
            return Scores(moving, None)
        where = (self.dataset, self.image_input, self.comm, self.settings.workers_per_rank)
        kept, self.recalibrated = statistics.copy(), recalibrate(self.network, *where)
        statistics[:] = self.recalibrated
        recalibrated = self._score()
        statistics[:] = kept
        return Scores(moving, recalibrated)

    def _score(self) -> Score:
        self.inference.fold()
        dataset, per_rank = self.dataset, self.settings.workers_per_rank
        return evaluate(self.inference, dataset, "test", self.image_input, self.comm, per_rank)

    def train_epoch(self, epoch: int) -> list[EpochResult]:
        """One pass over the shards: each line of the loop is a station on the way of a batch.

        Returns what each worker of this rank has reached.
        """
        watch, synchroniser, workers = telemetry.Stopwatch(), self.synchroniser, self.workers
        for worker in workers:
            worker.begin(epoch)
        for steps in synchroniser.rounds(self.steps):
            for worker in workers.in_turn():
                for step in steps:
                    update = partial(self._update, epoch, step)
                    batch = next(worker.batches)
                    self.image_input.fill(self.network.images, worker.shard.images.pixels, batch)
                    self._forward_backward(worker, epoch, step, batch)
                    synchroniser.after_backward(workers, worker, update)
                    self.reporter.step_finished(epoch, step, len(batch))
            synchroniser.meet(workers, update)
        synchroniser.after_epoch(workers)
        return self._results(epoch, watch)

    def _results(self, epoch: int, watch: telemetry.Stopwatch) -> list[EpochResult]:
        seconds, tallies = watch.seconds, [worker.tally for worker in self.workers]
        images = sum(tally.images for tally in tallies)
        self.training_seconds += seconds
        self.trained_images += images
        return [
            EpochResult(
                epoch=epoch + 1,
                worker=worker.number,
                rank=self.comm.rank,
                host=self.comm.hosts[self.comm.rank],
                loss=worker.tally.loss / max(worker.tally.images, 1),
                acc=worker.tally.hits / max(worker.tally.images, 1),
                lr=self._lr(epoch, self.steps - 1),
                seconds=seconds,
                images_per_second=images / seconds,
                cpu_percent=watch.cpu_percent,
                peak_rss_bytes=telemetry.peak_rss_bytes(),
            )
            for worker in self.workers
        ]

    def _forward_backward(self, worker: Worker, epoch: int, step: int, batch: Batch) -> None:
        """Leave gradient and loss in `parameters.gradients_and_loss`; count loss and hits of the worker.

        There they are scaled as the strategy asks: under `gradients` the sum over workers is the
        global batch's mean.
        """
        n, network, shared = len(batch), self.network, self.parameters.gradients_and_loss
        if n == 0:  # more workers than images in this step
            shared[:] = 0
            return
        dropout = None
        if self.recipe.dropout:
            dropout = generator(self.settings.seed, DROPOUT, epoch, step, worker.number)
        logits = network.forward(n, True, self.settings.freeze_bn, dropout)
        loss = float(network.loss(batch.labels, self.recipe.label_smoothing).sum())
        scale = self.synchroniser.loss_scale(n, batch.everywhere)
        network.backward(scale)
        shared[-1] = scale * loss
        worker.count(loss, int(np.count_nonzero(logits.argmax(axis=1) == batch.labels)), n)

    def _update(self, epoch: int, step: int) -> None:
        """Move the weights by the gradient in `parameters.gradients_and_loss`."""
        self.guard.check_loss(self.workers, epoch, step)
        if self.recipe.classifier_gradient != 1:
            for name in ("classifier.weight", "classifier.bias"):
                self.parameters.gradient(name)[...] *= self.recipe.classifier_gradient
        self.kernels.sgd_update(
            self.parameters.values,
            self.velocity,
            self.parameters.gradients,
            self.parameters.decayed,
            self._lr(epoch, step),
            self.recipe.momentum,
            self.recipe.weight_decay,
            self.recipe.nesterov,
        )

    def _lr(self, epoch: int, step: int) -> float:
        """The rate in the middle of the step: neither the first nor the last step is of rate 0."""
        time = epoch + (step + 0.5) / self.steps
        return self.recipe.lr_at(time, self.settings.epochs, self.global_batch)

    def _what_ranks_share(self, checkpoint: Checkpoint | None) -> dict[str, object]:
        """What must be the same on every rank, or they would wait for each other or train apart."""
        dataset = self.dataset
        return {
            "npnet": npnet.__version__,
            "code": telemetry.source_digest(),
            **asdict(self.settings),
            **{f"recipe {key}": value for key, value in self.recipe.as_dict().items()},
            "dataset": dataset.name,
            "dataset digest": dataset.digest(),
            "training images": dataset.size("train"),
            "test images": dataset.size("test"),
            "classes": tuple(dataset.classes),
            "checkpoint": checkpoint.digest() if checkpoint is not None else None,
        }

    def config(self) -> dict[str, Any]:
        """Every value that decides this run, and where it runs."""
        return {
            "command": "train",
            "dataset": {"name": self.dataset.name, "location": self.dataset.location},
            "settings": asdict(self.settings),
            "recipe": self.recipe.as_dict(),
            "peak_lr": self.recipe.peak_lr(self.global_batch),
            "world": self.world,
            "hosts": self.comm.hosts,
            "machine": telemetry.machine(),
        }

    def checkpoint(self, epochs_finished: int) -> Checkpoint:
        """The state after so many epochs."""
        settings = self.settings
        header = Header(
            version=VERSION,
            npnet=npnet.__version__,
            architecture=self.network.architecture.name,
            width=settings.width,
            input_size=settings.input_size,
            classes=tuple(self.dataset.classes),
            dropout=self.recipe.dropout,
            dataset=self.dataset.name,
            recipe=self.recipe.as_dict(),
            seed=settings.seed,
            epoch=epochs_finished,
            epochs=settings.epochs,
            world=self.world,
        )
        return Checkpoint(header, self.parameters.values, self.parameters.statistics, self.velocity)

    def _continue_from(self, checkpoint: Checkpoint) -> None:
        """Momentum is saved by the root; it is every rank's only where gradients are shared."""
        done, planned = checkpoint.header.epoch, self.settings.epochs
        with together(self.comm):
            checkpoint.load_into(self.parameters)
            if done >= planned:
                raise NpnetError(
                    f"nothing is left to train: the checkpoint has {done} of {planned} epochs; "
                    "give more --epochs"
                )
        if self.recipe.sync == "gradients":
            self.velocity[:] = checkpoint.velocity
        self.first_epoch = done

    def _save_epoch(self, epoch: int, results: list[EpochResult], test: Scores | None) -> None:
        columns = {}
        if test is not None:
            columns = {"test_loss": test.main.loss, "test_acc": test.main.accuracy}
            if test.recalibrated is not None:
                loss, accuracy = test.recalibrated
                columns |= {"recalibrated_test_loss": loss, "recalibrated_test_acc": accuracy}
        rows = self.comm.of_all([asdict(result) | columns for result in results])
        if self.folder is None:
            return
        with together(self.comm):
            if self.comm.rank == 0:
                self.folder.save_epoch(epoch + 1, self.checkpoint(epoch + 1))
                self.folder.append_log(rows)

    def _summarise(
        self, results: list[EpochResult], test: Scores, watch: telemetry.Stopwatch
    ) -> Summary:
        ranks = self.comm.gather((watch.seconds, watch.cpu_percent, telemetry.peak_rss_bytes()))
        seconds, cpu, peak = zip(*ranks, strict=True)
        images, training = zip(
            *self.comm.gather((self.trained_images, self.training_seconds)), strict=True
        )
        workers = self.comm.of_all([(result.loss, result.acc) for result in results])
        loss, acc = zip(*workers, strict=True)
        settings, recalibrated = self.settings, test.recalibrated
        return Summary(
            world=self.world,
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
            wall_seconds=max(seconds),
            images_per_second=sum(images) / max(training),
            cpu_percent=sum(cpu) / len(cpu),
            peak_rss_bytes=max(peak),
            planned_bytes=sum(self.planned_bytes.values()),
            dataset=self.dataset.name,
            location=self.dataset.location,
            recipe=self.recipe.name,
            sync=self.recipe.sync,
        )

    def _save_summary(self, summary: Summary) -> None:
        if self.folder is None:
            return
        with together(self.comm):
            if self.comm.rank == 0:
                self.folder.save_final(self._final())
                self.folder.write_summary(asdict(summary))
                if self.first_epoch == 0:  # else its time would be that of a part
                    self.folder.append_scaling_result(summary)

    def _final(self) -> Checkpoint:
        """The last state, with the statistics that gave the test score."""
        state = self.checkpoint(self.settings.epochs)
        if self.settings.bn_eval == "recalibrated":
            return replace(state, statistics=self.recalibrated)
        return state
