"""Networks that are no model of the zoo: whatever a table may append, gradients are right.

Where several operations read one output, gradients are added up in memory that others share.
"""

import numpy as np
import pytest

from npnet.measure.gradcheck import check_network
from npnet.model.architecture import Architecture, Builder
from npnet.model.config import ModelConfig
from npnet.model.inference import Inference
from npnet.model.network import Network
from npnet.model.operations import (
    Add,
    AveragePool,
    Concat,
    Convolution,
    Dropout,
    Linear,
    MaxPool,
)
from npnet.model.operations.base import IMAGES
from npnet.model.parameters import initialise

SIZE, CLASSES = 7, 3


def three_readers(net):
    """A ReLU's output in a sum, in the sum of that sum, and in what the first one adds."""
    x = net(Convolution, "first", IMAGES, channels=4, size=3, relu="relu6")
    y = net(Convolution, "branch", x, channels=4)
    return net(Add, "outer", net(Add, "inner", y, x), x)


def linear_with_three_readers(net):
    x = net(Convolution, "first", IMAGES, channels=4, size=3, batch_norm=False)
    y = net(Convolution, "branch", x, channels=4)
    return net(Add, "outer", net(Add, "inner", y, x), x)


def both_terms_read_before(net):
    """The first term, too, is read by somebody else before it is added."""
    x = net(Convolution, "first", IMAGES, channels=4, size=3)
    y = net(Convolution, "branch", x, channels=4)
    z = net(Convolution, "twig", y, channels=4, relu="relu")
    return net(Add, "outer", net(Add, "inner", y, x), z)


def shortcut_from_a_concatenation(net):
    x = net(Convolution, "first", IMAGES, channels=4, size=3, relu="relu6")
    parts = [
        net(Convolution, f"part{size}", x, channels=2, size=size, relu="relu", batch_norm=norm)
        for size, norm in ((1, False), (3, False), (5, True))
    ]
    c = net(Concat, "concat", *parts)
    y = net(Convolution, "branch", c, channels=6)
    return net(Add, "outer", net(Add, "inner", y, c), net(Convolution, "twig", c, channels=6))


def pooled_sum(net):
    x = net(Convolution, "first", IMAGES, channels=4, size=3, relu="relu")
    y = net(Add, "sum", net(Convolution, "branch", x, channels=4), x)
    return net(MaxPool, "maxima", y)


def dropout_in_the_middle(net):
    """Of an output that others read before and after."""
    x = net(Convolution, "first", IMAGES, channels=4, size=3, relu="relu6")
    y = net(Dropout, "dropout", x, rate=0.3)
    z = net(Convolution, "branch", x, channels=4, relu="relu6")
    z = net(Convolution, "twig", z, channels=4)
    return net(Add, "outer", net(Add, "inner", z, x), net(Convolution, "last", y, channels=4))


def sum_with_the_images(net):
    y = net(Convolution, "first", IMAGES, channels=3, size=3)
    return net(Add, "sum", y, IMAGES)


def depthwise_with_a_bias(net):
    """And from the images, and with no projection behind it."""
    x = net(Convolution, "first", IMAGES, channels=3, size=3, depthwise=True, relu="relu")
    y = net(Convolution, "second", x, channels=3, size=3, depthwise=True, batch_norm=False)
    return net(Add, "sum", y, net(Convolution, "third", IMAGES, channels=3, relu="relu6"))


def sum_of_vectors(net):
    x = net(Convolution, "first", IMAGES, channels=4, size=3, relu="relu")
    y = net(AveragePool, "mean", x)
    z = net(AveragePool, "other", net(Convolution, "branch", x, channels=4))
    return net(Add, "outer", net(Add, "inner", y, z), y)


def stem_with_another_relu(net):
    return net(Convolution, "first", IMAGES, channels=4, size=3, stride=2, relu="relu")


NETWORKS = (
    three_readers,
    linear_with_three_readers,
    both_terms_read_before,
    shortcut_from_a_concatenation,
    pooled_sum,
    dropout_in_the_middle,
    sum_with_the_images,
    sum_of_vectors,
    depthwise_with_a_bias,
    stem_with_another_relu,
)
BACKENDS = ("reference", pytest.param("numba", marks=pytest.mark.compiled))


def built(table) -> Architecture:
    net = Builder(SIZE)
    x = table(net)
    if len(net.shapes[x]) > 1:
        x = net(AveragePool, "pool", x)
    net(Linear, "classifier", x, classes=CLASSES)
    config = ModelConfig("mobilenet_v2", CLASSES, input_size=SIZE)
    return Architecture(config, tuple(net.operations))


def network_of(architecture, backend):
    network = Network(architecture, 4, backend, np.float64)
    initialise(network.parameters, "he_fan_out", 0)
    rng = np.random.default_rng(0)
    network.parameters.values += 0.1 * rng.standard_normal(network.parameters.values.shape)
    network.images[:] = rng.standard_normal(network.images.shape)
    return network


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("table", NETWORKS)
def test_gradients_are_those_of_finite_differences(table, frozen, backend):
    wrong = [check for check in check_network(built(table), backend, 3, frozen) if not check.passed]
    assert not wrong


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dropout", [False, True])
@pytest.mark.parametrize("table", NETWORKS)
def test_each_operation_alone_gets_its_part_of_the_gradient(table, dropout, backend):
    architecture = built(table)

    def gradients(names):
        network = network_of(architecture, backend)
        network.set_trainable(names)
        for _ in range(2):  # the second time in memory that is no longer clean
            network.parameters.gradients[:] = 0
            drops = np.random.default_rng(1) if dropout else None
            network.forward(4, training=True, dropout=drops)
            network.loss(np.array([0, 1, 2, 0]))
            network.backward(1.0)
        return network.parameters

    everything = gradients(None)
    for operation in architecture:
        for spec in operation.parameters:
            alone = gradients([operation.name]).gradient(spec.name)
            assert np.allclose(alone, everything.gradient(spec.name), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("table", NETWORKS)
def test_inference_predicts_what_the_network_does(table, backend):
    network = network_of(built(table), backend)
    statistics = network.parameters.statistics
    statistics[:] = 0.1 + np.random.default_rng(2).random(statistics.shape)
    inference = Inference(network.architecture, network.parameters, 4, backend)
    inference.images[:] = network.images
    assert np.allclose(inference.forward(4), network.forward(4), rtol=1e-9)
    assert np.array_equal(inference.images, network.images)


def test_an_output_is_read_once_by_an_operation():
    net = Builder(SIZE)
    x = net(Convolution, "first", IMAGES, channels=4)
    with pytest.raises(ValueError, match="sum reads an output twice"):
        net(Add, "sum", x, x)
