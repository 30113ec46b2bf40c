"""Do files that npnet reads and writes mean to it what they mean to their programs?

Run as `python -m bench.peers.exchange`, where torchvision, timm and Keras 3 are installed, or some
of them. Each program's models, with random weights, batch norms and statistics:

    in    it saves a file, npnet reads it
    out   npnet writes what it read, the program loads that
    back  npnet reads what it wrote: the same bits
    over  npnet writes it for the other program: torchvision's for Keras, Keras' for torchvision,
          whose images are turned then

and both compute the logits of the same images, in float32. A difference is relative to the largest
logit. Exits with 1 where one exceeds BOUND, or a bit is lost.
"""

import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npnet.exchange import read_weights, write_weights
from npnet.kernels.arrays import Floats
from npnet.model.inference import Inference
from npnet.model.weights import Weights
from npnet.model.zoo import build

os.environ.setdefault("KERAS_BACKEND", "torch")

BOUND = 1e-5
CLASSES, IMAGES = 10, 4
# Of batch norms. What blocks add is small and variances are second moments: a random network whose
# images look alike to it would divide by next to nothing, and multiply rounding errors.
GAMMAS, BETAS, PROJECTED = (0.5, 1.5), (-0.5, 0.5), 0.2
SIZES = (96, 97, 128, 159, 160, 192, 224, 225)
ALPHAS = (0.35, 0.5, 0.75, 1.0, 1.3, 1.4)


class Model(NamedTuple):
    """A program's model: its logits of images (N,S,S,3), and what saves and loads its files."""

    name: str
    size: int
    endings: tuple[str, ...]
    logits: Callable[[Floats], Floats]
    save: Callable[[Path], None]
    load: Callable[[Path], "Model"]


def images(size: int) -> Floats:
    """Each has a colour and a contrast."""
    rng = np.random.default_rng(size)
    noise = rng.standard_normal((IMAGES, size, size, 3))
    colour = rng.standard_normal((IMAGES, 1, 1, 3))
    return (rng.uniform(0.3, 1, (IMAGES, 1, 1, 1)) * noise + colour).astype(np.float32)


def npnet_logits(weights: Weights, pixels: Floats) -> Floats:
    """npnet's logits, of a network for images of this size; `tf_same` ones see them turned."""
    config = replace(weights.config, input_size=pixels.shape[1])
    inference = Inference(build(config), weights.parameters(), len(pixels))
    turned = config.padding == "tf_same"
    inference.images[:] = pixels[:, ::-1, ::-1] if turned else pixels
    return inference.forward(len(pixels)).copy()


def apart(found: Floats, true: Floats) -> float:
    return float(np.abs(found - true).max() / np.abs(true).max())


# --- PyTorch's programs


def torch_models() -> Iterator[Model]:
    if not find_spec("torch"):
        return
    from bench.peers.parity import load_torchvision

    makers: dict[str, Callable[[], Any]] = {}
    if torchvision := load_torchvision():
        models = torchvision.models
        for name in ("squeezenet1_0", "squeezenet1_1"):
            makers[f"torchvision {name}"] = lambda name=name: getattr(models, name)(
                num_classes=CLASSES
            )
        for width in (0.5, 1.0, 1.4):
            makers[f"torchvision mobilenet_v2 {width}"] = lambda width=width: models.mobilenet_v2(
                width_mult=width, num_classes=CLASSES
            )
    if find_spec("timm"):
        timm = import_module("timm")
        for width in ("050", "100", "140"):
            name = f"mobilenetv2_{width}"
            makers[f"timm {name}"] = lambda name=name: timm.create_model(name, num_classes=CLASSES)
    for name, make in makers.items():
        for size in SIZES:
            yield torch_model(name, size, make, randomised_torch(make(), size))


def randomised_torch(model: Any, size: int) -> Any:
    """Batch norms that do something, with the statistics of images, as training leaves them."""
    import torch

    torch.manual_seed(0)
    before = None
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            narrows = before.out_channels < before.in_channels
            with torch.no_grad():
                module.weight.uniform_(*GAMMAS).mul_(PROJECTED if narrows else 1)
                module.bias.uniform_(*BETAS)
            module.momentum = 1.0
        before = module
    if "BatchNorm" in repr(model):
        nchw = torch.from_numpy(np.ascontiguousarray(images(size).transpose(0, 3, 1, 2)))
        with torch.no_grad():
            model.train()(nchw)
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.running_var += module.running_mean**2
                    module.running_mean *= 0.5
    return model.eval()


def torch_model(name: str, size: int, make: Callable[[], Any], model: Any) -> Model:
    import torch

    def logits(pixels: Floats) -> Floats:
        with torch.no_grad():
            nchw = torch.from_numpy(np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)))
            found: Floats = model(nchw).numpy()
            return found

    def save(path: Path) -> None:
        if path.suffix == ".safetensors":
            import_module("safetensors.torch").save_file(model.state_dict(), path)
        else:
            torch.save(model.state_dict(), path)

    def load(path: Path) -> Model:
        """What npnet writes has torchvision's names, whatever it was read from."""
        if path.suffix == ".safetensors":
            state = import_module("safetensors.torch").load_file(path)
        else:
            state = torch.load(path, weights_only=True)
        other = make()
        if name.startswith("timm"):
            models, width = import_module("torchvision").models, int(name[-3:]) / 100
            other = models.mobilenet_v2(width_mult=width, num_classes=CLASSES)
        other.load_state_dict(state)
        return torch_model(name, size, make, other.eval())

    return Model(name, size, (".pth", ".safetensors"), logits, save, load)


