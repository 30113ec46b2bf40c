"""What a model is: all that is needed to rebuild it. How it is trained is the recipe's matter."""

import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from npnet.errors import NpnetError
from npnet.schema import checked_fields

Color = tuple[float, float, float]
Padding = Literal["symmetric", "tf_same"]

LARGEST = 2**16  # pixels across: anything beyond is a mistake
LEAST_DIVISOR, LARGEST_COLOR = 1e-12, 1e6  # float32 can divide by the one and square the other
LEAST_CROP = 0.01  # of an image, across
IMAGENET_MEAN, IMAGENET_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class ModelConfig:
    """A model and what its images look like. Colours are on the scale 0..255.

    `padding`: at stride 2 TensorFlow and Keras pad below and to the right only (`tf_same`), PyTorch
    on all sides (`symmetric`). Turned by 180 degrees the one is the other, and what is symmetric
    stays as it is. So a `tf_same` model sees its images turned, and its 3x3 kernels are those of
    Keras turned likewise; nothing else in the engine knows.
    Raises NpnetError where a value is not usable.
    """

    architecture: str  # a name of npnet.model.zoo
    classes: int
    width: float = 1.0  # a multiplier of all channel counts
    input_size: int = 224  # pixels across, of the network's square input
    stored_size: int = 32  # pixels across, of the images that it was trained on
    dropout: float = 0.0  # before the classifier
    batch_norm: bool = True  # behind each convolution; else a bias
    bn_epsilon: float = 1e-5  # added to the variance
    padding: Padding = "symmetric"
    mean: Color = IMAGENET_MEAN
    std: Color = IMAGENET_STD
    crop_fraction: float = 1.0  # evaluation sees so much of an image across, its centre

    def __post_init__(self) -> None:
        if not 0 < self.width <= 16:
            raise NpnetError(
                f"`width` {self.width} is not usable: give one above 0 and up to 16, such as 0.5"
            )
        if not 1 <= self.input_size <= LARGEST:
            raise NpnetError(
                f"`input_size` {self.input_size} is not usable: give 1 to {LARGEST} pixels"
            )
        if not 1 <= self.stored_size <= LARGEST:
            raise NpnetError(
                f"`stored_size` {self.stored_size} is not usable: give 1 to {LARGEST} pixels"
            )
        if self.classes < 2:
            raise NpnetError(f"{self.classes} classes cannot be told apart: give 2 or more")
        if not 0 <= self.dropout < 1:
            raise NpnetError(f"`dropout` rate {self.dropout} is not usable: give 0 <= rate < 1")
        if not LEAST_DIVISOR <= self.bn_epsilon <= LARGEST_COLOR:
            raise NpnetError(
                f"`bn_epsilon` {self.bn_epsilon} is not usable: give a number above 0, such as 1e-5"
            )
        if not LEAST_CROP <= self.crop_fraction <= 1:
            raise NpnetError(
                f"`crop_fraction` {self.crop_fraction} is not usable: give {LEAST_CROP} to 1, "
                "such as 0.875"
            )
        if self.padding not in get_args(Padding):
            raise NpnetError(
                f"`padding` {self.padding} is not usable: give {' or '.join(get_args(Padding))}"
            )
        if not all(LEAST_DIVISOR <= each <= LARGEST_COLOR for each in self.std):
            raise NpnetError(f"std {self.std} is not usable: give three numbers above 0")
        if not all(abs(each) <= LARGEST_COLOR for each in self.mean):
            raise NpnetError(f"mean {self.mean} is not usable: give three numbers from 0 to 255")

    def check_classes(self, names: Sequence[str], dataset: str, who: str = "the model") -> None:
        """Raise NpnetError unless a dataset has as many classes: kernels trust its labels."""
        if len(names) != self.classes:
            raise NpnetError(
                f"{who} tells {self.classes} classes apart, {dataset} has {len(names)}: give the "
                "`dataset` that it is for, or a model of as many classes"
            )

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, fields: Any, where: str) -> "ModelConfig":
        """The config that a file holds. Raises NpnetError, naming `where`, for anything else."""
        return cls(**checked_fields(cls, fields, where))


def warn_of_other_names(
    names: Sequence[str], others: Sequence[str], dataset: str, who: str = "the model"
) -> None:
    """Warn where a dataset of as many classes calls them otherwise: its labels mean others then."""
    pairs = zip(names, others, strict=True)
    other = [f"{mine!r:.40} for {theirs!r:.40}" for mine, theirs in pairs if mine != theirs]
    if other:
        warnings.warn(
            f"{who} calls {len(other)} classes otherwise than {dataset} does, such as "
            f"{other[0]}: its score means little unless they are the same things",
            stacklevel=3,
        )
