"""A trained network in int8: calibrated on training images, scored before and after, written.

What int8 costs in accuracy is computed here: the float kernels run layer by layer on numbers that
are rounded to those of the file. So it needs no program that runs the file.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from npnet.data.batches import ImageInput, not_augmented
from npnet.data.dataset import Dataset, Split
from npnet.errors import NpnetError
from npnet.exchange.folding import folded_numbers, set_folded
from npnet.exchange.int8 import NOT_FINITE, Grid, WholeNumbers
from npnet.exchange.onnx import require_onnx, write_model
from npnet.kernels import backend as kernels_of
from npnet.kernels.arrays import Floats, Ints
from npnet.model.architecture import Architecture
from npnet.model.config import warn_of_other_names
from npnet.model.inference import Inference
from npnet.model.network import Network
from npnet.model.operations import Activation, Concat, Dropout, MaxPool, Mode
from npnet.model.operations.base import IMAGES
from npnet.model.weights import Weights
from npnet.model.zoo import build
from npnet.training.evaluate import split_at_end

BATCH = 8  # images at a time: the outputs of all layers are in memory
CALIBRATION_IMAGES = 512


class Accuracy(NamedTuple):
    """Fractions of the images of a split that are classified rightly, in float32 and in int8."""

    split: Split
    images: int
    before: float
    after: float


def write_int8(
    weights: Weights,
    dataset: Dataset,
    path: Path,
    calibration_images: int = CALIBRATION_IMAGES,
    backend: str = "numba",
    most: int | None = None,
    told: Callable[[int, int], object] = lambda done, total: None,
) -> Accuracy:
    """Write the network in int8 as ONNX; return what that costs on the test images.

    Those are the validation split's where there is no test split; `most`: only so many of them,
    evenly spread. `told` is called with how many are done, and of how many. Raises NpnetError where
    the dataset has other classes or no training images, or if there is no onnx, or if the disk
    refuses.
    """
    require_onnx(path)
    from npnet.exchange.onnx_int8 import Int8Graph

    who = weights.source
    weights.config.check_classes(dataset.classes, dataset.name, who)
    if weights.classes:
        warn_of_other_names(weights.classes, dataset.classes, dataset.name, who)
    split = split_at_end(dataset)
    if not dataset.size("train") or not dataset.size(split):
        lacks = split if dataset.size("train") else "train"
        raise NpnetError(
            f"{dataset.name} has no {lacks} images: hold some out by `val_split`, as training did"
        )
    rounded = Int8(weights, dataset, calibration_images, backend)
    chosen = spread(dataset.size(split), most or dataset.size(split))
    before, after = accuracies(weights, rounded, dataset, split, chosen, backend, told)
    graph = Int8Graph(weights, rounded.grids, rounded.layers)
    write_model(graph.model().SerializeToString(), path)
    return Accuracy(split, len(chosen), before, after)


class Layers:
    """A network run layer by layer, so that what passes between layers can be seen and changed."""

    def __init__(self, architecture: Architecture, backend: str) -> None:
        self.network = Network(architecture, BATCH, backend, store_all=True)
        self.parameters, self.images = self.network.parameters, self.network.images
        self.kernels = kernels_of(backend)
        self.parts = parts_of_concatenations(architecture)

    def forward(self, n: int, finished: Callable[[str, Floats], None]) -> Floats:
        """Logits (n,K) of `images[:n]`.

        `finished` gets each operation's name and its activations, which it may change, before
        another one reads them; the images, too.
        """
        images = self.images[:n]
        finished(IMAGES, images)
        outputs = {IMAGES: Activation.of(images, images)}
        for layer in self.network.layers:
            operation = layer.operation
            a = layer.forward([outputs[name] for name in operation.inputs], Mode())
            if operation.name not in self.parts:
                if not a.plain:
                    self.kernels.activation_forward(a.x, a.x, a.affine)
                a = Activation.of(a.x, a.x)
                finished(operation.name, a.x)
            outputs[operation.name] = a
        return a.x


class Int8:
    """The numbers of a network in int8.

    `grids`: of the images and of each operation's output but the logits. `layers`: the weights and
    biases of each operation that has some.
    """

    def __init__(
        self,
        weights: Weights,
        dataset: Dataset,
        images: int = CALIBRATION_IMAGES,
        backend: str = "numba",
    ) -> None:
        self.config, self.architecture = weights.config, build(weights.config)
        self.network = Layers(self.architecture, backend)
        self.image_input = ImageInput(weights.config, kernels_of(backend))
        self.grid_names = grid_names(self.architecture)
        parameters = weights.parameters()
        folded = {
            operation.name: folded_numbers(parameters, operation, self.config.bn_epsilon)
            for operation in self.architecture
            if operation.parameters
        }
        self._set(folded)
        seen = self._calibrate(dataset, images)
        self.grids = {name: seen.grid(grid) for name, grid in self.grid_names.items()}
        self.layers = {}
        for operation in self.architecture:
            if operation.parameters:
                (x,) = operation.inputs
                scale, mean = self.grids[x].scale, seen.mean(x)
                self.layers[operation.name] = corrected(*folded[operation.name], scale, mean)
        self._set({name: layer.numbers for name, layer in self.layers.items()})

    def _set(self, numbers: dict[str, tuple[Floats, Floats]]) -> None:
        for operation in self.architecture:
            if operation.name in numbers:
                weight, bias = numbers[operation.name]
                epsilon = self.config.bn_epsilon
                set_folded(self.network.parameters, operation, weight, bias, epsilon)

    def _calibrate(self, dataset: Dataset, images: int) -> "Seen":
        """What the float network's activations are on training images, evenly spread."""
        seen = Seen()
        chosen = spread(dataset.size("train"), images)
        for n, _ in batches(dataset, "train", chosen, self.network.images, self.image_input):
            self.network.forward(n, seen.add)
        return seen

    def forward(self, n: int) -> Floats:
        """Logits (n,K) of `network.images[:n]`, by the numbers of the file."""
        return self.network.forward(n, self._round)

    def _round(self, name: str, x: Floats) -> None:
        if self.grid_names.get(name) == name:  # others are on their input's grid already
            self.grids[name].round(x)


