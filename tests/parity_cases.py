"""What the comparison with PyTorch runs, and how it measures distances.

`tests/model/test_parity.py` uses it without PyTorch, `bench/peers/parity.py` with it: both must
draw the same weights and images, and project gradients on the same directions.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from npnet.kernels import backend as kernels_of
from npnet.kernels.arrays import Floats, Ints
from npnet.model import zoo
from npnet.model.architecture import Architecture
from npnet.model.network import Network
from npnet.model.parameters import Parameters, initialise

SMOOTHING = 0.1

# The passes of gradients.npz. 8 images leave MobileNetV2 8 samples behind each statistic of the
# last, 1x1 maps; with 4, it multiplies rounding errors by 10 times as much and more.
GRADIENT_BATCH = 8

# float32.npz, of MobileNetV2: the errors of a float32 pass, on the same kind of batch.
FLOAT32_SEEDS = range(12)
FLOAT32_FIGURES = ("logits", "gradients", "tensor_median")

# The ten steps of curve.npz.
CURVE_SEED, CURVE_POOL, CURVE_BATCH, CURVE_STEPS = 0, 64, 16, 10
MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4


class Run(NamedTuple):
    """What one forward and backward pass in training mode leaves behind."""

    logits: Floats
    losses: Floats
    gradients: Floats  # flat, in the order of Parameters
    statistics: Floats  # flat, in the order of Parameters


class Curve(NamedTuple):
    """What training for ten steps leaves behind."""

    losses: Floats  # the mean over the batch, before each step
    evaluation: Floats  # with the running statistics, of the pool's first images: a scalar
    values: Floats
    statistics: Floats


class Case(NamedTuple):
    """A network whose passes and ten steps PyTorch has recorded, in a folder of tests/golden.

    `copies`: the gradients that are recorded as they are; of the others norms and projections are.
    """

    architecture: Architecture
    folder: str
    copies: tuple[str, ...]
    seeds: Sequence[int] = (0, 1)
    learning_rate: float = 0.05


def _small(model: str, **options: Any) -> Architecture:
    return zoo.build(zoo.configure(model, 10, dropout=0.0, **options))


_MOBILENET = (
    "stem.weight",
    "block1.depthwise.weight",
    "block4.project.gamma",
    "block8.depthwise.beta",
    "classifier.bias",
)

_SQUEEZENET = (
    "fire2.squeeze.weight",
    "fire5.expand3x3.bias",
    "fire9.squeeze.bias",
    "classifier.bias",
)
_NORMALISED = ("conv1.weight", "fire5.expand3x3.gamma", "fire9.squeeze.beta", "classifier.bias")

# MobileNetV2 has all of its 52 convolutions at the smallest input. SqueezeNet's size leaves 2x2 of
# the last maps, where each tap of a 3x3 window meets some pixel, and cuts windows of the last pool.
CASES = {
    "mobilenet_v2": Case(
        _small("mobilenet_v2", width=0.35, input_size=32), "", _MOBILENET, range(5)
    ),
    "mobilenet_v2_cifar": Case(
        _small("mobilenet_v2_cifar", width=0.35, input_size=16), "mobilenet_v2_cifar", _MOBILENET
    ),
    "squeezenet1_0": Case(
        _small("squeezenet1_0", input_size=40), "squeezenet1_0", _SQUEEZENET, learning_rate=0.003
    ),
    "squeezenet1_1": Case(
        _small("squeezenet1_1", input_size=40), "squeezenet1_1", _SQUEEZENET, learning_rate=0.003
    ),
    "squeezenet1_1_bn": Case(
        _small("squeezenet1_1", input_size=40, batch_norm=True),
        "squeezenet1_1_bn",
        _NORMALISED,
        learning_rate=0.003,
    ),
}


def draw_start(architecture: Architecture, seed: int) -> Parameters:
    """Float32 parameters at which every part of every formula matters.

    Initial parameters would hide faults: with beta = 0 and gamma = 1 hardly a value passes 6, and
    the gradients of most gammas before a depthwise convolution nearly vanish (scaling such a
    channel changes nothing after the next batch norm). Convolution weights are 4 times as large as
    initialised and the head's gamma and beta are small: without that, ten steps of training at a
    learning rate of 0.05 turn rounding errors of 1e-15 into 1, and no two programs agree on them.

    Without batch norm weights are as initialised, which keeps activations as large as the images
    are. Where a ReLU stands behind the classifier, its biases are positive: it would cut off half
    the logits, and after a few steps all.
    """
    parameters = Parameters(architecture, np.float32)
    plain, cut = not architecture.normalised, architecture.operations[-1].kind == "average_pool"
    initialise(parameters, "he_fan_out" if plain else "glorot_uniform", seed)
    rng = np.random.default_rng([seed, 1])
    for spec in parameters.specs:
        value = parameters.value(spec.name)
        head = np.float32(0.1 if spec.name.startswith("head.") else 1)
        if spec.role == "gamma":
            value[...] = head * rng.uniform(0.5, 1.5, spec.shape).astype(np.float32)
        elif spec.role == "beta":
            value[...] = head * rng.uniform(-1, 3, spec.shape).astype(np.float32)
        elif cut and spec.name == "classifier.bias":
            value[...] = rng.uniform(0.5, 1.5, spec.shape)
        elif cut and spec.name == "classifier.weight":
            value[...] = rng.normal(0, 0.03, spec.shape)
        elif spec.role == "bias":
            value[...] = rng.uniform(-0.1, 0.1, spec.shape)
        elif not plain and spec.name != "classifier.weight":
            value *= 4
    return parameters


def draw_batch(architecture: Architecture, seed: int, count: int) -> tuple[Floats, Ints]:
    """Float32 noise for images, and labels."""
    rng = np.random.default_rng([seed, 2])
    size = architecture.input_size
    images = rng.standard_normal((count, size, size, 3)).astype(np.float32)
    return images, rng.integers(0, architecture.classes, count)


def draw_steps() -> Ints:
    """The images of each step of the curve, (CURVE_STEPS, CURVE_BATCH) indices into the pool."""
    rng = np.random.default_rng([CURVE_SEED, 3])
    return rng.integers(0, CURVE_POOL, (CURVE_STEPS, CURVE_BATCH))


def checksum(*arrays: Floats | Ints) -> str:
    """Tells whether NumPy still draws what the golden files were made from.

    The streams of default_rng's uniform, standard_normal, normal and integers have not changed so
    far, but NumPy promises that only within a version. Without this check such a change would look
    like a wrong gradient.
    """
    return hashlib.sha256(b"".join(array.tobytes() for array in arrays)).hexdigest()


def run(
    start: Parameters,
    architecture: Architecture,
    images: Floats,
    labels: Ints,
    backend: str,
    dtype: DTypeLike,
    look: Callable[[Network], None] = lambda network: None,
) -> Run:
    """One pass of npnet. `look` may see the network between forward and backward, which puts other
    things where outputs were.
    """
    n = len(images)
    network = Network(architecture, n, backend, dtype)
    parameters = network.parameters
    parameters.values[:] = start.values
    network.images[:] = images
    logits = network.forward(n, training=True).copy()
    losses = network.loss(labels, SMOOTHING)
    look(network)
    network.backward(1 / n)
    return Run(logits, losses, parameters.gradients, parameters.statistics)


def train(case: Case, backend: str, dtype: DTypeLike) -> Curve:
    """Ten steps of npnet."""
    architecture = case.architecture
    pool, labels = draw_batch(architecture, CURVE_SEED, CURVE_POOL)
    network = Network(architecture, CURVE_BATCH, backend, dtype)
    parameters = network.parameters
    parameters.values[:] = draw_start(architecture, CURVE_SEED).values
    velocity = np.zeros_like(parameters.values)
    losses = []
    for index in draw_steps():
        network.images[:] = pool[index]
        network.forward(CURVE_BATCH, training=True)
        losses.append(network.loss(labels[index], SMOOTHING).mean())
        network.backward(1 / CURVE_BATCH)
        kernels_of(backend).sgd_update(
            parameters.values,
            velocity,
            parameters.gradients,
            parameters.decayed,
            case.learning_rate,
            MOMENTUM,
            WEIGHT_DECAY,
            True,
        )
    network.images[:] = pool[:CURVE_BATCH]
    network.forward(CURVE_BATCH)
    evaluation = network.loss(labels[:CURVE_BATCH], SMOOTHING).mean()
    return Curve(np.array(losses), evaluation, parameters.values, parameters.statistics)


def relative_error(found: Floats, true: Floats) -> float:
    """The norm of the difference over the norm of what is true."""
    found, true = np.asarray(found, np.float64), np.asarray(true, np.float64)
    return float(np.linalg.norm(found - true) / np.linalg.norm(true))


def split_tensors(flat: Floats, parameters: Parameters) -> list[Floats]:
    """A vector in the order of `parameters.values`, cut into the parameters' own pieces."""
    ends = np.cumsum([parameters.value(spec.name).size for spec in parameters.specs])
    return np.split(flat, ends[:-1])


