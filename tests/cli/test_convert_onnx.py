"""`npnet convert` to ONNX: batch norms kept, int8, and options that do not go together."""

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from npnet.cli.main import cli
from npnet.exchange import read_weights, write_weights
from npnet.exchange.onnx import read_onnx
from npnet.model.weights import Weights
from tests.cifar_files import write_cifar
from tests.exchange.test_onnx import tiny


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Weights:
    """Those in in.npz, of ten classes, beside a tiny CIFAR-10; the test runs there."""
    monkeypatch.chdir(tmp_path)
    # In a process that has loaded NumPy long ago.
    monkeypatch.setattr("npnet.cli.options.limit_threads", lambda count: count or 1)
    write_cifar(tmp_path / "data")
    write_weights(tiny(classes=10), Path("in.npz"))
    return read_weights(Path("in.npz"))


def convert(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["convert", "in.npz", *arguments])


def test_batch_norms_are_kept(weights: Weights) -> None:
    kept = convert("out.onnx", "--keep-batch-norm")
    assert kept.exit_code == 0
    assert "folded" not in kept.output
    np.testing.assert_array_equal(read_onnx(Path("out.onnx")).values, weights.values)
    assert "batch norms are folded" in convert("folded.onnx").output
    assert not np.array_equal(read_onnx(Path("folded.onnx")).values, weights.values)


@pytest.mark.compiled
def test_int8_tells_the_accuracy(weights: Weights) -> None:
    data = ("--dataset", "cifar10", "--data-dir", "data")
    with pytest.warns(UserWarning, match="calls 10 classes otherwise than cifar10 does"):
        result = convert("out.onnx", "--int8", *data, "--calibration-images", "4")
    assert result.exit_code == 0, result.output
    assert re.search(
        r"test acc: 0\.\d{4} in float32 \| 0\.\d{4} in int8 \| \d+ images", result.output
    )
    assert "wrote out.onnx" in result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("out.onnx", "--int8"), "--int8 is calibrated on training images"),
        (("out.onnx", "--int8", "--keep-batch-norm"), "--int8 folds batch norms"),
        (("out.onnx", "--dataset", "shapes"), "is for --int8"),
        (("out.onnx", "--calibration-images", "4"), "is for --int8"),
        (("out.npz", "--int8", "--dataset", "shapes"), "--int8 is for ONNX"),
        (("out.npz", "--keep-batch-norm"), "--keep-batch-norm is for ONNX"),
    ],
)
def test_options_that_do_not_fit(weights: Weights, arguments: tuple[str, ...], words: str) -> None:
    result = convert(*arguments)
    assert result.exit_code != 0
    assert words in f"{result.output}{result.exception}"
    assert not Path(arguments[0]).exists()
