"""What it costs to know where the time goes.

    python -m bench.overhead
    mpiexec -n 2 python -m bench.overhead

Epochs of a few steps with the clock and the wait before each exchange, and epochs without either,
in turn. Printed are medians of wall time a step, on the slowest rank, and their ratio.
"""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from statistics import median
from time import perf_counter
from unittest.mock import patch

from npnet.data import open_dataset
from npnet.machine.clock import Clock
from npnet.model.zoo import configure
from npnet.parallel.communicator import MpiCommunicator, connect
from npnet.training import trainer as trainers
from npnet.training.recipe import MODERN
from npnet.training.settings import Settings
from npnet.training.warmup import Silence


@contextmanager
def unmeasured() -> Iterator[None]:
    """No phases, no results, and no barrier that tells waiting from transfer."""
    with (
        patch.object(Clock, "enter", lambda self, phase: phase),
        patch.object(trainers, "epoch_results", lambda *_: []),
        patch.object(MpiCommunicator, "_exchange", lambda self: nullcontext()),
    ):
        yield


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20, help="of an epoch")
    parser.add_argument("--model", default="mobilenet_v2")
    options = parser.parse_args()
    comm, data = connect(), open_dataset("shapes")
    model = configure(options.model, len(data.classes), stored_size=data.image_size)
    settings = Settings(10, 12, seed=1, ranks_per_node=comm.size, max_steps=options.steps)
    trainer = trainers.Trainer(data, model, MODERN, settings, comm, Silence())

    def epoch() -> float:
        """Milliseconds a step."""
        comm.barrier()
        begin = perf_counter()
        trainer.train_epoch(0)
        return 1e3 * max(comm.gather(perf_counter() - begin)) / options.steps

    epoch()
    with_clock, without = [], []
    for round_ in range(options.rounds):
        for measured in (True, False) if round_ % 2 else (False, True):  # neither always first
            with nullcontext() if measured else unmeasured():
                (with_clock if measured else without).append(epoch())
    ratios = [one / other for one, other in zip(with_clock, without, strict=True)]
    if comm.rank == 0:
        print(
            f"{comm.size} ranks: {median(with_clock):.2f} ms a step with the clock, "
            f"{median(without):.2f} without; ratio {median(ratios):.4f} "
            f"({min(ratios):.3f} to {max(ratios):.3f})"
        )


if __name__ == "__main__":
    main()
