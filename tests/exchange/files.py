"""Files that the programs themselves have made; bench/peers/exchange_files.py writes them."""

import json
import lzma
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bench.peers.exchange_files import images
from npnet.exchange import read_weights
from npnet.kernels.arrays import Floats
from npnet.model.inference import Inference
from npnet.model.weights import Weights
from npnet.model.zoo import build

FILES = Path(__file__).parent / "files"
NAMES = {
    program: json.loads((FILES / f"names-{program}.json").read_text())
    for program in ("torchvision", "timm", "keras2", "keras3")
}


def unpack(name: str, folder: Path) -> Path:
    """A file as its program left it. Those of Keras need h5py."""
    if name.startswith("keras"):
        pytest.importorskip("h5py", reason="h5py is in the `exchange` extra")
    path = folder / name
    path.write_bytes(lzma.decompress((FILES / f"{name}.xz").read_bytes()))
    return path


def read(name: str, folder: Path) -> Weights:
    return read_weights(unpack(name, folder))


def theirs(program: str, key: str) -> Floats:
    """The logits that the program computed."""
    with np.load(FILES / f"logits-{program}.npz") as found:
        logits: Floats = found[key]
    return logits


def logits(weights: Weights, pixels: Floats) -> Floats:
    """npnet's logits of images as the program was given them."""
    config = replace(weights.config, input_size=pixels.shape[1])
    inference = Inference(build(config), weights.parameters(), len(pixels), "reference")
    turned = config.padding == "tf_same"
    inference.images[:] = pixels[:, ::-1, ::-1] if turned else pixels
    return inference.forward(len(pixels)).copy()


def same(one: Weights, other: Weights) -> bool:
    """To the bit."""
    return (
        one.config == other.config
        and one.values.tobytes() == other.values.tobytes()
        and one.statistics.tobytes() == other.statistics.tobytes()
    )


__all__ = ["NAMES", "images", "logits", "read", "same", "theirs", "unpack"]
