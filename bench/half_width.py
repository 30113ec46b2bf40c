"""What rounding gradients to bfloat16 costs in accuracy, shown without a cluster.

    mpiexec -n 2 python -m bench.half_width --workers 48 --input-size 32 --seeds 1,2,3

Each worker stands for a node: its gradient is rounded, and so is the sum, each with a carry of its
own, as `--wire bfloat16` does it between nodes. Trains `modern` on CIFAR-10 twice from each seed,
once as it is; prints a line a run, and the difference.
"""

from dataclasses import replace
from pathlib import Path
from statistics import mean

import click
import numpy as np

from npnet.data import open_dataset
from npnet.model.zoo import configure
from npnet.parallel.bfloat16 import from_bfloat16, to_bfloat16
from npnet.parallel.communicator import connect
from npnet.parallel.workers import Worker
from npnet.training.recipe import MODERN
from npnet.training.settings import Settings
from npnet.training.trainer import Trainer
from npnet.training.warmup import Silence


def round_each(trainer: Trainer) -> None:
    """Let gradients pass through bfloat16, a worker's before it is added, and the sum."""
    workers, vector = trainer.workers, trainer.parameters.gradients_and_loss
    halves = np.empty(len(vector), np.uint16)
    carries = np.zeros((len(workers) + 1, len(vector)), np.float32)
    keep, finish, forget = workers.keep_gradient, workers.buckets.finish, workers.buckets.forget

    def through(carry: np.ndarray) -> None:
        to_bfloat16(halves, carry, vector)
        vector[:] = from_bfloat16(halves)

    def rounded_gradient(worker: Worker) -> None:
        through(carries[worker.row])
        keep(worker)

    def rounded_sum() -> None:
        finish()
        through(carries[-1])

    def forget_all() -> None:
        forget()
        carries[:] = 0

    workers.keep_gradient = rounded_gradient  # type: ignore[method-assign]
    workers.buckets.finish = rounded_sum  # type: ignore[method-assign]
    workers.buckets.forget = forget_all  # type: ignore[method-assign]


@click.command()
@click.option("--dataset", default="cifar10", show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path))
@click.option("--workers", default=48, show_default=True, help="Of all ranks.")
@click.option("--input-size", default=128, show_default=True)
@click.option("--epochs", default=10, show_default=True)
@click.option("--seeds", default="42", show_default=True)
def main(
    dataset: str, data_dir: Path | None, workers: int, input_size: int, epochs: int, seeds: str
) -> None:
    comm, source = connect(), open_dataset(dataset, data_dir)
    model = configure("mobilenet_v2", classes=len(source.classes), input_size=input_size)
    settings = Settings(
        epochs=epochs,
        batch_per_rank=12,
        seed=0,
        ranks_per_node=comm.size,
        workers_per_rank=workers // comm.size,
        evaluate="at-end",
    )
    differences = []
    for seed in map(int, seeds.split(",")):
        found = {}
        for wire in ("float32", "bfloat16"):
            trainer = Trainer(source, model, MODERN, replace(settings, seed=seed), comm, Silence())
            if wire == "bfloat16":
                round_each(trainer)
            accuracy = trainer.run().test_acc
            assert accuracy is not None
            found[wire] = 100 * accuracy
            if comm.rank == 0:
                click.echo(f"seed {seed} {wire:9} test accuracy {found[wire]:.2f} %")
        differences.append(found["bfloat16"] - found["float32"])
    if comm.rank == 0:
        click.echo(f"bfloat16 - float32: {mean(differences):+.2f} points in the mean")


if __name__ == "__main__":
    main()
