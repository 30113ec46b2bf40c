"""Train P workers on the ranks of this world, for each P that these divide; print what came out.

Where sums are made in any order, in float64 and at 64x64: a batch norm of three samples, as 32x32
has at its end, turns a rounding error into another training run within four steps.

Started by test_workers.py under mpiexec, because a world cannot change its size.
"""

import json
import sys
from dataclasses import replace

from npnet.parallel.communicator import connect
from npnet.parallel.strategies import STRATEGIES
from npnet.training.recipe import MODERN
from npnet.training.settings import Settings
from npnet.training.trainer import Trainer
from npnet.training.warmup import Silence
from tests.datasets import MODEL, Toy

WORKERS = (2, 6)  # each on two or three worlds of 1, 2 and 3 ranks


def main() -> None:
    comm, found = connect(), {}
    model = replace(MODEL, input_size=64, dropout=0.1)
    for workers in WORKERS:
        if workers % comm.size:
            continue
        for sync in STRATEGIES:
            for deterministic in (True, False):
                settings = Settings(
                    epochs=2,
                    batch_per_rank=3,
                    seed=5,
                    ranks_per_node=1,
                    dtype="float32" if deterministic else "float64",
                    workers_per_rank=workers // comm.size,
                    deterministic=deterministic,
                    bn_eval="both",
                )
                steps = 2 if sync == "weights" else None
                recipe = replace(
                    MODERN,
                    sync=sync,
                    sync_steps=steps,
                    lr=0.01,
                    independent_init=sync != "gradients",
                )
                dataset = Toy(7 * workers + 2)  # uneven shards
                trainer = Trainer(dataset, model, recipe, settings, comm, Silence())
                summary = trainer.run()
                found[f"{workers} {sync} {deterministic}"] = {
                    "state": trainer.parameters.digest(),
                    "values": trainer.parameters.values[::997].tolist(),
                    "losses": [summary.train_loss, summary.test_loss, summary.train_acc],
                    "recalibrated": [summary.recalibrated_test_loss, summary.recalibrated_test_acc],
                }
    if comm.rank == 0:
        json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
