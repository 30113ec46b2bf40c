"""Groups of parameters: one table for rates, decay and what is frozen."""

from dataclasses import replace

import numpy as np
import pytest

from npnet.errors import NpnetError
from npnet.kernels import reference
from npnet.model.network import Network
from npnet.model.parameters import Parameters, initialise
from npnet.model.zoo import build
from npnet.parallel.communicator import SerialCommunicator
from npnet.training.optimiser import Optimiser, groups_of
from npnet.training.parts import parts_of
from npnet.training.recipe import MODERN
from npnet.training.settings import Settings
from npnet.training.trainer import Trainer
from npnet.training.warmup import Silence
from tests.datasets import MODEL, Toy

ARCHITECTURE = build(MODEL)


def optimiser(recipe, parameters=None):
    parameters = parameters or Parameters(ARCHITECTURE, np.float64)
    return Optimiser(parameters, groups_of(parameters, recipe), recipe, lambda _: 0.1, "reference")


def test_groups_tile_the_vector():
    parameters = Parameters(ARCHITECTURE)
    groups = groups_of(parameters, replace(MODERN, freeze=("block3.*", "head")))
    ends = [group.where.stop for group in groups]
    assert [group.where.start for group in groups] == [0, *ends[:-1]]
    assert ends[-1] == len(parameters.values)


def test_the_usual_recipe_has_four_groups():
    """Weights, the classifier's weight, what batch norms have, the classifier's bias."""
    parameters = Parameters(ARCHITECTURE)
    groups = groups_of(parameters, replace(MODERN, classifier_gradient=0.25, weight_decay=0.01))
    assert [group.rate for group in groups] == [1, 0.25, 1, 0.25]
    assert [group.weight_decay for group in groups] == [0.01, 0.04, 0, 0]
    assert all(group.trainable for group in groups)


def test_a_slow_classifier_is_one_whose_gradient_is_smaller():
    """Two steps by hand: the decay of its weight is not slowed."""
    recipe = replace(MODERN, classifier_gradient=0.25, weight_decay=0.01, momentum=0.9)
    mine = optimiser(recipe)
    parameters = mine.parameters
    rng = np.random.default_rng(0)
    parameters.values[:] = rng.standard_normal(len(parameters.values))
    by_hand = parameters.values.copy()
    scale = np.ones_like(by_hand)
    parameters.gradients[:] = 0
    for name in ("classifier.weight", "classifier.bias"):
        parameters.gradient(name)[...] = 1
    scale[parameters.gradients == 1] = 0.25
    velocity = np.zeros_like(by_hand)
    for _ in range(2):
        gradient = rng.standard_normal(len(by_hand))
        parameters.gradients[:] = gradient
        mine.update()
        arguments = (by_hand, velocity, gradient * scale, parameters.decayed)
        reference.sgd_update(*arguments, 0.1, 0.9, 0.01, True)
    assert np.allclose(parameters.values, by_hand, rtol=1e-12)


def test_what_is_frozen_rests():
    recipe = replace(MODERN, freeze=("stem", "block1.*", "classifier"))
    mine = optimiser(recipe)
    parameters = mine.parameters
    parameters.values[:] = 1
    parameters.gradients[:] = 1
    mine.update()
    moved = {spec.name for spec in parameters.specs if np.any(parameters.value(spec.name) != 1)}
    rest = {spec.name for spec in parameters.specs} - moved
    assert rest == {
        *(f"{name}.{part}" for name in ("stem", "block1.depthwise", "block1.project")
          for part in ("weight", "gamma", "beta")),
        "classifier.weight", "classifier.bias",
    }  # fmt: skip


def test_a_pattern_that_fits_nothing_is_named():
    with pytest.raises(NpnetError, match=r"`freeze` blok1\.\* fits no operation"):
        parts_of(ARCHITECTURE, replace(MODERN, freeze=("blok1.*",)))
    with pytest.raises(NpnetError, match="nothing to train"):
        parts_of(ARCHITECTURE, replace(MODERN, freeze=("*",)))


class Counted:
    """Kernels that note which of them ran, and with which arguments left out."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        kernel = getattr(reference, name)

        def run(*arguments):
            self.calls.append((name, [argument is None for argument in arguments]))
            kernel(*arguments)

        return run


def gradients_of(freeze, model=MODEL):
    """Gradient, names of trainable parameters, and the backward calls of one step."""
    kernels = Counted()
    network = Network(build(model), 3, kernels, np.float64)
    recipe = replace(MODERN, freeze=freeze)
    network.set_trainable(parts_of(network.architecture, recipe).trained())
    initialise(network.parameters, "he_fan_out", 0)
    network.images[:] = np.random.default_rng(0).standard_normal(network.images.shape)
    network.forward(3, training=True)
    network.loss(np.array([0, 1, 2]))
    kernels.calls.clear()
    network.parameters.gradients[:] = np.nan
    network.backward(1 / 3)
    return network.parameters, kernels.calls


@pytest.mark.parametrize(
    "model", [MODEL, replace(MODEL, width=0.25), replace(MODEL, architecture="mobilenet_v2_cifar")]
)
@pytest.mark.parametrize("freeze", [("stem",), ("stem", "block[1-9].*"), ("block4.*", "head")])
def test_the_rest_learns_as_if_nothing_were_frozen(model, freeze):
    """Frozen layers change nothing for the others: every gradient that is needed is the same."""
    whole, _ = gradients_of((), model)
    part, _ = gradients_of(freeze, model)
    recipe = replace(MODERN, freeze=freeze)
    moving = parts_of(build(model), recipe).trained()
    checked = 0
    for spec in part.specs:
        if spec.name in moving:
            found, expected = part.gradient(spec.name), whole.gradient(spec.name)
            assert np.allclose(found, expected, rtol=1e-9, atol=1e-12), spec.name
            checked += 1
    assert 0 < checked < len(part.specs)


def test_backward_stops_where_nothing_below_is_trainable():
    _, calls = gradients_of(("stem", "block*"))
    names = [name for name, _ in calls]
    assert names.count("activation_pointwise_stats_backward") == 1  # the head's
    assert "activation_depthwise3x3_stats_backward" not in names
    (head,) = (missing for name, missing in calls if name.startswith("activation_pointwise"))
    assert head[0]  # no gradient of its input
    assert not head[1]  # but of its weight
    _, calls = gradients_of(("head",))
    (head,) = [missing for name, missing in calls if name.startswith("activation_pointwise")][:1]
    assert head[1]
    assert not head[0]


def test_a_run_keeps_what_is_frozen():
    recipe = replace(MODERN, freeze=("stem", "block1.*"), lr=0.05)
    settings = Settings(
        epochs=1, batch_per_rank=4, seed=0, ranks_per_node=1, backend="reference", max_steps=3
    )
    trainer = Trainer(Toy(12), MODEL, recipe, settings, SerialCommunicator(), Silence())
    before = {spec.name: trainer.parameters.value(spec.name).copy() for spec in
              trainer.parameters.specs}  # fmt: skip
    trainer.run()
    for name, value in before.items():
        frozen = name.startswith(("stem.", "block1."))
        assert np.array_equal(trainer.parameters.value(name), value) == frozen, name
