"""The table, the width rule, and what is derived from the list of operations."""

import itertools

import pytest

from npnet.errors import NpnetError
from npnet.model.zoo.mobilenet_v2 import MOBILENET_V2, divisible, mobilenet_v2


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
    blocks = sum(stage.repeats for stage in MOBILENET_V2)
    # Stem and head, two convolutions in the block without expansion, three in the others.
    assert len(mobilenet_v2().convolutions) == 2 + 2 + 3 * (blocks - 1)


@pytest.mark.parametrize(
    ("channels", "rounded"), [(32, 32), (16 * 0.35, 8), (12, 16), (11.2, 16), (44.8, 48), (1, 8)]
)
def test_channels_are_multiples_of_eight_and_lose_at_most_a_tenth(channels, rounded):
    assert divisible(channels) == rounded


@pytest.mark.parametrize("size", [32, 33, 47, 63, 64, 65, 96, 127, 128, 224])
def test_any_input_size(size):
    operations = mobilenet_v2(0.5, size).operations
    for before, after in itertools.pairwise(operations):
        assert before.output_shape == after.input_shape
        assert min(after.output_shape) >= 1
    assert operations[-1].output_shape == (1000,)


def test_shortcuts_are_where_shapes_agree():
    for block in mobilenet_v2(0.5, 128, 10).blocks[1:-1]:
        first, last = block.operations[0], block.operations[-1]
        assert block.shortcut == (first.input_shape == last.output_shape)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"width": 0}, "width 0"),
        ({"input_size": 31}, "input size 31"),
        ({"classes": 1}, "1 classes"),
        ({"dropout": 1.0}, "dropout rate 1.0"),
    ],
)
def test_unusable_settings_are_named(settings, words):
    with pytest.raises(NpnetError, match=words):
        mobilenet_v2(**settings)