class Seen:
    """The least and the largest of each activation, and the mean of each of its channels."""

    def __init__(self) -> None:
        self.bounds: dict[str, tuple[float, float]] = {}
        self.sums: dict[str, tuple[int, Floats]] = {}

    def add(self, name: str, x: Floats) -> None:
        low, high = self.bounds.get(name, (np.inf, -np.inf))
        self.bounds[name] = min(low, float(x.min())), max(high, float(x.max()))
        pixels = x.reshape(-1, x.shape[-1])
        count, total = self.sums.get(name, (0, np.zeros(x.shape[-1])))
        self.sums[name] = count + len(pixels), total + pixels.sum(axis=0, dtype=np.float64)

    def grid(self, name: str) -> Grid:
        return Grid.between(*self.bounds[name])

    def mean(self, name: str) -> Floats:
        count, total = self.sums[name]
        return total / count


def corrected(weight: Floats, bias: Floats, scale: np.float32, mean: Floats) -> WholeNumbers:
    """A layer's whole numbers, its bias without what rounding the weights adds on average.

    `mean` (Ci,): of each channel of its input. Rounded weights change the mean of an output channel
    by the sum of their errors times the means of what they multiply (Nagel et al. 2019, arXiv
    1906.04721, section 4.2; at borders, where zeros are multiplied, it is a little less). In
    depthwise convolutions, nine weights a channel, that is most of what int8 costs.
    """
    rounded, _ = WholeNumbers.of(weight, bias, scale).numbers
    error = (rounded - weight).astype(np.float64)
    windows = tuple(range(error.ndim - 2)) if error.ndim != 3 else (0, 1)
    error = error.sum(axis=windows)  # (Ci,Co), of a depthwise weight (C,)
    shift = mean @ error if error.ndim == 2 else mean * error
    return WholeNumbers.of(weight, (bias - shift).astype(np.float32), scale)


def parts_of_concatenations(architecture: Architecture) -> dict[str, str]:
    """The concatenation into which an operation writes, for each that does.

    The whole of it is activated at once.
    """
    joined = [each for each in architecture if isinstance(each, Concat)]
    return {name: each.name for each in joined for name in each.inputs}


def grid_names(architecture: Architecture) -> dict[str, str]:
    """Whose grid an operation's output is on, for the images and all but the logits.

    What only chooses among numbers leaves them on their grid; what is concatenated has one in
    common. So these operations are exact in int8.
    """
    parts, names = parts_of_concatenations(architecture), {IMAGES: IMAGES}
    for operation in architecture.operations[:-1]:
        name = operation.name
        passes = isinstance(operation, MaxPool | Dropout)
        names[name] = names[operation.inputs[0]] if passes else parts.get(name, name)
    return names


def spread(size: int, count: int) -> Ints:
    """`count` numbers below `size`, or all, evenly spread: files often lie in order of classes."""
    count = min(size, count)
    return np.arange(count, dtype=np.int64) * size // max(count, 1)


def batches(
    dataset: Dataset, split: Split, chosen: Ints, images: Floats, image_input: ImageInput
) -> Iterator[tuple[int, Ints]]:
    """Fill `images` with the chosen ones, not augmented; yield how many, and their labels."""
    for start in range(0, len(chosen), len(images)):
        read = dataset.read(split, chosen[start : start + len(images)])
        image_input.fill(images, not_augmented(read.pixels, read.labels))
        yield len(read), read.labels


def accuracies(
    weights: Weights,
    rounded: Int8,
    dataset: Dataset,
    split: Split,
    chosen: Ints,
    backend: str,
    told: Callable[[int, int], object],
) -> tuple[float, float]:
    """Of the float network and of the one in int8, on the chosen images.

    Raises NpnetError where a logit is not finite.
    """
    inference = Inference(rounded.architecture, weights.parameters(), BATCH, backend)
    images, hits, done = rounded.network.images, np.zeros(2), 0
    for n, labels in batches(dataset, split, chosen, images, rounded.image_input):
        inference.images[:n] = images[:n]
        for place, logits in enumerate((inference.forward(n), rounded.forward(n))):
            if not np.isfinite(logits).all():
                raise NpnetError(NOT_FINITE)
            hits[place] += np.count_nonzero(logits.argmax(axis=1) == labels)
        done += n
        told(done, len(chosen))
    before, after = (hits / len(chosen)).tolist()
    return before, after
