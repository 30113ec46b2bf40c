"""Training: the way of one batch, from a shard's bytes to the updated parameters."""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

import npnet
from npnet import telemetry
from npnet.architecture import mobilenet_v2
from npnet.checkpoint import VERSION, Checkpoint, Header
from npnet.data.batches import Batch, ImageInput, TrainingShard
from npnet.data.dataset import Dataset
from npnet.errors import NpnetError
from npnet.evaluate import Score, evaluate
from npnet.inference import Inference
from npnet.kernels import backend as kernels_of
from npnet.kernels.arrays import Floats
from npnet.memory import training_bytes
from npnet.network import BatchNorm, Network
from npnet.parallel.communicator import CollectiveError, Communicator, agree, together
from npnet.parallel.strategies import STRATEGIES
from npnet.parameters import initialise
from npnet.recipe import Recipe
from npnet.results import EpochResult, Summary
from npnet.run_folder import RunFolder
from npnet.seeds import DROPOUT, generator


@dataclass(frozen=True)
class Settings:
    """What a run is, beside its recipe and dataset."""

    epochs: int
    batch_per_rank: int
    width: float
    input_size: int
    seed: int
    ranks_per_node: int
    backend: str = "numba"
    dtype: str = "float32"
    freeze_bn: bool = False  # train with running statistics, for fine-tuning
    evaluate_each_epoch: bool = True
    max_steps: int | None = None  # of an epoch, to measure speed without a full one


