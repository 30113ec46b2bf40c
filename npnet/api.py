"""What a notebook calls: train, evaluate, predict. The command line does the same with options."""

import logging
import warnings
from collections.abc import Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from npnet.data.dataset import Dataset, Split
from npnet.errors import NpnetError
from npnet.exchange import read_weights
from npnet.model.config import ModelConfig
from npnet.model.network import Network
from npnet.model.weights import Weights
from npnet.parallel.communicator import Communicator, connect, together
from npnet.parallel.watchdog import Watchdog
from npnet.training.checkpoint import Checkpoint
from npnet.training.doubts import doubts
from npnet.training.evaluate import Evaluator
from npnet.training.judgement import Judgement
from npnet.training.predict import Prediction, predict_pictures
from npnet.training.recipe import BATCH_PER_RANK, FINETUNE, MODERN, Recipe
from npnet.training.results import Summary
from npnet.training.run_folder import RunFolder
from npnet.training.settings import Settings
from npnet.training.trainer import Reporter, Trainer, with_features
from npnet.training.warmup import Rehearsal, Silence, prepare

log = logging.getLogger("npnet")


@dataclass(frozen=True)
class Trained:
    """What `train` leaves: the network with its last weights, a checkpoint, results."""

    network: Network
    checkpoint: Checkpoint
    summary: Summary


def train(
    dataset: Dataset,
    model: ModelConfig | None = None,
    recipe: Recipe | None = None,
    *,
    init: str | Path | Weights | None = None,
    epochs: int = 10,
    batch_per_rank: int = BATCH_PER_RANK,
    out: str | Path | None = None,
    seed: int = 42,
    comm: Communicator | None = None,
    reporter: Reporter | None = None,
    stall_limit: float = 600,
    **settings: Any,
) -> Trained:
    """Train a model; under mpiexec, on all ranks together.

    `init`: weights to begin with, or a file that holds some; the model is then theirs, and the
    recipe FINETUNE, unless others are given. Without, a model is needed; the recipe is MODERN.
    `out`: the folder for config, log and checkpoints; None leaves nothing on disk. `settings`:
    further fields of Settings, such as max_steps or freeze_bn. `reporter` is told of the course.
    The dataset's stored image size becomes the model's. On several ranks, the logger `npnet` (that
    is standard error, unless told otherwise) says who is awaited where nothing moves, and after
    `stall_limit` seconds (0: never) the job is ended.
    Raises NpnetError, the same on every rank, if the data, the model or the settings do not fit.
    Warns of a batch norm that will not learn.
    """
    comm = comm or connect()
    with closing(Watchdog(comm, stall_limit, log.warning, log.error)):
        with together(comm):
            if isinstance(init, str | Path):
                init = read_weights(Path(init).expanduser(), headless=True)
            weights = init
            if model is None and weights is None:
                raise NpnetError("there is nothing to train: give a `model`, or weights by `init`")
        if model is None:
            assert weights is not None
            model = replace(weights.config, classes=len(dataset.classes))
        recipe = recipe or (MODERN if weights is None else FINETUNE)
        model = replace(model, stored_size=dataset.image_size)
        here = {"ranks_per_node": max(comm.nodes.count(node) for node in comm.nodes)} | settings
        chosen = Settings(epochs=epochs, batch_per_rank=batch_per_rank, seed=seed, **here)
        folder = RunFolder(Path(out).expanduser()) if out is not None else None
        rehearsal = Rehearsal.of(model, recipe, chosen.dtype)

        def compile_kernels() -> None:
            if chosen.backend == "numba":
                prepare(comm, rehearsal, lambda: nullcontext(lambda done, total: None))

        dataset = with_features(dataset, model, recipe, chosen, weights, comm, compile_kernels)
        told = reporter or Silence()
        trainer = Trainer(dataset, model, recipe, chosen, comm, told, folder, weights=weights)
        if comm.rank == 0:
            for doubt in doubts(trainer):
                warnings.warn(doubt, stacklevel=2)
        compile_kernels()
        summary = trainer.run()
        return Trained(trainer.network, trainer.run_files.state(summary.epochs), summary)


def evaluate(
    checkpoint: Checkpoint,
    dataset: Dataset,
    split: Split = "test",
    *,
    batch: int = 32,
    backend: str = "numba",
    comm: Communicator | None = None,
) -> Judgement:
    """What the network makes of a split, with the running statistics: loss, accuracy, classes.

    `loss` in nats, `accuracy` and `top5` as fractions, `per_class()`, `confusion`, `worst(n)`.
    """
    evaluator = Evaluator.of_checkpoint(checkpoint, dataset, comm or connect(), batch, backend)
    judgement, _ = evaluator.judgements("moving", split)
    assert judgement is not None
    return judgement


def predict(
    checkpoint: str | Path, pictures: Sequence[str | Path], top: int = 5, backend: str = "numba"
) -> list[Prediction]:
    """The likeliest classes of each picture in files and folders, by the weights in a file."""
    paths = [Path(picture).expanduser() for picture in pictures]
    weights = read_weights(Path(checkpoint).expanduser())
    return list(predict_pictures(weights, paths, top, backend))
