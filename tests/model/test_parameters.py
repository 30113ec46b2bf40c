"""Flat vectors, their named views, and how they are filled."""

import numpy as np
import pytest

from npnet.model.parameters import Parameters, initialise
from npnet.model.zoo.mobilenet_v2 import mobilenet_v2

ARCHITECTURE = mobilenet_v2(0.5, 128, 10)


def test_views_tile_the_flat_vector():
    parameters = Parameters(ARCHITECTURE)
    for number, spec in enumerate(parameters.specs):
        parameters.value(spec.name)[...] += number + 1
    assert np.all(parameters.values > 0)  # nothing is left out ...
    counts = np.unique(parameters.values, return_counts=True)[1]
    assert counts.tolist() == [
        int(np.prod(spec.shape)) for spec in parameters.specs
    ]  # ... or twice


def test_weights_come_first_because_only_they_decay():
    parameters = Parameters(ARCHITECTURE)
    roles = [spec.role for spec in parameters.specs]
    weights = roles.count("weight")
    assert set(roles[:weights]) == {"weight"}
    assert parameters.decayed == sum(np.prod(spec.shape) for spec in parameters.specs[:weights])


def test_statistics_start_at_mean_zero_variance_one():
    parameters = Parameters(ARCHITECTURE)
    mean, variance = parameters.running("block3.expand")
    assert not mean.any()
    assert np.all(variance == 1)
    mean += 5
    variance += 5
    assert parameters.statistics.sum() == len(parameters.statistics) // 2 + 10 * len(mean)


@pytest.mark.parametrize("scheme", ["glorot_uniform", "he_fan_out"])
def test_the_seed_decides_the_initial_values(scheme):
    first, again, other = (Parameters(ARCHITECTURE) for _ in range(3))
    initialise(first, scheme, 7)
    initialise(again, scheme, 7)
    initialise(other, scheme, 8)
    assert first.digest() == again.digest() != other.digest()


@pytest.mark.parametrize(
    ("scheme", "name", "std"),
    [
        ("glorot_uniform", "head.weight", np.sqrt(2 / (160 + 1280))),
        ("glorot_uniform", "block5.depthwise.weight", np.sqrt(2 / (9 + 9 * 96))),
        ("glorot_uniform", "classifier.weight", np.sqrt(2 / (1280 + 10))),
        ("he_fan_out", "head.weight", np.sqrt(2 / 1280)),
        ("he_fan_out", "block5.depthwise.weight", np.sqrt(2 / (9 * 96))),
        ("he_fan_out", "classifier.weight", 0.01),
    ],
)
def test_spread_of_initial_weights(scheme, name, std):
    parameters = Parameters(ARCHITECTURE)
    initialise(parameters, scheme, 0)
    assert parameters.value(name).std() == pytest.approx(std, rel=0.05)
    if scheme == "glorot_uniform":
        assert abs(parameters.value(name)).max() <= np.sqrt(3) * std
    assert np.all(parameters.value("head.gamma") == 1)
    assert not parameters.value("head.beta").any()
    assert not parameters.value("classifier.bias").any()
