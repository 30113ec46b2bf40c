"""What a run is, beside its recipe and dataset."""

from dataclasses import dataclass

from npnet.errors import NpnetError
from npnet.training.evaluate import BatchNormEvaluation, Evaluation
from npnet.training.recipe import Recipe

LEAST = {
    "epochs": 1,
    "batch_per_rank": 1,
    "ranks_per_node": 1,
    "workers_per_rank": 1,
    "max_steps": 1,
    "checkpoint_every": 1,
    "keep": 1,
    "patience": 1,
    "seed": 0,
}
CHOICES = {
    "backend": ("numba", "reference"),
    "dtype": ("float32", "float64"),
    "bn_eval": ("moving", "recalibrated", "both"),
    "evaluate": ("each-epoch", "at-end", "never"),
    "wire": ("float32", "bfloat16"),
}


@dataclass(frozen=True)
class Settings:
    """Epochs, batch, seed, and how ranks work together.

    With more than one worker a rank, `batch_per_rank` is the batch of each worker, and
    `ranks_per_node` counts the ranks that they stand for.
    """

    epochs: int
    batch_per_rank: int
    seed: int
    ranks_per_node: int
    backend: str = "numba"
    dtype: str = "float32"
    freeze_bn: bool = False  # train with running statistics, for fine-tuning
    evaluate: Evaluation = "each-epoch"
    max_steps: int | None = None  # of an epoch, to measure speed without a full one
    workers_per_rank: int = 1
    deterministic: bool = False  # sums over workers in the order of their numbers
    sync_bn: bool = False  # batch statistics of all ranks together
    overlap: bool | None = None  # exchange gradients during backward; None: between hosts
    wire: str = "float32"  # what gradients are rounded to on their way between hosts
    bn_eval: BatchNormEvaluation = "moving"
    checkpoint_every: int | None = None  # steps of an epoch between two checkpoints
    cache_features: bool = True  # where the classifier alone is trained; see features.py
    keep: int | None = None  # checkpoints of the newest epochs, and the best; None: of all
    patience: int | None = None  # epochs without a better score, after which a run ends

    def check(self, recipe: Recipe) -> None:
        """Raise NpnetError where a value is not usable, or options contradict each other."""
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and value < least:
                raise NpnetError(f"`{name}` {value} is not usable: give {least} or more")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise NpnetError(
                    f"`{name}` {getattr(self, name)} is not usable: give {' or '.join(choices)}"
                )
        if self.patience is not None and self.evaluate != "each-epoch":
            raise NpnetError(
                f"`patience` needs a score of each epoch, not `evaluate` {self.evaluate}: give "
                "`evaluate` each-epoch"
            )
        if recipe.sync_steps is not None and recipe.sync != "weights":
            raise NpnetError(f"`sync_steps` is for `sync` weights, not for `sync` {recipe.sync}")
        if recipe.independent_init and recipe.sync == "gradients":
            raise NpnetError(
                "`independent_init` is for ranks that average weights, which makes them equal, not "
                "for `sync` gradients: give `sync` weights or gather-bcast"
            )
        if self.caches_features(recipe) and self.bn_eval != "moving":
            raise NpnetError(
                "`bn_eval` is for statistics that may change, those of features do not: leave it "
                "out, or give `no_cache_features`"
            )
        if self.overlap and not self.can_overlap(recipe):
            raise NpnetError(
                "`overlap` is for `sync` gradients, alone on the network, of one worker a rank: "
                "leave out `overlap`, or `workers_per_rank`, `deterministic` and `sync_bn`"
            )
        if self.wire != "float32" and (recipe.sync != "gradients" or self.deterministic):
            raise NpnetError(
                f"`wire` {self.wire} is for `sync` gradients, and not for `deterministic` sums: "
                "give `wire` float32"
            )
        if self.wire != "float32" and self.dtype != "float32":
            raise NpnetError(f"`wire` {self.wire} is for `dtype` float32, not for {self.dtype}")
        if not self.sync_bn:
            return
        if recipe.sync != "gradients":
            raise NpnetError(
                "`sync_bn` is for ranks that synchronise at each step, not for `sync` "
                f"{recipe.sync}: give `sync` gradients"
            )
        if self.workers_per_rank > 1:
            raise NpnetError(
                "`sync_bn` needs all activations at once, `workers_per_rank` one worker's: give a "
                f"`batch_per_rank` of {self.workers_per_rank * self.batch_per_rank} instead"
            )
        if self.batch_per_rank < 2:
            raise NpnetError("`sync_bn` needs a `batch_per_rank` of 2 or more")

    def caches_features(self, recipe: Recipe) -> bool:
        """Whether what the classifier reads is computed once, where that is a vector."""
        return recipe.train == "head" and self.cache_features

    def can_overlap(self, recipe: Recipe) -> bool:
        """Whether a gradient is this rank's share of the sum as soon as backward has left it.

        And whether nobody else exchanges anything then, as batch norms do with `sync_bn`.
        """
        alone = self.workers_per_rank == 1 and not self.deterministic and not self.sync_bn
        return recipe.sync == "gradients" and alone
