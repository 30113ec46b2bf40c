"""A network's numbers apart from any run: what a training starts from, what files exchange."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from npnet.kernels.arrays import Floats
from npnet.model.architecture import Architecture
from npnet.model.config import ModelConfig
from npnet.model.parameters import CLASSIFIER, Parameters
from npnet.model.zoo import build


@dataclass(frozen=True)
class Weights:
    """The parameters and running statistics of one network.

    `values` (P,) and `statistics` (2C,) are in the order of `Parameters` of the model `config`.
    `classes`: their names, None where nothing tells them. `source`: what they were read from, for
    people, such as "mobilenet.pth, a state dict of torchvision". `headless`: they are without a
    classifier, whose numbers are 0 here; many files are, that others are to train on.
    """

    config: ModelConfig
    values: Floats
    statistics: Floats
    classes: tuple[str, ...] | None
    source: str
    path: Path | None = None  # where they were read
    headless: bool = False

    @property
    def architecture(self) -> Architecture:
        return build(self.config)

    def seen_by(self, model: ModelConfig) -> "Weights":
        """The same weights, with a model's input size, crop and colours instead of their own."""
        return replace(self, config=replace(model, classes=self.config.classes))

    def place(self) -> dict[str, str]:
        """Where they were read, and a hash that tells whether the same lie there later."""
        return {"path": str(self.path), "digest": self.parameters().digest()}

    def knows(self, classes: Sequence[str]) -> bool:
        """Whether its classifier is for these classes; names count where it has any."""
        if self.headless:
            return False
        if self.classes is None:
            return len(classes) == self.config.classes
        return tuple(classes) == self.classes

    def load_into(self, parameters: Parameters, classes: Sequence[str]) -> None:
        """Copy all that a network of these classes can take: its classifier, if it knows them."""
        mine = self.parameters()
        for spec in mine.specs:
            if spec.operation != CLASSIFIER or self.knows(classes):
                parameters.value(spec.name)[...] = mine.value(spec.name)
        parameters.statistics[:] = mine.statistics

    def parameters(self) -> Parameters:
        """The same numbers with a view on each by its name."""
        parameters = Parameters(self.architecture)
        parameters.values[:] = self.values
        parameters.statistics[:] = self.statistics
        return parameters
