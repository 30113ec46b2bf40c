"""Tensors of a foreign file, by their names there, against the networks of the zoo.

Nothing is read before all shapes fit: a reader tells what a tensor is called and how large it is,
and reads it when asked. So a network is never larger than the file that it comes from.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from math import ceil
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npnet.errors import NpnetError
from npnet.exchange.names import PEERS, WORDS, Family, Peer, Slot, example, peers_of, slots_of
from npnet.kernels.arrays import Floats
from npnet.model import zoo
from npnet.model.config import ModelConfig
from npnet.model.parameters import CLASSIFIER, Parameters, Shape
from npnet.model.weights import Weights
from npnet.schema import checked_fields
from npnet.untrusted import Refused, open_file, parse_json

MOST_AXES = 8  # of a tensor
LARGEST_HEADER = 16 * 2**20  # bytes, of what a file says about its tensors
IMAGENET_SIZE = 224  # pixels across, of the images that published weights were trained on
NOT_NEEDED = ("num_batches_tracked",)  # PyTorch's batch norms count, for a mean without momentum
WORTH_SAYING = 3  # tensors in one line
LARGEST_WIDTH = 16.0
USUAL_WIDTHS = (1.0, 0.5, 0.35, 0.75, 1.4, 1.3, 0.25, 0.1)


@contextmanager
def reading(path: Path, what: str, advice: str) -> Iterator[BinaryIO]:
    """A file that is read. Raises NpnetError where it cannot be, or is not `what` it should."""
    try:
        with open_file(path) as file:
            yield file
    except OSError as error:
        raise NpnetError(f"cannot read {path}: {error.strerror}") from error
    except Refused as error:
        raise NpnetError(f"{path} is no {what}: {error}; {advice}") from error


class Tensor(NamedTuple):
    """A tensor of numbers in a file: its shape, and what reads it."""

    shape: Shape
    read: Callable[[], NDArray[Any]]


class DoesNotFit(NpnetError):
    """A file's tensors are not those of a network. `tensors`: a line for each of them."""

    def __init__(self, what: str, tensors: list[str]) -> None:
        shown, left = tensors[:WORTH_SAYING], len(tensors) - WORTH_SAYING
        more = [f"and {left} more"] if left > 0 else []
        super().__init__(f"{what}: {'; '.join([*shown, *more])}")
        self.tensors = tensors


@dataclass(frozen=True)
class Note:
    """What npnet writes beside the tensors, where a format has room, and reads back.

    A file of tensors says nothing of input size, colours, epsilon, padding and classes.
    """

    model: ModelConfig
    classes: tuple[str, ...] | None

    @classmethod
    def of(cls, weights: Weights) -> "Note":
        return cls(weights.config, weights.classes)

    def text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def read(cls, data: bytes, path: Path) -> "Note":
        """Raises NpnetError where it does not say what it should, Refused where it is no JSON."""
        found, where = parse_json(data), f"{path}: npnet's note"
        fields = checked_fields(_Fields, found, where)
        model = ModelConfig.from_dict(fields["model"], f"{where}: model")
        zoo.entry(model.architecture).check(model)
        if fields["classes"] is not None and len(fields["classes"]) != model.classes:
            raise NpnetError(f"{where} names {len(fields['classes'])} of {model.classes} classes")
        return cls(model, fields["classes"])


@dataclass(frozen=True)
class _Fields:
    model: dict[str, Any]
    classes: tuple[str, ...] | None


