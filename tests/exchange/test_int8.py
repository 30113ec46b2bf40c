"""Networks in int8: the numbers that stand for others, and what npnet says a file computes."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, checker, numpy_helper

from npnet.data.shapes import Shapes
from npnet.errors import NpnetError
from npnet.exchange.int8 import Grid, WholeNumbers
from npnet.exchange.onnx import read_onnx
from npnet.exchange.onnx_int8 import Int8Graph
from npnet.exchange.quantise import Int8, batches, corrected, grid_names, spread, write_int8
from npnet.kernels.arrays import Floats
from npnet.model.weights import Weights
from npnet.model.zoo import build, configure
from tests.exchange.test_onnx import logits_of, npnet_logits, random_weights

RNG = np.random.default_rng(0)
DATASET = Shapes()


def weights_of(name: str, **given: object) -> Weights:
    width = 0.1 if name.startswith("mobilenet") else None
    config = configure(name, len(DATASET.classes), width=width, input_size=32, **given)
    return replace(random_weights(config), classes=tuple(DATASET.classes))


class TestGrid:
    @pytest.mark.parametrize(("low", "high"), [(-1.3, 2.7), (0, 6), (0.5, 3), (-4, -1), (0, 0)])
    def test_zero_is_one_of_its_numbers(self, low: float, high: float) -> None:
        grid, zero = Grid.between(low, high), np.zeros(1, np.float32)
        grid.round(zero)
        assert zero == 0
        assert grid.scale > 0

    def test_numbers_move_by_half_a_step_at_most(self) -> None:
        grid = Grid.between(-1.3, 2.7)
        x = RNG.uniform(-1.3, 2.7, 1000).astype(np.float32)
        rounded = x.copy()
        grid.round(rounded)
        inside = (x > -1.29) & (x < 2.69)
        assert np.abs(rounded - x)[inside].max() <= 0.5001 * grid.scale
        assert len(np.unique(rounded)) <= 256

    @pytest.mark.parametrize("high", [6.0, *RNG.uniform(0.1, 6, 20)])
    def test_none_is_above_the_range(self, high: float) -> None:
        """Or a runtime would have to apply ReLU6 to what cannot exceed 6 otherwise."""
        assert 255 * float(Grid.between(0, high).scale) <= high


class TestWholeNumbers:
    def test_weights_have_a_scale_a_channel(self) -> None:
        weight = (RNG.normal(size=(3, 3, 4)) * [1e-3, 1, 50, 0]).astype(np.float32)
        whole = WholeNumbers.of(weight, np.zeros(4, np.float32), np.float32(0.1))
        rounded, _ = whole.numbers
        assert np.abs(whole.weight).max(axis=(0, 1)).tolist() == [127, 127, 127, 0]
        assert (np.abs(rounded - weight) <= 0.5001 * whole.scales).all()

    def test_a_large_bias_of_a_tiny_channel_fits(self) -> None:
        weight = np.full((4, 2), 1e-20, np.float32)
        bias = np.array([3, -2], np.float32)
        whole = WholeNumbers.of(weight, bias, np.float32(0.02))
        np.testing.assert_allclose(whole.numbers[1], bias, rtol=1e-6)


@pytest.mark.parametrize("shape", [(3, 3, 8), (3, 3, 5, 8), (5, 8)])
def test_rounded_weights_do_not_shift_the_mean(shape: tuple[int, ...]) -> None:
    weight = RNG.normal(size=shape).astype(np.float32)
    channels = shape[-1] if len(shape) == 3 else shape[-2]
    bias, mean = np.zeros(8, np.float32), RNG.uniform(0, 6, channels)

    def average(weight: Floats, bias: Floats) -> Floats:
        """Of the output for an input that is its mean everywhere."""
        windows = weight.reshape(-1, *shape[2:] if len(shape) > 2 else shape).sum(axis=0)
        windows = weight if len(shape) == 2 else windows
        return (mean * windows if len(shape) == 3 else mean @ windows) + bias

    scale = np.float32(0.02)
    plain = average(*WholeNumbers.of(weight, bias, scale).numbers) - average(weight, bias)
    better = average(*corrected(weight, bias, scale, mean).numbers) - average(weight, bias)
    assert np.abs(better).max() < 1e-3
    assert np.abs(plain).max() > 10 * np.abs(better).max()


@pytest.mark.parametrize(
    ("name", "padding"), [("mobilenet_v2", "tf_same"), ("squeezenet1_1", "symmetric")]
)
def test_npnet_computes_what_the_file_says(name: str, padding: str) -> None:
    weights = weights_of(name, padding=padding)
    rounded = Int8(weights, DATASET, 8, backend="reference")
    model = Int8Graph(weights, rounded.grids, rounded.layers).model()
    checker.check_model(model, full_check=True)
    model.opset_import[0].version = 19  # the reference begins there; the nodes are the same
    images = rounded.network.images
    ((n, _),) = batches(DATASET, "test", spread(100, 4), images, rounded.image_input)
    upright = images[:n, ::-1, ::-1] if padding == "tf_same" else images[:n]
    upright = np.ascontiguousarray(upright.transpose(0, 3, 1, 2))
    exact = npnet_logits(weights, upright)
    ours, theirs = rounded.forward(n), logits_of(model, upright)
    # A number that lies between two of the grid may be rounded either way: few are.
    distance = np.abs(ours - exact).max()
    assert distance > 0.001 * np.ptp(exact)
    assert np.abs(ours - theirs).max() < 0.3 * distance


def test_what_is_concatenated_shares_a_grid() -> None:
    names = grid_names(build(configure("squeezenet1_1", 10)))
    assert names["fire2.expand1x1"] == names["fire2.expand3x3"] == "fire2.concat"
    assert names["pool4"] == "fire3.concat"
    assert names["dropout"] == "fire9.concat"
    assert "pool" not in names  # the logits


def test_calibration_images_are_spread_over_all() -> None:
    assert spread(10, 5).tolist() == [0, 2, 4, 6, 8]
    assert spread(3, 512).tolist() == [0, 1, 2]
    assert spread(0, 4).tolist() == []


def test_a_file_is_written_and_its_accuracy_told(tmp_path: Path) -> None:
    weights, path = weights_of("mobilenet_v2"), tmp_path / "int8.onnx"
    accuracy = write_int8(weights, DATASET, path, 8, backend="reference", most=12)
    assert (accuracy.split, accuracy.images) == ("test", 12)
    model = ModelProto.FromString(path.read_bytes())
    stored = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    assert stored["stem.weight"].dtype == np.int8
    assert stored["stem.bias"].dtype == np.int32
    assert stored["images.zero"].dtype == np.uint8
    with pytest.raises(NpnetError, match="rounded to int8"):
        read_onnx(path)

    logits, labels = [], []
    rounded = Int8(weights, DATASET, 8, backend="reference")
    chosen = spread(DATASET.size("test"), 12)
    images = rounded.network.images
    for n, found in batches(DATASET, "test", chosen, images, rounded.image_input):
        logits.append(npnet_logits(weights, images[:n].transpose(0, 3, 1, 2)))
        labels.append(found)
    right = np.concatenate(logits).argmax(axis=1) == np.concatenate(labels)
    assert accuracy.before == pytest.approx(right.mean())


def test_another_dataset_s_classes(tmp_path: Path) -> None:
    weights = random_weights(configure("mobilenet_v2", 3, width=0.1, input_size=32))
    with pytest.raises(NpnetError, match="3 classes apart"):
        write_int8(weights, DATASET, tmp_path / "int8.onnx")
    assert not list(tmp_path.iterdir())


def test_classes_of_other_names_are_told(tmp_path: Path) -> None:
    named = replace(weights_of("mobilenet_v2"), classes=tuple("0123456789"))
    with pytest.warns(UserWarning, match="calls 10 classes otherwise than shapes does"):
        write_int8(named, DATASET, tmp_path / "int8.onnx", 4, backend="reference", most=2)
