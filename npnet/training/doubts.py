"""Of a run, what its batch norms will not learn: told before it begins."""

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from npnet.training.trainer import Trainer

MOST_LEFT = 0.01  # of the initial statistics, without a word


def doubts(trainer: "Trainer") -> Iterator[str]:
    """A sentence each; none where all is well."""
    settings = trainer.settings
    images = settings.batch_per_rank * (trainer.comm.size if settings.sync_bn else 1)
    blind = [
        each
        for each in trainer.network.architecture.normalised
        if images * prod(each.output_shape[:-1]) < 2
    ]
    if blind and not settings.freeze_bn:
        yield (
            f"the batch norm of {blind[0].name} sees a single number for each channel, whose "
            "variance is 0, and learns nothing but its shift: give a larger `batch_per_rank` or "
            "`input_size`, or `freeze_bn`"
        )
    left = initial_statistics_left(trainer)
    if left > MOST_LEFT and settings.bn_eval != "recalibrated" and settings.evaluate != "never":
        yield (
            f"{100 * left:.1f} % of batch norm's running statistics will still be their initial "
            f"values at the end ({trainer.recipe.bn_momentum} to the power of "
            f"{settings.epochs * trainer.steps} steps), which the trained weights do not fit: "
            "give a lower `bn_momentum`, or test with `bn_eval` recalibrated"
        )


def initial_statistics_left(trainer: "Trainer") -> float:
    """Which part of the running statistics will still be their initial value at the end.

    0 where there are none, they are not meant to change, or another run has formed them.
    """
    moving = [bn for bn in trainer.network.normalisations if not bn.frozen]
    formed = trainer.settings.freeze_bn or trainer.first_epoch or trainer.weights is not None
    if formed or not moving:
        return 0.0
    return trainer.recipe.bn_momentum ** (trainer.settings.epochs * trainer.steps)
