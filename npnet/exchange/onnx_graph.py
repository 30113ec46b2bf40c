"""A network as an ONNX model, made from npnet's list of operations: one pattern of nodes a kind.

    convolution    Conv with a bias, batch norm folded, then Relu or Clip
                   or Conv, BatchNormalization, then Relu or Clip
    add, concat    Add, Concat
    max pool       MaxPool
    average pool   GlobalAveragePool, Flatten
    linear         Gemm
    dropout        nothing

Maps are NCHW, images upright: see onnx_windows for `tf_same`.
"""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

import npnet
from npnet.exchange.folding import folded_numbers
from npnet.exchange.foreign import Note
from npnet.exchange.layout import to_torch_layout
from npnet.exchange.onnx_windows import Windows, windows_of
from npnet.kernels.arrays import Floats
from npnet.model.config import ModelConfig
from npnet.model.operations import (
    Add,
    AveragePool,
    Concat,
    Convolution,
    Dropout,
    Linear,
    MaxPool,
    Operation,
)
from npnet.model.operations.base import IMAGES
from npnet.model.operations.convolution import BOUNDS
from npnet.model.weights import Weights
from npnet.model.zoo import build

INPUT, LOGITS = "input", "logits"
NOTE, CLASSES, PREPROCESSING = "npnet", "classes", "preprocessing"  # of metadata_props
OPSET, IR_VERSION = 17, 8  # of 2022: ONNX Runtime 1.12 reads them
_END = np.iinfo(np.int64).max  # of a slice: the last row


