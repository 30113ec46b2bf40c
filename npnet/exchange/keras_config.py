"""What a Keras file says of its network besides the numbers: the JSON of its layers.

Read, it gives the input size, epsilon, padding and preprocessing, and refuses what would compute
something else than the zoo's network with these numbers. Written, it is what Keras rebuilds the
model from.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from npnet.errors import NpnetError
from npnet.exchange.names import Peer, keras_block
from npnet.model import zoo
from npnet.model.config import ModelConfig
from npnet.model.operations import Add, AveragePool, Convolution, Dropout, Linear
from npnet.model.operations.base import IMAGES

# --- Reading

# Of these a network has x/127.5 - 1, as Keras' preprocess_input and npnet compute it.
OPERATIONS = ("TrueDivide", "Subtract", "TFOpLambda")
# Layers that the zoo's network has too, and those that do nothing when it predicts.
KNOWN = (
    *("InputLayer", "Functional", "Model", "Sequential", "Conv2D", "DepthwiseConv2D", "Add"),
    *("BatchNormalization", "ReLU", "ZeroPadding2D", "GlobalAveragePooling2D", "Dense", "Dropout"),
    *("Activation", "Softmax", "Flatten", "Resizing", "Rescaling", "GaussianNoise"),
    *("RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomContrast"),
    *("RandomBrightness", "RandomHeight", "RandomWidth"),
    *OPERATIONS,
)
SYMMETRIC = [[1, 1], [1, 1]]  # pixels above and below, left and right
MOST_LEVELS = 8  # of models in each other


@dataclass(frozen=True)
class LayerConfig:
    """A layer: its class, its fields, and what it is called with."""

    kind: str
    fields: Mapping[str, Any]
    called: str

    @property
    def name(self) -> str:
        return str(self.fields.get("name", ""))


def layers_of(config: Any, level: int = 0) -> Iterator[LayerConfig]:
    """All layers of a model, those of models in it among them."""
    match config:
        case {"class_name": str() as kind, "config": dict() as fields}:
            yield LayerConfig(kind, fields, repr(config.get("inbound_nodes", "")))
            inner = fields.get("layers", [])
            if isinstance(inner, list) and level < MOST_LEVELS:
                for each in inner:
                    yield from layers_of(each, level + 1)


def facts_of(layers: Sequence[LayerConfig], path: Path) -> dict[str, Any]:
    """Fields of ModelConfig. Raises NpnetError where a layer does what the zoo's do not."""
    for each in layers:
        if each.kind not in KNOWN:
            raise NpnetError(
                f"{path} does not fit: its layer {each.name!r:.60} is a {each.kind:.40}, which "
                "npnet's networks do not have"
            )
    facts: dict[str, Any] = {}
    epsilons = {
        _number(each.fields.get("epsilon"), "epsilon", path)
        for each in layers
        if each.kind == "BatchNormalization"
    }
    if len(epsilons) > 1:
        raise NpnetError(f"{path} does not fit: its batch norms have several epsilons")
    if epsilons:
        facts["bn_epsilon"] = epsilons.pop()
    for each in layers:
        if each.kind == "InputLayer":
            facts |= _input_size(each, path)
        elif each.kind == "Rescaling":
            scale, offset = (
                _number(each.fields.get(name, 0.0), name, path) for name in ("scale", "offset")
            )
            if scale <= 0:
                raise NpnetError(f"{path} does not fit: it rescales by {scale}")
            facts["mean"], facts["std"] = (-offset / scale,) * 3, (1 / scale,) * 3
        elif each.kind == "Dropout":
            facts["dropout"] = _number(each.fields.get("rate"), "rate", path)
        elif each.kind in OPERATIONS and not _is_preprocessing(each):
            raise NpnetError(
                f"{path} does not fit: it computes {each.name!r:.60}, which is not x/127.5 - 1"
            )
        elif each.kind == "ReLU" and each.fields.get("max_value") != 6:
            raise NpnetError(f"{path} does not fit: {each.name!r:.60} is no ReLU6")
        elif each.kind == "Dense" and _activation(each) not in ("softmax", "linear"):
            raise NpnetError(
                f"{path} does not fit: its last layer ends in {_activation(each):.40}, not softmax"
            )
    return facts | _padding(layers)


def _number(value: Any, what: str, path: Path) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) < 1e9:
        raise NpnetError(f"{path} does not fit: its {what} is {value!r:.40}")
    return float(value)


def _is_preprocessing(layer: LayerConfig) -> bool:
    what = f"{layer.kind} {layer.fields.get('function', '')}".lower()
    constant = "127.5" if "div" in what else "1.0" if "sub" in what else "none"
    return bool(re.search(rf"(?<![\d.]){re.escape(constant)}(?!\d)", layer.called))


