"""SqueezeNet: the paper's tables, as torchvision builds them."""

import pytest

from npnet.errors import NpnetError
from npnet.model.operations import Concat, Convolution, MaxPool
from npnet.model.zoo import build, configure, squeezenet


@pytest.mark.parametrize(
    ("name", "parameters", "maps"),
    [
        ("squeezenet1_0", 1_248_424, (109, 54, 27, 13)),
        ("squeezenet1_1", 1_235_496, (111, 55, 27, 13)),
    ],
)
def test_parameters_and_maps_of_224_pixels(name, parameters, maps):
    """torchvision counts as many; maps after conv1 and each pool, ceil mode included."""
    architecture = build(configure(name, 1000, input_size=224))
    assert architecture.parameter_count == parameters
    sizes = [
        each.output_shape[0]
        for each in architecture.operations
        if isinstance(each, MaxPool) or each.name == "conv1"
    ]
    assert tuple(sizes) == maps
    assert architecture.operations[-1].output_shape == (1000,)


def test_a_fire_module_concatenates_two_branches():
    operations = {each.name: each for each in build(configure("squeezenet1_1", 10)).operations}
    fires = [each for each in operations.values() if isinstance(each, Concat)]
    assert len(fires) == 8
    for fire in fires:
        one, three = (operations[name] for name in fire.inputs)
        assert one.inputs == three.inputs
        assert (one.size, three.size) == (1, 3)
        assert fire.output_shape[-1] == one.channels + three.channels


def test_with_batch_norm_every_convolution_but_the_classifier_has_one():
    operations = build(configure("squeezenet1_0", 10, batch_norm=True)).operations
    convolutions = [each for each in operations if isinstance(each, Convolution)]
    assert [each.batch_norm for each in convolutions] == [True] * 25 + [False]


def test_it_has_one_width():
    with pytest.raises(NpnetError, match="squeezenet1_0 comes in one `width`"):
        build(configure("squeezenet1_0", 10, width=0.5))


@pytest.mark.parametrize("size", [21, 22, 23, 24, 37, 64])
def test_small_inputs(size):
    for operation in build(configure("squeezenet1_0", 10, input_size=size)).operations:
        assert min(operation.output_shape) >= 1
    with pytest.raises(NpnetError, match="`input_size` 20"):
        build(configure("squeezenet1_0", 10, input_size=20))


def test_its_table_is_one_short_file():
    with open(squeezenet.__file__, encoding="utf-8") as file:
        assert len(file.readlines()) < 100