def split_statistics(flat: Floats, architecture: Architecture) -> list[Floats]:
    """A vector in the order of `parameters.statistics`: each batch norm's means, then variances."""
    channels = [operation.statistics_channels for operation in architecture.normalised]
    return np.split(flat, np.cumsum(channels + channels)[:-1])


def norms(pieces: list[Floats]) -> Floats:
    return np.array([np.linalg.norm(piece.astype(np.float64)) for piece in pieces])


def projections(pieces: list[Floats]) -> Floats:
    """Each piece's scalar products with three random directions, (pieces, 3).

    A difference d between two pieces shows in each product as a draw from N(0, |d|^2), so the root
    mean square of the products' differences estimates |d|, whatever element is wrong.
    """
    products = [
        np.random.default_rng([index, 4]).standard_normal((3, piece.size)) @ piece
        for index, piece in enumerate(pieces)
    ]
    return np.array(products)


def gradient_scales(gradient_norms: Floats, parameters: Parameters) -> Floats:
    """For each gradient the norm that its errors are measured against: with exceptions its own.

    The exceptions are the betas of batch norms without a ReLU6, the projections'. What they add
    to a channel passes, with or without shortcuts, through nothing but pointwise convolutions on
    its way to a batch norm, which subtracts it with the mean. So the loss does not depend on them:
    the true gradient is 0, and what is computed is the rounding error of a sum. Its terms are
    dy[i], and those of the same batch norm's gamma are dy[i] times a factor whose mean square is
    1: they are of the same size, but do not cancel, so their sum is the scale.
    """
    index = {spec.name: i for i, spec in enumerate(parameters.specs)}
    scales = gradient_norms.copy()
    for name, i in index.items():
        if name.endswith(".project.beta"):
            scales[i] = gradient_norms[index[name.replace(".beta", ".gamma")]]
    return scales


def tensor_errors(found: Floats, true: Floats, parameters: Parameters) -> Floats:
    """The error of each tensor of a flat gradient, relative to its scale."""
    pieces = split_tensors(true.astype(np.float64), parameters)
    differences = split_tensors(found.astype(np.float64) - true, parameters)
    return norms(differences) / gradient_scales(norms(pieces), parameters)


def float32_figures(found: Run, true: Run, parameters: Parameters) -> tuple[float, float, float]:
    """The errors of a float32 pass that FLOAT32_FIGURES names."""
    return (
        relative_error(found.logits, true.logits),
        relative_error(found.gradients, true.gradients),
        float(np.median(tensor_errors(found.gradients, true.gradients, parameters))),
    )
