"""A run and its folder: what ranks compare at the start, what is saved, how it resumes."""

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import npnet
from npnet.data.dataset import Dataset
from npnet.errors import NpnetError
from npnet.kernels.arrays import Floats
from npnet.machine import telemetry
from npnet.machine.clock import Times
from npnet.model.config import ModelConfig
from npnet.parallel.communicator import together
from npnet.training.checkpoint import VERSION, Checkpoint, Header
from npnet.training.costs import AfterEpoch, Earlier
from npnet.training.evaluate import Scores
from npnet.training.recipe import Recipe
from npnet.training.results import EpochResult, Summary
from npnet.training.run_folder import RunFolder
from npnet.training.settings import Settings

if TYPE_CHECKING:
    from npnet.training.trainer import Trainer


class Run:
    """What one training run reads from and writes to disk. Without a folder it writes nothing.

    With a `checkpoint` it goes on after its epochs, of which `first_epoch` are done.
    """

    def __init__(
        self, trainer: "Trainer", folder: RunFolder | None, checkpoint: Checkpoint | None
    ) -> None:
        self.trainer, self.comm, self.folder = trainer, trainer.comm, folder
        self.checkpoint, self.first_epoch = checkpoint, 0
        self.before = Earlier()
        if checkpoint is not None:
            self.first_epoch = checkpoint.header.epoch
            self._continue_from(checkpoint)
            if self.comm.rank == 0 and checkpoint.path is not None:
                log = RunFolder(checkpoint.path.parent)
                self.before = Earlier.of(log.read_log(), self.first_epoch)
            self.before = self.comm.broadcast(self.before)

    @property
    def resumed_from(self) -> str | None:
        return str(self.checkpoint.path) if self.checkpoint is not None else None

    def _continue_from(self, checkpoint: Checkpoint) -> None:
        """Momentum is saved by the root; it is every rank's only where gradients are summed."""
        trainer, done = self.trainer, checkpoint.header.epoch
        planned = trainer.settings.epochs
        with together(self.comm):
            checkpoint.load_into(trainer.parameters)
            if done >= planned:
                raise NpnetError(
                    f"nothing is left to train: the checkpoint has {done} of {planned} epochs; "
                    "give more `epochs`"
                )
        if trainer.recipe.sync == "gradients":
            trainer.optimiser.velocity[:] = checkpoint.velocity

    def begin(self) -> None:
        """Claim the folder, and say in it what the run is."""
        if self.folder is None:
            return
        with together(self.comm):
            if self.comm.rank == 0:
                self.folder.create(self.checkpoint)
                self.folder.write_config(self.config() | {"resumed_from": self.resumed_from})
        self.folder.path = self.comm.broadcast(self.folder.path)  # another, if its name was taken

    def config(self) -> dict[str, Any]:
        """Every value that decides this run, and where it runs."""
        trainer = self.trainer
        dataset = trainer.dataset
        return {
            "command": "train",
            "dataset": {"name": dataset.name, "location": dataset.location},
            "model": trainer.network.architecture.config.as_dict(),
            "settings": asdict(trainer.settings),
            "recipe": trainer.recipe.as_dict(),
            "peak_lr": trainer.recipe.peak_lr(trainer.global_batch),
            "world": trainer.world,
            "hosts": self.comm.hosts,
            "machine": telemetry.machine(),
        }

    def state(self, epochs_finished: int) -> Checkpoint:
        """The trainer's parameters, statistics and momenta after `epochs_finished` epochs."""
        trainer, settings = self.trainer, self.trainer.settings
        header = Header(
            version=VERSION,
            npnet=npnet.__version__,
            model=trainer.network.architecture.config,
            classes=tuple(trainer.dataset.classes),
            dataset=trainer.dataset.name,
            recipe=trainer.recipe,
            seed=settings.seed,
            epoch=epochs_finished,
            epochs=settings.epochs,
            world=trainer.world,
        )
        parameters = trainer.parameters
        vectors = (parameters.values, parameters.statistics, trainer.optimiser.velocity)
        return Checkpoint(header, *vectors)

    def save_epoch(
        self, number: int, results: list[EpochResult], test: Scores | None, testing: Times
    ) -> None:
        """A checkpoint, and a row of the log for each worker, of epoch `number`, from 1."""
        trainer = self.trainer
        trainer.clock.enter("checkpoint")
        if self.folder is not None:
            with together(self.comm):
                if self.comm.rank == 0:
                    self.folder.save_epoch(number, self.state(number))
        costs = asdict(AfterEpoch.of(trainer.meter, testing, trainer.meter.take()))
        rows = self.comm.of_all([result.columns() | costs | _columns(test) for result in results])
        if self.folder is not None:
            with together(self.comm):
                if self.comm.rank == 0:
                    self.folder.append_log(rows)
        trainer.clock.enter("other")

    def finish(self, summary: Summary, recalibrated: Floats | None) -> None:
        """The last state, with the statistics that gave the test score, and the summary."""
        if self.folder is None:
            return
        settings = self.trainer.settings
        with together(self.comm):
            if self.comm.rank == 0:
                state = self.state(settings.epochs)
                if settings.bn_eval == "recalibrated" and recalibrated is not None:
                    state = replace(state, statistics=recalibrated)
                self.folder.save_final(state)
                if self.before.known:  # else its time would be that of a part
                    self.folder.append_result(summary)
                self.folder.write_summary(asdict(summary))


def _columns(test: Scores | None) -> dict[str, float]:
    """A test's columns of the log."""
    if test is None:
        return {}
    columns = {"test_loss": test.main.loss, "test_acc": test.main.accuracy}
    if test.recalibrated is not None:
        loss, accuracy = test.recalibrated
        columns |= {"recalibrated_test_loss": loss, "recalibrated_test_acc": accuracy}
    return columns


def what_ranks_share(
    dataset: Dataset,
    model: ModelConfig,
    recipe: Recipe,
    settings: Settings,
    checkpoint: Checkpoint | None,
) -> dict[str, object]:
    """What must be the same on every rank, or they would wait for each other or train apart."""
    return {
        "npnet": npnet.__version__,
        "code": telemetry.source_digest(),
        **{f"model {key}": value for key, value in model.as_dict().items()},
        **asdict(settings),
        **{f"recipe {key}": value for key, value in recipe.as_dict().items()},
        "dataset": dataset.name,
        "dataset digest": dataset.digest(),
        "training images": dataset.size("train"),
        "test images": dataset.size("test"),
        "classes": tuple(dataset.classes),
        "checkpoint": checkpoint.digest() if checkpoint is not None else None,
    }
