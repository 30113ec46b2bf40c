"""Checkpoints: a versioned .npz of flat vectors and a JSON header, sealed with a SHA-256.

The seal is the archive's comment, its last 64 bytes, over everything before them: NumPy still opens
the file, and a single flipped bit is found. No pickle is written or read. A header is checked
against the records it stands for before anything is built from it.

Version 4 has all of a run's settings, and a row for each worker of what is a worker's own. Version
3, which lacks those, and version 2, which had one recipe for model and training, are read too.
"""

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, make_dataclass, replace
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from npnet.archive import ArrayArchive
from npnet.data.source import Source
from npnet.errors import NpnetError
from npnet.files import write_atomically
from npnet.kernels.arrays import Floats
from npnet.machine.clock import PHASES
from npnet.model.architecture import Architecture
from npnet.model.config import ModelConfig
from npnet.model.inference import Inference
from npnet.model.network import BatchNorm, Network
from npnet.model.parameters import Parameters
from npnet.model.weights import Weights
from npnet.model.zoo import build, entry
from npnet.schema import checked_fields
from npnet.training.recipe import Recipe
from npnet.untrusted import Refused, open_file, parse_json

VERSION = 4
OLDER = (2, 3)  # which are read, too
VECTORS = ("values", "statistics", "velocity")
# What may be in a file for each worker, and the vector that has as many columns.
ROWS = {"velocities": "velocity", "running": "statistics", "weights": "values", "tallies": ""}
# Of the epoch under way: loss, hits, images; the run's seconds; those of each phase, wall and cpu.
TALLIES = 4 + 2 * len(PHASES)
SEAL = 64  # hexadecimal digits
END_AND_SEAL = 22 + SEAL  # bytes: the record that ends a zip file, and its comment
LONGEST_HEADER = 1 << 20  # bytes
LARGEST = 2**128  # of a seed, which NumPy makes of as many bits


@dataclass(frozen=True)
class Header:
    """What a checkpoint says about itself."""

    version: int
    npnet: str
    model: ModelConfig
    classes: tuple[str, ...]  # their names
    dataset: str
    recipe: Recipe
    seed: int
    epoch: int  # epochs finished
    epochs: int  # epochs planned
    world: int  # workers
    step: int = 0  # steps done of the next epoch
    steps: int = 0  # of an epoch
    settings: dict[str, Any] | None = None  # the fields of Settings
    dataset_digest: str | None = None
    source: Source | None = None  # how the dataset was opened

    def build(self) -> Architecture:
        return build(self.model)


@dataclass(frozen=True)
class Checkpoint:
    """A header and three flat vectors: values, running statistics, momentum.

    `rows`: matrices with a row for each worker, of what workers do not have in common; the vector
    of the same thing is their mean. See ROWS.
    """

    header: Header
    values: Floats
    statistics: Floats
    velocity: Floats
    path: Path | None = None  # where it was read
    rows: Mapping[str, Floats] = field(default_factory=dict)

    def digest(self) -> str:
        """A hash of the vectors."""
        arrays = (self.values, self.statistics, self.velocity)
        return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()

    def weights(self) -> Weights:
        """What another training may begin with."""
        header, path = self.header, self.path
        name = f"{path.name}, a checkpoint" if path is not None else "a checkpoint"
        source = f"{name} of npnet after {header.epoch} epochs on {header.dataset}"
        values = np.asarray(self.values, np.float32)
        statistics = np.asarray(self.statistics, np.float32)
        return Weights(header.model, values, statistics, header.classes, source, path)

    def inference(self, batch: int, backend: str) -> Inference:
        """The trained network, ready to predict up to `batch` images at a time."""
        architecture = self.header.build()
        parameters = Parameters(architecture)
        self.load_into(parameters)
        return Inference(architecture, parameters, batch, backend)

    def network(self, batch: int, backend: str) -> Network:
        """The trained network as in training, for up to `batch` images at a time."""
        bn = BatchNorm(self.header.recipe.bn_momentum)
        network = Network(self.header.build(), batch, backend, bn=bn)
        self.load_into(network.parameters)
        return network

    def load_into(self, parameters: Parameters) -> None:
        """Copy into a network's vectors. Raises NpnetError where the network is another one."""
        for mine, saved in (
            (parameters.values, self.values),
            (parameters.statistics, self.statistics),
        ):
            if mine.shape != saved.shape:
                model = self.header.model
                raise NpnetError(
                    f"the checkpoint holds another network: {model.architecture}, width "
                    f"{model.width}, {model.classes} classes, {len(self.values):,} parameters "
                    f"where {len(parameters.values):,} were expected"
                )
            mine[:] = saved


