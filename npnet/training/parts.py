"""Which part of a network is trained, and how fast: what `train`, `freeze`, `layer_decay` mean.

A network's units, from the images to the logits, are what stands before the dot in the names of its
operations:

    stem  block1 ... block17  head  classifier        conv1  fire2 ... fire9  classifier

    train     trained
    all       everything
    head      the classifier
    last:N    the N units before the classifier, and it
    norm      gammas and betas of every batch norm, and the classifier

What is frozen is left out of these. A batch norm of which nothing is trained normalises with its
running statistics, and leaves them as they are. With `layer_decay` d, the rate of a unit that is k
units before the classifier is d^k of the classifier's.
"""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from npnet.errors import NpnetError
from npnet.model.architecture import Architecture
from npnet.model.network import Network
from npnet.model.operations import AveragePool, Linear
from npnet.model.parameters import CLASSIFIER, ParameterSpec
from npnet.training.recipe import Recipe


def units_of(specs: Iterable[ParameterSpec]) -> list[str]:
    """The units that have parameters, in their order; weights stand in it."""
    return list(dict.fromkeys(_unit(spec) for spec in specs if spec.role == "weight"))


def _unit(spec: ParameterSpec) -> str:
    return spec.name.partition(".")[0]


class Parts:
    """A recipe's choice for the parameters of one network.

    Raises NpnetError for a pattern that fits nothing, for more units than there are, and where
    nothing is left to train.
    """

    def __init__(self, specs: Sequence[ParameterSpec], recipe: Recipe) -> None:
        self.specs, self.recipe = specs, recipe
        self.units = units_of(specs)
        kind, _, number = recipe.train.partition(":")
        self._kind = kind
        self._last = set(self.units[-1 - int(number or 0) :])
        self._check(int(number or 0))

    def _check(self, last: int) -> None:
        recipe, before = self.recipe, len(self.units) - 1
        if last > before:
            raise NpnetError(
                f"`train` last:{last} is more than there is: this network has {before} units "
                f"before its classifier, {self.units[0]} to {self.units[before - 1]}"
            )
        if self._kind == "norm" and not any(spec.role == "gamma" for spec in self.specs):
            raise NpnetError("`train` norm is for networks with batch norm, which this one lacks")
        operations = {spec.operation for spec in self.specs}
        for pattern in recipe.freeze:
            if not any(fnmatchcase(name, pattern) for name in operations):
                raise NpnetError(
                    f"`freeze` {pattern} fits no operation with parameters: "
                    "npnet info --operations lists them"
                )
        if not any(self.trains(spec) for spec in self.specs):
            raise NpnetError("`freeze` leaves nothing to train: freeze fewer operations")

    def trains(self, spec: ParameterSpec) -> bool:
        """Whether a parameter is trained."""
        if any(fnmatchcase(spec.operation, pattern) for pattern in self.recipe.freeze):
            return False
        if self._kind == "norm":
            return spec.role in ("gamma", "beta") or _unit(spec) == CLASSIFIER
        return self._kind == "all" or _unit(spec) in self._last

    def rate(self, spec: ParameterSpec) -> float:
        """What its learning rate is multiplied with."""
        depth = len(self.units) - 1 - self.units.index(_unit(spec))
        own = self.recipe.classifier_gradient if spec.operation == CLASSIFIER else 1.0
        return own * float(self.recipe.layer_decay**depth)

    def trained(self) -> list[str] | None:
        """The names of the parameters that are trained; None: all."""
        names = [spec.name for spec in self.specs if self.trains(spec)]
        return names if len(names) < len(self.specs) else None

    def set_in(self, network: Network) -> None:
        """Train this part of a network, which is as it was given."""
        network.set_trainable(self.trained())
        network.use_running_statistics(self.resting())

    def resting(self) -> list[str]:
        """The operations of which nothing is trained."""
        moving = {spec.operation for spec in self.specs if self.trains(spec)}
        operations = dict.fromkeys(spec.operation for spec in self.specs)
        return [name for name in operations if name not in moving]


def parts_of(architecture: Architecture, recipe: Recipe) -> Parts:
    """What a recipe trains of a network."""
    specs = [spec for operation in architecture.operations for spec in operation.parameters]
    return Parts(specs, recipe)


def features_of(architecture: Architecture) -> str | None:
    """The operation whose output, one vector an image, a linear classifier reads; None without."""
    by_name = {operation.name: operation for operation in architecture.operations}
    last = architecture.operations[-1]
    if not isinstance(last, Linear):
        return None
    before = by_name[last.inputs[0]]
    while before.passes_through:
        before = by_name[before.inputs[0]]
    return before.name if isinstance(before, AveragePool) else None