class Reporter(Protocol):
    """Who is told of a run's course. Each rank has its own; the engine itself prints nothing."""

    def started(self, trainer: "Trainer") -> None: ...

    def step_finished(self, epoch: int, step: int, images: int) -> None: ...

    def epoch_finished(self, result: EpochResult, test: Score | None) -> None: ...

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
        with together(comm):
            architecture = mobilenet_v2(
                settings.width, settings.input_size, len(dataset.classes), recipe.dropout
            )
            self.shard = TrainingShard(
                dataset,
                recipe,
                settings.batch_per_rank,
                settings.seed,
                comm.rank,
                comm.size,
                settings.max_steps,
            )
            dataset.size("test")  # damaged files come to light now, not after an epoch
        agree(comm, self._what_ranks_share(checkpoint))
        self.network = Network(
            architecture,
            settings.batch_per_rank,
            settings.backend,
            settings.dtype,
            BatchNorm(recipe.bn_momentum, recipe.bn_epsilon),
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
        self.synchroniser = STRATEGIES[recipe.sync](comm)
        self.first_epoch = 0
        self.resumed_from = str(checkpoint.path) if checkpoint is not None else None
        self.training_seconds, self.trained_images = 0.0, 0  # of this rank, so far
        initialise(self.parameters, recipe.initialiser, settings.seed)
        if checkpoint is not None:
            self._continue_from(checkpoint)
        if folder is not None:
            with together(comm):
                if comm.rank == 0:
                    folder.create(checkpoint)
                    folder.write_config(self.config() | {"resumed_from": self.resumed_from})

    @property
    def planned_bytes(self) -> dict[str, int]:
        """The arrays that this rank keeps from start to end."""
        settings, architecture = self.settings, self.network.architecture
        arrays = training_bytes(architecture, settings.batch_per_rank, settings.dtype)
        return {"images": self.shard.images.pixels.nbytes} | arrays

    @property
    def global_batch(self) -> int:
        return self.settings.batch_per_rank * self.comm.size

    @np.errstate(over="ignore", invalid="ignore")  # a divergence is told in one line, at the loss
    def run(self) -> Summary:
        """Train from the first epoch to the last, then test. Returns the same on every rank."""
        self.reporter.started(self)
        watch = telemetry.Stopwatch()
        test: Score | None = None
        result: EpochResult | None = None
        for epoch in range(self.first_epoch, self.settings.epochs):
            result = self.train_epoch(epoch)
            last = epoch + 1 == self.settings.epochs
            if last or self.settings.evaluate_each_epoch:
                test = self.evaluate()
            self._check_finite(epoch, test)
            self.reporter.epoch_finished(result, test)
            self._save_epoch(epoch, result, test)
        assert result is not None
        assert test is not None  # the last epoch is always tested
        summary = self._summarise(result, test, watch)
        self._save_summary(summary)
        self.comm.barrier()  # what the others print comes before the last word
        self.reporter.finished(summary)
        return summary

    def evaluate(self) -> Score:
        """Loss and accuracy on the test images, with the running statistics."""
        self.inference.fold()
        return evaluate(self.inference, self.dataset, "test", self.image_input, self.comm)

    def train_epoch(self, epoch: int) -> EpochResult:
        """One pass over the shard: each line of the loop is a station on the way of a batch."""
        watch = telemetry.Stopwatch()
        loss, hits, images = 0.0, 0, 0
        for step, batch in enumerate(self.shard.epoch(epoch)):
            lr = self._lr(epoch, step)
            self.image_input.fill(self.network.images, self.shard.images.pixels, batch)
            step_loss, step_hits = self._forward_backward(epoch, step, batch)
            self.synchroniser.after_backward(self.parameters)
            self._check_loss(step_loss, epoch, step)
            self._update(lr)
            loss += step_loss
            hits += step_hits
            images += len(batch)
            self.reporter.step_finished(epoch, step, len(batch))
        self.synchroniser.after_epoch(self.parameters, self.shard.share)
        seconds = watch.seconds
        self.training_seconds += seconds
        self.trained_images += images
        return EpochResult(
            epoch=epoch + 1,
            rank=self.comm.rank,
            host=self.comm.hosts[self.comm.rank],
            loss=loss / max(images, 1),
            acc=hits / max(images, 1),
            lr=lr,
            seconds=seconds,
            images_per_second=images / seconds,
            cpu_percent=watch.cpu_percent,
            peak_rss_bytes=telemetry.peak_rss_bytes(),
        )

    def _forward_backward(self, epoch: int, step: int, batch: Batch) -> tuple[float, int]:
        """Leave gradient and loss in `parameters.shared`; return the batch's summed loss and hits.

        There they are scaled as the strategy asks: the sum over ranks is the global batch's mean.
        """
        n, network, shared = len(batch), self.network, self.parameters.shared
        if n == 0:  # more ranks than images in this step
            shared[:] = 0
            return 0.0, 0
        dropout = None
        if self.recipe.dropout:
            dropout = generator(self.settings.seed, DROPOUT, epoch, step, self.comm.rank)
        logits = network.forward(n, True, self.settings.freeze_bn, dropout)
        loss = float(network.loss(batch.labels, self.recipe.label_smoothing).sum())
        scale = self.synchroniser.loss_scale(n, batch.everywhere)
        network.backward(scale)
        shared[-1] = scale * loss
        return loss, int(np.count_nonzero(logits.argmax(axis=1) == batch.labels))

    def _check_loss(self, loss: float, epoch: int, step: int) -> None:
        """Stop where the loss is not finite, before it reaches the parameters.

        Ranks that meet at each step all see it in the shared loss, and end with one message.
        """
        if np.isfinite(self.parameters.shared[-1]):
            return
        every_step = self.synchroniser.every_step
        losses = self.comm.gather(loss) if every_step else [loss]
        first = next((i for i, value in enumerate(losses) if not math.isfinite(value)), 0)
        rank = first if every_step else self.comm.rank
        what = f"the loss is {losses[first]} on rank {rank}, epoch {epoch + 1}, step {step + 1}"
        raise (CollectiveError if every_step else NpnetError)(self._advice(what, epoch))

    def _update(self, lr: float) -> None:
        self.kernels.sgd_update(
            self.parameters.values,
            self.velocity,
            self.parameters.gradients,
            self.parameters.decayed,
            lr,
            self.recipe.momentum,
            self.recipe.weight_decay,
            self.recipe.nesterov,
        )

    def _lr(self, epoch: int, step: int) -> float:
        """The rate in the middle of the step: neither the first nor the last step is of rate 0."""
        time = epoch + (step + 0.5) / self.shard.steps
        return self.recipe.lr_at(time, self.settings.epochs, self.global_batch)

    def _check_finite(self, epoch: int, test: Score | None) -> None:
        """The epoch's last update may overflow after its last loss: do not save such a state."""
        state = (self.parameters.values, self.parameters.statistics)
        with together(self.comm):
            if not all(np.isfinite(array).all() for array in state):
                what = f"the weights or statistics after epoch {epoch + 1} are not finite"
                raise NpnetError(self._advice(what, epoch))
            if test is not None and not math.isfinite(test.loss):
                what = f"the test loss after epoch {epoch + 1} is {test.loss}"
                raise NpnetError(self._advice(what, epoch))

    def _advice(self, what: str, epoch: int) -> str:
        """What to do about a divergence in `epoch`, and where the last good weights are."""
        kept: Path | str | None = None
        if epoch > self.first_epoch and self.folder is not None:
            kept = self.folder.epoch(epoch)
        elif epoch == self.first_epoch:
            kept = self.resumed_from
        where = (
            f"the weights of epoch {epoch} are kept in {kept}" if kept else "no epoch was finished"
        )
        return f"{what}: lower --lr or lengthen --warmup-epochs; {where}"

    def _what_ranks_share(self, checkpoint: Checkpoint | None) -> dict[str, object]:
        """What must be the same on every rank, or they would wait for each other or train apart."""
        dataset = self.dataset
        return {
            "npnet": npnet.__version__,
            **asdict(self.settings),
            **{f"recipe {key}": value for key, value in self.recipe.as_dict().items()},
            "dataset": dataset.name,
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
            "world": self.comm.size,
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
            world=self.comm.size,
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

    def _save_epoch(self, epoch: int, result: EpochResult, test: Score | None) -> None:
        score = {"test_loss": test.loss, "test_acc": test.accuracy} if test else {}
        rows = self.comm.gather(asdict(result) | score)
        if self.folder is None:
            return
        with together(self.comm):
            if self.comm.rank == 0:
                self.folder.save_epoch(epoch + 1, self.checkpoint(epoch + 1))
                self.folder.append_log(rows)

    def _summarise(self, result: EpochResult, test: Score, watch: telemetry.Stopwatch) -> Summary:
        mine = (result.loss, result.acc, watch.seconds, watch.cpu_percent)
        loss, acc, seconds, cpu = zip(*self.comm.gather(mine), strict=True)
        images, training = zip(
            *self.comm.gather((self.trained_images, self.training_seconds)), strict=True
        )
        peak = max(self.comm.gather(telemetry.peak_rss_bytes()))
        settings, world = self.settings, self.comm.size
        return Summary(
            world=world,
            epochs=settings.epochs,
            batch_per_node=settings.batch_per_rank * settings.ranks_per_node,
            batch_per_rank=settings.batch_per_rank,
            train_loss=sum(loss) / world,
            train_acc=sum(acc) / world,
            test_loss=test.loss,
            test_acc=test.accuracy,
            wall_seconds=max(seconds),
            images_per_second=sum(images) / max(training),
            cpu_percent=sum(cpu) / world,
            peak_rss_bytes=peak,
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
                self.folder.save_final(self.checkpoint(summary.epochs))
                self.folder.write_summary(asdict(summary))
                if self.first_epoch == 0:  # else its time would be that of a part
                    self.folder.append_scaling_result(summary)
