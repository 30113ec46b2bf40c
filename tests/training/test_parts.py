"""What `train`, `freeze` and `layer_decay` choose, and that a run keeps to it."""

from dataclasses import replace

import numpy as np
import pytest

from npnet.errors import NpnetError
from npnet.model.network import Network
from npnet.model.parameters import Parameters, initialise
from npnet.model.zoo import build, configure
from npnet.parallel.communicator import SerialCommunicator
from npnet.training.optimiser import groups_of
from npnet.training.parts import features_of, parts_of
from npnet.training.recipe import MODERN
from npnet.training.settings import Settings
from npnet.training.trainer import Trainer
from npnet.training.warmup import Silence
from tests.datasets import MODEL, Toy

ARCHITECTURE = build(MODEL)


def trained(**fields):
    """The units of which something is trained, in their order, and the roles that are trained."""
    parts = parts_of(ARCHITECTURE, replace(MODERN, **fields))
    specs = [spec for spec in parts.specs if parts.trains(spec)]
    return list(dict.fromkeys(s.name.partition(".")[0] for s in specs)), {s.role for s in specs}


def test_the_head_is_the_classifier_alone():
    assert trained(train="head") == (["classifier"], {"weight", "bias"})


def test_the_last_units_stand_before_the_classifier():
    assert trained(train="last:1")[0] == ["head", "classifier"]
    assert trained(train="last:3")[0] == ["block16", "block17", "head", "classifier"]


def test_norm_is_what_batch_norms_have_and_the_classifier():
    units, roles = trained(train="norm")
    assert len(units) == 20
    assert roles == {"gamma", "beta", "weight", "bias"}
    parts = parts_of(ARCHITECTURE, replace(MODERN, train="norm"))
    weights = [s.name for s in parts.specs if s.role == "weight" and parts.trains(s)]
    assert weights == ["classifier.weight"]


def test_what_is_frozen_is_left_out():
    assert trained(train="last:3", freeze=("block17.*",))[0] == ["block16", "head", "classifier"]


@pytest.mark.parametrize("value", ["", "last", "last:0", "last:-1", "last:1e3", "tail", "head "])
def test_what_train_does_not_know_is_named(value):
    with pytest.raises(NpnetError, match=r"`train` .* is not usable"):
        replace(MODERN, train=value)


def test_more_units_than_there_are():
    message = r"`train` last:20 is more than there is: .* 19 units .* stem to head"
    with pytest.raises(NpnetError, match=message):
        parts_of(ARCHITECTURE, replace(MODERN, train="last:20"))


def test_norm_needs_batch_norm():
    network = build(configure("squeezenet1_1", 3, input_size=32))
    with pytest.raises(NpnetError, match="norm is for networks with batch norm"):
        parts_of(network, replace(MODERN, train="norm"))


def test_rates_fall_from_unit_to_unit():
    """0.5 a unit: 2^-19 at the stem; weight decay is not slowed by what slows the classifier."""
    recipe = replace(MODERN, layer_decay=0.5, classifier_gradient=0.25, weight_decay=0.01)
    parameters = Parameters(ARCHITECTURE)
    rates = {}
    for group in groups_of(parameters, recipe):
        for spec in parameters.specs:
            if group.where.start <= parameters.where(spec.name).start < group.where.stop:
                rates[spec.name] = group.rate, group.weight_decay
    assert rates["classifier.weight"] == (0.25, 0.04)
    assert rates["head.weight"] == (0.5, 0.01)
    assert rates["block17.project.gamma"] == rates["block17.expand.beta"] == (0.25, 0)
    assert rates["stem.weight"] == (2.0**-19, 0.01)


def test_layers_that_rest_keep_their_statistics_and_use_them():
    """Their part of the network is then the same function for any batch."""
    network = Network(ARCHITECTURE, 4, "reference", np.float64)
    initialise(network.parameters, "he_fan_out", 0)
    parts_of(ARCHITECTURE, replace(MODERN, train="last:2")).set_in(network)
    rng = np.random.default_rng(0)
    network.images[:] = rng.standard_normal(network.images.shape)
    before = network.parameters.statistics.copy()
    network.forward(4, training=True)
    still = {"stem", "block16.project"}
    moved = {"block17.expand", "head"}
    for name in still | moved:
        running = network.parameters.running(name)
        other = Parameters(ARCHITECTURE, np.float64)
        other.statistics[:] = before
        same = all(np.array_equal(a, b) for a, b in zip(running, other.running(name), strict=True))
        assert same == (name in still), name
    layer = next(each for each in network.layers if each.operation.name == "block16.project")
    of_four = layer.output.z.copy()
    network.forward(2, training=True)
    assert np.allclose(layer.output.z, of_four[:2], rtol=1e-12)


@pytest.mark.parametrize(
    ("train", "backend"), [("head", "reference"), ("last:2", "reference"), ("norm", "numba")]
)
def test_a_run_moves_what_it_trains_and_nothing_else(train, backend):
    recipe = replace(MODERN, train=train, lr=0.05)
    settings = Settings(
        epochs=1, batch_per_rank=4, seed=0, ranks_per_node=1, backend=backend, max_steps=2
    )
    trainer = Trainer(Toy(12), MODEL, recipe, settings, SerialCommunicator(), Silence())
    parameters, parts = trainer.parameters, parts_of(ARCHITECTURE, recipe)
    before = parameters.values.copy()
    trainer.run()
    for spec in parts.specs:
        where = parameters.where(spec.name)
        moved = not np.array_equal(parameters.values[where], before[where])
        assert moved == parts.trains(spec), spec.name


def test_features_are_what_a_linear_classifier_reads():
    assert features_of(build(replace(MODEL, dropout=0.2))) == "pool"
    assert features_of(build(configure("squeezenet1_1", 3, input_size=32))) is None
