"""What other programs call the operations of a network, and in which layout they keep an array.

A program that has a model of the zoo, under names of its own, is a `Peer`: a row of PEERS.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

import numpy as np

from npnet.exchange.layout import to_npnet_layout, to_torch_layout, torch_shape
from npnet.kernels.arrays import Floats
from npnet.model import zoo
from npnet.model.architecture import Architecture
from npnet.model.operations import Convolution, Operation
from npnet.model.parameters import Parameters, Shape
from npnet.model.zoo.mobilenet_v2 import TABLE
from npnet.model.zoo.squeezenet import SQUEEZENET_1_0, SQUEEZENET_1_1, Table

Family = Literal["torch", "keras"]
IMAGENET_CLASSES = 1000

# What a family calls the arrays of a module.
WORDS: Mapping[Family, Mapping[str, str]] = {
    "torch": {
        "weight": ".weight", "bias": ".bias", "gamma": ".weight", "beta": ".bias",
        "mean": ".running_mean", "variance": ".running_var",
    },
    "keras": {
        "weight": "/kernel", "bias": "/bias", "gamma": "/gamma", "beta": "/beta",
        "mean": "/moving_mean", "variance": "/moving_variance",
    },
}  # fmt: skip


class Named(NamedTuple):
    """A convolution or linear layer, and the batch norm behind it, if there is one."""

    layer: str
    norm: str = ""


@dataclass(frozen=True, eq=False)
class Peer:
    """A program, one of its models, and its names for that model's operations."""

    program: str
    architecture: str  # of npnet.model.zoo
    family: Family
    names: Mapping[str, Named]  # by those of npnet
    scaled: str = ""  # the operation whose channels tell the width

    def slots(self, architecture: Architecture, turned: bool = False) -> Iterator["Slot"]:
        """Every array of a network, in the order of its operations.

        `turned`: the peer's kernels are npnet's turned by 180 degrees.
        """
        words = WORDS[self.family]
        for operation in architecture:
            if not operation.parameters:
                continue
            layer, norm = self.names[operation.name]
            for spec in operation.parameters:
                place = norm if spec.role in ("gamma", "beta") else layer
                yield Slot(f"{place}{words[spec.role]}", spec.name, operation, self.family, turned)
            if operation.statistics_channels:
                for role in ("mean", "variance"):
                    name = f"{operation.name}.{role}"
                    yield Slot(f"{norm}{words[role]}", name, operation, self.family, False)


class Slot(NamedTuple):
    """Where an array of a network stands in a peer's file."""

    name: str  # there
    ours: str
    operation: Operation
    family: Family
    turned: bool

    @property
    def is_weight(self) -> bool:
        return self.ours.endswith(".weight")

    def view(self, parameters: Parameters) -> Floats:
        """npnet's own array."""
        operation, _, role = self.ours.rpartition(".")
        if role in ("mean", "variance"):
            return parameters.running(operation)[role == "variance"]
        return parameters.value(self.ours)

    @property
    def shape(self) -> Shape:
        """That of the array in the file."""
        specs = {spec.name: spec.shape for spec in self.operation.parameters}
        shape = specs.get(self.ours, (self.operation.statistics_channels,))
        if not self.is_weight:
            return shape
        if self.family == "torch":
            return torch_shape(self.operation)
        if not isinstance(self.operation, Convolution):
            return shape
        if len(shape) == 2:  # 1x1
            return (1, 1, *shape)
        return (*shape, 1) if self.operation.depthwise else shape

    def read(self, array: Floats, parameters: Parameters) -> None:
        """Copy an array of a file, float32 and of `shape`, into a network."""
        view = self.view(parameters)
        if self.is_weight and self.family == "torch":
            array = to_npnet_layout(array, view.shape)
        view[...] = self._as_turned(array.reshape(view.shape))

    def write(self, parameters: Parameters) -> Floats:
        """A network's array as it stands in the file."""
        array = self._as_turned(self.view(parameters))
        if self.is_weight and self.family == "torch":
            array = to_torch_layout(array, len(self.shape))
        return np.ascontiguousarray(array).reshape(self.shape)

    def _as_turned(self, array: Floats) -> Floats:
        window = self.is_weight and getattr(self.operation, "size", 1) > 1
        return array[::-1, ::-1] if self.turned and window else array


