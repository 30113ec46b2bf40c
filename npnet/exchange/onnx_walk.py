"""The weights in an ONNX graph: npnet's list of operations is followed through its nodes.

For each operation of a model's list there must be a node of the same kind that reads what the
operation reads. So weights are found by their place, not by their names, which an export that
folds batch norm has lost.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import get_args

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto

from npnet.exchange.folding import set_folded
from npnet.exchange.foreign import USUAL_WIDTHS, DoesNotFit, Note
from npnet.exchange.layout import to_npnet_layout, torch_shape
from npnet.exchange.onnx_file import floats_of, shape_of
from npnet.exchange.onnx_graph import NOTE
from npnet.exchange.onnx_nodes import Graph, attributes, output_of, whole_numbers
from npnet.exchange.onnx_windows import windows_of
from npnet.kernels.arrays import Floats
from npnet.model.architecture import Architecture
from npnet.model.config import LARGEST, ModelConfig, Padding
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
from npnet.model.parameters import Parameters, Shape
from npnet.model.weights import Weights
from npnet.model.zoo import build, configure, models
from npnet.untrusted import Refused

# Of models that come in any: the usual ones first, for small networks may agree in all shapes.
WIDTHS = tuple(dict.fromkeys((*USUAL_WIDTHS, *(n / 20 for n in range(1, 81)))))
_RESHAPING = ("Flatten", "Reshape", "Squeeze")
_RANKING = ("Softmax", "LogSoftmax")  # the largest logit stays the largest


def weights_of(model: ModelProto, path: Path) -> Weights:
    """The weights in a model, which was read from the file `path`.

    Raises DoesNotFit, which names each tensor, where it is no network of the zoo, NpnetError where
    its note is of another npnet, and Refused where it is damaged.
    """
    graph = Graph(model.graph)
    notes = [each.value for each in model.metadata_props if each.key == NOTE]
    note = Note.read(notes[0].encode(), path) if notes else None
    walks = []
    for config in [note.model] if note else _candidates(graph):
        walks.append(Walk(graph, build(config)))
        if not walks[-1].problems:
            break
    walk = min(walks, key=lambda each: len(each.problems))
    if walk.problems:
        config = walk.architecture.config
        nearest = f"{config.architecture} of width {config.width:g} with {config.classes} classes"
        raise DoesNotFit(f"{path} does not fit {nearest}", walk.problems)
    config, parameters = walk.numbers(stated=note is not None)
    source = f"{path.name}, ONNX of {model.producer_name or 'an unnamed program':.40}"
    classes = note.classes if note else None
    return Weights(config, parameters.values, parameters.statistics, classes, source)


def _candidates(graph: Graph) -> Iterator[ModelConfig]:
    """All configs that the first and the last weight of a graph without a note allow."""
    size, classes, channels = graph.input_size(), graph.classes(), graph.first_channels()
    if classes < 2:
        raise Refused(f"it tells {classes} classes apart")
    fitting = [entry for entry in models().items() if entry[1].smallest_input <= size]
    if not fitting:
        raise Refused(f"no network here takes images of {size} pixels")
    for name, entry in fitting:
        for padding in get_args(Padding):
            for width in WIDTHS if "width" in entry.options else (None,):
                norm = graph.has_norms if "batch_norm" in entry.options else None
                given = {"width": width, "batch_norm": norm, "padding": padding}
                pixels = {"input_size": size, "stored_size": size}
                config = configure(name, classes, **given, **pixels)
                first = next(iter(build(config, miniature=True)))  # quicker, and begins alike
                if width in (None, 1.0) or first.output_shape[-1] == channels:
                    yield config


@dataclass
class Found:
    """Tensors of one operation by their role: weight, bias, gamma, beta, mean, variance."""

    tensors: dict[str, TensorProto] = field(default_factory=dict)
    epsilon: float = 1e-5  # ONNX's default
    transposed: bool = True  # whether a classifier's weight is (K,C)

    def floats(self, role: str) -> Floats:
        return floats_of(self.tensors[role])


class Walk:
    """One architecture followed through a graph. `problems`: what does not fit, in words."""

    def __init__(self, graph: Graph, architecture: Architecture) -> None:
        self.graph, self.architecture = graph, architecture
        self.turned = architecture.config.padding == "tf_same"
        self.found: dict[str, Found] = {}
        self.problems: list[str] = []
        self.used: set[str] = set()  # nodes with weights, by their output
        outputs = {IMAGES: graph.input}
        for operation in architecture:
            inputs = [outputs[name] for name in operation.inputs if name in outputs]
            before = len(self.problems)
            output = self.follow(operation, inputs) if len(inputs) == len(operation.inputs) else ""
            if output:
                outputs[operation.name] = self.graph.first(output)
            elif before == len(self.problems):
                self.missing(operation)
        if operation.name in outputs:
            self.check_ending(operation, outputs[operation.name])
        for node in graph.weighted:
            if output_of(node) not in self.used:
                tensor = graph.constant(node, 1)
                name = tensor.name if tensor is not None else node.name
                self.problem(f"{name!r:.80} {graph.shape(node)} has no place")

    def problem(self, words: str) -> None:
        self.problems.append(words)

    def missing(self, operation: Operation) -> None:
        specs = [f"{spec.name} {spec.shape}" for spec in operation.parameters[:1]]
        self.problem(f"nothing stands for {', '.join(specs) or operation.name}")

    def check_ending(self, last: Operation, y: str) -> None:
        """Note a problem unless the graph's output has the logits, or what ranks the same."""
        while y != self.graph.output:
            node = self.graph.reader(y, *_RESHAPING, *_RANKING)
            softmax = node is not None and node.op_type in _RANKING
            if (
                node is None
                or self.graph.inputs(node)[0] != y
                or (softmax and attributes(node).get("axis", 1) not in (1, -1))
            ):
                kinds = ", ".join(each.op_type for each in self.graph.readers.get(y, ()))
                self.problem(
                    f"its output {self.graph.output!r:.80} is not that of {last.name}, "
                    f"which goes to {kinds or 'nothing'!s:.40}"
                )
                return
            y = self.graph.first(output_of(node))

    def follow(self, operation: Operation, inputs: list[str]) -> str:
        """Find the nodes of an operation; return the name of their output, "" for none."""
        match operation:
            case Convolution():
                return self.convolution(operation, inputs[0])
            case Add() | Concat():
                return self.joining(operation, inputs)
            case MaxPool():
                return self.max_pool(operation, inputs[0])
            case AveragePool():
                return self.average_pool(operation, inputs[0])
            case Linear():
                return self.linear(operation, inputs[0])
            case Dropout():
                return inputs[0]
        raise NotImplementedError(f"no ONNX node stands for {operation.kind}")

    def convolution(self, operation: Convolution, x: str) -> str:
        """Conv, BatchNormalization or not, and the ReLU that the operation has."""
        shape = torch_shape(operation)
        nodes = self.windowed(x, "Conv")
        nodes = [each for each in nodes if output_of(each[0]) not in self.used]
        if not nodes:
            return ""
        # Of several, such as those of a fire module, the one that fits, or is of the same size.
        node, cut = max(nodes, key=lambda each: _alike(self.graph.shape(each[0]), shape))
        found = self.take(operation, node, shape)
        self.check(node, cut, operation)
        group = attributes(node).get("group", 1)
        if group != (operation.channels if operation.depthwise else 1):
            self.problem(f"{node.name!r:.80} has {group} groups, unlike {operation.name}")
        y = output_of(node)
        norm = self.graph.reader(y, "BatchNormalization")
        if norm is not None and operation.batch_norm:
            for place, role in enumerate(("gamma", "beta", "mean", "variance"), start=1):
                self.take_tensor(operation, found, norm, place, role, shape[:1])
            (found.epsilon,) = self.graph.few(norm, 5, "epsilon") or [found.epsilon]
            y = output_of(norm)
        if operation.relu == "none":
            return y
        relu = self.graph.reader(y, "Relu" if operation.relu == "relu" else "Clip")
        if relu is None or (relu.op_type == "Clip" and not self.is_relu6(relu)):
            self.problem(f"no {operation.relu} stands behind {operation.name}")
            return ""
        return output_of(relu)

    def is_relu6(self, node: NodeProto) -> bool:
        bounds = self.graph.few(node, 1, "min"), self.graph.few(node, 2, "max")
        return bounds == tuple([float(bound)] for bound in BOUNDS["relu6"])

    def windowed(self, x: str, kind: str) -> list[tuple[NodeProto, int]]:
        """Nodes that read a map, and how many of its first rows and columns they leave out."""
        found = []
        for node in self.graph.readers.get(x, ()):
            if node.op_type == kind:
                found.append((node, 0))
            elif node.op_type == "Slice" and (cut := self.cut(node)):
                after = self.graph.reader(output_of(node), kind)
                found += [(after, cut)] if after is not None else []
        return found

    def cut(self, node: NodeProto) -> int:
        """How many first rows and columns a Slice leaves out; 0 if it is another kind of slice."""
        starts, ends, axes, steps = (
            self.graph.few(node, place, name)
            for place, name in enumerate(("starts", "ends", "axes", "steps"), start=1)
        )
        if axes != [2, 3] or steps not in (None, [1, 1]) or not starts or not ends:
            return 0
        whole = starts[0] == starts[1] > 0 and min(ends) >= LARGEST
        return int(starts[0]) if whole else 0

    def check(self, node: NodeProto, cut: int, operation: Convolution | MaxPool) -> None:
        """Note a problem unless a node's windows lie where the operation's do."""
        wanted, height = windows_of(operation, self.turned), operation.input_shape[0]
        given = attributes(node)
        size = whole_numbers(node, "kernel_shape", [wanted.size] * 2)  # default: the weight's
        strides, dilations = (
            whole_numbers(node, name, [1, 1]) for name in ("strides", "dilations")
        )
        pads = whole_numbers(node, "pads", [0] * 4)
        if given.get("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER"):
            total = max(wanted.stride * (-(-height // wanted.stride) - 1) + wanted.size - height, 0)
            halves = total // 2, total - total // 2
            lower = given["auto_pad"] == b"SAME_LOWER"
            pads = [halves[lower]] * 2 + [halves[not lower]] * 2
        room = height - cut + pads[0] + pads[2] - wanted.size
        outputs = room // wanted.stride + 1
        if given.get("ceil_mode"):
            outputs = -(-room // wanted.stride) + 1
        if not (
            size == [wanted.size] * 2
            and strides == [wanted.stride] * 2
            and dilations == [1, 1]
            and pads[0] == pads[1]
            and pads[2] == pads[3]
            and (pads[0] - cut, outputs) == (wanted.begin, wanted.outputs)
        ):
            self.problem(
                f"{node.name!r:.80} has windows {size}, strides {strides} and pads {pads}, "
                f"where {operation.name} has {wanted.size}, {wanted.stride} and {wanted.pads}"
            )

    def take(self, operation: Convolution | Linear, node: NodeProto, shape: Shape) -> Found:
        """Note a node's weight, which should have that shape, and its bias."""
        self.used.add(output_of(node))
        found = self.found[operation.name] = Found()
        self.take_tensor(operation, found, node, 1, "weight", shape)
        if len(node.input) > 2 and node.input[2]:
            self.take_tensor(operation, found, node, 2, "bias", operation.output_shape[-1:])
        return found

    def take_tensor(
        self,
        operation: Operation,
        found: Found,
        node: NodeProto,
        place: int,
        role: str,
        wanted: Shape,
    ) -> None:
        """Note what a node reads at a place, which should be a constant of the shape wanted."""
        tensor, name = self.graph.constant(node, place), f"{operation.name}.{role}"
        if tensor is None:
            self.problem(f"{name} is no constant of {node.name!r:.80}")
        elif (shape := shape_of(tensor)) != wanted:
            self.problem(f"{tensor.name!r:.80} is {shape}, where {name} is {wanted}")
        else:
            found.tensors[role] = tensor

    def joining(self, operation: Operation, inputs: list[str]) -> str:
        """An Add of both inputs, or a Concat of all in their order."""
        kind = "Add" if isinstance(operation, Add) else "Concat"
        for node in self.graph.readers.get(inputs[0], ()):
            read = self.graph.inputs(node)
            if node.op_type != kind:
                continue
            if kind == "Add" and sorted(read) == sorted(inputs):
                return output_of(node)
            if kind == "Concat" and read == inputs and attributes(node).get("axis") == 1:
                return output_of(node)
        return ""

    def max_pool(self, operation: MaxPool, x: str) -> str:
        for node, cut in self.windowed(x, "MaxPool"):
            self.check(node, cut, operation)
            return output_of(node)
        return ""

    def average_pool(self, operation: AveragePool, x: str) -> str:
        """The mean over all pixels, however it is said, and what only drops axes of length 1."""
        node = self.graph.reader(x, "GlobalAveragePool", "ReduceMean", "AveragePool")
        if node is None:
            return ""
        if node.op_type == "ReduceMean":
            axes = self.graph.few(node, 1, "axes") or []
            if sorted(each % 4 for each in axes) != [2, 3]:
                return ""
        if node.op_type == "AveragePool":
            size = whole_numbers(node, "kernel_shape", [0, 0])
            if size != list(operation.input_shape[:2]) or any(whole_numbers(node, "pads", [0] * 4)):
                return ""
        y = self.graph.first(output_of(node))
        while (after := self.graph.reader(y, *_RESHAPING)) is not None:
            if y == self.graph.output or self.graph.inputs(after)[0] != y:
                break
            y = self.graph.first(output_of(after))
        return y

    def linear(self, operation: Linear, x: str) -> str:
        """Gemm, or MatMul and Add."""
        node = self.graph.reader(x, "Gemm", "MatMul")
        if node is None or self.graph.inputs(node)[0] != x:
            return ""
        given = attributes(node)
        transposed = bool(given.get("transB", 0))
        shape = operation.parameters[0].shape
        found = self.take(operation, node, torch_shape(operation) if transposed else shape)
        found.transposed = transposed
        if given.get("alpha", 1) != 1 or given.get("beta", 1) != 1 or given.get("transA", 0):
            self.problem(f"{node.name!r:.80} is not x w + b")
        y = output_of(node)
        if node.op_type == "MatMul" and (add := self.graph.reader(y, "Add")) is not None:
            place = 1 - self.graph.inputs(add).index(y)
            self.take_tensor(operation, found, add, place, "bias", shape[1:])
            y = output_of(add)
        return y

    def numbers(self, stated: bool) -> tuple[ModelConfig, Parameters]:
        """The numbers, once nothing is a problem; and the config with their epsilon.

        `stated`: the file names its config, from which it must not differ.
        """
        config = self.architecture.config
        epsilons = {each.epsilon for each in self.found.values() if "variance" in each.tensors}
        if len(epsilons) > 1 or (stated and epsilons - {float(np.float32(config.bn_epsilon))}):
            raise Refused(f"its batch norms have the epsilons {sorted(epsilons)!s:.80}")
        for epsilon in epsilons if not stated else ():
            config = replace(config, bn_epsilon=float(f"{epsilon:.7g}"))  # as float32 has it
        parameters = Parameters(self.architecture)
        for operation in self.architecture:
            if operation.name in self.found:
                self.copy(operation, parameters, config.bn_epsilon)
        return config, parameters

    def copy(self, operation: Operation, parameters: Parameters, epsilon: float) -> None:
        """Write an operation's numbers under npnet's names."""
        found, name = self.found[operation.name], operation.name
        weight = found.floats("weight")
        if weight.ndim == 4 and self.turned:
            weight = weight[:, :, ::-1, ::-1]
        if weight.ndim == 2 and not found.transposed:
            weight = weight.T
        weight = to_npnet_layout(weight, operation.parameters[0].shape)
        none = np.zeros(operation.output_shape[-1:], np.float32)
        bias = found.floats("bias") if "bias" in found.tensors else none
        if "variance" not in found.tensors:
            set_folded(parameters, operation, weight, bias, epsilon)
            return
        mean, variance = parameters.running(name)
        parameters.value(f"{name}.weight")[...] = weight
        for role in ("gamma", "beta"):
            parameters.value(f"{name}.{role}")[...] = found.floats(role)
        mean[...], variance[...] = found.floats("mean") - bias, found.floats("variance")
        if (variance < 0).any():
            raise Refused(f"tensor {found.tensors['variance'].name!r:.80} holds variances below 0")


def _alike(shape: Shape, wanted: Shape) -> int:
    """How well a weight fits: best if in all, else if its windows are of the same size."""
    return 2 * (shape == wanted) + (shape[2:] == wanted[2:])
