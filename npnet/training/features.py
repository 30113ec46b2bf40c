"""Features computed once, where the classifier alone is trained.

What lies below the classifier does not change then, and neither do its outputs. So every image
passes through it once, as in evaluation, and epochs run on vectors. They are kept on each node's
disk, in a file a split, named after all that they depend on: the weights, the images, and how
these are turned into the network's input. The ranks share the images out; each node gets all.
"""

import hashlib
import io
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import mkstemp
from types import ModuleType
from typing import IO

import numpy as np
from numpy.typing import NDArray

from npnet.data.batches import Batch, ImageInput, Input, plain_batches
from npnet.data.dataset import SPLITS, Dataset, Images, Split
from npnet.errors import NpnetError
from npnet.kernels import backend as kernels_of
from npnet.kernels.arrays import Floats
from npnet.model.config import ModelConfig
from npnet.model.inference import Inference
from npnet.model.parameters import CLASSIFIER, Parameters
from npnet.model.weights import Weights
from npnet.parallel.communicator import Communicator, together
from npnet.training.parts import features_of
from npnet.untrusted import open_file

IMAGES_AT_ONCE = 2048  # of all ranks, between two exchanges
KEPT = 6  # files of other weights or images, the newest
NEW = ".new"  # the ending of a file that is being written
SECONDS_UNTIL_LEFT = 3600.0  # after its last write such a file belongs to no run any more

# Called with a split, the images that are done, and all of it.
Show = Callable[[Split, int, int], None]


class Features:
    """A dataset, each of whose images is the vector that its classifier would read.

    A `Dataset`. `operation`: whose output the vectors are. `images` is what they were made of.
    """

    resident = False  # the system keeps of the files what fits

    def __init__(
        self, images: Dataset, operation: str, rows: dict[Split, NDArray[np.void]]
    ) -> None:
        self.images, self.operation, self._rows = images, operation, rows
        self.name, self.location = images.name, images.location
        self.classes: Sequence[str] = images.classes
        self.image_size = images.image_size
        self.source = getattr(images, "source", None)  # see npnet/data/source.py

    def size(self, split: Split) -> int:
        return len(self._rows[split]) if split in self._rows else 0

    def digest(self) -> str:
        """Of the images: a checkpoint tells what it was trained on, not by which way."""
        return self.images.digest()

    def read(self, split: Split, indices: NDArray[np.int64]) -> Images:
        rows = self._rows[split][indices]
        return Images(rows["features"], rows["label"])


def input_of(dataset: Dataset, model: ModelConfig, backend: str | ModuleType) -> Input:
    """What writes the dataset's batches into the network."""
    if isinstance(dataset, Features):
        return FeatureInput()
    return ImageInput(model, kernels_of(backend))


class FeatureInput:
    """Writes vectors to where the classifier reads them; the twin of ImageInput."""

    def fill(self, entrance: Floats, batch: Batch) -> None:
        entrance[: len(batch)] = batch.pixels[batch.rows]


def compute_features(
    dataset: Dataset,
    weights: Weights,
    comm: Communicator,
    batch: int,
    backend: str,
    show: Show = lambda split, done, total: None,
) -> Features | None:
    """The features of every image; None where the classifier reads no single vector.

    `weights`: of the model that is to be trained, at its input size, but for the classifier. All
    ranks must call. Memory: a chunk of IMAGES_AT_ONCE vectors. Raises NpnetError, on every rank,
    where a node's disk does not take them.
    """
    parameters = weights.parameters()
    architecture = weights.architecture
    operation = features_of(architecture)
    if operation is None:
        return None
    inference = Inference(architecture, parameters, batch, backend)
    image_input = ImageInput(weights.config, kernels_of(backend))
    vector = inference.output(operation)
    dtype = np.dtype([("label", np.int64), ("features", vector.dtype, vector.shape[1:])])
    with together(comm):
        folder = _folder()
    key, rows = _key(dataset, weights.config, parameters), dict[Split, NDArray[np.void]]()
    for split in SPLITS:
        if not dataset.size(split):
            continue
        path = folder / f"{key}.{split}.npy"
        fits = (dtype, dataset.size(split), len(dataset.classes))
        found = _open(path, *fits)
        if not all(comm.gather(found is not None)):
            chunks = _chunks(dataset, split, inference, image_input, vector, comm)
            _write(path, dtype, dataset.size(split), chunks, comm, split, show)
            found = _open(path, *fits)
        with together(comm):
            if found is None:
                raise NpnetError(
                    f"{path} was changed while it was written: start again, or give "
                    "`no_cache_features`"
                )
        rows[split] = found
    return Features(dataset, operation, rows)


def _key(dataset: Dataset, config: ModelConfig, parameters: Parameters) -> str:
    """What tells the vectors apart that these weights make of these images."""
    body = hashlib.sha256()
    for spec in parameters.specs:
        if spec.operation != CLASSIFIER:
            body.update(parameters.value(spec.name).tobytes())
    body.update(parameters.statistics.tobytes())
    config = replace(config, classes=2, dropout=0.0)  # which do not matter to them
    body.update(repr((config, dataset.name, dataset.digest())).encode())
    return body.hexdigest()[:24]


def _folder() -> Path:
    """Where they lie, on every node."""
    from npnet.kernels.jit.cache import root  # which loads the compiler

    folder = root() / "features"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise NpnetError(
            f"features cannot be kept in {folder} ({error.strerror}): name a folder of your own in "
            "NPNET_CACHE, or give `no_cache_features`"
        ) from error
    return folder


