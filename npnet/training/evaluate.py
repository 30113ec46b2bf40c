"""Loss and accuracy on a split, shared out over the ranks; statistics recomputed for them."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Literal, NamedTuple, TypeVar

import numpy as np

from npnet.data.batches import ImageInput, Input, plain_batches
from npnet.data.dataset import Dataset, Split
from npnet.kernels import backend as kernels_of
from npnet.kernels.arrays import Floats, Ints
from npnet.model.config import warn_of_other_names
from npnet.model.inference import Inference
from npnet.model.network import Network
from npnet.parallel.communicator import Communicator
from npnet.parallel.workers import statistics_of, workers_of
from npnet.training.checkpoint import Checkpoint
from npnet.training.judgement import COLUMNS, Judgement, columns

BatchNormEvaluation = Literal["moving", "recalibrated", "both"]
Evaluation = Literal["each-epoch", "at-end", "never"]
RECALIBRATION_IMAGES = 5000
Found = TypeVar("Found")


def split_of_epochs(dataset: Dataset) -> Split:
    """The split that is scored after each epoch: what is held out, or the test split."""
    return "val" if dataset.size("val") else "test"


def split_at_end(dataset: Dataset) -> Split:
    """The split that a trained network is scored on."""
    return "test" if dataset.size("test") else "val"


class Score(NamedTuple):
    """Mean cross-entropy (nats) and accuracy (a fraction)."""

    loss: float
    accuracy: float


class Scores(NamedTuple):
    """The same weights with the running statistics, with recalibrated ones, or with both."""

    moving: Score | None
    recalibrated: Score | None

    @property
    def main(self) -> Score:
        """With the running statistics, unless `bn_eval` left them out."""
        score = self.moving or self.recalibrated
        assert score is not None
        return score


class Evaluator:
    """Scores a network's present weights on one dataset.

    `network` returns a network with the weights of `inference`, called only for a recalibration.
    `recalibrated_statistics` are those of the last recalibration.
    """

    def __init__(
        self,
        inference: Inference,
        network: Callable[[], Network],
        dataset: Dataset,
        image_input: Input,
        comm: Communicator,
        workers_per_rank: int = 1,
    ) -> None:
        self.inference, self.network, self.dataset = inference, network, dataset
        self.image_input, self.comm, self.workers_per_rank = image_input, comm, workers_per_rank
        self.recalibrated_statistics: Floats | None = None

    @classmethod
    def of_checkpoint(
        cls,
        checkpoint: Checkpoint,
        dataset: Dataset,
        comm: Communicator,
        batch: int,
        backend: str = "numba",
    ) -> "Evaluator":
        """Scores a checkpoint's weights, `batch` images at a time.

        Raises NpnetError if the dataset has not as many classes; warns if they are called
        otherwise, for then its labels mean something else.
        """
        who = str(checkpoint.path or "the checkpoint")
        checkpoint.header.model.check_classes(dataset.classes, dataset.name, who)
        warn_of_other_names(checkpoint.header.classes, dataset.classes, dataset.name, who)
        network = partial(checkpoint.network, batch, backend)
        image_input = ImageInput(checkpoint.header.model, kernels_of(backend))
        return cls(checkpoint.inference(batch, backend), network, dataset, image_input, comm)

    def scores(self, bn_eval: BatchNormEvaluation, split: Split = "test") -> Scores:
        """Scores with the statistics that `bn_eval` names; the network keeps its own."""
        return Scores(*self._with_statistics(bn_eval, partial(self._measure, evaluate, split)))

    def judgements(
        self, bn_eval: BatchNormEvaluation, split: Split = "test"
    ) -> tuple[Judgement | None, Judgement | None]:
        """The same image by image: with the running statistics, with recalibrated ones."""
        return self._with_statistics(bn_eval, partial(self._measure, judge, split))

    def recalibrated(self, checkpoint: Checkpoint) -> Floats:
        """The statistics (2C,) that fit a checkpoint's weights; the network keeps its own."""
        values = self.inference.parameters.values
        kept = values.copy()
        values[:] = checkpoint.values
        statistics = self._recalibrate()
        values[:] = kept
        return statistics

    def _recalibrate(self) -> Floats:
        where = (self.dataset, self.image_input, self.comm, self.workers_per_rank)
        return recalibrate(self.network(), *where)

    def _with_statistics(
        self, bn_eval: BatchNormEvaluation, measure: Callable[[], Found]
    ) -> tuple[Found | None, Found | None]:
        moving = measure() if bn_eval != "recalibrated" else None
        if bn_eval == "moving":
            return moving, None
        statistics = self.inference.parameters.statistics
        kept, self.recalibrated_statistics = statistics.copy(), self._recalibrate()
        statistics[:] = self.recalibrated_statistics
        recalibrated = measure()
        statistics[:] = kept
        return moving, recalibrated

    def _measure(self, how: Callable[..., Found], split: Split) -> Found:
        self.inference.fold()
        where = (self.image_input, self.comm, self.workers_per_rank)
        return how(self.inference, self.dataset, split, *where)


