"""ONNX files: what they compute, what comes back, and what is refused."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from npnet.errors import NpnetError
from npnet.exchange import onnx_file
from npnet.exchange.foreign import DoesNotFit
from npnet.exchange.onnx import read_onnx, write_onnx
from npnet.exchange.onnx_graph import Graph
from npnet.kernels.arrays import Floats
from npnet.model.config import ModelConfig
from npnet.model.inference import Inference
from npnet.model.parameters import Parameters
from npnet.model.weights import Weights
from npnet.model.zoo import build, configure
from tests.test_untrusted import harmless

CLASSES = tuple(f"class {n}" for n in range(5))


def random_weights(config: ModelConfig) -> Weights:
    """Numbers none of which is what it was initialised to, but which let the images through."""
    parameters, rng = Parameters(build(config)), np.random.default_rng(0)
    for spec in parameters.specs:
        if spec.role == "weight":
            values = rng.normal(0, (2 / spec.fan_in) ** 0.5, spec.shape)
        else:
            low = 0.5 if spec.role == "gamma" else -0.5
            values = rng.uniform(low, low + 1, spec.shape)
        parameters.value(spec.name)[...] = values
    channels = len(parameters.running_means)
    parameters.running_means[:] = rng.normal(0, 0.3, channels)
    parameters.running_variances[:] = rng.uniform(0.5, 1.5, channels)
    names = tuple(f"class {n}" for n in range(config.classes))
    return Weights(config, parameters.values, parameters.statistics, names, "a test")


def tiny(name: str = "mobilenet_v2", classes: int = len(CLASSES), **given: Any) -> Weights:
    width = 0.1 if name.startswith("mobilenet") else None
    given = {"width": width, "input_size": 32, **given}
    return random_weights(configure(name, classes, **given))


def images_for(config: ModelConfig, n: int = 2) -> Floats:
    """Upright, (N,3,S,S)."""
    rng, size = np.random.default_rng(1), config.input_size
    return rng.standard_normal((n, 3, size, size)).astype(np.float32)


def npnet_logits(weights: Weights, images: Floats) -> Floats:
    x = images.transpose(0, 2, 3, 1)
    inference = Inference(build(weights.config), weights.parameters(), len(x), "reference")
    inference.images[:] = x[:, ::-1, ::-1] if weights.config.padding == "tf_same" else x
    return inference.forward(len(x)).copy()


def logits_of(model: ModelProto, images: Floats) -> Floats:
    (logits,) = ReferenceEvaluator(model).run(None, {"input": images})
    return logits


def assert_alike(logits: Floats, wanted: Floats) -> None:
    """To 1e-5 of the largest."""
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.fixture(scope="module")
def weights() -> Weights:
    return tiny()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "network.onnx"


@pytest.fixture
def model(weights: Weights) -> ModelProto:
    return Graph(weights).model()


# At an odd size tf_same pads as PyTorch does; at an even one, windows of a convolution without
# padding leave out a row.
@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("mobilenet_v2", {"input_size": 33}),
        ("mobilenet_v2", {"padding": "tf_same"}),
        ("mobilenet_v2_cifar", {"padding": "tf_same", "input_size": 17}),
        ("squeezenet1_0", {"padding": "tf_same", "input_size": 38}),
        ("squeezenet1_1", {"batch_norm": True}),
    ],
)
def test_the_file_computes_what_npnet_computes(
    name: str, given: dict[str, Any], fold: bool, path: Path
) -> None:
    weights = tiny(name, **given)
    images = images_for(weights.config)
    wanted = npnet_logits(weights, images)
    write_onnx(weights, path, fold)
    model = ModelProto.FromString(path.read_bytes())
    checker.check_model(model, full_check=True)
    assert_alike(logits_of(model, images), wanted)
    assert np.ptp(wanted, axis=0).max() > 0.01  # images matter: a bias alone would not tell

    read = read_onnx(path)
    assert (read.config, read.classes) == (weights.config, CLASSES)
    assert_alike(npnet_logits(read, images), wanted)
    if not fold or not weights.config.batch_norm:
        np.testing.assert_array_equal(read.values, weights.values)
        np.testing.assert_array_equal(read.statistics, weights.statistics)
    again = path.with_name("again.onnx")
    write_onnx(read, again, fold)
    assert again.read_bytes() == path.read_bytes()


def test_folding_leaves_no_batch_norm(model: ModelProto, weights: Weights) -> None:
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    kept = Graph(weights, fold=False).model()
    assert "BatchNormalization" in {node.op_type for node in kept.graph.node}


def test_what_other_programs_are_told(model: ModelProto, weights: Weights) -> None:
    told = {each.key: json.loads(each.value) for each in model.metadata_props}
    assert tuple(told["classes"]) == CLASSES
    assert told["preprocessing"]["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert told["preprocessing"]["std"] == pytest.approx([0.229, 0.224, 0.225])
    assert told["preprocessing"]["input_size"] == 32
    (value,) = model.graph.input
    first, *others = value.type.tensor_type.shape.dim
    assert (value.name, first.dim_param) == ("input", "batch")
    assert [each.dim_value for each in others] == [3, 32, 32]


def as_another_program(model: ModelProto) -> ModelProto:
    """The same network as torch.onnx writes it: no note, no names, other nodes."""
    other, graph = ModelProto(), model.graph
    other.CopyFrom(model)
    del other.metadata_props[:]
    other.producer_name = "pytorch"
    constants = {each.name: numpy_helper.to_array(each) for each in graph.initializer}
    names = {name: f"onnx::{number}" for number, name in enumerate(constants)}
    nodes, kept = [], []
    for name, value in constants.items():
        tensor = numpy_helper.from_array(value, names[name])
        if value.ndim == 0:  # the bounds of Clip
            nodes.append(helper.make_node("Constant", [], [names[name]], value=tensor))
        else:
            kept.append(tensor)
    shared = f"{names['stem.bias']}.first"
    nodes.append(helper.make_node("Identity", [shared], [names["stem.bias"]]))
    for tensor in kept:
        if tensor.name == names["stem.bias"]:
            tensor.name = shared
    for node in graph.node:
        inputs = [names.get(each, each) for each in node.input]
        (output,) = node.output
        if node.op_type == "GlobalAveragePool":
            kept.append(numpy_helper.from_array(np.array([-1, -2]), "axes"))
            nodes.append(helper.make_node("ReduceMean", [*inputs, "axes"], [output], keepdims=1))
        elif node.op_type == "Flatten":
            kept.append(numpy_helper.from_array(np.array([-1, 1280]), "shape"))
            nodes.append(helper.make_node("Reshape", [*inputs, "shape"], [f"{output}.flat"]))
            nodes.append(helper.make_node("Dropout", [f"{output}.flat"], [output]))
        elif node.op_type == "Gemm":
            (matrix,) = (each for each in kept if each.name == inputs[1])
            turned = numpy_helper.to_array(matrix).T
            matrix.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(turned), inputs[1]))
            nodes.append(helper.make_node("MatMul", inputs[:2], ["product"]))
            nodes.append(helper.make_node("Add", [inputs[2], "product"], [output]))
        else:
            copy = helper.make_node(node.op_type, inputs, [output])
            copy.attribute.extend(node.attribute)
            nodes.append(copy)
    del other.graph.node[:], other.graph.initializer[:]
    other.graph.node.extend(nodes)
    other.graph.initializer.extend(kept)
    return other


@pytest.mark.parametrize(
    ("name", "padding", "width"),
    [
        ("mobilenet_v2", "symmetric", 0.1),
        ("mobilenet_v2", "tf_same", 0.35),
        ("mobilenet_v2_cifar", "symmetric", 0.25),
    ],
)
def test_a_file_without_a_note_is_known_by_its_graph(
    name: str, padding: str, width: float, path: Path
) -> None:
    weights = tiny(name, padding=padding, width=width)
    path.write_bytes(as_another_program(Graph(weights).model()).SerializeToString())
    read = read_onnx(path)
    found = read.config
    assert (found.architecture, found.width, found.padding) == (name, width, padding)
    assert (found.classes, found.input_size, read.classes) == (5, 32, None)
    images = images_for(found)
    assert_alike(npnet_logits(read, images), npnet_logits(weights, images))
    assert "pytorch" in read.source


@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_network_that_has_batch_norm_or_not_is_known_by_its_nodes(
    batch_norm: bool, path: Path
) -> None:
    weights = tiny("squeezenet1_1", batch_norm=batch_norm, bn_epsilon=1e-3)
    model = Graph(weights, fold=False).model()
    del model.metadata_props[:]
    path.write_bytes(model.SerializeToString())
    read = read_onnx(path)
    assert (read.config.architecture, read.config.batch_norm) == ("squeezenet1_1", batch_norm)
    assert read.config.bn_epsilon == (1e-3 if batch_norm else 1e-5)
    np.testing.assert_array_equal(read.values, weights.values)


# --- what is refused


def change(model: ModelProto, name: str) -> TensorProto:
    """A constant of a model, to be changed."""
    return next(each for each in model.graph.initializer if each.name == name)


def put(model: ModelProto, name: str, value: Any) -> None:
    change(model, name).CopyFrom(numpy_helper.from_array(np.asarray(value, np.float32), name))


def refusal(model: ModelProto | bytes, path: Path) -> str:
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    with pytest.raises(NpnetError) as error:
        read_onnx(path)
    text = str(error.value)
    assert str(path) in text
    assert "\n" not in text
    return text


@pytest.mark.parametrize("number", [np.nan, np.inf, 1e300])
def test_numbers_that_are_none(model: ModelProto, path: Path, number: float) -> None:
    bias = np.zeros(5)
    bias[3] = number
    change(model, "classifier.bias").CopyFrom(numpy_helper.from_array(bias, "classifier.bias"))
    assert "'classifier.bias' holds a number that is not finite" in refusal(model, path)


def test_a_negative_variance(weights: Weights, path: Path) -> None:
    model = Graph(weights, fold=False).model()
    put(model, "stem.variance", np.full(8, -0.1))
    assert "'stem.variance' holds variances below 0" in refusal(model, path)


def test_numbers_in_another_file(model: ModelProto, path: Path) -> None:
    tensor = change(model, "stem.weight")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    assert "lies in another file, which is not opened" in refusal(model, path)


def test_each_tensor_that_does_not_fit_is_named(model: ModelProto, path: Path) -> None:
    put(model, "stem.weight", np.zeros((8, 3, 5, 5)))
    put(model, "head.bias", np.zeros(7))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(DoesNotFit) as error:
        read_onnx(path)
    assert "mobilenet_v2 of width 0.1 with 5 classes" in str(error.value)
    assert error.value.tensors == [
        "'stem.weight' is (8, 3, 5, 5), where stem.weight is (8, 3, 3, 3)",
        "'head.bias' is (7,), where head.bias is (1280,)",
    ]


def test_what_is_missing_or_too_much_is_named(model: ModelProto, path: Path) -> None:
    for node in model.graph.node:
        if node.name == "block17.project":
            node.input[0] = "block1.project"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(DoesNotFit) as error:
        read_onnx(path)
    first, *others = error.value.tensors
    assert first.startswith("nothing stands for block17.project.weight")
    assert "'block17.project.weight' (32, 96, 1, 1) has no place" in others


@pytest.mark.parametrize(
    ("node", "attribute", "value", "words"),
    [
        ("stem.conv", "strides", [1, 1], "strides [1, 1]"),
        ("stem.conv", "pads", [0, 0, 1, 1], "pads [0, 0, 1, 1]"),
        ("stem.conv", "dilations", [2, 2], "stem has 3, 2"),
        ("stem.conv", "strides", [2], "strides of its Conv"),
        ("block1.depthwise.conv", "group", 1, "has 1 groups"),
        ("classifier", "alpha", 2.0, "is not x w + b"),
    ],
)
def test_nodes_that_compute_something_else(
    model: ModelProto, path: Path, node: str, attribute: str, value: Any, words: str
) -> None:
    (found,) = (each for each in model.graph.node if each.name == node)
    kept = [each for each in found.attribute if each.name != attribute]
    del found.attribute[:]
    found.attribute.extend([*kept, helper.make_attribute(attribute, value)])
    assert words in refusal(model, path)


def behind(model: ModelProto, *nodes: NodeProto) -> None:
    """Put nodes behind the logits, each of one input; the graph's output becomes the last's."""
    output = model.graph.output[0]
    for number, node in enumerate(nodes):
        node.input[0], node.output[0] = output.name, f"behind.{number}"
        model.graph.node.append(node)
        output.name = node.output[0]


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Neg", ["x"], ["y"]),
        helper.make_node("Relu", ["x"], ["y"]),
        helper.make_node("Softmax", ["x"], ["y"], axis=0),
    ],
    ids=lambda node: node.op_type,
)
def test_what_changes_the_logits(model: ModelProto, path: Path, node: NodeProto) -> None:
    behind(model, helper.make_node("Flatten", ["x"], ["y"]), node)
    assert f"is not that of classifier, which goes to {node.op_type}" in refusal(model, path)


def test_what_ranks_the_same(model: ModelProto, path: Path, weights: Weights) -> None:
    kinds = ("Identity", "Softmax", "Flatten", "LogSoftmax", "Identity")
    behind(model, *(helper.make_node(kind, ["x"], ["y"]) for kind in kinds))
    path.write_bytes(model.SerializeToString())
    assert read_onnx(path).config == weights.config


def test_an_output_from_within(model: ModelProto, path: Path) -> None:
    model.graph.output[0].name = model.graph.node[3].output[0]
    assert "which goes to nothing" in refusal(model, path)


def test_nodes_in_a_ring_end(path: Path) -> None:
    model = Graph(tiny("squeezenet1_1")).model()
    reshape = helper.make_node("Reshape", ["x", "behind.1"], ["y"])
    behind(model, reshape, helper.make_node("Flatten", ["x"], ["y"]))
    model.graph.output[0].name = "elsewhere"
    assert "'elsewhere' is not that of" in refusal(model, path)


def test_no_output_and_two(model: ModelProto, path: Path) -> None:
    model.graph.output.append(model.graph.output[0])
    assert "it has 2 outputs" in refusal(model, path)
    del model.graph.output[:]
    assert "it has 0 outputs" in refusal(model, path)


def test_bounds_of_another_relu(model: ModelProto, path: Path) -> None:
    put(model, "relu6.high", 1.0)
    assert "no relu6 stands behind stem" in refusal(model, path)


def test_a_file_in_int8(model: ModelProto, path: Path) -> None:
    model.graph.node.append(helper.make_node("DequantizeLinear", ["a", "b"], ["c"]))
    assert "rounded to int8" in refusal(model, path)


def test_operators_of_others(model: ModelProto, path: Path) -> None:
    model.graph.node[0].domain = "com.microsoft"
    assert "is of 'com.microsoft', not of ONNX" in refusal(model, path)


def test_another_network(path: Path) -> None:
    weight = numpy_helper.from_array(np.zeros((10, 12), np.float32), "w")
    parts = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", each])
        for name, each in (("x", 12), ("y", 10))
    ]
    nodes = [helper.make_node("Gemm", ["x", "w"], ["y"], transB=1)]
    graph = helper.make_graph(nodes, "g", parts[:1], parts[1:], [weight])
    assert "instead of square images" in refusal(helper.make_model(graph), path)


def test_a_note_of_a_newer_npnet(model: ModelProto, path: Path) -> None:
    (note,) = (each for each in model.metadata_props if each.key == "npnet")
    note.value = note.value.replace('"width"', '"colour"')
    assert "that this npnet does not know" in refusal(model, path)


def test_a_note_of_a_network_that_is_not_there(
    model: ModelProto, weights: Weights, path: Path
) -> None:
    """No memory is taken for it."""
    config = replace(weights.config, width=16.0)
    (note,) = (each for each in model.metadata_props if each.key == "npnet")
    note.value = json.dumps({"model": config.as_dict(), "classes": None})
    path.write_bytes(model.SerializeToString())
    with pytest.raises(DoesNotFit, match="width 16"):
        read_onnx(path)


@pytest.mark.parametrize("data", [b"", b"\x08", b"\xff" * 40, b"hello world, no protobuf", b"\x0b"])
def test_no_model_at_all(data: bytes, path: Path) -> None:
    assert "cannot read" in refusal(data, path)


def test_a_file_cut_short(model: ModelProto, path: Path) -> None:
    assert "cut short" in refusal(model.SerializeToString()[:-300], path)


def field(number: int, content: bytes) -> bytes:
    """A message's field of bytes, in protobuf's encoding."""
    length, size = b"", len(content)
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


def bombs() -> Iterator[bytes]:
    yield field(7, field(1, b"") * (onnx_file.MOST_FIELDS + 1))
    yield field(7, field(5, field(7, b"\1" * (onnx_file.MOST_PACKED + 1))))


@pytest.mark.parametrize("data", list(bombs()), ids=["empty nodes", "packed numbers"])
def test_a_file_that_would_take_much_memory(data: bytes, path: Path) -> None:
    assert "more parts than any network here" in refusal(data, path)


def test_a_name_that_is_no_text(model: ModelProto, path: Path) -> None:
    data = model.SerializeToString().replace(b"classifier.bias", b"classifier\xff\xffias")
    assert "no text" in refusal(data, path)


def test_a_file_beyond_its_size_is_not_read(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(NpnetError, match="larger than"):
        read_onnx(path)


def test_ordinary_files_are_far_from_the_bounds(weights: Weights) -> None:
    """Counted once more, by protobuf itself."""
    model = Graph(weights, fold=False).model()
    assert len(model.graph.node) * 40 < onnx_file.MOST_FIELDS


BODY = Graph(tiny()).model().SerializeToString()
# Nodes stand at the beginning of a file, constants behind them, the note at the end.
AT = st.one_of(st.integers(0, 20_000), st.integers(len(BODY) - 1_500, len(BODY) - 1))
BYTE = st.one_of(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]), st.integers(0, 255))


@settings(max_examples=int(os.environ.get("NPNET_FUZZ", "15")))  # each reads a whole network
@given(changes=st.lists(st.tuples(AT, BYTE), min_size=1, max_size=4))
def test_mutants(tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]) -> None:
    data = bytearray(BODY)
    for place, byte in changes:
        data[place] = byte
    path = tmp_path_factory.getbasetemp() / "mutant.onnx"
    path.write_bytes(data)
    harmless(lambda: read_onnx(path), (NpnetError,))