def save(path: str | Path, checkpoint: Checkpoint) -> None:
    """Write `path` as a whole or not at all. Raises NpnetError if the disk refuses."""
    header = json.dumps(asdict(checkpoint.header))
    arrays: dict[str, Any] = {
        "header": np.frombuffer(header.encode(), np.uint8),
        **{name: getattr(checkpoint, name) for name in VECTORS},
        **checkpoint.rows,
    }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = b"0" * SEAL
    with buffer.getbuffer() as data:
        data[-SEAL:] = hashlib.sha256(data[:-SEAL]).hexdigest().encode()
        write_atomically(Path(path), data)


def load(path: str | Path) -> Checkpoint:
    """Read and verify `path`.

    Raises NpnetError if it is missing, damaged or of another version, or if its header does not fit
    its vectors. No more is read than the seal, a header of LONGEST_HEADER and the vectors of the
    model that it names.
    """
    path = Path(path)
    try:
        with open_file(path) as file:
            return _read(file, path)
    except OSError as error:
        raise NpnetError(f"cannot read checkpoint {path}: {error.strerror}") from error
    except Refused as error:
        raise NpnetError(f"{path} is no npnet checkpoint: {error}") from error


def _read(file: BinaryIO, path: Path) -> Checkpoint:
    size = os.fstat(file.fileno()).st_size
    _check_seal(file, size, path)
    archive = ArrayArchive(file, size, SEAL, _members("header", *VECTORS), optional=_members(*ROWS))
    text = archive.read("header.npy", ("|u1",), None, LONGEST_HEADER)
    found = parse_json(text.tobytes())
    header = _of_fields(found, str(path))
    architecture = header.build()
    parameters = architecture.parameter_count
    statistics = 2 * sum(operation.statistics_channels for operation in architecture.operations)
    expected = (parameters, statistics, parameters)
    lengths = tuple(prod(archive.header(f"{name}.npy").shape) for name in VECTORS)
    if lengths != expected:
        raise NpnetError(
            f"{path} holds {lengths[0]:,} parameters, {lengths[1]:,} statistics and "
            f"{lengths[2]:,} momenta, where its model, {architecture.name}, has {parameters:,}, "
            f"{statistics:,} and {parameters:,}: use another checkpoint"
        )
    vectors = {
        name: archive.read(f"{name}.npy", ("<f4", "<f8"), (length,))
        for name, length in zip(VECTORS, expected, strict=True)
    }
    columns = {name: len(vectors.get(vector, ())) or TALLIES for name, vector in ROWS.items()}
    rows = {
        name: archive.read(f"{name}.npy", ("<f4", "<f8"), (header.world, columns[name]))
        for name in ROWS
        if f"{name}.npy" in archive.members
    }
    loaded = Checkpoint(header, **vectors, path=path, rows=rows)
    if found["version"] == 2:
        loaded = _with_velocity_of_groups(loaded)
    _check_numbers(loaded)
    return loaded


def _members(*names: str) -> list[str]:
    return [f"{name}.npy" for name in names]


def _check_seal(file: BinaryIO, size: int, path: Path) -> None:
    file.seek(max(0, size - END_AND_SEAL))
    end = file.read()
    if len(end) < END_AND_SEAL or not end.startswith(b"PK\5\6"):
        raise NpnetError(
            f"{path} is not a checkpoint, or was cut short: use another one, or npnet convert"
        )
    file.seek(0)
    digest, left = hashlib.sha256(), size - SEAL
    while block := file.read(min(left, 1 << 20)):
        digest.update(block)
        left -= len(block)
    if digest.hexdigest().encode() != end[-SEAL:]:
        raise NpnetError(f"{path} is damaged (its checksum does not fit): use another checkpoint")