@dataclass(frozen=True)
class Foreign:
    """The tensors of a file, and what it says of the network besides.

    `facts`: fields of ModelConfig. `turned`: its kernels are npnet's turned by 180 degrees.
    """

    path: Path
    what: str  # such as "a state dict"
    family: Family
    tensors: Mapping[str, Tensor]
    note: Note | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    turned: bool = False

    def weights(self) -> Weights:
        """Raises NpnetError unless the tensors are those of one network of the zoo.

        DoesNotFit, if they are nearly.
        """
        peer = self._peer()
        tensors = self._as_named(peer)
        config = self.note.model if self.note else self._config(peer, tensors)
        architecture = zoo.build(config)
        slots = list(peer.slots(architecture, self.turned))
        body = [slot for slot in slots if slot.operation.name != CLASSIFIER]
        headless = not any(_faults(body, tensors))
        if headless:
            slots = body
        if faults := list(_faults(slots, tensors)):
            what = f"{self.path} does not fit {_described(config)}, as {peer.program} names it"
            raise DoesNotFit(what, faults)
        parameters = Parameters(architecture)
        for slot in slots:
            slot.read(self._numbers(slot, tensors[slot.name]), parameters)
        source = f"{self.path.name}, {self.what} of {peer.program}"
        classes = self.note.classes if self.note else None
        numbers = parameters.values, parameters.statistics
        return Weights(config, *numbers, classes, source, headless=headless)

    def _peer(self) -> Peer:
        """The one with the most names in common."""
        peers = peers_of(self.note.model.architecture) if self.note else PEERS
        common = [(self._common(each), each) for each in peers if each.family == self.family]
        best, peer = max(common, key=lambda each: each[0], default=(0, PEERS[0]))
        names = [repr(name)[:60] for name in self.tensors]
        if not best:
            known = ", ".join(dict.fromkeys(f"{p.program}'s {p.architecture}" for p in PEERS))
            raise NpnetError(
                f"{self.path} holds no network of npnet's: {len(names)} tensors, called "
                f"{', '.join(names[:WORTH_SAYING]) or 'nothing'} and so on; known are {known}"
            )
        return peer

    def _common(self, peer: Peer) -> int:
        named = slots_of(peer)
        prefix = _prefix(named[0], self.tensors)
        return len({slot.name for slot in named} & {n.removeprefix(prefix) for n in self.tensors})

    def _as_named(self, peer: Peer) -> dict[str, Tensor]:
        """The tensors by the peer's own names.

        Without what wrappers put before them (`module.`), and without what no network needs. A
        classifier that somebody gave another name is known by being the only matrix.
        """
        slots = slots_of(peer)
        prefix = _prefix(slots[0], self.tensors)
        found = {
            name.removeprefix(prefix): tensor
            for name, tensor in self.tensors.items()
            if not name.endswith(NOT_NEEDED)
        }
        weight, bias = slots[-2].name, slots[-1].name
        matrices = [name for name, tensor in found.items() if len(tensor.shape) == 2]
        if weight not in found and len(matrices) == 1:
            words = WORDS[peer.family]
            found[weight] = found.pop(matrices[0])
            theirs = matrices[0].removesuffix(words["weight"]) + words["bias"]
            if theirs in found:
                found[bias] = found.pop(theirs)
        return found

    def _config(self, peer: Peer, tensors: Mapping[str, Tensor]) -> ModelConfig:
        """What the shapes say, and the file, and the family's habits where it is silent."""
        size = self.facts.get("input_size", IMAGENET_SIZE)
        usual = {"input_size": size, "stored_size": size, **HABITS[peer.family]}
        last = slots_of(peer)[-1]  # the classifier's bias
        shape = tensors[last.name].shape if last.name in tensors else ()
        classes = shape[0] if len(shape) == 1 else example(peer).classes
        try:
            config = zoo.configure(peer.architecture, classes, **{**usual, **self.facts})
            zoo.entry(peer.architecture).check(config)
        except NpnetError as error:
            raise NpnetError(f"{self.path}: {error}") from error
        return replace(config, width=_width(config, peer, tensors)) if peer.scaled else config

    def _numbers(self, slot: Slot, tensor: Tensor) -> Floats:
        """A tensor as float32. Raises NpnetError where its numbers are of no use."""
        with np.errstate(over="ignore"):  # what float32 cannot hold is infinite
            array = np.asarray(tensor.read(), np.float32)
        if not np.isfinite(array).all():
            words = "NaN" if np.isnan(array).any() else "infinite, or too large for float32"
            raise NpnetError(f"{self.path}: {slot.name} is of no use: some of it is {words}")
        if slot.ours.endswith(".variance") and (array < 0).any():
            raise NpnetError(f"{self.path}: {slot.name} is of no use: a variance is negative")
        return array


