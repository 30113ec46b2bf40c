"""The network as a whole: shapes, modes, statistics, and the two backends side by side."""

import numpy as np
import psutil
import pytest

from npnet.model.network import BatchNorm, Network
from npnet.model.parameters import initialise
from npnet.model.zoo.mobilenet_v2 import Stage, mobilenet_v2

SMALL = (Stage(1, 8, 1, 1), Stage(6, 8, 2, 2), Stage(6, 16, 2, 2))


def small_network(batch=4, backend="numba", dtype=np.float64, table=SMALL, dropout=0.0, **bn):
    architecture = mobilenet_v2(1.0, 33, 5, dropout, table)
    network = Network(architecture, batch, backend, dtype, BatchNorm(**bn))
    initialise(network.parameters, "he_fan_out", 0)
    rng = np.random.default_rng(1)
    network.images[:] = rng.standard_normal(network.images.shape)
    return network, rng.integers(0, 5, batch)


def step(network, labels, **mode):
    n = len(labels)
    logits = network.forward(n, **mode).copy()
    loss = network.loss(labels).mean()
    network.backward(1 / n)
    return logits, loss


@pytest.mark.compiled
@pytest.mark.parametrize("size", [32, 33, 64, 75])
@pytest.mark.parametrize("width", [0.25, 0.35, 1.0])  # 0.25: a shortcut around the first block
def test_backends_agree_in_float64(size, width):
    results = []
    for backend in ("numba", "reference"):
        network = Network(mobilenet_v2(width, size, 7), 3, backend, np.float64)
        initialise(network.parameters, "he_fan_out", 0)
        network.images[:] = np.random.default_rng(0).standard_normal(network.images.shape)
        logits, _ = step(network, np.array([0, 3, 6]), training=True)
        results.append((logits, network.parameters.gradients, network.parameters.statistics))
    for fast, plain in zip(*results, strict=True):
        assert np.linalg.norm(fast - plain) <= 1e-8 * np.linalg.norm(plain)


def test_logits_and_images_outlast_the_step():
    """Whoever counts right answers does so after backward."""
    network, labels = small_network()
    images = network.images.copy()
    logits = network.forward(4, training=True)
    before = logits.copy()
    network.loss(labels)
    network.backward(1 / 4)
    assert np.array_equal(logits, before)
    assert np.array_equal(network.images, images)


def test_a_smaller_batch_uses_only_its_own_images():
    network, labels = small_network(batch=6)
    alone, _ = small_network(batch=3)
    alone.images[:] = network.images[:3]
    network.images[3:] = np.nan
    assert np.array_equal(*(step(each, labels[:3], training=True)[0] for each in (network, alone)))
    assert np.array_equal(network.parameters.gradients, alone.parameters.gradients)


def test_running_statistics_move_by_one_minus_momentum():
    network, _ = small_network(momentum=0.75)
    network.forward(4, training=True)
    stem = network.layers[0]
    y = stem.output.x
    mean, variance = y.mean(axis=(0, 1, 2)), y.var(axis=(0, 1, 2), ddof=1)
    assert y.size // y.shape[-1] > 1
    assert np.allclose(stem.bn.running_mean, 0.25 * mean)
    assert np.allclose(stem.bn.running_variance, 0.75 + 0.25 * variance)


@pytest.mark.parametrize("mode", [{"training": False}, {"training": True, "frozen": True}])
def test_running_statistics_rest_outside_training(mode):
    network, _ = small_network()
    before = network.parameters.statistics.copy()
    network.forward(4, **mode)
    assert np.array_equal(network.parameters.statistics, before)


def test_evaluation_does_not_depend_on_the_rest_of_the_batch():
    network, _ = small_network()
    network.forward(4, training=True)
    together = network.forward(4).copy()
    network.images[0] = network.images[2]
    assert np.allclose(network.forward(1)[0], together[2])


def test_evaluation_with_the_batch_s_own_statistics_is_training():
    """With momentum 0 the running statistics are the last batch's (but for Bessel's correction)."""
    network, _ = small_network(momentum=0.0)
    trained = network.forward(4, training=True).copy()
    for bn in network.normalisations:
        bn.running_variance *= (bn.samples - 1) / bn.samples
    assert np.allclose(network.forward(4), trained)


def test_dropout_drops_only_where_asked():
    network, _ = small_network(dropout=0.5)
    plain = network.forward(4).copy()
    dropped = network.forward(4, dropout=np.random.default_rng(0)).copy()
    again = network.forward(4, dropout=np.random.default_rng(0)).copy()
    assert not np.allclose(plain, dropped)
    assert np.array_equal(dropped, again)
    (keep,) = (layer.keep for layer in network.layers if layer.operation.name == "dropout")
    assert 0 < np.count_nonzero(keep) < keep.size
    assert np.array_equal(network.forward(4), plain)


def test_a_nan_in_the_input_reaches_the_loss():
    network, labels = small_network(dtype=np.float32)
    network.images[1, 5, 5] = np.nan
    network.forward(4, training=False)
    assert np.isnan(network.loss(labels)).tolist() == [False, True, False, False]


def test_gradients_add_up_over_parts_of_a_batch_when_frozen():
    """What makes P ranks one: with 1/global as scale, the parts' gradients sum to the whole's."""
    network, labels = small_network(batch=6)
    images = network.images.copy()
    total = np.zeros_like(network.parameters.gradients)
    for part in (slice(0, 2), slice(2, 6)):
        n = part.stop - part.start
        network.images[:n] = images[part]
        network.forward(n, training=True, frozen=True)
        network.loss(labels[part])
        network.backward(1 / 6)
        total += network.parameters.gradients
    network.images[:] = images
    network.forward(6, training=True, frozen=True)
    network.loss(labels)
    network.backward(1 / 6)
    assert np.allclose(total, network.parameters.gradients, rtol=1e-10, atol=1e-14)


@pytest.mark.compiled  # 200 steps take six minutes without the compiler
def test_memory_does_not_grow_from_step_to_step():
    network, labels = small_network()
    for _ in range(20):
        step(network, labels, training=True)
    process = psutil.Process()
    before = process.memory_info().rss
    for _ in range(200):
        step(network, labels, training=True)
    assert process.memory_info().rss - before < 2**20