def evaluate(
    inference: Inference,
    dataset: Dataset,
    split: Split,
    image_input: Input,
    comm: Communicator,
    workers_per_rank: int = 1,
) -> Score:
    """Score a split; worker w of P takes the images i with i mod P = w. The same on every rank.

    Each image's loss has a place of its own, so that the sum has one order.
    """
    results = np.zeros((2, dataset.size(split)))  # loss, right or wrong
    workers = workers_of(comm, workers_per_rank)
    for indices, labels, logits, losses in _batches(
        inference, dataset, split, image_input, workers
    ):
        results[0, indices] = losses
        results[1, indices] = logits.argmax(axis=1) == labels
    comm.sum(results)
    return Score(*results.mean(axis=1).tolist())


def judge(
    inference: Inference,
    dataset: Dataset,
    split: Split,
    image_input: Input,
    comm: Communicator,
    workers_per_rank: int = 1,
) -> Judgement:
    """What became of each image of a split, shared out as in `evaluate`. The same on every rank."""
    results = np.zeros((len(COLUMNS), dataset.size(split)))
    workers = workers_of(comm, workers_per_rank)
    for indices, labels, logits, losses in _batches(
        inference, dataset, split, image_input, workers
    ):
        results[:, indices] = columns(
            labels, logits, losses, inference.probabilities[: len(labels)]
        )
    comm.sum(results)
    return Judgement.of(tuple(dataset.classes), results)


def _batches(
    inference: Inference,
    dataset: Dataset,
    split: Split,
    image_input: Input,
    workers: tuple[range, int],
) -> Iterator[tuple[Ints, Ints, Floats, Floats]]:
    """This rank's batches of a split: indices (n,), labels (n,), logits (n,K), losses (n,)."""
    for indices, batch in plain_batches(dataset, split, inference.batch, *workers):
        image_input.fill(inference.entrance, batch)
        logits = inference.forward(len(batch))
        yield indices, batch.labels, logits, inference.loss(batch.labels)


def recalibrate(
    network: Network,
    dataset: Dataset,
    image_input: Input,
    comm: Communicator,
    workers_per_rank: int = 1,
) -> Floats:
    """Statistics (2C,) of every batch norm under the present weights, the same on every rank.

    The first RECALIBRATION_IMAGES training images pass through the network in batches, as in
    training but not augmented; means and second moments of all batches are averaged (Wu and
    Johnson 2021, section 3). Nothing of it depends on how the running statistics came about; they
    are left as they are.
    """
    parameters = network.parameters
    kept = parameters.statistics.copy()
    mine, workers = workers_of(comm, workers_per_rank)
    rows = np.zeros((len(mine), 1 + len(kept)))  # images; of each channel mean, second moment
    images = min(RECALIBRATION_IMAGES, dataset.size("train"))
    images -= images % workers  # equal shares: synchronised batch norms exchange equally often
    batches = plain_batches(dataset, "train", network.batch, mine, workers, images or None)
    for indices, batch in batches:
        image_input.fill(network.entrance, batch)
        network.forward(len(batch), training=True)
        mean, variance = network.batch_statistics()
        row = rows[indices[0] % workers - mine[0]]
        row += len(batch) * np.concatenate(([1], mean, variance + mean**2))
    parameters.statistics[:] = kept
    count, *moments = comm.sum_in_order(rows)
    return statistics_of(np.array(moments) / count).astype(kept.dtype)
