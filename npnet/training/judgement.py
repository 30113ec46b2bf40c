"""What a network makes of each image of a split, and what follows: top-5, classes, confusions."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from npnet.kernels.arrays import Floats, Ints

TOP = 5
# What is noted of an image: its class, the likeliest one, how many are likelier than its own, the
# loss (nats), and the likeliest one's probability.
COLUMNS = ("label", "predicted", "likelier", "loss", "probability")


def columns(labels: Ints, logits: Floats, losses: Floats, probabilities: Floats) -> Floats:
    """COLUMNS (5,n) of n images, from logits and probabilities (n,K). Of equals the first wins."""
    rows, predicted = np.arange(len(labels)), logits.argmax(axis=1)
    own = logits[rows, labels][:, None]
    before = np.arange(logits.shape[1]) < labels[:, None]
    likelier = ((logits > own) | ((logits == own) & before)).sum(axis=1)
    return np.stack([labels, predicted, likelier, losses, probabilities[rows, predicted]])


@dataclass(frozen=True)
class ClassScore:
    """How the images of one class fared.

    `accuracy`: the part of them that was recognised, also called recall; None where the split has
    none. `precision`: of the images that were called so, the part that was; None where none were.
    `taken_for`: the class that most of the errors went to.
    """

    name: str
    images: int
    accuracy: float | None
    precision: float | None
    taken_for: str | None


@dataclass(frozen=True)
class Confusion:
    """Two classes, and how many images of the first were taken for the second."""

    label: str
    predicted: str
    images: int
    share: float  # of the images of the first


@dataclass(frozen=True)
class Judgement:
    """Of n images of a split, in its order: COLUMNS, each (n,). `classes` are the K names."""

    classes: tuple[str, ...]
    labels: Ints
    predicted: Ints
    likelier: Ints
    losses: Floats
    probabilities: Floats

    @classmethod
    def of(cls, classes: tuple[str, ...], found: Floats) -> "Judgement":
        """From the rows of COLUMNS."""
        label, predicted, likelier = found[:3].astype(np.int64)
        return cls(classes, label, predicted, likelier, found[3], found[4])

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def loss(self) -> float:
        """Mean cross-entropy, nats."""
        return float(self.losses.mean())

    @property
    def accuracy(self) -> float:
        """The part of the images whose likeliest class is their own: top-1, a fraction."""
        return float((self.likelier == 0).mean())

    @property
    def top5(self) -> float | None:
        """The part whose own class is among the five likeliest; None where that says nothing."""
        return float((self.likelier < TOP).mean()) if len(self.classes) > TOP else None

    @cached_property
    def confusion(self) -> Ints:
        """Images (K,K) by their class (row) and the likeliest one (column)."""
        size = len(self.classes)
        cells = np.bincount(self.labels * size + self.predicted, minlength=size**2)
        return cells.reshape(size, size)

    def per_class(self) -> list[ClassScore]:
        """The worst class first; those without images last."""
        names, right = self.classes, np.diag(self.confusion)
        errors = self.confusion - np.diag(right)
        images, called = self.confusion.sum(axis=1), self.confusion.sum(axis=0)
        scores = [
            ClassScore(
                name,
                int(images[k]),
                float(right[k] / images[k]) if images[k] else None,
                float(right[k] / called[k]) if called[k] else None,
                names[errors[k].argmax()] if errors[k].any() else None,
            )
            for k, name in enumerate(names)
        ]
        return sorted(scores, key=lambda each: 2.0 if each.accuracy is None else each.accuracy)

    def confusions(self) -> list[Confusion]:
        """Pairs of classes, those with the most errors first."""
        return sorted(self._confusions(), key=lambda pair: -pair.images)

    def _confusions(self) -> Iterator[Confusion]:
        images = self.confusion.sum(axis=1)
        for k, predicted in np.argwhere(self.confusion):
            if k != predicted:
                count = int(self.confusion[k, predicted])
                names = self.classes[k], self.classes[predicted]
                yield Confusion(*names, count, count / int(images[k]))

    def worst(self, most: int) -> Ints:
        """Indices in the split of the images that it got wrong, the largest loss first."""
        wrong = np.flatnonzero(self.likelier)
        return wrong[np.argsort(-self.losses[wrong], kind="stable")][:most]
