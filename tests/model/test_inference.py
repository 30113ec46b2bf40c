"""Folded inference against the network in evaluation."""

import numpy as np
import pytest

from npnet.model.inference import Inference
from npnet.model.network import BatchNorm, Network
from npnet.model.parameters import initialise
from npnet.model.zoo import build, configure
from npnet.model.zoo.mobilenet_v2 import mobilenet_v2


def trained(width=0.5, size=33, dtype=np.float64, backend="numba", batch=5, architecture=None):
    """A network whose running statistics, gammas and betas are not their initial values."""
    bn = BatchNorm(momentum=0.5, epsilon=1e-3)
    architecture = architecture or mobilenet_v2(width, size, 7)
    network = Network(architecture, batch, backend, dtype, bn)
    initialise(network.parameters, "he_fan_out", 0)
    rng = np.random.default_rng(3)
    network.parameters.values += 0.05 * rng.standard_normal(len(network.parameters.values))
    network.images[:] = rng.standard_normal(network.images.shape)
    network.forward(batch, training=True)
    inference = Inference(network.architecture, network.parameters, batch, backend, bn.epsilon)
    inference.images[:] = network.images
    return network, inference


def difference(network, inference, n):
    expected = network.forward(n)
    return np.max(np.abs(inference.forward(n) - expected)) / np.max(np.abs(expected))


@pytest.mark.compiled
@pytest.mark.parametrize("backend", ["numba", "reference"])
@pytest.mark.parametrize(("width", "size"), [(0.25, 32), (0.5, 33), (0.35, 75), (1.0, 64)])
def test_folded_logits_are_the_network_s(width, size, backend):
    network, inference = trained(width, size, backend=backend)
    assert difference(network, inference, 5) < 1e-11


@pytest.mark.compiled
@pytest.mark.parametrize("backend", ["numba", "reference"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("mobilenet_v2_cifar", {"width": 0.25, "input_size": 19}),
        ("squeezenet1_1", {"input_size": 45}),
        ("squeezenet1_0", {"input_size": 40, "batch_norm": True}),
    ],
)
def test_so_are_those_of_other_architectures(name, options, backend):
    """What fits no pattern runs as in training, and dropout is gone."""
    architecture = build(configure(name, 7, dropout=0.3, **options))
    network, inference = trained(architecture=architecture, backend=backend)
    assert difference(network, inference, 5) < 1e-11
    assert difference(network, inference, 5) < 1e-11  # the images are still there
    assert difference(network, inference, 2) < 1e-11


def test_float32_agrees_to_rounding():
    network, inference = trained(dtype=np.float32)
    assert difference(network, inference, 5) < 1e-4


@pytest.mark.parametrize("n", [1, 2, 5])
def test_any_number_of_images(n):
    network, inference = trained()
    inference.images[n:] = np.nan
    assert difference(network, inference, n) < 1e-11


def test_fold_follows_the_weights():
    network, inference = trained()
    network.parameters.values *= 1.1
    assert difference(network, inference, 5) > 1e-3
    inference.fold()
    assert difference(network, inference, 5) < 1e-11


def test_the_loss_is_the_network_s():
    network, inference = trained()
    labels = np.array([0, 6, 3, 2, 1])
    network.forward(5)
    inference.forward(5)
    assert np.allclose(inference.loss(labels), network.loss(labels), rtol=1e-10)
    assert np.allclose(inference.probabilities.sum(axis=1), 1)
