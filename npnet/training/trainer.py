"""Training: the way of one batch, from a shard's bytes to the updated parameters.

Here is the loop alone. `Trainer.__init__` builds what a rank needs. Scoring is in evaluate.py, what
a run leaves on disk in run.py, its results in results.py, its checks in guard.py.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Protocol

import numpy as np

from npnet.data.batches import Batch, training_shards
from npnet.data.dataset import Dataset, Split
from npnet.data.seeds import DROPOUT, generator
from npnet.errors import NpnetError, Stopped
from npnet.kernels import backend as kernels_of
from npnet.model.config import ModelConfig
from npnet.model.inference import Inference
from npnet.model.network import BatchNorm, Network
from npnet.model.parameters import initialise
from npnet.model.weights import Weights
from npnet.model.zoo import build
from npnet.parallel.buckets import Buckets, buckets_of
from npnet.parallel.communicator import Communicator, agree, together
from npnet.parallel.strategies import STRATEGIES
from npnet.parallel.workers import Worker, Workers, workers_of
from npnet.training.advice import network_seconds
from npnet.training.checkpoint import Checkpoint
from npnet.training.costs import Meter
from npnet.training.evaluate import Evaluator, Scores, split_at_end, split_of_epochs
from npnet.training.features import Features, Show, compute_features, input_of
from npnet.training.guard import Guard
from npnet.training.optimiser import Optimiser, groups_of
from npnet.training.parts import parts_of
from npnet.training.pauses import Pauses
from npnet.training.recipe import Recipe
from npnet.training.results import EpochResult, Summary, epoch_results, planned_bytes, summarise
from npnet.training.run import Run, what_ranks_share
from npnet.training.run_folder import RunFolder
from npnet.training.settings import Settings
from npnet.training.trace import Trace


class Reporter(Protocol):
    """Receives the events of a run. Each rank has its own; the engine itself prints nothing."""

    def started(self, trainer: "Trainer") -> None: ...

    def step_finished(self, epoch: int, step: int, images: int) -> None: ...

    def epoch_finished(self, results: list[EpochResult], scores: Scores | None) -> None: ...

    def finished(self, summary: Summary) -> None: ...


def check_fit(dataset: Dataset, model: ModelConfig, recipe: Recipe, settings: Settings) -> None:
    """Raise NpnetError where data, model, recipe and settings do not fit each other.

    Damaged files come to light here, not after an epoch.
    """
    settings.check(recipe)
    model.check_classes(dataset.classes, dataset.name)
    parts_of(build(model), recipe)
    if settings.evaluate != "never" and not dataset.size(split_of_epochs(dataset)):
        raise NpnetError(
            f"{dataset.location} has no images to test or to validate on: give `val_split` 0.1, or "
            "`evaluate` never"
        )


def with_features(
    dataset: Dataset,
    model: ModelConfig,
    recipe: Recipe,
    settings: Settings,
    weights: Weights | None,
    comm: Communicator,
    compile_kernels: Callable[[], object],
    show: Show = lambda split, done, total: None,
) -> Dataset:
    """The dataset, or what the classifier reads of it, where that alone is trained.

    `weights`: what the run begins or goes on with. All ranks must call; `show` as in
    compute_features.
    """
    if weights is None or not settings.caches_features(recipe):
        return dataset
    with together(comm):
        check_fit(dataset, model, recipe, settings)
    compile_kernels()
    how = (settings.batch_per_rank, settings.backend, show)
    return compute_features(dataset, weights.seen_by(model), comm, *how) or dataset


class Trainer:
    """A rank of a training run.

    It begins with new weights, with `weights` where they are given, or goes on with a `checkpoint`.
    Raises NpnetError, the same on every rank, if the data or the settings do not fit.
    """

    def __init__(
        self,
        dataset: Dataset,
        model: ModelConfig,
        recipe: Recipe,
        settings: Settings,
        comm: Communicator,
        reporter: Reporter,
        folder: RunFolder | None = None,
        checkpoint: Checkpoint | None = None,
        weights: Weights | None = None,
        kernels: ModuleType | None = None,
    ) -> None:
        self.dataset, self.recipe, self.settings = dataset, recipe, settings
        self.weights = weights
        self.comm, self.clock, self.reporter = comm, comm.clock, reporter
        mine, self.world = workers_of(comm, settings.workers_per_rank)
        batch, backend = settings.batch_per_rank, kernels_of(kernels or settings.backend)
        with together(comm):
            check_fit(dataset, model, recipe, settings)
            architecture = build(model)
            parts = parts_of(architecture, recipe)
            steps = settings.max_steps
            shards = training_shards(dataset, recipe, batch, settings.seed, mine, self.world, steps)
            self.split, self.last_split = split_of_epochs(dataset), split_at_end(dataset)
        agree(comm, what_ranks_share(dataset, model, recipe, settings, checkpoint))

        bn = BatchNorm(recipe.bn_momentum, sum_over_ranks=comm.sum if settings.sync_bn else None)
        self.network = Network(architecture, batch, backend, settings.dtype, bn)
        parts.set_in(self.network)
        if isinstance(dataset, Features):
            self.network.enter_behind(dataset.operation)
        self.parameters = self.network.parameters
        self._initialise()
        groups = groups_of(self.parameters, recipe)
        self.optimiser = Optimiser(self.parameters, groups, recipe, self._lr_at, backend)
        self.optimiser.before_update = self._check_loss
        self.image_input = input_of(dataset, model, backend)
        self.synchroniser = STRATEGIES[recipe.sync](recipe.sync_steps)
        self.workers = Workers(
            shards,
            self.parameters,
            self.optimiser.velocity,
            comm,
            own_weights=not self.synchroniser.every_step,
            deterministic=settings.deterministic,
            buckets=self._buckets(),
        )
        self.pauses = Pauses(comm, settings.checkpoint_every)
        self.run_files = Run(self, folder, checkpoint)
        self.first_epoch = self.run_files.first_epoch
        self.workers.start_equal()
        self.run_files.restore_rows()
        if recipe.independent_init and checkpoint is None:
            for worker in self.workers:
                self._initialise(worker.number)
                self.workers.values[worker.row] = self.parameters.values
        self.evaluator = Evaluator(
            self._inference(),
            lambda: self.network,
            dataset,
            self.image_input,
            comm,
            settings.workers_per_rank,
        )
        self.meter = Meter(self.clock, self.run_files.before.elapsed)
        self.test_seconds = 0.0
        self.trace: Trace | None = None
        self.guard = Guard(self.parameters, self.synchroniser, comm, self.run_files)
        self.run_files.begin()

    def _buckets(self) -> Buckets:
        """How the gradient is summed over ranks: in pieces where that overlaps with backward."""
        settings, overlap = self.settings, self.settings.overlap
        if overlap is None:  # where no network is between ranks, there is little to hide
            overlap = len(set(self.comm.nodes)) > 1 and settings.can_overlap(self.recipe)
        pieces = buckets_of(self.parameters, self.network.backward_order) if overlap else ()
        vector, half_width = self.parameters.gradients_and_loss, settings.wire == "bfloat16"
        return Buckets(self.comm, vector, pieces, half_width)

    def _initialise(self, worker: int = 0) -> None:
        """Draw initial weights. Every rank draws those of worker 0, which they usually share."""
        recipe, seed = self.recipe, self.settings.seed
        initialise(self.parameters, recipe.initialiser, seed, recipe.zero_gamma, worker)
        if self.weights is not None:
            self.weights.load_into(self.parameters, self.dataset.classes)

    def _inference(self) -> Inference:
        """The network as it is tested."""
        where = (self.parameters, self.settings.batch_per_rank, self.network.kernels)
        inference = Inference(self.network.architecture, *where)
        if isinstance(self.dataset, Features):
            inference.enter_behind(self.dataset.operation)
        return inference

    @property
    def planned_bytes(self) -> dict[str, int]:
        """The arrays that this rank keeps from start to end."""
        return planned_bytes(self.network.architecture, self.settings, self.workers)

    @property
    def global_batch(self) -> int:
        return self.settings.batch_per_rank * self.world

    @property
    def steps(self) -> int:
        """Steps per epoch, equal for all workers."""
        steps: int = self.workers[0].shard.steps
        return steps

    def run(self) -> Summary:
        """Train from the first epoch to the last, then test. Returns the same on every rank."""
        try:
            return self._run()
        finally:
            self.workers.buckets.close()

    @np.errstate(over="ignore", invalid="ignore")  # a divergence is told in one line, at the loss
    def _run(self) -> Summary:
        self.reporter.started(self)
        self.exchange_seconds = network_seconds(self.comm, self.parameters.gradients_and_loss)
        self.meter.start()
        scores: Scores | None = None
        history: list[list[EpochResult]] = []
        for epoch in range(self.first_epoch, self.settings.epochs):
            if self.run_files.best.stops(epoch, self.settings.patience):
                break
            history.append(self.train_epoch(epoch))
            scores = self._scores_after(epoch)
            testing = self.meter.take()
            self.guard.check_state(epoch, self.split, scores.main.loss if scores else None)
            self.reporter.epoch_finished(history[-1], scores)
            self.test_seconds += testing.seconds
            self.run_files.save_epoch(epoch + 1, history[-1], self.split, scores, testing)
            if self.trace is not None:
                self.trace.flush()
            if epoch + 1 < self.settings.epochs and self.pauses.agreed()[1]:
                self.run_files.check_saved()
                raise Stopped(f"stopped after epoch {epoch + 1} of {self.settings.epochs}")
        if not history:  # all of it was trained before
            scores = self._scores_after(self.settings.epochs - 1)
        summary = summarise(self, history, self._scores_at_end(scores))
        try:
            self.run_files.finish(summary, self.evaluator.recalibrated_statistics)
        except NpnetError:  # the disk refuses: what is printed is all that is left
            self.reporter.finished(summary)
            raise
        if self.trace is not None:
            self.trace.finish()
        self.comm.barrier()  # what the others print comes before the last word
        self.reporter.finished(summary)
        return summary

    def train_epoch(self, epoch: int) -> list[EpochResult]:
        """One pass over the shards: each line of the loop is a station on the way of a batch.

        Returns what each worker of this rank has reached.
        """
        clock, synchroniser, workers = self.clock, self.synchroniser, self.workers
        self.meter.take()
        for worker in workers:
            worker.begin(epoch)
        first = self.run_files.begin_epoch(epoch)
        for steps, ends_round in self.pauses.parts(synchroniser.rounds(self.steps), first):
            for worker in workers.in_turn():
                for step in steps:
                    self.at(epoch, step)
                    clock.enter("input")
                    batch = next(worker.batches)
                    self.image_input.fill(self.network.entrance, batch)
                    clock.enter("forward")
                    self._forward_backward(worker, batch)
                    clock.enter("update")
                    synchroniser.after_backward(workers, worker, self.optimiser)
                    clock.enter("other")
                    self.reporter.step_finished(epoch, step, len(batch))
            if ends_round:
                clock.enter("update")
                synchroniser.synchronise(workers, self.optimiser)
            self._pause(epoch, steps.stop, ends_round)
        synchroniser.after_epoch(workers)
        clock.enter("other")
        return epoch_results(self, epoch, self.meter.take())

    def _pause(self, epoch: int, step: int, synchronised: bool) -> None:
        """Save the epoch after `step` of its steps, and leave, where that is wanted."""
        if step == self.steps:
            return  # its end will be saved
        save, leave = self.pauses.wanted(step, synchronised)
        if save or leave:
            self.run_files.save_step(epoch, step, synchronised, leave)
        if leave:
            raise Stopped(f"stopped in epoch {epoch + 1}, after {step} of {self.steps} steps")

    def _scores_after(self, epoch: int) -> Scores | None:
        """The scores after `epoch`, where they are asked for."""
        last, when = epoch + 1 == self.settings.epochs, self.settings.evaluate
        if when == "never" or (when == "at-end" and not last):
            return None
        return self._scores(self.split)

    def _scores_at_end(self, scores: Scores | None) -> dict[Split, Scores]:
        """Those of the last epoch, and of the split that was kept for the end."""
        if scores is None:
            return {}
        found: dict[Split, Scores] = {self.split: scores}
        if self.last_split not in found:
            found[self.last_split] = self._scores(self.last_split)
            self.test_seconds += self.meter.take().seconds
        return found

    def _scores(self, split: Split) -> Scores:
        self.clock.enter("test")
        scores = self.evaluator.scores(self.settings.bn_eval, split)
        self.clock.enter("other")
        return scores

    def at(self, epoch: int, step: int) -> None:
        """Where the run stands, both counted from 0."""
        self.epoch, self.step = epoch, step
        self.clock.epoch, self.clock.step = epoch + 1, step + 1
        self.run_files.note(epoch, step)

    def _forward_backward(self, worker: Worker, batch: Batch) -> None:
        """Leave gradient and loss in `parameters.gradients_and_loss`; count the loss and hits.

        There they are scaled as the strategy asks: under `gradients` the sum over workers is the
        global batch's mean.
        """
        n, network, result = len(batch), self.network, self.parameters.gradients_and_loss
        self.optimiser.at(self.time)
        if n == 0:  # more workers than images in this step
            result[:] = 0
            return
        dropout = None
        if network.architecture.config.dropout:
            where = (self.epoch, self.step, worker.number)
            dropout = generator(self.settings.seed, DROPOUT, *where)
        logits = network.forward(n, True, self.settings.freeze_bn, dropout)
        loss = float(network.loss(batch.labels, self.recipe.label_smoothing).sum())
        scale = self.synchroniser.loss_scale(n, batch.everywhere)
        self.clock.enter("backward")
        network.backward(scale, self.workers.buckets.completed)
        result[-1] = scale * loss
        worker.count(loss, int(np.count_nonzero(logits.argmax(axis=1) == batch.labels)), n)

    @property
    def time(self) -> float:
        """The middle of the step, in epochs: neither the first nor the last has the rate 0."""
        return self.epoch + (self.step + 0.5) / self.steps

    def _lr_at(self, time: float) -> float:
        return self.recipe.lr_at(time, self.settings.epochs, self.global_batch)

    def _check_loss(self) -> None:
        self.guard.check_loss(self.workers, self.epoch, self.step)
