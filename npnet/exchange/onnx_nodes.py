"""The nodes and constants of an ONNX graph, which somebody else may have made."""

from typing import Any

from onnx import GraphProto, NodeProto, TensorProto, helper

from npnet.exchange.foreign import IMAGENET_SIZE
from npnet.exchange.onnx_file import few_of, shape_of
from npnet.model.config import LARGEST
from npnet.untrusted import Refused

PASSING = ("Identity", "Dropout")  # nodes whose output is their input
_DOMAINS = ("", "ai.onnx")  # ONNX' own operators
_INT8 = ("DequantizeLinear", "QuantizeLinear", "QLinearConv", "ConvInteger")


class Graph:
    """A graph's nodes by what they read, its constants by name.

    What passes through a node unchanged keeps its first name.
    """

    def __init__(self, graph: GraphProto) -> None:
        self.graph = graph
        self.constants: dict[str, TensorProto] = {each.name: each for each in graph.initializer}
        self.readers: dict[str, list[NodeProto]] = {}
        self._first: dict[str, str] = {}
        self.weighted: list[NodeProto] = []
        outputs = [name for node in graph.node for name in node.output if name]
        if len(set(outputs)) < len(outputs):
            raise Refused("two of its nodes have the same output")
        for node in graph.node:
            if node.domain not in _DOMAINS:
                raise Refused(f"its {node.op_type:.40} is of {node.domain!r:.40}, not of ONNX")
            if node.op_type in _INT8:
                raise Refused("its numbers are rounded to int8: give the float32 file of it")
            output = output_of(node)
            if node.op_type == "Constant":
                for attribute in node.attribute:
                    if attribute.name == "value":
                        self.constants[output] = attribute.t
            elif node.op_type in PASSING and node.input:
                self._first[output] = self.first(node.input[0])
            elif node.op_type in ("Conv", "Gemm", "MatMul"):
                self.weighted.append(node)
            for name in dict.fromkeys(map(self.first, node.input)):
                self.readers.setdefault(name, []).append(node)
        if not self.weighted:
            raise Refused("it has no layer with weights")
        self.input, self.output = self._input(), self._output()
        self.has_norms = any(each.op_type == "BatchNormalization" for each in graph.node)

    def first(self, name: str) -> str:
        """The name under which a value was made."""
        return self._first.get(name, name)

    def inputs(self, node: NodeProto) -> list[str]:
        return [self.first(name) for name in node.input]

    def reader(self, name: str, *kinds: str) -> NodeProto | None:
        """The one node that reads a value, if it is of such a kind."""
        readers = [each for each in self.readers.get(name, ()) if each.op_type not in PASSING]
        return readers[0] if len(readers) == 1 and readers[0].op_type in kinds else None

    def constant(self, node: NodeProto, place: int) -> TensorProto | None:
        """What a node reads there, if it is a constant."""
        inputs = self.inputs(node)
        return self.constants.get(inputs[place]) if place < len(inputs) else None

    def few(self, node: NodeProto, place: int, attribute: str) -> list[float] | None:
        """A few numbers, which are an attribute in older files and an input in newer ones."""
        tensor = self.constant(node, place)
        if tensor is not None:
            return few_of(tensor)
        value = attributes(node).get(attribute)
        if value is None:
            return None
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(each, int | float) for each in values):
            raise Refused(f"{attribute} of its {node.op_type} {node.name!r:.80} are no numbers")
        return [float(each) for each in values]

    def shape(self, node: NodeProto) -> tuple[int, ...]:
        """Of a node's weight."""
        tensor = self.constant(node, 1)
        if tensor is None:
            raise Refused(f"the weight of its {node.op_type} {node.name!r:.80} is computed")
        return shape_of(tensor)

    def _input(self) -> str:
        inputs = [each.name for each in self.graph.input if each.name not in self.constants]
        if len(inputs) != 1:
            raise Refused(f"it has {len(inputs)} inputs instead of one for images")
        return str(inputs[0])

    def _output(self) -> str:
        """The first name of what it computes."""
        if len(self.graph.output) != 1:
            raise Refused(f"it has {len(self.graph.output)} outputs instead of one for logits")
        return self.first(self.graph.output[0].name)

    def input_size(self) -> int:
        """Pixels across of its images."""
        (value,) = (each for each in self.graph.input if each.name == self.input)
        sizes = [each.dim_value for each in value.type.tensor_type.shape.dim]
        if len(sizes) != 4 or sizes[1] not in (0, 3) or sizes[2] != sizes[3]:
            raise Refused(f"its input is {sizes} instead of square images (N,3,S,S)")
        if not 0 <= sizes[2] <= LARGEST:
            raise Refused(f"its images are {sizes[2]} pixels across")
        return sizes[2] or IMAGENET_SIZE

    def classes(self) -> int:
        """How many outputs the last layer with weights has."""
        node = self.weighted[-1]
        shape = self.shape(node)
        first = node.op_type == "Conv" or attributes(node).get("transB")
        return (shape or (0,))[0 if first else -1]

    def first_channels(self) -> int:
        """How many outputs the first layer with weights has."""
        return (self.shape(self.weighted[0]) or (0,))[0]


def attributes(node: NodeProto) -> dict[str, Any]:
    """A node's attributes by name. Raises Refused for one that is damaged."""
    try:
        return {each.name: helper.get_attribute_value(each) for each in node.attribute}
    except Exception as error:  # onnx's, of many kinds
        raise Refused(f"an attribute of its {node.op_type} {node.name!r:.80} is damaged") from error


def whole_numbers(node: NodeProto, name: str, default: list[int]) -> list[int]:
    """An attribute of as many whole numbers as its default. Raises Refused for anything else."""
    value = attributes(node).get(name, default)
    fits = isinstance(value, list) and len(value) == len(default)
    if not fits or not all(isinstance(each, int) for each in value):
        raise Refused(f"{name} of its {node.op_type} {node.name!r:.80} are {value!s:.40}")
    return list(value)


def output_of(node: NodeProto) -> str:
    """The name of a node's first output."""
    if not node.output:
        raise Refused(f"its {node.op_type} {node.name!r:.80} has no output")
    return str(node.output[0])
