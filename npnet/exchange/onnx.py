"""ONNX files: a network written with batch norm folded, or with it; networks of others read.

Folding cannot be undone: w*scale and a shift do not tell what w and scale were. So there are two
kinds of files. A folded one is for running: read again, each batch norm passes on what it gets
(gamma = sqrt(1 + epsilon), beta = the bias, mean 0, variance 1), logits are the same to rounding,
and written again, the numbers are the same to the bit. One with its batch norms is for going on:
read again, it gives the weights to the bit.
"""

from pathlib import Path

from npnet.errors import NpnetError
from npnet.files import write_atomically
from npnet.model.weights import Weights
from npnet.untrusted import Refused, read_file

LARGEST = 256 * 2**20  # bytes, of a file: MobileNetV2 of width 4, 60 million numbers
ADVICE = "give one ONNX file with a float32 network of npnet's zoo"


def write_onnx(weights: Weights, path: Path, fold: bool = True) -> None:
    """Write float32 weights as a whole or not at all; `fold`: batch norm into the convolutions.

    `input` is (N,3,S,S), normalised by the mean and deviation in the file's metadata, where the
    classes' names stand, too. Raises NpnetError if there is no onnx, or if the disk refuses.
    """
    require_onnx(path)
    from npnet.exchange.onnx_graph import Graph

    write_model(Graph(weights, fold).model().SerializeToString(), path)


def write_model(data: bytes, path: Path) -> None:
    """Write a model, of which `read_onnx` would take no larger one."""
    if len(data) > LARGEST:
        raise NpnetError(f"{path} would have {len(data):,} bytes: {LARGEST:,} are the most")
    write_atomically(path, data)


def read_onnx(path: Path) -> Weights:
    """The weights in a file of npnet or of torch.onnx; with batch norms, or with them folded.

    No code of the file is run and no other file is opened. Raises NpnetError for what is damaged,
    not finite, or no network that npnet knows; then each tensor that does not fit is named.
    """
    require_onnx(path)
    from npnet.exchange.onnx_file import parse
    from npnet.exchange.onnx_walk import weights_of

    try:
        return weights_of(parse(read_file(path, LARGEST)), path)
    except OSError as error:
        raise NpnetError(f"cannot read {path}: {error.strerror}; {ADVICE}") from error
    except Refused as error:
        raise NpnetError(f"cannot read {path}: {error}; {ADVICE}") from error


def require_onnx(path: Path) -> None:
    """Raise NpnetError unless the package onnx is installed."""
    try:
        import onnx  # noqa: F401
    except ImportError as error:
        raise NpnetError(f"{path} needs onnx: pip install 'npnet[exchange]'") from error
