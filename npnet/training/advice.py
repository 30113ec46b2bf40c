"""What the network between the hosts of a run favours, told when a few steps have shown it.

A rank that waits for an exchange does not compute. Which part of the time it computes tells whether
gradients can be exchanged at each step, whether they had better travel in half the bytes, or
whether ranks should meet more rarely, which costs accuracy.
"""

from functools import partial
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from npnet.kernels.arrays import Floats
from npnet.machine.clock import STEP
from npnet.parallel.buckets import Piece, pieces_of, seconds_left
from npnet.parallel.communicator import Communicator
from npnet.parallel.timing import exchange_seconds

if TYPE_CHECKING:
    from npnet.training.trainer import Trainer

STEPS = 10  # before a word is said
TIMES = 3  # that an exchange is timed, after once
ENOUGH = 0.9  # of the time computing: more would be bought too dearly


def network_seconds(comm: Communicator, vector: Floats) -> float | None:
    """The sum of such a vector over the ranks, timed; None where no network is between them.

    The same on every rank. Its buffers are not kept.
    """
    if len(set(comm.nodes)) == 1:
        return None
    copy, exchange = np.zeros_like(vector), comm.exchange(len(vector), vector.dtype)
    return float(np.median(exchange_seconds(comm, partial(exchange.sum, copy), TIMES)))


def sentence(trainer: "Trainer") -> str | None:
    """After STEPS steps of a run; None on one host, and for several workers a rank."""
    exchange = trainer.exchange_seconds
    if exchange is None or trainer.settings.workers_per_rank > 1:
        return None
    wall, parameters = trainer.clock.times.wall, trainer.parameters
    step = sum(wall[phase] for phase in STEP) / STEPS
    pieces = pieces_of(trainer.network.architecture, parameters)
    shares = shares_of_computing(step, exchange, pieces, trainer.steps)
    favoured = favourite(shares)
    told = ", ".join(f"{100 * share:.0f} % with {how}" for how, share in shares.items())
    return (
        f"{len(set(trainer.comm.nodes))} hosts exchange "
        f"{parameters.gradients_and_loss.nbytes / 1e6:.1f} MB in {1e3 * exchange:.0f} ms; "
        f"a step computes {1e3 * step:.0f} ms. Part of the time computing: {told}. "
        f"This network favours {favoured}"
    )


def shares_of_computing(
    step: float, exchange: float, pieces: tuple[Piece, ...], most: int
) -> dict[str, float]:
    """By options of `train`: the part of a step in which a rank computes, from seconds.

    `most`: the steps of an epoch, at whose end ranks meet in any case.
    """
    size = sum(piece.bytes for piece in pieces)

    def left(width: float) -> float:
        return seconds_left(pieces, step, lambda part: width * exchange * part / size)

    steps = min(max(2, ceil(exchange / step / (1 / ENOUGH - 1))), most)
    return {
        "--sync gradients": step / (step + left(1)),
        "--sync gradients --wire bfloat16": step / (step + left(0.5)),
        f"--sync weights --sync-steps {steps}": step / (step + exchange / steps),
    }


def favourite(shares: dict[str, float]) -> str:
    """The first that computes enough: they stand in the order of how well they learn."""
    return next((how for how, share in shares.items() if share >= ENOUGH), [*shares][-1])
