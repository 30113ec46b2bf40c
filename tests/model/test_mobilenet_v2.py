"""The table, the width rule, and what is derived from the list of operations."""

import itertools

import pytest

from npnet.errors import NpnetError
from npnet.model.operations import Add, Convolution
from npnet.model.zoo import build, configure
from npnet.model.zoo.mobilenet_v2 import TABLE, divisible, mobilenet_v2


@pytest.mark.parametrize(
    ("width", "classes", "parameters"),
    [
        (1.0, 1000, 3_504_872),
        (0.5, 1000, 1_968_680),
        (0.5, 10, 700_490),
        (0.35, 10, 408_938),
        (1.4, 1000, 6_108_776),
    ],
)
def test_trainable_parameters(width, classes, parameters):
    assert mobilenet_v2(width, classes=classes).parameter_count == parameters


def test_multiply_accumulates_of_the_paper():
    """Sandler et al. 2018, Table 4: 300 M for width 1 at 224x224."""
    assert mobilenet_v2(1.0, 224, 1000).macs == pytest.approx(300e6, rel=0.01)


def test_convolutions_follow_the_table():
    blocks = sum(stage.repeats for stage in TABLE)
    # Stem and head, two convolutions in the block without expansion, three in the others.
    assert len(mobilenet_v2().normalised) == 2 + 2 + 3 * (blocks - 1)


@pytest.mark.parametrize(
    ("channels", "rounded"), [(32, 32), (16 * 0.35, 8), (12, 16), (11.2, 16), (44.8, 48), (1, 8)]
)
def test_channels_are_multiples_of_eight_and_lose_at_most_a_tenth(channels, rounded):
    assert divisible(channels) == rounded


@pytest.mark.parametrize("size", [32, 33, 47, 63, 64, 65, 96, 127, 128, 224])
def test_any_input_size(size):
    operations = mobilenet_v2(0.5, size).operations
    shapes = {"images": (size, size, 3)} | {each.name: each.output_shape for each in operations}
    for before, after in itertools.pairwise(operations):
        assert after.inputs[0] == before.name  # a chain, but for the shortcuts
        assert after.input_shapes == tuple(shapes[name] for name in after.inputs)
        assert min(after.output_shape) >= 1
    assert operations[-1].output_shape == (1000,)


def test_shortcuts_are_where_shapes_agree():
    operations = {each.name: each for each in mobilenet_v2(0.5, 128, 10).operations}
    found = 0
    for number in range(1, 18):
        last = operations[f"block{number}.project"]
        first = operations.get(f"block{number}.expand", operations[f"block{number}.depthwise"])
        agree = first.input_shape == last.output_shape
        assert (f"block{number}.add" in operations) == agree
        if agree:
            add = operations[f"block{number}.add"]
            assert isinstance(add, Add)
            assert add.inputs == (last.name, first.inputs[0])
            found += 1
    assert found == 10


def test_the_variant_for_small_images():
    """3x3 stem and second stage at stride 1: 28.0 M multiply-accumulates at width 0.5."""
    architecture = build(configure("mobilenet_v2_cifar", 10))
    assert architecture.input_size == 32
    assert round(architecture.macs / 1e5) == 280
    strides = [each.stride for each in architecture.operations if isinstance(each, Convolution)]
    assert strides.count(2) == 3  # the last maps are 4x4
    assert architecture.normalised[-1].output_shape[:2] == (4, 4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"width": 0}, "`width` 0"),
        ({"input_size": 31}, "`input_size` 31"),
        ({"classes": 1}, "1 classes"),
        ({"dropout": 1.0}, "`dropout` rate 1.0"),
    ],
)
def test_unusable_settings_are_named(settings, words):
    with pytest.raises(NpnetError, match=words):
        mobilenet_v2(**settings)
