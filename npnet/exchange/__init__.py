"""Weights of other programs, read and written: their names, layouts and preprocessing.

A file is known by its content, not by its ending. A new format is a row of FORMATS, and a module
with two functions, `read(path) -> Weights` and `write(weights, path)`.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from npnet.archive import Archive
from npnet.errors import NpnetError
from npnet.model.config import Padding
from npnet.model.weights import Weights
from npnet.training.checkpoint import END_AND_SEAL, SEAL
from npnet.untrusted import Refused, open_file

BEGINNING = 64  # bytes


@dataclass(frozen=True)
class Into:
    """A program's own model: how it pads, and the epsilon of its batch norms."""

    program: str
    padding: Padding
    epsilon: float


@dataclass(frozen=True)
class Format:
    """A format of files: what tells it, and where its reader and writer lie.

    `begins`: whether the first BEGINNING bytes are those of such a file. `member`: the end of a
    name that a zip file of this format has, "" where it is none. `into`: the model that numbers are
    loaded into, None where the file says itself what is computed.
    """

    name: str
    endings: tuple[str, ...]
    module: str
    read: str
    write: str
    begins: Callable[[bytes], bool] = lambda beginning: False
    member: str = ""
    into: Into | None = None

    def function(self, name: str) -> Callable[..., Any]:
        """A function of its module, loaded now."""
        found: Callable[..., Any] = getattr(import_module(self.module), name)
        return found


_EXCHANGE = "npnet.exchange"
TORCHVISION = Into("torchvision", "symmetric", 1e-5)
FORMATS = (
    Format("npnet", (".npz",), f"{_EXCHANGE}.npz", "read_npz", "write_npz", member="header.npy"),
    Format(
        "PyTorch", (".pth", ".pt"), f"{_EXCHANGE}.pth", "read_pth", "write_pth",
        into=TORCHVISION,
        begins=lambda data: data.startswith(b"\x80\x02\x8a\nl\xfc\x9cF\xf9"),  # before 1.6
        member="data.pkl",
    ),
    Format(
        "safetensors", (".safetensors",), f"{_EXCHANGE}.safetensors",
        "read_safetensors", "write_safetensors",
        begins=lambda data: data[8:9] == b"{", into=TORCHVISION,
    ),
    Format(
        "Keras' weights", (".weights.h5",), f"{_EXCHANGE}.keras", "read_keras", "write_keras",
        into=Into("Keras", "tf_same", 1e-3),
    ),
    Format(
        "Keras", (".keras", ".h5"), f"{_EXCHANGE}.keras", "read_keras", "write_keras",
        begins=lambda data: data.startswith(b"\x89HDF\r\n\x1a\n"),
        member="model.weights.h5",
    ),
    Format(
        "ONNX", (".onnx",), f"{_EXCHANGE}.onnx", "read_onnx", "write_onnx",
        begins=lambda data: data.startswith(b"\x08"),  # the field `ir_version`
    ),
)  # fmt: skip


def read_weights(path: Path, headless: bool = False) -> Weights:
    """The weights in a file of any of FORMATS. Raises NpnetError where it is none, or damaged.

    Or if they lack a classifier, unless `headless` says that one is not needed.
    """
    weights: Weights = (found := format_of(path)).function(found.read)(path)
    if weights.headless and not headless:
        raise NpnetError(
            f"{path} has no classifier, so it tells no classes: train one with `init` {path}"
        )
    return weights


def write_weights(weights: Weights, path: Path) -> None:
    """Write a file of the format that its name's ending says, as a whole or not at all.

    One that is there is replaced. Raises NpnetError where the format cannot hold the network.
    """
    wanted = format_for(path)
    wanted.function(wanted.write)(weights, path)


def notes(weights: Weights, path: Path) -> list[str]:
    """What whoever loads a file that was written has to know, a sentence each."""
    config, into = weights.config, format_for(path).into
    if into is None:
        return []
    found = []
    if config.padding != into.padding:
        found.append(
            f"{into.program}'s model pads on other sides: give it images turned by 180 degrees"
        )
    if config.batch_norm and config.bn_epsilon != into.epsilon:
        found.append(
            f"the batch norms of {into.program}'s model have an epsilon of {into.epsilon:g}: set "
            f"{config.bn_epsilon:g}"
        )
    return found


def format_of(path: Path) -> Format:
    """The format of a file, by its content. Raises NpnetError where it is unknown."""
    names: list[str] = []
    try:
        with open_file(path) as file:
            beginning = file.read(BEGINNING)
            if beginning.startswith(b"PK"):
                names = _members(file)
    except OSError as error:
        raise NpnetError(f"cannot read {path}: {error.strerror}") from error
    except Refused as error:
        raise NpnetError(f"cannot read {path}: {error}; use another file") from error
    for each in FORMATS:
        inside = each.member and any(name.endswith(each.member) for name in names)
        if each.begins(beginning) or inside:
            return each
    known = ", ".join(each.name for each in FORMATS)
    raise NpnetError(f"{path} is not of a known format: give a file of {known}")


def _members(file: BinaryIO) -> list[str]:
    """The names in a zip file, which has no comment, or npnet's seal. Raises Refused."""
    size = os.fstat(file.fileno()).st_size
    file.seek(max(0, size - END_AND_SEAL))
    sealed = file.read().startswith(b"PK\5\6")
    return list(Archive(file, size, SEAL if sealed else 0).members)


def format_for(path: Path) -> Format:
    """The format that a name's ending says. Raises NpnetError where it says none."""
    for each in FORMATS:
        if path.name.lower().endswith(each.endings):
            return each
    known = ", ".join(ending for each in FORMATS for ending in each.endings)
    raise NpnetError(f"{path} has an ending of no known format: give one of {known}")
