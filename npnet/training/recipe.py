"""Recipes: every value that decides how a network is trained, explicit and in one place.

What a network is, is another record: npnet.model.config.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from npnet.errors import NpnetError
from npnet.model.parameters import Initialiser
from npnet.parallel.strategies import STRATEGIES
from npnet.schema import checked_fields

BATCH_PER_RANK = 12  # images a rank and step, in the paper's runs and here

TRAIN = re.compile("all|head|norm|last:[1-9][0-9]{0,3}")

# The least and the largest value of each number; some may be None instead.
_RANGES: Mapping[str, tuple[float, float]] = {
    "sync_steps": (1, math.inf),
    "lr": (0, math.inf),
    "lr_base": (0, math.inf),
    "classifier_gradient": (0, math.inf),
    "warmup_epochs": (0, math.inf),
    "momentum": (0, 1),
    "weight_decay": (0, math.inf),
    "label_smoothing": (0, 1),
    "bn_momentum": (0, 1),
    "crop_padding": (0, 16),
    "layer_decay": (0.01, 1),
    "crop_scale": (0.01, 1),
    "crop_ratio": (1, 10),
    "color_jitter": (0, 1),
}


@dataclass(frozen=True)
class Recipe:
    """A way to train. Raises NpnetError where a value is not usable."""

    name: str
    sync: str  # see npnet.parallel.strategies
    sync_steps: int | None  # of `weights`: steps between two averages; None: an epoch's
    lr: float | None  # peak learning rate; None: lr_base for each 256 images of the global batch
    lr_base: float
    classifier_gradient: float  # factor of its gradient, not of its weight decay
    warmup_epochs: float  # the rate climbs from 0
    decay: Literal["none", "linear"]  # linear: down to 0 at the end
    momentum: float
    nesterov: bool
    weight_decay: float  # on weights, not on batch norm or biases
    label_smoothing: float
    initialiser: Initialiser
    zero_gamma: bool  # blocks with a shortcut start as the identity
    bn_momentum: float  # running = momentum*running + (1-momentum)*batch
    flip: bool  # mirror half of the training images
    crop_padding: int  # pixels: the largest shift of a training image, where crop_scale is 1
    shuffle: Literal["shard", "global"]  # each rank's shard, or all: new shards each epoch
    freeze: tuple[str, ...] = ()  # operations that are not trained, by name or pattern
    train: str = "all"  # or head, last:N, norm: see npnet.training.parts
    layer_decay: float = 1.0  # of the rate, from each unit to the one before it
    crop_scale: float = 1.0  # the least area of a random resized crop; 1: none
    crop_ratio: float = 4 / 3  # the largest aspect of such a crop, and 1/ratio the least
    color_jitter: float = 0.0  # brightness, contrast, saturation times 1-jitter to 1+jitter
    independent_init: bool = False  # each worker draws its own weights, until the first average

    def __post_init__(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                limits = f"{least} or more" if most == math.inf else f"{least} to {most}"
                raise NpnetError(f"`{name}` {value!r:.40} is not usable: give {limits}")
        if self.sync not in STRATEGIES:
            names = ", ".join(STRATEGIES)
            raise NpnetError(f"`sync` {self.sync!r:.40} is not usable: give one of {names}")
        if not TRAIN.fullmatch(self.train):
            raise NpnetError(
                f"`train` {self.train!r:.40} is not usable: give all, head, norm or last:N, such "
                "as last:4"
            )

    def peak_lr(self, global_batch: int) -> float:
        """The linear scaling rule (Goyal et al. 2017, section 2.1), unless `lr` is given."""
        return self.lr if self.lr is not None else self.lr_base * global_batch / 256

    def lr_at(self, epoch: float, epochs: int, global_batch: int) -> float:
        """The learning rate at a point of time, in epochs since the start."""
        peak = self.peak_lr(global_batch)
        warmup = min(self.warmup_epochs, epochs / 2)
        if epoch < warmup:
            return peak * epoch / warmup
        if self.decay == "none":
            return peak
        return peak * max(0.0, (epochs - epoch) / (epochs - warmup))

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Any, where: str) -> "Recipe":
        """The recipe that a file holds. Raises NpnetError, naming `where`, for anything else."""
        found = checked_fields(cls, fields, where)
        try:
            return cls(**found)
        except NpnetError as error:
            raise NpnetError(f"{where}: {error}") from error


# Section 3.2 of the paper, which gives batch, rate, momentum, decay and synchronisation. It trains
# with Keras, whose defaults fill in the rest: Glorot's initialiser, batch norm 0.999 and 1e-3, and
# preprocessing to [-1, 1]. (One thing is not Keras': at stride 2 it pads below and to the right
# only, npnet all round, as PyTorch does; trained from scratch that is the same experiment.)
PAPER = Recipe(
    name="paper",
    sync="gather-bcast",
    sync_steps=None,
    lr=5e-4,
    lr_base=0.0,
    classifier_gradient=1.0,
    warmup_epochs=0,
    decay="none",
    momentum=0.9,
    nesterov=False,
    weight_decay=0.0,
    label_smoothing=0.0,
    initialiser="glorot_uniform",
    zero_gamma=False,
    bn_momentum=0.999,
    flip=False,
    crop_padding=0,
    shuffle="shard",
)

# Gradients averaged at every step, linear scaling with warm-up (Goyal et al. 2017), and statistics
# that a few dozen steps can form. lr_base is 0.6 at 48 ranks x 12 images, where ten epochs are 870
# steps. Such a rate needs a classifier that learns slower: its 1280 inputs are averages of ReLU6,
# all positive, so a step of its weights adds up over all of them where a convolution's would be
# normalised away.
MODERN = Recipe(
    name="modern",
    sync="gradients",
    sync_steps=None,
    lr=None,
    lr_base=0.6 * 256 / 576,
    classifier_gradient=0.1,
    warmup_epochs=2,
    decay="linear",
    momentum=0.95,
    nesterov=True,
    weight_decay=5e-4,
    label_smoothing=0.1,
    initialiser="he_fan_out",
    zero_gamma=True,
    bn_momentum=0.9,
    flip=True,
    crop_padding=2,
    shuffle="shard",
)

# From weights that are trained already: small steps, all units alike, classes that are not smeared.
# Batch norm's statistics are those of another dataset at first, and follow within an epoch.
FINETUNE = replace(
    MODERN,
    name="finetune",
    lr_base=0.04,
    classifier_gradient=1.0,
    warmup_epochs=0.5,
    momentum=0.9,
    weight_decay=1e-4,
    zero_gamma=False,
)

RECIPES = {recipe.name: recipe for recipe in (MODERN, PAPER, FINETUNE)}

# Fields of ModelConfig that a recipe chooses, because its source does.
MODEL_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "modern": {},
    "finetune": {},
    "paper": {"bn_epsilon": 1e-3, "mean": (127.5, 127.5, 127.5), "std": (127.5, 127.5, 127.5)},
}