# Where a file does not say it: what its program's own models are made for.
HABITS: Mapping[Family, Mapping[str, Any]] = {
    "torch": {},  # ModelConfig's defaults are torchvision's
    "keras": {
        "bn_epsilon": 1e-3,
        "padding": "tf_same",
        "mean": (127.5, 127.5, 127.5),
        "std": (127.5, 127.5, 127.5),
    },
}


def tensors_of(weights: Weights, peer: Peer, turned: bool = False) -> Iterator[tuple[str, Floats]]:
    """The arrays of a network as a peer has them."""
    parameters = weights.parameters()
    for slot in peer.slots(zoo.build(weights.config), turned):
        yield slot.name, slot.write(parameters)


def writer_for(weights: Weights, family: Family, path: Path) -> Peer:
    """The peer whose names a file gets. Raises NpnetError where the family has no such network."""
    config = weights.config
    for peer in peers_of(config.architecture):
        usual = example(peer).config
        if peer.family == family and config.batch_norm == usual.batch_norm:
            return peer
    programs = {peer.program for peer in PEERS if peer.family == family}
    norm = " with batch norm" if config.batch_norm else ""
    raise NpnetError(
        f"cannot write {path}: {' and '.join(sorted(programs))} have no {config.architecture}"
        f"{norm}; keep it as .npz"
    )


def _prefix(first: Slot, names: Mapping[str, Tensor]) -> str:
    """What stands before the first name that a peer's network must have."""
    if first.name in names:
        return ""
    for name in names:
        if name.endswith(f".{first.name}"):
            return name.removesuffix(first.name)
    return ""


def _faults(slots: list[Slot], tensors: Mapping[str, Tensor]) -> Iterator[str]:
    for slot in slots:
        found = tensors.get(slot.name)
        if found is None:
            yield f"{slot.name} {slot.shape} is missing"
        elif found.shape != slot.shape:
            yield f"{slot.name} is {found.shape!s:.80} where {slot.shape} was expected"
    expected = {slot.name for slot in slots}
    for name, tensor in tensors.items():
        if name not in expected:
            yield f"{name!r:.80} {tensor.shape!s:.80} is not of that network"


def _described(config: ModelConfig) -> str:
    width = f" of width {config.width}" if "width" in zoo.entry(config.architecture).options else ""
    return f"{config.architecture}{width} with {config.classes} classes"


def _width(config: ModelConfig, peer: Peer, tensors: Mapping[str, Tensor]) -> float:
    """The roundest width that gives the channels of the tensors, or else about theirs."""
    one = {slot.ours: slot for slot in peer.slots(example(peer, width=1.0))}
    slot = one[f"{peer.scaled}.gamma"]
    if slot.name not in tensors or len(tensors[slot.name].shape) != 1:
        return 1.0
    (channels,) = tensors[slot.name].shape
    # They are rounded to a multiple of 8: up by 4, by 10 %, or from less than 8.
    low = (channels - 4) / slot.shape[0] if channels > 8 else 0
    high = min(channels / 0.9 / slot.shape[0], LARGEST_WIDTH)
    round_ones = [
        step / steps
        for steps in (100, 1000)
        for step in range(max(1, ceil(low * steps)), int(high * steps) + 1)
    ]
    candidates = [*(each for each in USUAL_WIDTHS if low <= each <= high), *round_ones]
    for width in candidates:
        slots = peer.slots(zoo.build(replace(config, width=width)))
        if all(each.name in tensors and tensors[each.name].shape == each.shape for each in slots):
            return width
    return candidates[0] if candidates else 1.0