def peers_of(architecture: str) -> list[Peer]:
    return [each for each in PEERS if each.architecture == architecture]


@cache
def example(peer: Peer, width: float | None = None) -> Architecture:
    """Its network for ImageNet: names do not depend on width and classes."""
    return zoo.build(zoo.configure(peer.architecture, IMAGENET_CLASSES, width=width))


@cache
def slots_of(peer: Peer) -> tuple[Slot, ...]:
    """Those of its example."""
    return tuple(peer.slots(example(peer)))


# --- MobileNetV2. npnet's block N begins with `expand`, but for the first.

BLOCKS = sum(stage.repeats for stage in TABLE)
PARTS = ("expand", "depthwise", "project")
LAST = f"block{BLOCKS}.project"


def _blocks(name: Callable[[int, int, str], Named]) -> dict[str, Named]:
    """The convolutions of all blocks. `name` is given a block, the place of a convolution in it and
    what it does.
    """
    return {
        f"block{number}.{part}": name(number, place, part)
        for number in range(1, BLOCKS + 1)
        for place, part in enumerate(PARTS if number > 1 else PARTS[1:])
    }


def _torchvision_block(number: int, place: int, part: str) -> Named:
    at = f"features.{number}.conv"
    if part == "project":
        return Named(f"{at}.{place}", f"{at}.{place + 1}")
    return Named(f"{at}.{place}.0", f"{at}.{place}.1")


def _timm_block(number: int, place: int, part: str) -> Named:
    places = [(s, r) for s, stage in enumerate(TABLE) for r in range(stage.repeats)]
    stage, repeat = places[number - 1]
    last = "conv_pwl" if number > 1 else "conv_pw"
    word = {"expand": "conv_pw", "depthwise": "conv_dw", "project": last}[part]
    at = f"blocks.{stage}.{repeat}"
    return Named(f"{at}.{word}", f"{at}.bn{place + 1}")


def _keras_block(number: int, place: int, part: str) -> Named:
    at = f"{keras_block(number)}{part}"
    return Named(at, f"{at}_BN")


def keras_block(number: int) -> str:
    """What the names of Keras' layers begin with in npnet's block `number`."""
    return f"block_{number - 1}_" if number > 1 else "expanded_conv_"


MOBILENET_TORCHVISION = {
    "stem": Named("features.0.0", "features.0.1"),
    **_blocks(_torchvision_block),
    "head": Named(f"features.{BLOCKS + 1}.0", f"features.{BLOCKS + 1}.1"),
    "classifier": Named("classifier.1"),
}
MOBILENET_TIMM = {
    "stem": Named("conv_stem", "bn1"),
    **_blocks(_timm_block),
    "head": Named("conv_head", "bn2"),
    "classifier": Named("classifier"),
}
MOBILENET_KERAS = {
    "stem": Named("Conv1", "bn_Conv1"),
    **_blocks(_keras_block),
    "head": Named("Conv_1", "Conv_1_bn"),
    "classifier": Named("predictions"),
}


# --- SqueezeNet, which timm and Keras do not have.


def _squeezenet(table: Table) -> dict[str, Named]:
    """torchvision counts the ReLU behind the first convolution, and the pools."""
    names, place = {"conv1": Named("features.0"), "classifier": Named("classifier.1")}, 1
    for number in range(2, len(table.fires) + 2):
        place += 2 if number in table.pools else 1
        for part in ("squeeze", "expand1x1", "expand3x3"):
            names[f"fire{number}.{part}"] = Named(f"features.{place}.{part}")
    return names


# The first of a family is what is written.
PEERS = (
    Peer("torchvision", "mobilenet_v2", "torch", MOBILENET_TORCHVISION, LAST),
    Peer("torchvision", "squeezenet1_0", "torch", _squeezenet(SQUEEZENET_1_0)),
    Peer("torchvision", "squeezenet1_1", "torch", _squeezenet(SQUEEZENET_1_1)),
    Peer("timm", "mobilenet_v2", "torch", MOBILENET_TIMM, LAST),
    Peer("Keras", "mobilenet_v2", "keras", MOBILENET_KERAS, LAST),
)