def _check_numbers(checkpoint: Checkpoint) -> None:
    vectors = (checkpoint.values, checkpoint.statistics, checkpoint.velocity)
    with np.errstate(over="ignore"):  # what float32 cannot hold is infinite
        finite = all(np.isfinite(vector.astype(np.float32)).all() for vector in vectors)
    if not finite or np.any(np.split(checkpoint.statistics, 2)[1] < 0):
        raise NpnetError(
            f"{checkpoint.path} is of no use: not all of its numbers are finite, or a variance is "
            "negative; use another checkpoint"
        )
    for name, rows in checkpoint.rows.items():
        if not np.isfinite(rows).all():
            raise NpnetError(
                f"{checkpoint.path} is of no use: not all of its {name} are finite; use another "
                "checkpoint"
            )


def _of_fields(found: Any, where: str) -> Header:
    """A header from JSON. Raises NpnetError, naming the field, for what it should not hold."""
    if not isinstance(found, dict) or "version" not in found:
        raise NpnetError(f"{where} is no npnet checkpoint: its header has no version")
    version = found["version"]
    if version == 2:
        found = _from_version_2(found, where)
    elif version not in (*OLDER, VERSION):
        raise NpnetError(
            f"{where} has checkpoint version {version}, this npnet reads 2 to {VERSION}"
        )
    try:
        model = ModelConfig.from_dict(found.get("model"), f"{where}: model")
        entry(model.architecture).check(model)
    except NpnetError as error:
        said = str(error).removeprefix(f"{where}: model").removeprefix(": ")
        raise NpnetError(f"{where}: model: {said}") from error
    recipe = Recipe.from_dict(found.get("recipe"), f"{where}: recipe")
    plain = {name: value for name, value in found.items() if name not in _RECORDS}
    source = Source.from_dict(found.get("source"), f"{where}: source")
    header = Header(
        model=model, recipe=recipe, source=source, **checked_fields(_PlainHeader, plain, where)
    )
    if len(header.classes) != header.model.classes:
        raise NpnetError(
            f"{where} names {len(header.classes)} classes, its model has {header.model.classes}"
        )
    for name in ("seed", "epoch", "epochs", "world", "step", "steps"):
        if not 0 <= getattr(header, name) <= LARGEST:
            value = f"{getattr(header, name)!r:.40}"
            raise NpnetError(f"{where}: {name} is {value}: use another checkpoint")
    if header.epoch > header.epochs:
        raise NpnetError(
            f"{where}: epoch is {header.epoch} of {header.epochs}: use another checkpoint"
        )
    return header


# The fields of a header that are records, checked each on its own; and the rest of them.
_RECORDS = ("model", "recipe", "source")
_PlainHeader = make_dataclass(
    "_PlainHeader",
    [
        (each.name, each.type, field(default=each.default))
        for each in fields(Header)
        if each.name not in _RECORDS
    ],
)


# Of a recipe of version 2, what is now a field of the model; and the stored size of its datasets.
_OF_THE_MODEL = ("dropout", "bn_epsilon", "mean", "std")
_STORED_SIZE = 32


def _from_version_2(found: Mapping[str, Any], where: str) -> dict[str, Any]:
    recipe, classes = found.get("recipe"), found.get("classes")
    if not isinstance(recipe, dict) or not isinstance(classes, list):
        raise NpnetError(f"{where} lacks its recipe or its classes")
    model = {
        "architecture": found.get("architecture"),
        "classes": len(classes),
        "width": found.get("width"),
        "input_size": found.get("input_size"),
        "stored_size": _STORED_SIZE,
        **{name: recipe[name] for name in _OF_THE_MODEL if name in recipe},
    }
    kept = {
        name: value
        for name, value in recipe.items()
        if name not in (*_OF_THE_MODEL, "batch_per_rank")
    }
    names = [each.name for each in fields(_PlainHeader)]
    plain = {name: found[name] for name in names if name in found}
    return plain | {"version": VERSION, "model": model, "recipe": kept}


def _with_velocity_of_groups(checkpoint: Checkpoint) -> Checkpoint:
    """Version 2 scaled the classifier's gradient, version 3 its rate: so its velocity is larger."""
    rate = checkpoint.header.recipe.classifier_gradient
    velocity, parameters = checkpoint.velocity.copy(), Parameters(checkpoint.header.build())
    for spec in parameters.specs:
        if rate and spec.name.startswith("classifier."):
            velocity[parameters.where(spec.name)] /= rate
    return replace(checkpoint, velocity=velocity)
