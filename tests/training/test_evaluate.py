"""Recalibrated statistics: those of the training images under the present weights."""

from dataclasses import replace

import numpy as np
import pytest

from npnet.data.batches import ImageInput, not_augmented
from npnet.kernels import backend
from npnet.model.network import BatchNorm, Network
from npnet.model.parameters import Parameters, initialise
from npnet.model.zoo.mobilenet_v2 import mobilenet_v2
from npnet.parallel.communicator import SerialCommunicator
from npnet.training import evaluate
from npnet.training.checkpoint import VERSION, Checkpoint, Header
from npnet.training.doubts import initial_statistics_left
from npnet.training.evaluate import Evaluator, recalibrate
from npnet.training.recipe import MODEL_FIELDS, MODERN, PAPER
from npnet.training.settings import Settings
from npnet.training.trainer import Trainer
from npnet.training.warmup import Silence
from tests.datasets import MODEL, Toy


@pytest.fixture
def network():
    made = Network(mobilenet_v2(0.1, 64, 3), 8, "reference", np.float64, BatchNorm(0.0))
    initialise(made.parameters, "he_fan_out", 0)
    return made


def recalibrated(network, dataset, **options):
    image_input = ImageInput(MODEL, backend("reference"))
    return recalibrate(network, dataset, image_input, SerialCommunicator(), **options)


def test_one_batch_gives_that_batch_s_statistics(network):
    """With momentum 0 the running statistics are those of the last batch, but unbiased."""
    images = Toy(8).read("train", np.arange(8))
    image_input = ImageInput(MODEL, backend("reference"))
    image_input.fill(network.images, not_augmented(images.pixels, images.labels))
    network.forward(8, training=True)
    channels = len(network.parameters.running_means)
    expected = network.parameters.statistics.copy()
    for operation in network.architecture.normalised:
        samples = 8 * np.prod(operation.output_shape[:2])
        _, variance = network.parameters.running(operation.name)
        variance *= (samples - 1) / samples
    expected[channels:] = network.parameters.running_variances
    assert np.allclose(recalibrated(network, Toy(8)), expected, rtol=1e-9)


def test_batches_are_counted_by_their_images(network, monkeypatch):
    """11 images in batches of 8 and 3: the mean of the first layer is that of all images."""
    found = recalibrated(network, Toy(11))[:8]
    images = Toy(11).read("train", np.arange(11))
    image_input = ImageInput(MODEL, backend("reference"))
    whole = Network(network.architecture, 11, "reference", np.float64, BatchNorm(0.0))
    initialise(whole.parameters, "he_fan_out", 0)
    image_input.fill(whole.images, not_augmented(images.pixels, images.labels))
    whole.forward(11, training=True)
    assert np.allclose(found, whole.parameters.running_means[:8], rtol=1e-9)
    monkeypatch.setattr(evaluate, "RECALIBRATION_IMAGES", 8)
    assert not np.allclose(found, recalibrated(network, Toy(11))[:8], rtol=1e-9)


def test_the_running_statistics_are_left_as_they_are(network):
    before = network.parameters.statistics.copy()
    recalibrated(network, Toy(8))
    assert np.array_equal(network.parameters.statistics, before)


@pytest.mark.compiled
def test_a_collapse_and_its_cause():
    """Keras' momentum and few steps: by moving statistics a network that learned knows nothing."""
    recipe = replace(PAPER, lr=0.02, sync="gradients")
    model = replace(MODEL, input_size=64, **MODEL_FIELDS["paper"])
    settings = Settings(
        epochs=12,
        batch_per_rank=10,
        seed=5,
        ranks_per_node=1,
        bn_eval="both",
        evaluate="at-end",
    )
    trainer = Trainer(Toy(90, 30), model, recipe, settings, SerialCommunicator(), Silence())
    summary = trainer.run()
    assert initial_statistics_left(trainer) == pytest.approx(0.999**108)
    assert summary.test_acc <= 0.4
    assert summary.recalibrated_test_acc > 0.8


def checkpoint_of(classes):
    parameters = Parameters(mobilenet_v2(0.1, 32, 3))
    initialise(parameters, "he_fan_out", 0)
    header = Header(VERSION, "0", MODEL, classes, "toy", MODERN, 1, 4, 10, 2)
    return Checkpoint(header, parameters.values, parameters.statistics, parameters.values)


def test_classes_that_are_called_otherwise_are_told():
    """As many, so that nothing else would tell: the labels are those of other things."""
    where = (Toy(8), SerialCommunicator(), 4, "reference")
    Evaluator.of_checkpoint(checkpoint_of(Toy.classes), *where)  # and a warning is an error
    other = ("dark", "light", "bright")
    with pytest.warns(UserWarning, match="calls 1 classes otherwise than toy does, such as 'light"):
        Evaluator.of_checkpoint(checkpoint_of(other), *where)