def _open(
    path: Path, dtype: np.dtype[np.void], images: int, classes: int
) -> NDArray[np.void] | None:
    """The vectors in a file, if it is there, whole, and sealed as it was written."""
    seal = hashlib.sha256()
    try:
        with open_file(path) as file:
            left = os.fstat(file.fileno()).st_size - seal.digest_size
            while left > 0 and (block := file.read(min(left, 1 << 20))):
                seal.update(block)
                left -= len(block)
            if left or file.read() != seal.digest():
                return None
        rows: NDArray[np.void] = np.load(path, mmap_mode="r", allow_pickle=False)
        os.utime(path)  # it is in use
    except (OSError, ValueError):
        return None
    if rows.dtype != dtype or rows.shape != (images,):
        return None
    labels = rows["label"]
    return rows if labels.min() >= 0 and labels.max() < classes else None  # kernels trust them


def _chunks(
    dataset: Dataset,
    split: Split,
    inference: Inference,
    image_input: ImageInput,
    vector: Floats,
    comm: Communicator,
) -> Iterator[tuple[NDArray[np.int64], Floats]]:
    """Labels and features of neighbouring images, on every rank, from the first to the last.

    Rank r of P computes the images i with i mod P = r. The others' rows of its buffer are 0, so
    that the sum over ranks puts all of them together.
    """
    rank = range(comm.rank, comm.rank + 1)
    batches = plain_batches(dataset, split, inference.batch, rank, comm.size)
    images, turns = dataset.size(split), max(1, IMAGES_AT_ONCE // (inference.batch * comm.size))
    chunk = turns * inference.batch * comm.size
    features = np.empty((chunk, *vector.shape[1:]), vector.dtype)
    labels = np.empty(chunk)
    for start in range(0, images, chunk):
        features[:], labels[:] = 0, 0
        for indices, batch in islice(batches, turns):
            image_input.fill(inference.images, batch)
            inference.forward(len(batch))
            features[indices - start] = vector[: len(batch)]
            labels[indices - start] = batch.labels
        comm.sum(features)
        comm.sum(labels)
        here = min(chunk, images - start)
        yield labels[:here].astype(np.int64), features[:here]


def _write(
    path: Path,
    dtype: np.dtype[np.void],
    images: int,
    chunks: Iterator[tuple[NDArray[np.int64], Floats]],
    comm: Communicator,
    split: Split,
    show: Show,
) -> None:
    """Fill a file of each node, as a whole or not at all."""
    refused: OSError | None = None
    with _NewFile(path, dtype, images, comm.first_of_node) as file:
        done = 0
        for labels, features in chunks:
            if refused is None:
                try:
                    file.append(labels, features)
                except OSError as error:
                    refused = error
            done += len(labels)
            show(split, done, images)
        with together(comm):
            if refused is None:
                try:
                    file.finish()
                except OSError as error:
                    refused = error
            if refused is not None:
                raise NpnetError(
                    f"features cannot be written to {path} ({refused.strerror}): free some space, "
                    "name another folder in NPNET_CACHE, or give `no_cache_features`"
                )
    comm.barrier()


class _NewFile:
    """A .npy file and its seal, beside their place, which they take when they are whole.

    On ranks not chosen, nothing.
    """

    def __init__(self, path: Path, dtype: np.dtype[np.void], rows: int, chosen: bool) -> None:
        self.path, self.dtype, self.rows, self.chosen = path, dtype, rows, chosen
        self._file: IO[bytes] | None = None
        self._seal = hashlib.sha256()

    def __enter__(self) -> "_NewFile":
        return self

    def append(self, labels: NDArray[np.int64], features: Floats) -> None:
        if not self.chosen:
            return
        if self._file is None:
            descriptor, self._name = mkstemp(dir=self.path.parent, suffix=NEW)
            self._file, header = os.fdopen(descriptor, "wb"), io.BytesIO()
            fields = {
                "descr": np.lib.format.dtype_to_descr(self.dtype),
                "fortran_order": False,
                "shape": (self.rows,),
            }
            np.lib.format.write_array_header_2_0(header, fields)
            self._write(header.getvalue())
        rows = np.empty(len(labels), self.dtype)
        rows["label"], rows["features"] = labels, features
        self._write(rows.tobytes())

    def _write(self, data: bytes) -> None:
        assert self._file is not None
        self._seal.update(data)
        self._file.write(data)

    def finish(self) -> None:
        if self._file is None:
            return
        self._file.write(self._seal.digest())
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._name, self.path)
        _forget_old(self.path.parent)

    def __exit__(self, *error: object) -> None:
        if self._file is not None:
            with suppress(OSError):
                self._file.close()
            with suppress(OSError):
                os.unlink(self._name)


def _forget_old(folder: Path) -> None:
    """Keep the newest files, and remove what a kill has left half-written."""
    ages = {}
    for file in folder.iterdir():
        with suppress(OSError):  # of another run, which has just removed it
            ages[file] = file.stat().st_mtime
    whole = sorted((file for file in ages if file.suffix == ".npy"), key=lambda file: -ages[file])
    left = [
        file
        for file in ages
        if file.suffix == NEW and time.time() - ages[file] > SECONDS_UNTIL_LEFT
    ]
    for file in [*whole[KEPT:], *left]:
        with suppress(OSError):
            file.unlink()
