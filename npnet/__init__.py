"""npnet: convolutional networks trained from scratch on NumPy and Numba, data-parallel over MPI.

What a notebook needs, by name from here; each is loaded when it is first asked for, so that thread
counts can be set before NumPy is (`npnet.machine.threads`).

    import npnet

    data = npnet.open_dataset("shapes")
    model = npnet.configure("mobilenet_v2", classes=len(data.classes), input_size=64)
    run = npnet.train(data, model, epochs=3, max_steps=20, out="runs/first")
    print(run.summary.test_acc)
    saved = npnet.load("runs/first/final.npz")
    print(npnet.evaluate(saved, data).accuracy)
    logits = saved.inference(batch=4, backend="numba").forward(4)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from npnet.api import evaluate, predict, train
    from npnet.data import open_dataset
    from npnet.errors import NpnetError
    from npnet.exchange import read_weights
    from npnet.model.config import ModelConfig
    from npnet.model.inference import Inference
    from npnet.model.network import Network
    from npnet.model.zoo import build, configure, models
    from npnet.training.checkpoint import load, save
    from npnet.training.recipe import FINETUNE, MODERN, PAPER, Recipe

__version__ = "0.1.0"

# Where each name lies.
_PLACES = {
    "evaluate": "npnet.api",
    "predict": "npnet.api",
    "train": "npnet.api",
    "open_dataset": "npnet.data",
    "NpnetError": "npnet.errors",
    "read_weights": "npnet.exchange",
    "ModelConfig": "npnet.model.config",
    "Inference": "npnet.model.inference",
    "Network": "npnet.model.network",
    "build": "npnet.model.zoo",
    "configure": "npnet.model.zoo",
    "models": "npnet.model.zoo",
    "load": "npnet.training.checkpoint",
    "save": "npnet.training.checkpoint",
    "FINETUNE": "npnet.training.recipe",
    "MODERN": "npnet.training.recipe",
    "PAPER": "npnet.training.recipe",
    "Recipe": "npnet.training.recipe",
}

__all__ = [
    "FINETUNE",
    "MODERN",
    "PAPER",
    "Inference",
    "ModelConfig",
    "Network",
    "NpnetError",
    "Recipe",
    "build",
    "configure",
    "evaluate",
    "load",
    "models",
    "open_dataset",
    "predict",
    "read_weights",
    "save",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'npnet' has no attribute {name!r}")
    return getattr(import_module(_PLACES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_PLACES])