# --- Keras


def keras_models() -> Iterator[Model]:
    if not find_spec("keras"):
        return
    keras = import_module("keras")
    for alpha in ALPHAS:
        for size in SIZES:
            yield keras_model(
                f"Keras MobileNetV2 {alpha}", size, alpha, application(keras, alpha, size)
            )


def application(keras: Any, alpha: float, size: int) -> Any:
    made = keras.applications.MobileNetV2(
        weights=None, alpha=alpha, input_shape=(size, size, 3), classes=CLASSES
    )
    return randomised_keras(made, images(size))


def randomised_keras(made: Any, pixels: Floats) -> Any:
    """Batch norms as in `randomised_torch`."""
    norms = [layer for layer in made.layers if type(layer).__name__ == "BatchNormalization"]
    rng = np.random.default_rng(0)
    for layer in norms:
        gamma, beta = (rng.uniform(*each, layer.gamma.shape) for each in (GAMMAS, BETAS))
        gamma *= PROJECTED if layer.name.endswith("project_BN") else 1
        layer.set_weights([gamma, beta, 0 * gamma, 1 + 0 * gamma])
        layer.momentum = 0.0
    made(pixels, training=True)  # whose statistics are the network's, as training leaves them
    for layer in norms:
        layer.momentum = 0.999
        gamma, beta, mean, variance = layer.get_weights()
        layer.set_weights([gamma, beta, 0.5 * mean, variance + mean**2])
    return made


def keras_model(name: str, size: int, alpha: float, model: Any) -> Model:
    keras = import_module("keras")

    def logits(pixels: Floats) -> Floats:
        model.layers[-1].activation = keras.activations.linear
        return np.asarray(keras.ops.convert_to_numpy(model(pixels, training=False)))

    def save(path: Path) -> None:
        model.layers[-1].activation = keras.activations.softmax
        alone = path.name.endswith(".weights.h5")
        (model.save_weights if alone else model.save)(path)

    def load(path: Path) -> Model:
        if path.name.endswith(".weights.h5"):
            other = application(keras, alpha, size)
            other.load_weights(path)
        else:
            other = keras.models.load_model(path)
        return keras_model(name, size, alpha, other)

    return Model(name, size, (".keras", ".h5", ".weights.h5"), logits, save, load)


# --- All


def over(weights: Weights, width: float, folder: Path, pixels: Floats) -> Floats:
    """The logits of the other program."""
    if weights.config.padding == "symmetric":
        path = folder / "over.keras"
        config = replace(weights.config, input_size=len(pixels[0]))
        write_weights(replace(weights, config=config), path)
        loaded = import_module("keras").models.load_model(path)
        return keras_model("over", len(pixels[0]), width, loaded).logits(pixels)
    path = folder / "over.pth"
    write_weights(weights, path)
    import torch

    model = import_module("torchvision").models.mobilenet_v2(width_mult=width, num_classes=CLASSES)
    model.load_state_dict(torch.load(path, weights_only=True))
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = weights.config.bn_epsilon
    turned = pixels[:, ::-1, ::-1]
    return torch_model("over", len(pixels[0]), lambda: model, model.eval()).logits(turned)


class Row(NamedTuple):
    """The largest differences, and whether all bits came back."""

    into: float
    out: float
    over: float
    whole: bool


def compare(model: Model, folder: Path) -> Row:
    """A model over its formats."""
    pixels, differences, whole = images(model.size), [], True
    true = model.logits(pixels)
    for ending in model.endings:
        theirs, ours = folder / f"theirs{ending}", folder / f"ours{ending}"
        model.save(theirs)
        weights = read_weights(theirs)
        write_weights(weights, ours)
        back = read_weights(ours)
        whole &= np.array_equal(back.values, weights.values)
        whole &= np.array_equal(back.statistics, weights.statistics)
        whole &= back.config == weights.config
        found = apart(npnet_logits(weights, pixels), true)
        differences.append((found, apart(model.load(ours).logits(pixels), true)))
    into, out = np.max(differences, axis=0).tolist()
    crossed = 0.0
    if weights.config.architecture == "mobilenet_v2" and {"keras", "torchvision"} <= PROGRAMS:
        crossed = apart(over(weights, weights.config.width, folder, pixels), true)
    return Row(into, out, crossed, whole)


PROGRAMS = {name for name in ("keras", "torchvision") if find_spec(name)}


def main() -> None:
    right = True
    print("| model | sizes | in | out | over | bits |\n|---|---|---|---|---|---|")
    rows: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for model in chain(torch_models(), keras_models()):
            rows.setdefault(model.name, []).append(compare(model, Path(folder)))
            if model.size != SIZES[-1]:
                continue
            *worst, _ = np.max(rows[model.name], axis=0).tolist()
            whole = all(row.whole for row in rows[model.name])
            right &= whole and max(worst) <= BOUND
            cells = [model.name, f"{SIZES[0]} to {SIZES[-1]}", *(f"{each:.1e}" for each in worst)]
            print(f"| {' | '.join(cells)} | {'all' if whole else 'LOST'} |", flush=True)
    sys.exit(0 if right else 1)


if __name__ == "__main__":
    main()
