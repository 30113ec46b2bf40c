"""Write tests/exchange/files, by which tests hold npnet's readers to the programs themselves.

Run as `python -m bench.peers.exchange_files PROGRAM...`, torchvision, timm, keras3 or keras2 for
PROGRAM, where it is installed. A program saves small networks of its own, whose numbers are few
levels, so that xz packs them, and the logits that it computes of IMAGES. `names-PROGRAM.json` has
the names and shapes of its published models.
"""

import json
import lzma
import os
import sys
import tempfile
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers.exchange import randomised_keras, randomised_torch
from npnet.kernels.arrays import Floats

FILES = Path(__file__).parents[2] / "tests" / "exchange" / "files"
CLASSES, WIDTH = 3, 0.1
# Even and odd: at stride 2 programs pad an even map on different sides.
SIZES = {"torch": (32, 45), "keras": (32,)}


def images(size: int) -> Floats:
    """Levels, too: (2,S,S,3)."""
    return (np.random.default_rng(size).integers(-8, 9, (2, size, size, 3)) / 4).astype(np.float32)


def rounded(array: Floats) -> Floats:
    """A dozen levels; what is positive stays so."""
    spread = float(np.std(array)) or 1.0
    step = 2.0 ** round(np.log2(spread / 2))
    near = np.round(array / step) * step
    return np.where((array > 0) & (near == 0) & (array.ndim == 1), step, near).astype(np.float32)


def keep(name: str, save: Callable[[Path], object]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        save(path)
        (FILES / f"{name}.xz").write_bytes(lzma.compress(path.read_bytes(), preset=9))


def keep_names(program: str, models: dict[str, dict[str, list[int]]]) -> None:
    (FILES / f"names-{program}.json").write_text(json.dumps(models) + "\n")


# --- PyTorch's programs


def torch_state(model: Any) -> dict[str, list[int]]:
    return {name: list(value.shape) for name, value in model.state_dict().items()}


def rounded_torch(model: Any) -> Any:
    import torch

    randomised_torch(model, SIZES["torch"][0])
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.copy_(torch.from_numpy(rounded(value.numpy())))
    return model.eval()


def keep_torch_logits(program: str, model: Any) -> None:
    import torch

    with torch.no_grad():
        logits = {
            str(size): model(torch.from_numpy(images(size).transpose(0, 3, 1, 2).copy())).numpy()
            for size in SIZES["torch"]
        }
    np.savez(FILES / f"logits-{program}.npz", **logits)


def torchvision() -> None:
    import torch

    from bench.peers.parity import load_torchvision

    found = load_torchvision()
    assert found is not None
    models = found.models
    model = models.mobilenet_v2(width_mult=WIDTH, num_classes=CLASSES)
    torch.nn.init.normal_(model.classifier[1].weight)  # torchvision's are too small to tell images
    rounded_torch(model)
    state = model.state_dict()
    keep("torchvision.pth", lambda path: torch.save(state, path))
    keep(
        "torchvision-legacy.pth",
        lambda path: torch.save(state, path, _use_new_zipfile_serialization=False),
    )
    half = {name: value.bfloat16() for name, value in state.items()}
    training = {
        "epoch": 3,
        "model": {f"module.{name}": value for name, value in half.items()},
        "optimizer": {"state": {0: {"momentum_buffer": torch.zeros(2)}}, "param_groups": [{}]},
    }
    keep("torchvision-training.pth", lambda path: torch.save(training, path))
    keep_torch_logits("torchvision", model)
    published = {
        **{f"mobilenet_v2 {width}": models.mobilenet_v2(width_mult=width) for width in (0.5, 1.0)},
        "squeezenet1_0": models.squeezenet1_0(),
        "squeezenet1_1": models.squeezenet1_1(),
    }
    keep_names("torchvision", {name: torch_state(each) for name, each in published.items()})


def timm() -> None:
    from bench.peers.parity import load_torchvision

    load_torchvision()  # which timm imports
    timm, safe = import_module("timm"), import_module("safetensors.torch")
    efficientnet = import_module("timm.models.efficientnet")
    model = efficientnet._gen_mobilenet_v2(
        "mobilenetv2_050", channel_multiplier=WIDTH, num_classes=CLASSES
    )
    rounded_torch(model)
    keep("timm.safetensors", lambda path: safe.save_file(model.state_dict(), path))
    keep_torch_logits("timm", model)
    widths = {"050": 0.5, "100": 1.0, "140": 1.4}
    keep_names(
        "timm",
        {
            f"mobilenet_v2 {width}": torch_state(timm.create_model(f"mobilenetv2_{name}"))
            for name, width in widths.items()
        },
    )


# --- Keras


def keras(program: str) -> None:
    keras = import_module("keras")
    (size,) = SIZES["keras"]

    def application(activation: Any, alpha: float = WIDTH, classes: int = CLASSES) -> Any:
        return keras.applications.MobileNetV2(
            weights=None, alpha=alpha, input_shape=(size, size, 3), classes=classes,
            classifier_activation=activation,
        )  # fmt: skip

    def logits(model: Any) -> Floats:
        return np.asarray(model.predict(images(size), verbose=0))

    model = randomised_keras(application("softmax"), images(size))
    model.set_weights([rounded(array) for array in model.get_weights()])
    for ending in (".keras", ".h5"):
        keep(f"{program}{ending}", model.save)
    keep(f"{program}.weights.h5", model.save_weights)
    bare = application(None)
    bare.set_weights(model.get_weights())
    found = {"whole": logits(bare)}
    if program == "keras3":
        # As people fine-tune: a model in a model, behind layers of preprocessing.
        base = keras.applications.MobileNetV2(
            weights=None, alpha=WIDTH, input_shape=(size, size, 3), include_top=False
        )
        base.set_weights(model.get_weights()[:-2])
        layers = keras.layers
        pixels = x = layers.Input((size, size, 3))
        x = layers.RandomFlip("horizontal")(x)
        x = keras.applications.mobilenet_v2.preprocess_input(x)
        x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(base(x)))
        tuned = keras.Model(pixels, layers.Dense(5, name="breeds")(x))
        top = [rounded(each) for each in tuned.layers[-1].get_weights()]
        tuned.layers[-1].set_weights(top)
        for ending in (".keras", ".h5", ".weights.h5"):
            keep(f"{program}-tuned{ending}", tuned.save_weights if "w" in ending else tuned.save)
        found["tuned"] = np.asarray(tuned.predict(127.5 * images(size) + 127.5, verbose=0))
    np.savez(FILES / f"logits-{program}.npz", **found)
    keep_names(
        program,
        {
            f"mobilenet_v2 {alpha}": {
                f"{layer.name}/{array.name.split('/')[-1]}": list(array.shape)
                for layer in application("softmax", alpha, 1000).layers
                for array in layer.weights
            }
            for alpha in (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)
        },
    )


def main() -> None:
    os.environ.setdefault("KERAS_BACKEND", "torch")
    FILES.mkdir(parents=True, exist_ok=True)
    writers: dict[str, Callable[[], None]] = {
        "torchvision": torchvision,
        "timm": timm,
        "keras3": lambda: keras("keras3"),
        "keras2": lambda: keras("keras2"),
    }
    for program in sys.argv[1:]:
        writers[program]()


if __name__ == "__main__":
    main()
