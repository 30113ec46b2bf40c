"""A network whose expansions are not stored, against the same network with all of them stored."""

import numpy as np
import pytest

from npnet.model import fusion
from npnet.model.fusion import for_training
from npnet.model.memory import plan
from npnet.model.network import BatchNorm, Network
from npnet.model.operations import ExpandedDepthwise, Expansion
from npnet.model.parameters import initialise
from npnet.model.zoo import build, configure
from npnet.model.zoo.mobilenet_v2 import Stage, mobilenet_v2

TABLE = (Stage(1, 8, 1, 1), Stage(6, 8, 2, 2), Stage(6, 16, 2, 2))  # two with a shortcut
SAME = 1e-9


def step(store_all, names=None, resting=(), another_rank=False, **mode):
    """A float64 step of five blocks, four with an expansion."""
    bn = BatchNorm(sum_over_ranks=with_another_rank) if another_rank else BatchNorm()
    architecture = mobilenet_v2(1.0, 37, 5, 0.0, TABLE)
    network = Network(architecture, 4, "reference", np.float64, bn, store_all)
    network.set_trainable(names)
    network.use_running_statistics(resting)
    initialise(network.parameters, "he_fan_out", 0)
    rng = np.random.default_rng(1)
    for spec in network.parameters.specs:
        if spec.role != "weight":
            network.parameters.value(spec.name)[...] += 0.1 * rng.standard_normal(spec.shape)
    network.images[:] = rng.standard_normal(network.images.shape)
    network.parameters.gradients[:] = 0
    logits = network.forward(4, training=True, **mode).copy()
    network.loss(np.array([0, 3, 1, 4]))
    network.backward(1 / 4)
    stored = [layer.operation.is_stored for layer in network.layers]
    assert stored.count(False) == (0 if store_all else 4)
    return network, logits


def with_another_rank(sums):
    """Add the sums of a rank whose values are larger by 1, or whose gradients are half as large."""
    if sums.ndim == 2:
        sums *= 1.5
        return
    count, (mean, second) = sums[0], np.split(sums[1:] / sums[0], 2)
    sums += count * np.concatenate(([1], mean + 1, second + 2 * mean + 1))


WEIGHTS = ["block2.expand.weight", "block5.depthwise.weight", "stem.weight"]
CHOICES = [
    None,
    [*WEIGHTS, "block3.project.weight"],
    ["block3.expand", "block3.depthwise", "classifier.weight"],
    ["block3.depthwise.weight"],  # nothing of the expansion, nor below it
    ["block3.expand.gamma", "block5.expand.beta"],
    ["block4.expand.weight"],  # nothing below
    ["stem", "block1.depthwise"],
]


@pytest.mark.parametrize("names", CHOICES, ids=str)
@pytest.mark.parametrize("another_rank", [False, True])
@pytest.mark.parametrize("mode", [{}, {"frozen": True}], ids=["batch", "frozen"])
def test_logits_statistics_and_gradients_are_the_same(names, another_rank, mode):
    stored, before = step(True, names, (), another_rank, **mode)
    again, after = step(False, names, (), another_rank, **mode)
    assert np.allclose(after, before, rtol=SAME)
    assert np.allclose(again.parameters.statistics, stored.parameters.statistics, rtol=SAME)
    checked = 0
    for spec in stored.parameters.specs:
        if names is None or spec.name in names or spec.operation in names:
            expected, found = (each.parameters.gradient(spec.name) for each in (stored, again))
            scale = np.abs(expected).max()
            assert np.allclose(found, expected, rtol=SAME, atol=SAME * max(scale, 1e-3)), spec.name
            checked += 1
    assert checked > 0


def test_a_resting_batch_norm_is_the_same():
    resting = ("block2.expand", "block3.depthwise")
    (stored, before), (again, after) = (step(each, None, resting) for each in (True, False))
    assert np.allclose(after, before, rtol=SAME)
    gap = np.abs(again.parameters.gradients - stored.parameters.gradients).max()
    assert gap < SAME * np.abs(stored.parameters.gradients).max()


def test_checks_see_what_is_not_stored():
    """Where ReLU6 has its corners, and on which side of them the expansion was."""
    (stored, _), (again, _) = (step(each) for each in (True, False))
    stored.forward(4, training=True)  # backward has used their memory
    again.forward(4, training=True)
    for one, other in zip(stored.relu_inputs(), again.relu_inputs(), strict=True):
        assert one[0] == other[0]
        assert np.allclose(one[1], other[1], rtol=1e-9, atol=1e-9)
    for one, other in zip(stored.kinks(), again.kinks(), strict=True):
        assert np.array_equal(one, other)


def test_few_channels_are_expanded_again_and_more_are_stored():
    operations = for_training(mobilenet_v2(0.5, 128, 10).operations)
    again = [each.name for each in operations if isinstance(each, Expansion)]
    assert again == [f"block{number}.expand" for number in (2, 3, 4, 5, 6, 7)]
    filters = [each.name for each in operations if isinstance(each, ExpandedDepthwise)]
    assert filters == [f"block{number}.depthwise" for number in (2, 3, 4, 5, 6, 7)]
    widths = {each.name: each.input_shape[-1] for each in operations}
    assert widths["block7.expand"] <= fusion.FEW_CHANNELS < widths["block8.expand"]


def test_a_network_without_depthwise_convolutions_stays_as_it_is():
    operations = build(configure("squeezenet1_1", 10, batch_norm=True)).operations
    assert for_training(operations) == list(operations)


def test_what_is_not_stored_takes_no_memory():
    architecture = mobilenet_v2(0.5, 128, 10)
    memory = plan(architecture, 12)
    names = ("block2.expand.y", "block2.expand.dz", "block3.expand.y")
    assert not any(name in memory.sizes for name in names)
    assert "block8.expand.y" in memory.sizes
    assert memory.nbytes < 0.7 * plan(architecture, 12, store_all=True).nbytes


def test_a_network_cannot_begin_behind_what_is_not_stored():
    again, _ = step(store_all=False)
    with pytest.raises(ValueError, match=r"block2\.expand has no array"):
        again.enter_behind("block2.expand")
    stored, _ = step(store_all=True)
    stored.enter_behind("block2.expand")
    assert stored.entrance.shape == (4, 19, 19, 48)


def test_a_gradient_is_there_when_the_filter_begins_to_send_it():
    """The filter writes what the expansion's input gets, one moment before the expansion's own."""
    architecture = mobilenet_v2(0.5, 128, 10)
    numbers = {each.name: t for t, each in enumerate(architecture.operations)}
    memory, last = plan(architecture, 2), len(architecture.operations)
    filtered = 2 * last - numbers["block2.depthwise"]
    assert memory.buffers["block1.project.dz"].first == filtered  # its only reader is block2.expand
    more = memory.buffers["block2.project.more"]  # block3's shortcut sends first
    moment = 2 * last - numbers["block3.depthwise"]
    assert (more.first, more.last) == (moment, moment + 1)
