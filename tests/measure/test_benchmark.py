"""What a training step calls, and how often: recorded from the step, not written down."""

import json

import pytest

from npnet.measure.benchmark import model_uses, recorded_calls
from npnet.model.zoo import build, configure, models
from npnet.model.zoo.mobilenet_v2 import mobilenet_v2
from tests.launch import npnet_run


def calls(architecture, batch=2):
    return {name: sum(uses.values()) for name, uses in model_uses(architecture, batch).items()}


@pytest.mark.parametrize("width", [0.25, 0.5])
def test_the_calls_of_a_mobilenet_v2_step(width):
    """52 convolutions with a batch norm; 17 blocks, all but one with an expansion.

    Those of up to 24 channels are computed again.
    """
    again = 6 if width == 0.5 else 13
    found = calls(mobilenet_v2(width, 64, 10))
    for name in ("batchnorm_track", "batchnorm_fold", "batchnorm_fold_backward"):
        assert found[name] == 52
    for direction in ("forward", "backward"):
        assert found[f"stem3x3_stats_{direction}"] == 1
        assert found[f"expand_depthwise3x3_stats_{direction}"] == again
        assert found[f"activation_depthwise3x3_stats_{direction}"] == 17 - again
        assert found[f"activation_pointwise_stats_{direction}"] == 34 - again  # 17 project, head
        assert found[f"activation_average_pool_{direction}"] == 1
    assert found["expand_stats_forward"] == found["expand_stats_backward_accumulate"] == again
    shortcuts = 11 if width == 0.25 else 10  # there the first block's input and output agree
    assert found["activation_add_forward"] == shortcuts
    assert found["residual_backward_accumulate"] == shortcuts
    assert (found["image_forward"], found["image_resized_crop_forward"]) == (1, 0)
    assert found["sgd_update"] == 2  # weights, and all else
    assert found["inverted_residual_inference"] == 0  # timed, but no part of a step


def test_the_calls_of_a_squeezenet_step():
    """26 convolutions: conv1, three in each of eight fires, the classifier."""
    architecture = build(configure("squeezenet1_1", 10, dropout=0.0, input_size=64))
    found = calls(architecture)
    for direction in ("forward", "backward"):
        assert found[f"activation_conv_stats_{direction}"] == 9
        assert found[f"activation_pointwise_stats_{direction}"] == 17
        assert found[f"activation_max_pool3x3_{direction}"] == 3
    assert found["batchnorm_fold"] == 0
    absent = {use.absent for use in model_uses(architecture, 2)["activation_conv_stats_forward"]}
    assert absent == {("mean", "variance"), ("mean", "variance", "affine")}


@pytest.mark.parametrize("name", models())
@pytest.mark.parametrize("inference", [False, True])
def test_every_call_fits_its_row_of_the_registry(name, inference):
    """`recorded_calls` raises where a row would draw other shapes."""
    architecture = build(configure(name, 7, input_size=67))
    assert len(list(recorded_calls(architecture, 3, inference))) > 15


def test_exchanges_are_timed_at_the_sizes_asked_for(tmp_path):
    run = npnet_run("bench", "sync", "--sizes", "1K,64k,1M,4", "--json", cwd=tmp_path)
    assert run.status == 0, run.stderr
    exchanges = [json.loads(line) for line in run.stdout.splitlines()]
    assert [each["bytes"] for each in exchanges[::5]] == [1024, 65536, 2**20, 4]
    assert len({each["name"] for each in exchanges}) == 5


@pytest.mark.parametrize("sizes", ["", "1K,,2K", "3", "1G", "0", "-4", "1.5K"])
def test_a_size_that_is_none_is_refused(sizes, tmp_path):
    run = npnet_run("bench", "sync", "--sizes", sizes, cwd=tmp_path)
    assert "is not a size such as 64K" in run.error
