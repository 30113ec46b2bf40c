"""ONNX Runtime as a contestant: a graph built from npnet's table; the runtime folds batch norm."""

from typing import Any

import numpy as np
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from bench.peers.layout import to_torch_layout
from bench.peers.task import Task
from bench.peers.worker import Contestant
from npnet.kernels.arrays import Floats
from npnet.model.network import BatchNorm
from npnet.model.parameters import Parameters
from npnet.model.zoo.mobilenet_v2 import Block, Operation


class Graph:
    """Nodes and constants of a network in ONNX, NCHW; `last` names what the last node yields."""

    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.last = "images"
        self.bounds = self.constant("zero", np.float32(0)), self.constant("six", np.float32(6))

    def constant(self, name: str, value: Floats | np.float32) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def add(self, kind: str, *inputs: str, **attributes: Any) -> None:
        """A node whose first input is the last node's output."""
        output = f"{kind}{len(self.nodes)}"
        node = helper.make_node(kind, [self.last, *inputs], [output], **attributes)
        self.nodes.append(node)
        self.last = output

    def convolution(self, operation: Operation) -> None:
        """Convolution, batch norm, and ReLU6 where the operation has one."""
        name, value = operation.name, self.parameters.value
        pad = 0 if operation.kind == "pointwise" else 1
        weight = to_torch_layout(value(f"{name}.weight"), 4)
        self.add(
            "Conv",
            self.constant(f"{name}.weight", weight),
            strides=[operation.stride] * 2,
            pads=[pad] * 4,
            group=operation.input_shape[-1] if operation.kind == "depthwise" else 1,
        )
        norm = {role: value(f"{name}.{role}") for role in ("gamma", "beta")}
        norm["mean"], norm["variance"] = self.parameters.running(name)
        constants = [self.constant(f"{name}.{role}", array) for role, array in norm.items()]
        self.add("BatchNormalization", *constants, epsilon=BatchNorm().epsilon)
        if operation.relu6:
            self.add("Clip", *self.bounds)

    def block(self, block: Block) -> None:
        before = self.last
        for operation in block.operations:
            if operation.is_convolution:
                self.convolution(operation)
        if block.shortcut:
            self.add("Add", before)

    def classifier(self) -> None:
        self.add("GlobalAveragePool")
        self.add("Flatten")
        roles = ("weight", "bias")
        self.add(
            "Gemm",
            *(self.constant(role, self.parameters.value(f"classifier.{role}")) for role in roles),
        )


def mobilenet(task: Task) -> ModelProto:
    """The task's network: `images` (n,3,S,S) to logits (n,10)."""
    n, size, _, channels = task.images.shape
    graph = Graph(task.parameters)
    for block in task.architecture.blocks:
        graph.block(block)
    graph.classifier()
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, [n, channels, size, size])
    logits = helper.make_tensor_value_info(graph.last, TensorProto.FLOAT, [n, 10])
    parts = graph.nodes, "mobilenet", [images], [logits], graph.constants
    return helper.make_model(
        helper.make_graph(*parts), opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    )


def inference(task: Task) -> Contestant:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    session = onnxruntime.InferenceSession(
        mobilenet(task).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    images = {"images": np.ascontiguousarray(task.images.transpose(0, 3, 1, 2))}

    def step() -> Floats:
        logits: Floats = session.run(None, images)[0]
        return logits

    return Contestant(f"ONNX Runtime {onnxruntime.__version__}", step)
