"""Train on the ranks of this world, go on from each checkpoint, print what came out.

Started by test_continued.py under mpiexec, because a world cannot change its size.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

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
SETTINGS = Settings(epochs=3, batch_per_rank=3, seed=5, ranks_per_node=1)


def train(comm, place: Path, sync: str, checkpoint: Path | None = None, **settings: Any) -> Any:
    """A run in `place`, or its continuation from a checkpoint; returns its trainer."""
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
    trainer.run()
    return trainer


def state(trainer: Any) -> dict[str, Any]:
    """All that the ranks have at the end."""
    folder = trainer.run_files.folder
    digests = trainer.comm.gather(
        (trainer.parameters.digest(), trainer.workers.velocities.tobytes().hex()[:4000])
    )
    rows = folder.read_log() if trainer.comm.rank == 0 else []
    log = [(row["epoch"], row["worker"], row["loss"], row["acc"], row["test_loss"]) for row in rows]
    return {"digests": digests, "log": log[-trainer.world :]}


def main() -> None:
    comm, found = connect(), {}
    for sync in STRATEGIES:
        for workers in WORKERS_PER_RANK:
            place = Path(f"{sync}-{workers}")
            whole = train(comm, place, sync, workers_per_rank=workers)
            again = train(comm, place, sync, place / "epoch-002.npz", workers_per_rank=workers)
            found[f"{sync} {workers}"] = [state(whole), state(again)]
    if comm.rank == 0:
        json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
