"""ONNX Runtime as a contestant: a graph built from npnet's list; the runtime folds batch norm."""

from typing import Any

import numpy as np
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from bench.peers.task import Task
from bench.peers.worker import Contestant
from npnet.exchange.layout import to_torch_layout
from npnet.kernels.arrays import Floats
from npnet.model.operations import (
    Add,
    AveragePool,
    Concat,
    Convolution,
    Linear,
    MaxPool,
    Operation,
)
from npnet.model.operations.base import IMAGES
from npnet.model.parameters import Parameters


class Graph:
    """Nodes and constants of a network in ONNX, NCHW. `outputs`: each operation's, by its name."""

    def __init__(self, parameters: Parameters, epsilon: float) -> None:
        self.parameters, self.epsilon = parameters, epsilon
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.outputs = {IMAGES: IMAGES}
        self.bounds: list[str] = []  # of ReLU6, once one has asked for them

    def constant(self, name: str, value: Floats | np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Append a node; return the name of its output."""
        output = f"{kind}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def append(self, operation: Operation) -> None:
        """The nodes of an operation of any kind but dropout, which tasks do without."""
        inputs = [self.outputs[name] for name in operation.inputs]
        match operation:
            case Convolution():
                y = self.convolution(operation, *inputs)
            case Add():
                y = self.node("Add", *inputs)
            case Concat():
                y = self.node("Concat", *inputs, axis=1)
            case MaxPool():
                windows = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}
                y = self.node("MaxPool", *inputs, **windows)
            case AveragePool():
                y = self.node("Flatten", self.node("GlobalAveragePool", *inputs))
            case Linear():
                y = self.node("Gemm", *inputs, *self.numbers(operation, "weight", "bias"))
            case _:
                raise NotImplementedError(f"no ONNX node stands for {operation.kind}")
        self.outputs[operation.name] = y

    def numbers(self, operation: Operation, *roles: str) -> list[str]:
        names = [f"{operation.name}.{role}" for role in roles]
        return [self.constant(name, self.parameters.value(name)) for name in names]

    def convolution(self, operation: Convolution, x: str) -> str:
        """Convolution, with a batch norm or a bias, and the ReLU that the operation has."""
        name = operation.name
        weight = to_torch_layout(self.parameters.value(f"{name}.weight"), 4)
        y = self.node(
            "Conv",
            x,
            self.constant(f"{name}.weight", weight),
            *([] if operation.batch_norm else self.numbers(operation, "bias")),
            strides=[operation.stride] * 2,
            pads=[operation.pad] * 4,
            group=operation.channels if operation.depthwise else 1,
        )
        if operation.batch_norm:
            norm = self.numbers(operation, "gamma", "beta")
            for role, array in zip(
                ("mean", "variance"), self.parameters.running(name), strict=True
            ):
                norm.append(self.constant(f"{name}.{role}", array))
            y = self.node("BatchNormalization", y, *norm, epsilon=self.epsilon)
        if operation.relu == "relu6":
            if not self.bounds:
                named = {"zero": np.float32(0), "six": np.float32(6)}
                self.bounds = [self.constant(*each) for each in named.items()]
            return self.node("Clip", y, *self.bounds)
        return self.node("Relu", y) if operation.relu == "relu" else y


def graph_of(task: Task) -> ModelProto:
    """The task's network: `images` (n,3,S,S) to logits (n,K)."""
    n, size, _, channels = task.images.shape
    graph = Graph(task.parameters, task.config.bn_epsilon)
    for operation in task.architecture:
        graph.append(operation)
    images = helper.make_tensor_value_info(IMAGES, TensorProto.FLOAT, [n, channels, size, size])
    last, shape = graph.outputs[operation.name], [n, task.config.classes]
    logits = helper.make_tensor_value_info(last, TensorProto.FLOAT, shape)
    parts = graph.nodes, task.config.architecture, [images], [logits], graph.constants
    return helper.make_model(
        helper.make_graph(*parts), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )


def inference(task: Task) -> Contestant:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    session = onnxruntime.InferenceSession(
        graph_of(task).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    images = {IMAGES: np.ascontiguousarray(task.images.transpose(0, 3, 1, 2))}

    def step() -> Floats:
        logits: Floats = session.run(None, images)[0]
        return logits

    return Contestant(f"ONNX Runtime {onnxruntime.__version__}", step)
