"""A run and its folder: what ranks compare at the start, what is saved, how it resumes."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import npnet
from npnet.data.dataset import Dataset, Split
from npnet.data.source import source_of
from npnet.errors import NotWritten, NpnetError
from npnet.kernels.arrays import Floats
from npnet.machine import telemetry
from npnet.machine.clock import Times
from npnet.model.config import ModelConfig
from npnet.parallel.communicator import together
from npnet.training.best import Best
from npnet.training.checkpoint import ROWS, TALLIES, VERSION, Checkpoint, Header, load
from npnet.training.costs import AfterEpoch, Earlier
from npnet.training.evaluate import Scores
from npnet.training.reached import Done
from npnet.training.recipe import Recipe
from npnet.training.results import EpochResult, Summary
from npnet.training.run_folder import RunFolder
from npnet.training.settings import Settings

if TYPE_CHECKING:
    from npnet.training.trainer import Trainer


class Run:
    """What one training run reads from and writes to disk. Without a folder it writes nothing.

    With a `checkpoint` it goes on after its epochs, of which `first_epoch` are done. `said`: lines
    about what does not go on as it was. The order of writes is RunFolder's.
    """

    def __init__(
        self, trainer: "Trainer", folder: RunFolder | None, checkpoint: Checkpoint | None
    ) -> None:
        self.trainer, self.comm, self.folder = trainer, trainer.comm, folder
        self.checkpoint, self.first_epoch, self.first_step = checkpoint, 0, 0
        self._tallies: Floats | None = None  # of the epoch under way, a row for each worker
        self.before, self.best = Earlier(), Best()
        self.said: list[str] = []
        self._rows: list[dict[str, Any]] = []  # of the log, of epochs that are not saved yet
        self._refused: str | None = None  # what the disk did not take, if that was the last word
        if checkpoint is not None:
            self.first_epoch = checkpoint.header.epoch
            if self.comm.rank == 0 and checkpoint.path is not None:
                log = RunFolder(checkpoint.path.parent).read_log()
                self.before = Earlier.of(log, self.first_epoch)
                if folder is not None and folder.holds(checkpoint):
                    self.best = Best.of(log, self.first_epoch)
            self.before, self.best = self.comm.broadcast((self.before, self.best))
            self._continue_from(checkpoint)

    @property
    def resumed_from(self) -> str | None:
        return str(self.checkpoint.path) if self.checkpoint is not None else None

    def _continue_from(self, checkpoint: Checkpoint) -> None:
        """Restore what workers have in common."""
        trainer, header = self.trainer, checkpoint.header
        done, planned = header.epoch, trainer.settings.epochs
        patience = trainer.settings.patience
        finishable = self.comm.broadcast(self._is_unfinished(checkpoint))
        with together(self.comm):
            checkpoint.load_into(trainer.parameters)
            if done > planned or (done == planned and not finishable):
                raise NpnetError(
                    f"nothing is left to train: the checkpoint has {done} of {planned} epochs; "
                    "give more `epochs`"
                )
            if self.best.stops(done, patience) and not finishable:
                raise NpnetError(
                    f"nothing is left to train: in {patience} epochs none was better than epoch "
                    f"{self.best.epoch}; give a larger `patience`"
                )
            digest = trainer.dataset.digest()
            if header.dataset_digest not in (None, digest):
                place = "data" if header.source and header.source.is_path else "data_dir"
                raise NpnetError(
                    f"{trainer.dataset.name} in {trainer.dataset.location} holds other images than "
                    f"{self.resumed_from} was trained on: give their folder to `{place}`"
                )
            if tuple(trainer.dataset.classes) != header.classes:
                raise NpnetError(
                    f"{trainer.dataset.name} has other classes than {self.resumed_from}, or in "
                    "another order: give the dataset that it was trained on"
                )
        trainer.optimiser.velocity[:] = checkpoint.velocity

    def _is_unfinished(self, checkpoint: Checkpoint) -> bool:
        """Whether the run has no summary yet, as if it ended before that. Rank 0 knows."""
        folder = self.folder
        if folder is None or not folder.holds(checkpoint) or not self.before.known:
            return False
        return not folder.summary.exists()

    def restore_rows(self) -> None:
        """Give each worker what was its own, now that all have what they have in common."""
        if self.checkpoint is None:
            return
        trainer, header = self.trainer, self.checkpoint.header
        own = self._own_rows(in_epoch=True, synchronised=False)
        saved = self.comm.broadcast(tuple(self.checkpoint.rows))
        for name in saved:
            if name in own and header.world == trainer.world:
                self.comm.scatter_rows(self.checkpoint.rows.get(name), own[name])
                if name == "tallies":
                    self._tallies = own[name]
            elif name == "velocities":
                self.said.append(
                    f"the momenta of {header.world} workers are averaged: there are now "
                    f"{trainer.world}, with `sync` {trainer.recipe.sync}"
                )
        if "velocities" in own and "velocities" not in saved and trainer.world > 1:
            self.said.append("all workers begin with the same momentum: no other was saved")
        if header.world != trainer.world:
            self.said.append(
                f"the images are dealt to {trainer.world} workers instead of {header.world}"
            )
        self.checkpoint = replace(self.checkpoint, rows={})  # which may be large
        self.first_step = header.step * trainer.steps // max(header.steps, 1)
        if header.step and (header.world, header.steps) != (trainer.world, trainer.steps):
            self._tallies = None
            self.said.append(
                f"epoch {header.epoch + 1} goes on after {self.first_step} of {trainer.steps} "
                f"steps, which were {header.step} of {header.steps}; its losses are of the rest"
            )

    def begin_epoch(self, epoch: int) -> int:
        """The steps that are done of an epoch which begins now, and what they came to."""
        if epoch != self.first_epoch or not self.first_step:
            return 0
        for worker in self.trainer.workers:
            for _ in range(self.first_step):
                next(worker.batches)
            if self._tallies is not None:
                loss, hits, images, *times = self._tallies[worker.row].tolist()
                worker.tally.loss, worker.tally.hits = loss, int(hits)
                worker.tally.images = int(images)
                if worker.row == 0:  # the rank's
                    self.trainer.meter.go_on(times)
        return self.first_step

    def _own_rows(self, in_epoch: bool, synchronised: bool) -> dict[str, Floats]:
        """What the workers of this rank do not have in common, see ROWS."""
        workers, rows = self.trainer.workers, {}
        if not self.trainer.synchroniser.every_step:
            rows["velocities"] = workers.velocities
            if not synchronised:
                rows["weights"] = workers.values
        if in_epoch:
            rows["running"] = workers.statistics
            rows["tallies"] = np.zeros((len(workers), TALLIES))
        return rows

    def begin(self) -> None:
        """Claim the folder, and say in it what the run is."""
        if self.folder is None:
            return
        with together(self.comm):
            if self.comm.rank == 0:
                self.folder.create(self.checkpoint)
                origin = self.checkpoint.path if self.checkpoint is not None else None
                # By a path that holds wherever the next start is made.
                place = str(origin.absolute()) if origin is not None else None
                self.folder.write_config(self.config() | {"resumed_from": place})
        self.folder.path = self.comm.broadcast(self.folder.path)  # another, if its name was taken
        self._save_best()  # which a kill may have prevented

    def config(self) -> dict[str, Any]:
        """Every value that decides this run, and where it runs."""
        trainer = self.trainer
        dataset, source = trainer.dataset, source_of(trainer.dataset)
        return {
            "command": "train",
            "dataset": {
                "name": dataset.name,
                "location": dataset.location,
                "source": asdict(source) if source is not None else None,
            },
            "model": trainer.network.architecture.config.as_dict(),
            "settings": asdict(trainer.settings),
            "recipe": trainer.recipe.as_dict(),
            "peak_lr": trainer.recipe.peak_lr(trainer.global_batch),
            "init": trainer.weights.place() if trainer.weights is not None else None,
            "world": trainer.world,
            "hosts": self.comm.hosts,
            "machine": telemetry.machine(),
        }

    def state(self, epochs_finished: int, step: int = 0, synchronised: bool = True) -> Checkpoint:
        """Parameters, statistics and momenta after some epochs, and steps. All ranks must call.

        Rank 0 has a row for each worker of what each has for itself, and the mean of them.
        """
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
            step=step,
            steps=trainer.steps,
            settings=asdict(settings),
            dataset_digest=trainer.dataset.digest(),
            source=source_of(trainer.dataset),
        )
        own = self._own_rows(step > 0, synchronised)
        if "tallies" in own:
            times = trainer.meter.numbers()
            for worker in trainer.workers:
                tally = worker.tally
                own["tallies"][worker.row] = (tally.loss, tally.hits, tally.images, *times)
        gathered = {name: self.comm.gather_rows(rows) for name, rows in own.items()}
        rows = {name: matrix for name, matrix in gathered.items() if matrix is not None}
        means = {ROWS[name]: matrix.mean(axis=0) for name, matrix in rows.items()}
        return Checkpoint(
            header,
            means.get("values", trainer.parameters.values),
            means.get("statistics", trainer.parameters.statistics),
            means.get("velocity", trainer.optimiser.velocity),
            rows=rows,
        )

    def note(self, epoch: int, step: int) -> None:
        """Step `step` of epoch `epoch` begins, both counted from 0."""
        if self.folder is not None:
            self.folder.note(Done(epoch, step))

    def save_step(self, epoch: int, step: int, synchronised: bool, leave: bool = False) -> None:
        """A checkpoint after some steps of epoch `epoch`, from 0.

        Raises NpnetError, on every rank, if the disk refuses it and the run is about to leave.
        """
        trainer = self.trainer
        before = trainer.clock.enter("checkpoint")
        trainer.workers.buckets.forget()  # so that a run which is continued here goes the same way
        if self.folder is not None:
            state = self.state(epoch, step, synchronised)
            if self.comm.rank == 0:
                with self._as_far_as_the_disk_goes(self.folder):
                    if self._rows:  # of an epoch before
                        self.folder.append_log(self._rows, trainer.settings.keep)
                        self._rows.clear()
                    self.folder.save_step(state)
            if leave:
                self.check_saved()
        trainer.clock.enter(before)

    @contextmanager
    def _as_far_as_the_disk_goes(self, folder: RunFolder) -> Iterator[None]:
        """What is written here may fail, and is tried again with the next checkpoint.

        The disk may be full for a while, or come back. Rank 0 says so once, and once that it took
        a later file; `check_saved` tells at the end.
        """
        try:
            yield
        except NotWritten as error:
            if self._refused is None:
                text = "the run goes on, and tries again with each checkpoint: free some space"
                warnings.warn(f"{error.what}; {folder.kept()}; {text}", stacklevel=2)
            self._refused = error.what
        else:
            if self._refused is not None:
                self._refused = None
                warnings.warn(f"the disk takes files again: {folder.kept()}", stacklevel=2)

    def check_saved(self) -> None:
        """Raise NpnetError, on every rank, if the last state is not on disk."""
        with together(self.comm):
            if self._refused is not None and self.folder is not None:
                raise self._lost(self.folder, self._refused)

    @staticmethod
    def _lost(folder: RunFolder, what: str) -> NpnetError:
        advice = f"free some space, then go on with `resume` {folder.path}"
        return NpnetError(f"the last state is not saved: {what}; {folder.kept()}; {advice}")

    def save_epoch(
        self,
        number: int,
        results: list[EpochResult],
        split: Split,
        scores: Scores | None,
        testing: Times,
    ) -> None:
        """A checkpoint, and a row of the log for each worker, of epoch `number`, from 1.

        `scores`: of a split, if it was scored.
        """
        trainer = self.trainer
        if scores is not None:
            self.best = self.best.after(number, scores.main.accuracy)
        trainer.clock.enter("checkpoint")
        if self.folder is not None:
            state = self.state(number)
            if self.comm.rank == 0:
                with self._as_far_as_the_disk_goes(self.folder):
                    self.folder.save_epoch(number, state)
        costs = asdict(AfterEpoch.of(trainer.meter, testing, trainer.meter.take()))
        scored = _columns(split, scores)
        rows = self.comm.of_all([result.columns() | costs | scored for result in results])
        if self.folder is not None and self.comm.rank == 0:
            self._rows += rows
            if self._refused is None:
                with self._as_far_as_the_disk_goes(self.folder):
                    self.folder.append_log(self._rows, trainer.settings.keep)
                    self._rows.clear()
        self._save_best()
        trainer.clock.enter("other")

    def _save_best(self) -> None:
        """Make best.npz of the best epoch's checkpoint, unless it is that one. All ranks must call.

        As final.npz it has the statistics that gave its score.
        """
        folder, state = self.folder, None
        if folder is None:
            return
        if self.comm.rank == 0:
            with _tried_again_later(folder.best):
                path = folder.best_to_save()
                state = replace(load(path), rows={}) if path is not None else None
        if self.trainer.settings.bn_eval == "recalibrated":
            state = self.comm.broadcast(state)
            if state is not None:
                statistics = self.trainer.evaluator.recalibrated(state)
                state = replace(state, statistics=statistics)
        if self.comm.rank == 0 and state is not None:
            with _tried_again_later(folder.best):
                folder.save_best(state)

    def finish(self, summary: Summary, recalibrated: Floats | None) -> None:
        """The last state, with the statistics that gave the test score, and the summary."""
        if self.folder is None:
            return
        settings = self.trainer.settings
        epoch = self.state(summary.epochs)
        state = replace(epoch, rows={})
        if settings.bn_eval == "recalibrated" and recalibrated is not None:
            state = replace(state, statistics=recalibrated)
        with self._last_words(self.folder):
            if self._rows:  # the last epoch's checkpoint was refused, or its rows
                self.folder.save_epoch(summary.epochs, epoch)
                self.folder.append_log(self._rows, settings.keep)
        self._save_best()
        with self._last_words(self.folder):
            known = self.before.known  # else its time would be that of a part
            if self.comm.rank == 0:
                self.folder.finish(state, summary, in_table=known, keep=settings.keep)

    @contextmanager
    def _last_words(self, folder: RunFolder) -> Iterator[None]:
        """Raise NpnetError, on every rank, if the disk refuses what rank 0 writes here."""
        with together(self.comm):
            try:
                yield
            except NotWritten as error:
                raise self._lost(folder, error.what) from error


@contextmanager
def _tried_again_later(path: Path) -> Iterator[None]:
    """Warn of what went wrong: the run is worth more than this file."""
    try:
        yield
    except NpnetError as error:
        what = error.what if isinstance(error, NotWritten) else str(error)
        text = f"{what}; {path.name} is tried again after the next epoch"
        warnings.warn(text, stacklevel=2)


def _columns(split: Split, scores: Scores | None) -> dict[str, float]:
    """The columns of the log of a split's scores."""
    if scores is None:
        return {}
    columns = {f"{split}_loss": scores.main.loss, f"{split}_acc": scores.main.accuracy}
    if scores.recalibrated is not None:
        loss, accuracy = scores.recalibrated
        columns |= {f"recalibrated_{split}_loss": loss, f"recalibrated_{split}_acc": accuracy}
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
        "validation images": dataset.size("val"),
        "test images": dataset.size("test"),
        "classes": tuple(dataset.classes),
        "checkpoint": checkpoint.digest() if checkpoint is not None else None,
    }