def _activation(layer: LayerConfig) -> str:
    found = layer.fields.get("activation", "linear")
    if isinstance(found, dict):  # a layer of its own, or a function with its module
        found = found.get("class_name")
    return str(found).lower()


def _input_size(layer: LayerConfig, path: Path) -> dict[str, int]:
    """Of a square input; nothing where it may be of any size."""
    shape = layer.fields.get("batch_shape", layer.fields.get("batch_input_shape"))
    match shape:
        case [_, int() as height, int() as width, 3]:
            if height != width:
                raise NpnetError(f"{path} does not fit: its input is {height}x{width}, not square")
            return {"input_size": height, "stored_size": height}
        case [_, None, None, 3]:
            return {}
    raise NpnetError(f"{path} does not fit: its input is {shape!r:.60}, not pictures in colour")


def _padding(layers: Sequence[LayerConfig]) -> dict[str, str]:
    """Symmetric, where each convolution at stride 2 has an explicit padding on all sides."""
    padded = [each.fields.get("padding") for each in layers if each.kind == "ZeroPadding2D"]
    strided = [
        each
        for each in layers
        if each.kind in ("Conv2D", "DepthwiseConv2D") and each.fields.get("strides") == [2, 2]
    ]
    valid = all(each.fields.get("padding") == "valid" for each in strided)
    symmetric = padded and valid and all(each == SYMMETRIC for each in padded)
    return {"padding": "symmetric" if symmetric else "tf_same"} if layers else {}


# --- Writing

MOMENTUM = 0.999  # of Keras' MobileNet, for batch norms that are trained on


def model_json(config: ModelConfig, peer: Peer) -> dict[str, Any]:
    """The layers of keras.applications' model, of this size, epsilon and padding.

    In the form that Keras 2 and Keras 3 read.
    """
    architecture, size = zoo.build(config), config.input_size
    layers: list[dict[str, Any]] = []

    def add(kind: str, name: str, *inputs: str, **fields: Any) -> str:
        layers.append(
            {
                "module": "keras.layers",
                "class_name": kind,
                "config": {"name": name, **fields},
                "registered_name": None,
                "name": name,
                "inbound_nodes": [[[each, 0, 0, {}] for each in inputs]] if inputs else [],
            }
        )
        return name

    batch = [None, size, size, 3]
    outputs = {IMAGES: add("InputLayer", "input_layer", batch_input_shape=batch, dtype="float32")}
    for operation in architecture:
        x = [outputs[name] for name in operation.inputs]
        match operation:
            case Convolution():
                y = _add_convolution(add, operation, peer, config, *x)
            case Add():
                number = int(operation.name.removeprefix("block").removesuffix(".add"))
                y = add("Add", f"{keras_block(number)}add", *x)
            case AveragePool():
                y = add("GlobalAveragePooling2D", "global_average_pooling2d", *x)
            case Dropout():
                y = add("Dropout", "dropout", *x, rate=operation.rate)
            case Linear():
                name = peer.names[operation.name].layer
                y = add("Dense", name, *x, units=config.classes, activation="softmax")
            case _:
                raise NotImplementedError(f"no layer of Keras stands for {operation.kind}")
        outputs[operation.name] = y
    fields = {
        "name": f"mobilenetv2_{config.width:.2f}_{size}",
        "layers": layers,
        "input_layers": [["input_layer", 0, 0]],
        "output_layers": [[y, 0, 0]],
    }
    return {
        "module": "keras",
        "class_name": "Model",
        "config": fields,
        "registered_name": "Model",
    }


def _add_convolution(
    add: Callable[..., str], operation: Convolution, peer: Peer, config: ModelConfig, x: str
) -> str:
    """A convolution with its padding before it, its batch norm and its ReLU6 behind it."""
    layer, norm = peer.names[operation.name]
    padding = "same"
    if operation.stride == 2 and (config.padding == "symmetric" or operation.depthwise):
        before = 0 if config.padding == "tf_same" and operation.input_shape[0] % 2 == 0 else 1
        x = add("ZeroPadding2D", _pad_name(layer), x, padding=[[before, 1], [before, 1]])
        padding = "valid"
    fields = {
        "kernel_size": [operation.size] * 2,
        "strides": [operation.stride] * 2,
        "padding": padding,
        "use_bias": False,
    }
    if operation.depthwise:
        x = add("DepthwiseConv2D", layer, x, **fields)
    else:
        x = add("Conv2D", layer, x, filters=operation.channels, **fields)
    x = add("BatchNormalization", norm, x, epsilon=config.bn_epsilon, momentum=MOMENTUM)
    if operation.is_linear:
        return x
    return add("ReLU", "out_relu" if layer == "Conv_1" else f"{layer}_relu", x, max_value=6.0)


def _pad_name(layer: str) -> str:
    return f"{layer.removesuffix('_depthwise')}_pad"