class Graph:
    """Nodes and constants of a network. `outputs`: the name of each operation's output.

    `fold`: batch norm becomes a part of the convolution before it.
    """

    def __init__(self, weights: Weights, fold: bool = True) -> None:
        self.config, self.classes, self.fold = weights.config, weights.classes, fold
        self.note = Note.of(weights).text()
        self.architecture, self.parameters = build(weights.config), weights.parameters()
        self.turned = weights.config.padding == "tf_same"
        self.nodes: list[NodeProto] = []
        self.constants: dict[str, TensorProto] = {}
        self.outputs = {IMAGES: self.finished(IMAGES, INPUT)}
        for operation in self.architecture:
            inputs = [self.outputs[name] for name in operation.inputs]
            output = self.finished(operation.name, self.append(operation, inputs))
            self.outputs[operation.name] = output
        self.nodes[-1].output[0] = LOGITS

    def constant(self, name: str, value: Any) -> str:
        """Add a constant, once; return its name."""
        if name not in self.constants:
            self.constants[name] = numpy_helper.from_array(np.asarray(value, order="C"), name)
        return name

    def node(self, kind: str, name: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Append a node; return the name of its output."""
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def append(self, operation: Operation, inputs: list[str]) -> str:
        """The nodes of an operation of any kind; return the name of its output."""
        name = operation.name
        match operation:
            case Convolution():
                return self.convolution(operation, *inputs)
            case Add():
                return self.node("Add", name, inputs)
            case Concat():
                return self.node("Concat", name, inputs, axis=1)
            case MaxPool():
                windows = windows_of(operation, self.turned)
                return self.windowed("MaxPool", name, inputs, windows)
            case AveragePool():
                means = self.node("GlobalAveragePool", f"{name}.mean", inputs)
                return self.node("Flatten", name, [means])
            case Linear():
                return self.node("Gemm", name, [*inputs, *self.weighted(operation)], transB=1)
            case Dropout():
                return inputs[0]
        raise NotImplementedError(f"no ONNX node stands for {operation.kind}")

    def finished(self, name: str, output: str) -> str:
        """What the readers of an operation, or of the images, get. Here its output itself."""
        return output

    def windowed(
        self, kind: str, name: str, inputs: list[str], windows: Windows, **attributes: Any
    ) -> str:
        """A node whose windows run over its first input."""
        if windows.cut:
            starts = self.constant(f"{name}.starts", [windows.cut] * 2)
            ends, axes = self.constant("ends", [_END] * 2), self.constant("axes", [2, 3])
            cut = self.node("Slice", f"{name}.cut", [inputs[0], starts, ends, axes])
            inputs = [cut, *inputs[1:]]
        shape = {"kernel_shape": [windows.size] * 2, "strides": [windows.stride] * 2}
        return self.node(kind, name, inputs, **shape, pads=windows.pads, **attributes)

    def convolution(self, operation: Convolution, x: str) -> str:
        """Convolution, with a bias or a batch norm, and the ReLU that the operation has."""
        name, windows = operation.name, windows_of(operation, self.turned)
        group = operation.channels if operation.depthwise else 1
        norm = operation.batch_norm and not self.fold
        relu = operation.relu != "none"
        first = f"{name}.conv" if norm or relu else name
        y = self.windowed("Conv", first, [x, *self.weighted(operation)], windows, group=group)
        if norm:
            value = self.parameters.value
            numbers = zip(
                ("gamma", "beta", "mean", "variance"),
                (value(f"{name}.gamma"), value(f"{name}.beta"), *self.parameters.running(name)),
                strict=True,
            )
            arrays = [self.constant(f"{name}.{role}", value) for role, value in numbers]
            last, epsilon = f"{name}.norm" if relu else name, self.config.bn_epsilon
            y = self.node("BatchNormalization", last, [y, *arrays], epsilon=epsilon)
        if operation.relu == "relu":
            return self.node("Relu", name, [y])
        if operation.relu == "relu6":
            low, high = (np.float32(bound) for bound in BOUNDS["relu6"])
            bounds = [self.constant("relu6.low", low), self.constant("relu6.high", high)]
            return self.node("Clip", name, [y, *bounds])
        return y

    def weighted(self, operation: Convolution | Linear) -> list[str]:
        """The constants that a Conv or a Gemm reads besides its input: weight, bias."""
        weight, bias = self.numbers(operation)
        names = [self.constant(f"{operation.name}.weight", self.laid_out(operation, weight))]
        if bias is not None:
            names.append(self.constant(f"{operation.name}.bias", bias))
        return names

    def numbers(self, operation: Convolution | Linear) -> tuple[Floats, Floats | None]:
        """Weight, in npnet's layout, and bias; None where a batch norm stands for it."""
        if isinstance(operation, Convolution) and operation.batch_norm and not self.fold:
            return self.parameters.value(f"{operation.name}.weight"), None
        return folded_numbers(self.parameters, operation, self.config.bn_epsilon)

    def laid_out(self, operation: Convolution | Linear, weight: NDArray[Any]) -> NDArray[Any]:
        """A weight as ONNX has it, for upright images."""
        if isinstance(operation, Linear):
            return to_torch_layout(weight, 2)
        weight = to_torch_layout(weight, 4)
        return weight[:, :, ::-1, ::-1] if self.turned else weight

    def model(self) -> ModelProto:
        """The model as a whole: `input` (N,3,S,S) to `logits` (N,K), N as one likes.

        Its metadata say what npnet reads again and, for other programs, the names of the classes
        and what has to be done to a picture.
        """
        size, config = self.config.input_size, self.config
        images, logits = (
            helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", *shape])
            for name, shape in ((INPUT, (3, size, size)), (LOGITS, (config.classes,)))
        )
        parts = (self.nodes, config.architecture, [images], [logits], list(self.constants.values()))
        model = helper.make_model(
            helper.make_graph(*parts),
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="npnet",
            producer_version=npnet.__version__,
        )
        metadata = {NOTE: self.note, PREPROCESSING: json.dumps(preprocessing(config))}
        if self.classes is not None:
            metadata[CLASSES] = json.dumps(self.classes)
        helper.set_model_props(model, metadata)
        checker.check_model(model)
        return model


def preprocessing(config: ModelConfig) -> dict[str, Any]:
    """What has to be done to a picture: its centre, `crop_fraction` of it across, is resized."""
    return {
        "input": "RGB, float32 (N,3,H,W), (pixel / 255 - mean) / std",
        "mean": [each / 255 for each in config.mean],
        "std": [each / 255 for each in config.std],
        "input_size": config.input_size,
        "crop_fraction": config.crop_fraction,
    }
