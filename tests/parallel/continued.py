"""Train on the ranks of this world, go on from each checkpoint, print what came out.

Started by test_continued.py under mpiexec, because a world cannot change its size.
"""

import json
import shutil
import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from npnet.errors import Stopped
from npnet.parallel.communicator import connect
from npnet.parallel.strategies import STRATEGIES
from npnet.training.checkpoint import load
from npnet.training.recipe import MODERN
from npnet.training.run_folder import RunFolder
from npnet.training.settings import Settings
from npnet.training.trainer import Trainer
from npnet.training.warmup import Silence
from tests.datasets import MODEL, Toy

WORKERS_PER_RANK = (1, 3)
STEPS = 5  # of an epoch
SETTINGS = Settings(epochs=3, batch_per_rank=3, seed=5, ranks_per_node=1)


class Asked(Silence):
    """Asks a run to leave, as a signal to this rank would."""

    def __init__(self, trainer: Any, step: int) -> None:
        self.trainer, self.last = trainer, step - 1

    def step_finished(self, epoch: int, step: int, images: int) -> None:
        if epoch == 1 and step == self.last:
            self.trainer.pauses.leave = True


def train(
    comm,
    place: Path,
    sync: str,
    checkpoint: Path | None = None,
    leave_at: int | None = None,
    **settings: Any,
) -> Any:
    """A run in `place`, or its continuation from a checkpoint; returns its trainer.

    With `leave_at`, the last rank is asked to leave in that step of the second epoch.
    """
    steps = 2 if sync == "weights" else None
    recipe = replace(
        MODERN, sync=sync, sync_steps=steps, lr=0.01, independent_init=sync != "gradients"
    )
    here = replace(SETTINGS, **settings)
    dataset = Toy(14 * here.workers_per_rank * comm.size + 2)  # uneven shards
    saved = load(checkpoint) if checkpoint is not None and comm.rank == 0 else None
    everyones = comm.broadcast(replace(saved, rows={}) if saved is not None else None)
    model = replace(MODEL, input_size=64, dropout=0.1)
    folder = RunFolder(place / "again" if checkpoint is not None else place)
    trainer = Trainer(dataset, model, recipe, here, comm, Silence(), folder, saved or everyones)
    if leave_at is not None:
        trainer.pauses.every = leave_at
        trainer.reporter = Asked(trainer, leave_at) if comm.rank == comm.size - 1 else Silence()
    trainer.run()
    return trainer


def keep_a_step(comm, place: Path, sync: str, step: int, workers: int) -> Path:
    """The checkpoint of a run that left after some steps of its second epoch."""
    with suppress(Stopped):
        train(comm, place / f"left-{step}", sync, leave_at=step, workers_per_rank=workers)
    return place / f"left-{step}" / f"step-002-{step:06d}.npz"


def state(trainer: Any) -> dict[str, Any]:
    """All that the ranks have at the end."""
    folder = trainer.run_files.folder
    digests = trainer.comm.gather(
        (trainer.parameters.digest(), trainer.workers.velocities.tobytes().hex()[:4000])
    )
    rows = folder.read_log() if trainer.comm.rank == 0 else []
    columns = ("worker", "loss", "acc", "test_loss")
    log = {epoch: [] for epoch in ("1", "2", "3")}
    for row in rows:
        log[row["epoch"]].append([row[name] for name in columns])
    return {"digests": digests, "log": log}


def main() -> None:
    comm, found = connect(), {}
    for sync in STRATEGIES:
        for workers in WORKERS_PER_RANK:
            place = Path(f"{sync}-{workers}")
            whole = train(comm, place, sync, workers_per_rank=workers)
            again = train(comm, place, sync, place / "epoch-002.npz", workers_per_rank=workers)
            found[f"{sync} {workers}"] = [state(whole), state(again)]
            if comm.rank == 0:
                shutil.rmtree(place / "again")
            comm.barrier()
            for step in (STEPS - 1, 1):  # where `weights` are averaged, and between two averages
                file = keep_a_step(comm, place, sync, step, workers)
                again = train(comm, place, sync, file, workers_per_rank=workers)
                found[f"{sync} {workers}"].append(state(again))
                if comm.rank == 0:
                    shutil.rmtree(place / "again")
                comm.barrier()
    if comm.rank == 0:
        json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
