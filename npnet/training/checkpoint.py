"""Checkpoints: a versioned .npz of flat vectors and a JSON header, sealed with a SHA-256.

The seal is the archive's comment, its last 64 bytes, over everything before them: NumPy still opens
the file, and a single flipped bit is found. No pickle is written or read.
"""

import hashlib
import io
import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npnet.errors import NpnetError
from npnet.files import write_atomically
from npnet.kernels.arrays import Floats
from npnet.model.inference import Inference
from npnet.model.mobilenet_v2 import Architecture, mobilenet_v2
from npnet.model.network import BatchNorm, Network
from npnet.model.parameters import Parameters

VERSION = 2
VECTORS = ("values", "statistics", "velocity")
_SEAL = 64  # hexadecimal digits


@dataclass(frozen=True)
class Header:
    """What a checkpoint says about itself."""

    version: int
    npnet: str
    architecture: str
    width: float
    input_size: int
    classes: tuple[str, ...]
    dropout: float
    dataset: str
    recipe: dict[str, Any]
    seed: int
    epoch: int  # epochs finished
    epochs: int  # epochs planned
    world: int

    def build(self) -> Architecture:
        return mobilenet_v2(self.width, self.input_size, len(self.classes), self.dropout)


@dataclass(frozen=True)
class Checkpoint:
    """A header and three flat vectors: values, running statistics, momentum."""

    header: Header
    values: Floats
    statistics: Floats
    velocity: Floats
    path: Path | None = None  # where it was read

    def digest(self) -> str:
        """A hash of all that would be restored."""
        arrays = (self.values, self.statistics, self.velocity)
        return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()

    def inference(self, batch: int, backend: str) -> Inference:
        """The trained network, ready to predict up to `batch` images at a time."""
        architecture = self.header.build()
        parameters = Parameters(architecture)
        self.load_into(parameters)
        epsilon = self.header.recipe["bn_epsilon"]
        return Inference(architecture, parameters, batch, backend, epsilon)

    def network(self, batch: int, backend: str) -> Network:
        """The trained network as in training, for up to `batch` images at a time."""
        bn = BatchNorm(self.header.recipe["bn_momentum"], self.header.recipe["bn_epsilon"])
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
                raise NpnetError(
                    f"the checkpoint holds another network: width {self.header.width}, "
                    f"{len(self.header.classes)} classes, {len(self.values):,} parameters where "
                    f"{len(parameters.values):,} were expected"
                )
            mine[:] = saved


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write `path` as a whole or not at all. Raises NpnetError if the disk refuses."""
    header = json.dumps(asdict(checkpoint.header))
    buffer = io.BytesIO()
    np.savez(
        buffer,
        header=np.frombuffer(header.encode(), np.uint8),
        values=checkpoint.values,
        statistics=checkpoint.statistics,
        velocity=checkpoint.velocity,
    )
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = b"0" * _SEAL
    body = buffer.getvalue()[:-_SEAL]
    write_atomically(path, body + hashlib.sha256(body).hexdigest().encode())


def load(path: Path) -> Checkpoint:
    """Read and verify `path`. Raises NpnetError if it is missing, damaged or of another version."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise NpnetError(f"cannot read checkpoint {path}: {error.strerror}") from error
    body, seal = data[:-_SEAL], data[-_SEAL:]
    if not zipfile.is_zipfile(io.BytesIO(data)) or len(body) == 0:
        raise NpnetError(f"{path} is not a checkpoint, or was cut short: use another one")
    if hashlib.sha256(body).hexdigest().encode() != seal:
        raise NpnetError(f"{path} is damaged (its checksum does not fit): use another checkpoint")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            fields = json.loads(archive["header"].tobytes())
            if fields["version"] != VERSION:
                raise NpnetError(
                    f"{path} has checkpoint version {fields['version']}, this npnet reads {VERSION}"
                )
            header = Header(**fields | {"classes": tuple(fields["classes"])})
            values, statistics, velocity = (archive[name] for name in VECTORS)
            return Checkpoint(header, values, statistics, velocity, path)
    except (KeyError, TypeError, ValueError, OSError) as error:
        raise NpnetError(f"{path} is no npnet checkpoint: {error}") from error
