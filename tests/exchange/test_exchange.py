"""Weights of torchvision, timm and Keras: what they mean to those, they mean to npnet."""

import io
import json
import pickle
import struct
import tracemalloc
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npnet.errors import NpnetError
from npnet.exchange import foreign, format_for, format_of, notes, read_weights, write_weights
from npnet.exchange.foreign import DoesNotFit, Foreign, Tensor, tensors_of, writer_for
from npnet.exchange.names import PEERS
from npnet.exchange.pth import MAGIC, StateDictMachine
from npnet.kernels.arrays import Floats
from npnet.model import zoo
from npnet.model.parameters import Parameters, initialise
from npnet.model.weights import Weights
from npnet.training import checkpoint
from npnet.untrusted import Refused
from tests.exchange.files import NAMES, images, logits, read, same, theirs, unpack
from tests.in_time import in_time

BOUND = 1e-5
ENDINGS = (".npz", ".pth", ".safetensors", ".keras", ".h5", ".weights.h5")


def draw(model: str = "mobilenet_v2", **options: Any) -> Weights:
    """Random weights whose every number counts."""
    config = zoo.configure(model, 3, **({"width": 0.1, "input_size": 32} | options))
    parameters = Parameters(zoo.build(config))
    initialise(parameters, "he_fan_out", seed=1)
    rng = np.random.default_rng(2)
    for vector in (parameters.values, parameters.statistics):
        vector += rng.uniform(0, 0.1, len(vector)).astype(np.float32)
    return Weights(config, parameters.values, parameters.statistics, None, "drawn")


def need_h5py(ending: str) -> None:
    if "h5" in ending or ending == ".keras":
        pytest.importorskip("h5py", reason="h5py is in the `exchange` extra")


# --- The programs' own files


@pytest.mark.parametrize(
    ("name", "key"),
    [
        *((f"torchvision{ending}.pth", size) for ending in ("", "-legacy") for size in (32, 45)),
        *(("timm.safetensors", size) for size in (32, 45)),
        *(
            (f"{keras}{ending}", "whole")
            for keras in ("keras2", "keras3")
            for ending in (".keras", ".h5", ".weights.h5")
        ),
    ],
)
def test_logits_are_the_program_s(tmp_path: Path, name: str, key: object) -> None:
    weights = read(name, tmp_path)
    true = theirs(name.split(".")[0].split("-")[0], str(key))
    found = logits(weights, images(key if isinstance(key, int) else 32))
    assert np.abs(true[0] - true[1]).max() > 0.01  # the network sees its images
    assert np.abs(found - true).max() <= BOUND * max(1, np.abs(true).max())
    assert weights.config.width == 0.1
    assert weights.config.classes == 3
    assert weights.classes is None


def test_a_model_that_somebody_tuned(tmp_path: Path) -> None:
    """A model of Keras in another, with preprocessing before it and a head of another name."""
    pixels, true = images(32), theirs("keras3", "tuned")
    for ending in (".keras", ".h5"):
        weights = read(f"keras3-tuned{ending}", tmp_path)
        config = weights.config
        assert (config.input_size, config.dropout, config.classes) == (32, 0.3, 5)
        assert np.abs(logits(weights, pixels) - true).max() <= BOUND * np.abs(true).max()
    alone = read("keras3-tuned.weights.h5", tmp_path)
    assert alone.values.tobytes() == weights.values.tobytes()


def test_a_checkpoint_of_a_training_in_bfloat16(tmp_path: Path) -> None:
    whole, half = read("torchvision.pth", tmp_path), read("torchvision-training.pth", tmp_path)
    assert whole.config == half.config
    np.testing.assert_allclose(half.values, whole.values, rtol=2**-8)
    np.testing.assert_allclose(half.statistics, whole.statistics, rtol=2**-8)


def test_padding_and_turning_matter(tmp_path: Path) -> None:
    """What the comparison of logits would show if they were wrong."""
    weights, true = read("torchvision.pth", tmp_path), theirs("torchvision", "32")
    turned = replace(weights, config=replace(weights.config, padding="tf_same"))
    assert np.abs(logits(turned, images(32)) - true).max() > 0.01


@pytest.mark.parametrize(
    ("program", "model"), [(program, model) for program in NAMES for model in NAMES[program]]
)
def test_names_and_shapes_of_published_models(program: str, model: str) -> None:
    """In the order in which PyTorch's programs have them."""
    architecture, _, width = model.partition(" ")
    expected = {
        name.removesuffix(":0").replace("depthwise_kernel", "kernel"): tuple(shape)
        for name, shape in NAMES[program][model].items()
        if not name.endswith("num_batches_tracked")
    }
    word = program.rstrip("23").capitalize() if program.startswith("keras") else program
    (peer,) = [p for p in PEERS if (p.program, p.architecture) == (word, architecture)]
    config = zoo.configure(architecture, 1000, width=float(width) if width else None)
    slots = {slot.name: slot.shape for slot in peer.slots(zoo.build(config))}
    assert slots == expected
    if peer.family == "torch":
        assert list(slots) == list(expected)
    tensors = {name: Tensor(shape, lambda: np.zeros(0)) for name, shape in expected.items()}
    found = Foreign(Path("x"), "", peer.family, tensors)
    assert found._config(peer, tensors).width == (float(width) if width else 1.0)


# --- Round trips


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize(
    "options",
    [
        {"padding": "tf_same", "bn_epsilon": 1e-3, "input_size": 45, "dropout": 0.2},
        {"padding": "symmetric", "bn_epsilon": 1e-3, "mean": (1.0, 2.0, 3.0)},
    ],
)
def test_what_is_written_comes_back(tmp_path: Path, ending: str, options: dict[str, Any]) -> None:
    need_h5py(ending)
    weights = replace(draw(**options), classes=("cat", "dog", "naïve"))
    write_weights(weights, tmp_path / f"x{ending}")
    back = read_weights(tmp_path / f"x{ending}")
    assert same(back, weights)
    assert back.classes == weights.classes
    data = (tmp_path / f"x{ending}").read_bytes()
    write_weights(back, tmp_path / f"x{ending}")
    assert (tmp_path / f"x{ending}").read_bytes() == data or ending == ".npz"  # which has a date


@pytest.mark.parametrize("name", ["squeezenet1_0", "squeezenet1_1"])
def test_a_network_without_batch_norm(tmp_path: Path, name: str) -> None:
    weights = draw(name, width=None)
    for ending in (".pth", ".safetensors"):
        write_weights(weights, tmp_path / f"x{ending}")
        assert same(read_weights(tmp_path / f"x{ending}"), weights)


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        *(("torchvision.pth", ending) for ending in (".keras", ".h5")),
        *(("keras3.keras", ending) for ending in (".npz", ".pth", ".safetensors")),
    ],
)
def test_over_another_program_s_format(tmp_path: Path, name: str, ending: str) -> None:
    need_h5py(ending)
    weights = read(name, tmp_path)
    write_weights(weights, tmp_path / f"x{ending}")
    assert same(read_weights(tmp_path / f"x{ending}"), weights)


@pytest.mark.parametrize("name", ["torchvision.pth", "timm.safetensors", "keras3.weights.h5"])
def test_an_array_stands_where_its_program_had_it(tmp_path: Path, name: str) -> None:
    """What npnet writes has the bytes of the program's own arrays, whoever reads them."""
    weights = read(name, tmp_path)
    program = name.split(".")[0].rstrip("3")
    (peer,) = [p for p in PEERS if (p.program.lower(), p.architecture) == (program, "mobilenet_v2")]
    arrays = dict(tensors_of(weights, peer, turned=peer.family == "keras"))
    original: dict[str, Tensor] = {}

    def note(self: Foreign) -> Weights:
        original.update({key: tensor.read() for key, tensor in self.tensors.items()})  # type: ignore[misc]
        return weights

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Foreign, "weights", note)
        read_weights(tmp_path / name)
    kept = {key: value for key, value in original.items() if "num_batches" not in key}
    assert kept.keys() == arrays.keys()
    assert all(np.array_equal(arrays[key], kept[key]) for key in kept)


# --- What npnet writes, read by others


class TorchUnpickler(pickle.Unpickler):
    """Python's own unpickler, with what torch.load(weights_only=True) would put in."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        super().__init__(io.BytesIO(archive.read("archive/data.pkl")))
        self.archive = archive

    def find_class(self, module: str, name: str) -> Any:
        return {
            "collections.OrderedDict": OrderedDict,
            "torch.FloatStorage": "<f4",
            "torch.LongStorage": "<i8",
            "torch._utils._rebuild_tensor_v2": self.rebuild,
        }[f"{module}.{name}"]

    def persistent_load(self, key: Any) -> Floats:
        word, dtype, name, place, length = key
        assert (word, place) == ("storage", "cpu")
        numbers = np.frombuffer(self.archive.read(f"archive/data/{name}"), dtype)
        assert len(numbers) == length
        return numbers

    @staticmethod
    def rebuild(storage: Floats, offset: int, shape: Any, strides: Any, *more: Any) -> Floats:
        assert offset == 0
        assert more == (False, OrderedDict())
        array = storage.reshape(shape)
        assert tuple(each // array.itemsize for each in array.strides) == strides
        return array


def test_a_state_dict_is_one_for_python_s_unpickler(tmp_path: Path) -> None:
    weights = draw()
    write_weights(weights, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        assert archive.testzip() is None
        assert archive.read("archive/byteorder") == b"little"
        starts = [each.header_offset + len(each.FileHeader()) for each in archive.infolist()]
        assert {start % 64 for start in starts} == {0}
        found = TorchUnpickler(archive).load()
    arrays = dict(tensors_of(weights, writer_for(weights, "torch", tmp_path)))
    counts = {name for name in found if name.endswith("num_batches_tracked")}
    assert type(found) is OrderedDict
    assert len(counts) == 52
    assert all(found[name] == 0 for name in counts)
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())
    assert found.keys() == arrays.keys() | counts


def test_safetensors_are_some_for_their_library(tmp_path: Path) -> None:
    library = pytest.importorskip("safetensors.numpy", reason="safetensors is in the `dev` extra")
    weights = draw()
    write_weights(weights, tmp_path / "x.safetensors")
    found = library.load_file(tmp_path / "x.safetensors")
    arrays = dict(tensors_of(weights, writer_for(weights, "torch", tmp_path)))
    assert all(np.array_equal(found[name], array) for name, array in arrays.items())
    library.save_file(found, tmp_path / "theirs.safetensors")
    assert (
        read_weights(tmp_path / "theirs.safetensors").values.tobytes() == weights.values.tobytes()
    )


def test_a_checkpoint_predicts_and_has_names_for_classes(tmp_path: Path) -> None:
    weights = read("torchvision.pth", tmp_path)
    write_weights(weights, tmp_path / "x.npz")
    saved = checkpoint.load(tmp_path / "x.npz")
    assert saved.header.classes == ("0", "1", "2")
    assert (saved.header.epoch, saved.header.world) == (0, 1)
    inference = saved.inference(2, "reference")
    assert inference.parameters.values.tobytes() == weights.values.tobytes()


def test_what_the_loader_of_a_file_has_to_know() -> None:
    plain, keras = draw(), draw(padding="tf_same", bn_epsilon=1e-3)
    assert notes(plain, Path("x.pth")) == notes(keras, Path("x.weights.h5")) == []
    assert notes(plain, Path("x.keras")) == notes(keras, Path("x.keras")) == []
    for weights, path in ((keras, Path("x.pth")), (plain, Path("x.weights.h5"))):
        turned, epsilon = notes(weights, path)
        assert "turned by 180 degrees" in turned
        assert f"set {weights.config.bn_epsilon:g}" in epsilon


# --- What is recognised


def state(weights: Weights) -> dict[str, Floats]:
    return dict(tensors_of(weights, writer_for(weights, "torch", Path())))


def recognise(arrays: dict[str, Floats]) -> Weights:
    tensors = {name: Tensor(each.shape, lambda a=each: a) for name, each in arrays.items()}
    return Foreign(Path("x.pth"), "a state dict", "torch", tensors).weights()


@pytest.mark.parametrize(
    "change",
    [
        lambda name: f"module.{name}",
        lambda name: f"_orig_mod.model.{name}",
        lambda name: name.replace("classifier.1", "fc"),
        lambda name: name.replace("classifier.1", "head") if "class" in name else f"body.{name}",
    ],
)
def test_wrappers_and_heads_of_other_names(change: Callable[[str], str]) -> None:
    weights = draw()
    arrays = {change(name): array for name, array in state(weights).items()}
    assert recognise(arrays).values.tobytes() == weights.values.tobytes()


@pytest.mark.parametrize("width", [0.1, 0.18, 0.35, 0.75, 1.0, 1.25])
def test_widths(width: float) -> None:
    weights = draw(width=width)
    found = recognise(state(weights)).config.width
    assert zoo.build(replace(weights.config, width=found)).parameter_count == len(weights.values)
    assert found == width or len(str(found)) <= len(str(width))


@pytest.mark.parametrize("dtype", [np.float64, np.float16])
def test_other_numbers_become_float32(dtype: Any) -> None:
    arrays = {name: array.astype(dtype) for name, array in state(draw()).items()}
    found = state(recognise(arrays))
    assert all(np.array_equal(found[name], arrays[name].astype(np.float32)) for name in arrays)


# --- What is refused


def test_two_networks_in_one_file_are_not_mixed() -> None:
    arrays = state(draw())
    with pytest.raises(DoesNotFit, match=r"'ema.features.0.0.weight' .* is not of that network"):
        recognise(arrays | {f"ema.{name}": array for name, array in arrays.items()})


def test_a_state_dict_without_a_classifier() -> None:
    """Half of a classifier is a fault; so is a head that is not npnet's."""
    whole, arrays = draw(), state(draw())
    weight, bias = "classifier.1.weight", "classifier.1.bias"
    without = {name: array for name, array in arrays.items() if name not in (weight, bias)}
    found = recognise(without)
    assert found.headless
    assert not recognise(arrays).headless
    assert not found.knows([str(number) for number in range(found.config.classes)])
    mine, theirs = found.parameters(), whole.parameters()
    for spec in theirs.specs:
        if spec.operation != "classifier":
            assert np.array_equal(mine.value(spec.name), theirs.value(spec.name)), spec.name
    assert np.array_equal(mine.statistics, theirs.statistics)
    assert not mine.value("classifier.weight").any()
    with pytest.raises(DoesNotFit, match=r"classifier.1.bias .* is missing"):
        recognise(without | {weight: arrays[weight]})
    hidden = {f"{name}.weight": np.zeros((8, 8), np.float32) for name in ("fc1", "fc2")}
    with pytest.raises(DoesNotFit, match=r"'fc1.weight' \(8, 8\) is not of that network"):
        recognise(without | hidden)


@pytest.mark.parametrize("ending", [".h5", ".weights.h5"])
def test_a_file_of_keras_without_its_top(tmp_path: Path, ending: str) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is in the `exchange` extra")
    path, whole = tmp_path / f"notop{ending}", draw()
    write_weights(whole, path)
    with h5py.File(path, "a") as file:
        del file["model_weights/predictions" if ending == ".h5" else "layers/dense"]
    found = read_weights(path, headless=True)
    assert found.headless
    assert np.array_equal(found.statistics, whole.statistics)
    with pytest.raises(NpnetError, match="has no classifier, so it tells no classes: train one"):
        read_weights(path)


def test_what_does_not_fit_is_listed() -> None:
    arrays = state(draw())
    del arrays["features.3.conv.0.0.weight"]
    arrays["features.1.conv.1.weight"] = np.zeros((8, 9, 1, 1), np.float32)
    arrays["extra.bias"] = np.zeros(7, np.float32)
    arrays["features.0.1.weight"] = np.zeros(9, np.float32)
    with pytest.raises(DoesNotFit) as caught:
        recognise(arrays)
    assert caught.value.tensors == [
        "features.0.1.weight is (9,) where (8,) was expected",
        "features.1.conv.1.weight is (8, 9, 1, 1) where (8, 8, 1, 1) was expected",
        "features.3.conv.0.0.weight (48, 8, 1, 1) is missing",
        "'extra.bias' (7,) is not of that network",
    ]
    assert "of width" in str(caught.value)
    assert "and 1 more" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("features.0.0.weight", np.nan, "features.0.0.weight is of no use: some of it is NaN"),
        ("classifier.1.bias", np.inf, "classifier.1.bias is of no use: some of it is infinite"),
        ("features.0.1.running_var", -1.0, "running_var is of no use: a variance is negative"),
    ],
)
def test_numbers_of_no_use_are_named(name: str, value: float, words: str) -> None:
    arrays = state(draw())
    arrays[name].flat[1] = value
    with pytest.raises(NpnetError, match=words):
        recognise(arrays)


def test_what_float32_cannot_hold() -> None:
    arrays = {name: array.astype(np.float64) for name, array in state(draw()).items()}
    arrays["classifier.1.bias"][0] = 1e300
    with pytest.raises(NpnetError, match="too large for float32"):
        recognise(arrays)


def test_another_network(tmp_path: Path) -> None:
    with pytest.raises(NpnetError, match=r"2 tensors, called 'layer1.weight', 'fc.weight'"):
        recognise({"layer1.weight": np.zeros((3, 3)), "fc.weight": np.zeros((2, 2))})


@pytest.mark.parametrize(
    ("options", "ending", "words"),
    [
        ({"model": "squeezenet1_1", "width": None}, ".keras", "Keras have no squeezenet1_1"),
        (
            {"model": "squeezenet1_1", "width": None, "batch_norm": True},
            ".pth",
            "timm and torchvision have no squeezenet1_1 with batch norm",
        ),
        ({"model": "mobilenet_v2_cifar"}, ".pth", "have no mobilenet_v2_cifar"),
    ],
)
def test_networks_that_a_program_does_not_have(
    tmp_path: Path, options: dict[str, Any], ending: str, words: str
) -> None:
    with pytest.raises(NpnetError, match=words):
        write_weights(draw(**options), tmp_path / f"x{ending}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not of a known format"),
        (b"hello, world", "not of a known format"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "h5py cannot read it"),
        (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", "no state dict of PyTorch's"),
        ((10**6).to_bytes(8, "little") + b"{", "its header is said to have 1,000,000 bytes"),
        (b"\x02" + bytes(7) + b"{}", "holds no network"),
        (b"PK\3\4", "it is no archive, or was cut short"),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, content: bytes, words: str) -> None:
    need_h5py("h5" if b"HDF" in content else "")
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(NpnetError, match=words) as caught:
        read_weights(tmp_path / "x.pth")
    assert "x.pth" in str(caught.value)


def test_a_format_is_told_by_content_and_an_ending_by_name(tmp_path: Path) -> None:
    path = unpack("torchvision.pth", tmp_path).rename(tmp_path / "weights.bin")
    assert format_of(path).name == "PyTorch"
    assert format_for(Path("X.PTH")).name == "PyTorch"
    with pytest.raises(NpnetError, match="an ending of no known format"):
        format_for(path)


# --- Hostile state dicts


def zipped(pickled: bytes, storages: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x/data.pkl", pickled)
        for name, data in storages.items():
            archive.writestr(f"x/data/{name}", data)
    return buffer.getvalue()


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"


def tensor(shape: bytes, strides: bytes, offset: int = 0, length: int = 4) -> bytes:
    """A pickle of {"a": a tensor} in the storage "0"."""
    storage = b"(X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\0" + b"0X\3\0\0\0cpu"
    storage += b"J" + struct.pack("<i", length) + b"tQ"
    view = b"J" + struct.pack("<i", offset) + shape + strides + b"\x89}"
    return b"\x80\x02}X\1\0\0\0actorch._utils\n_rebuild_tensor_v2\n(" + storage + view + b"tRs."


@pytest.mark.parametrize(
    ("pickled", "words"),
    [
        (tensor(numbers(5), numbers(1)), "does not lie in its storage"),
        (tensor(numbers(2, 4), numbers(1, 1)), "does not lie in its storage"),
        (tensor(numbers(1000, 1000), numbers(0, 0)), "does not lie in its storage"),
        (tensor(numbers(4), numbers(1), offset=1), "does not lie in its storage"),
        (tensor(numbers(4), numbers(-1), offset=3), "does not lie in its storage"),
        (tensor(numbers(4), numbers(1, 1)), "does not lie in its storage"),
        (tensor(numbers(4), numbers(1), length=5), "of another size than it says"),
        (tensor(numbers(4), numbers(1), length=-1), "in a way that no state dict needs"),
        (b"\x80\x02cos\nsystem\nX\2\0\0\0ls\x85R.", "no state dict needs 'os system'"),
        (b"\x80\x02cnumpy\nndarray\n.", "no state dict needs 'numpy ndarray'"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "in a way that no state dict needs"),
        (b"\x80\x02}X\1\0\0\0aK\1s.", "it holds no dict of tensors"),
        (b"\x80\x02}J\xff\xff\xff\xffK\1s.", "keys"),
        (b"\x80\x02K\1.", "it holds no dict of tensors"),
    ],
)
def test_a_state_dict_that_lies(tmp_path: Path, pickled: bytes, words: str) -> None:
    (tmp_path / "x.pth").write_bytes(zipped(pickled, {"0": bytes(16)}))
    with pytest.raises(NpnetError, match=words) as caught:
        read_weights(tmp_path / "x.pth")
    assert "torch.save(model.state_dict(), FILE)" in str(caught.value)


@pytest.mark.parametrize("keys", [b"](K\0e", b"]" * 9999 + b"a" * 9998], ids=["numbers", "deep"])
def test_keys_of_an_old_file_that_are_no_names(tmp_path: Path, keys: bytes) -> None:
    """Before PyTorch 1.6 the storages' keys stood in a list behind the state dict."""
    pickled = tensor(numbers(4), numbers(1))
    head = MAGIC + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    tail = b"\x80\x02" + keys + b"." + (4).to_bytes(8, "little") + bytes(16)
    (tmp_path / "x.pth").write_bytes(head + pickled + tail)
    with pytest.raises(NpnetError, match="its storages are not those"):
        read_weights(tmp_path / "x.pth")


def test_a_tensor_with_strides(tmp_path: Path) -> None:
    machine = StateDictMachine(100)
    found = machine.load(io.BytesIO(tensor(numbers(2, 2), numbers(1, 2))))
    assert isinstance(found, dict)
    assert found["a"].strides == (1, 2)


def test_dicts_in_dicts_do_not_multiply(tmp_path: Path) -> None:
    """Ten dicts, each of a thousand names for the one before."""
    layers = b"}(X\4\0\0\0last}q\0"
    for level in range(10):
        names = b"".join(b"X\4\0\0\0" + b"%04d" % n + b"h\0" for n in range(1000))
        layers += b"X\4\0\0\0%04d" % level + b"}(" + names + b"uq\0"
    layers += b"u"
    (tmp_path / "x.pth").write_bytes(zipped(b"\x80\x02" + layers + b".", {}))
    with in_time(), pytest.raises(NpnetError, match="no dict of tensors"):
        read_weights(tmp_path / "x.pth")


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED])
def test_a_zip_bomb(tmp_path: Path, compression: int) -> None:
    with zipfile.ZipFile(tmp_path / "x.pth", "w", compression) as archive:
        archive.writestr("x/data.pkl", bytes(10**7))
    with pytest.raises(NpnetError, match="is packed"):
        read_weights(tmp_path / "x.pth")


# --- Hostile safetensors


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"a": {"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}}, "has not the 16 bytes"),
        ({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}}, "one after the other"),
        ({"a": {"dtype": "F32", "shape": [4], "data_offsets": [4, 20]}}, "one after the other"),
        ({"a": {"dtype": "F8", "shape": [4], "data_offsets": [0, 16]}}, "of no known kind"),
        ({"a": {"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}}, "of no known kind"),
        ({"a": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, "of no known kind"),
        ({"a": {"dtype": "F32", "shape": [9] * 9, "data_offsets": [0, 4]}}, "has 9 axes"),
        ([], "no object of named values"),
        ({"a": 1}, "of no known kind"),
    ],
)
def test_safetensors_that_lie(tmp_path: Path, header: Any, words: str) -> None:
    text = json.dumps(header).encode()
    text = b"{" + text[1:] if text.startswith(b"{") else text
    (tmp_path / "x").write_bytes(len(text).to_bytes(8, "little") + text + bytes(16))
    with pytest.raises(NpnetError, match=words if header else "known format"):
        read_weights(tmp_path / "x")


# --- Hostile files of Keras


def h5_file(path: Path, fill: Callable[[Any], None]) -> str:
    h5py = pytest.importorskip("h5py", reason="h5py is in the `exchange` extra")
    with h5py.File(path, "w") as file:
        fill(file)
    with pytest.raises(NpnetError) as caught:
        read_weights(path)
    return str(caught.value)


def test_arrays_that_are_not_there(tmp_path: Path) -> None:
    """A dataset can be as large as it likes while nobody has written it."""
    path = tmp_path / "x.h5"
    large = {"shape": (10**6, 10**6), "dtype": "f4"}
    plain = "no plain array of numbers"
    assert plain in h5_file(path, lambda file: file.create_dataset("a/kernel", **large))
    packed = {"data": np.zeros((99, 99)), "compression": "gzip"}
    assert plain in h5_file(path, lambda file: file.create_dataset("a/kernel", **packed))
    assert plain in h5_file(path, lambda file: file.create_dataset("a/kernel", data="text"))
    (tmp_path / "secret").write_bytes(bytes(64))
    elsewhere = {"shape": (4,), "dtype": "f4", "external": [(str(tmp_path / "secret"), 0, 16)]}
    assert plain in h5_file(path, lambda file: file.create_dataset("a/kernel", **elsewhere))


def test_groups_in_each_other(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    said = h5_file(path, lambda file: file.create_group("a/" * 64).create_group("a"))
    assert "more than 64 groups in each other" in said


def test_long_names_do_not_multiply(tmp_path: Path) -> None:
    """Groups in one of a long name: their paths would take 50 times the file."""

    def fill(file: Any) -> None:
        long = file.create_group("a" * 60_000)
        for number in range(400):
            long.create_group(str(number))
        file["a/kernel"] = np.zeros(3)

    path = tmp_path / "x.h5"
    h5_file(path, fill)
    tracemalloc.start()
    with pytest.raises(NpnetError, match="holds no network"):
        read_weights(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * 2**20

    def fill_with_arrays(file: Any) -> None:
        long = file.create_group("a" * 60_000)
        for number in range(400):
            long[str(number)] = np.zeros(3)

    assert "names of its arrays have more than" in h5_file(path, fill_with_arrays)


def test_an_array_outside_of_the_layers(tmp_path: Path) -> None:
    def fill(file: Any) -> None:
        file["layers/dense/vars/0"] = file["stray"] = np.zeros(3)

    said = h5_file(tmp_path / "x.h5", fill)
    assert "its array 'stray' is not among the vars of a layer" in said


def test_links_are_not_followed(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is in the `exchange` extra")
    unpack("keras3.h5", tmp_path)

    def fill(file: Any) -> None:
        file["model_weights"] = h5py.ExternalLink("keras3.h5", "model_weights")

    assert "0 tensors" in h5_file(tmp_path / "x.h5", fill)


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ('"epsilon": 0.001', '"epsilon": "x"', "its epsilon is 'x'"),
        ('[null, 32, 32, 3]', '[null, 32, 48, 3]', "its input is 32x48, not square"),
        ('[null, 32, 32, 3]', '[null, 32, 32, 1]', "not pictures in colour"),
        ('"class_name": "GlobalAveragePooling2D"', '"class_name": "Lambda"', "is a Lambda"),
        ('"max_value": 6.0', '"max_value": null', "is no ReLU6"),
        ('"activation": "softmax"', '"activation": "sigmoid"', "ends in sigmoid, not softmax"),
    ],
)  # fmt: skip
def test_models_that_compute_something_else(
    tmp_path: Path, before: str, after: str, words: str
) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is in the `exchange` extra")
    path = unpack("keras3.h5", tmp_path)
    with h5py.File(path, "r+") as file:
        config = file.attrs["model_config"]
        assert before in config
        file.attrs["model_config"] = config.replace(before, after)
    with pytest.raises(NpnetError, match=words):
        read_weights(path)


def test_other_preprocessing_is_refused_and_rescaling_read(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is in the `exchange` extra")
    path = unpack("keras3-tuned.h5", tmp_path)
    with h5py.File(path, "r+") as file:
        config = file.attrs["model_config"]
        file.attrs["model_config"] = config.replace("127.5", "255.0")
    with pytest.raises(NpnetError, match=r"which is not x/127.5 - 1"):
        read_weights(path)
    model = json.loads(config)
    layers = model["config"]["layers"]
    first, second = (
        n for n, each in enumerate(layers) if each["class_name"] in ("TrueDivide", "Subtract")
    )
    layers[first] = {"class_name": "Rescaling", "config": {"scale": 1 / 255, "offset": 0.0}}
    del layers[second]
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = json.dumps(model)
    config = read_weights(path).config
    assert config.mean == (0.0, 0.0, 0.0)
    assert config.std == pytest.approx((255, 255, 255))


def test_without_h5py_it_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = unpack("keras3.h5", tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(NpnetError, match=r"pip install 'npnet\[exchange\]'"):
        read_weights(path)


# --- npnet's note beside the tensors


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda note: note["model"].update(classes=4), "names 3 of 4 classes"),
        (lambda note: note["model"].update(architecture="resnet50"), "unknown model 'resnet50'"),
        (lambda note: note["model"].update(width=0.2), "does not fit mobilenet_v2 of width 0.2"),
        (lambda note: note.update(classes=3), "classes is 3"),
        (
            lambda note: note["model"].update(classes=10**30) or note.update(classes=None),
            "does not fit mobilenet_v2 of width 0.1 with 10{30} classes",
        ),
        (lambda note: note.pop("model"), "lacks the field 'model'"),
    ],
)
def test_a_note_that_lies(tmp_path: Path, change: Callable[[Any], None], words: str) -> None:
    weights = replace(draw(), classes=("a", "b", "c"))
    note = json.loads(foreign.Note.of(weights).text())
    change(note)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foreign.Note, "text", lambda self: json.dumps(note))
        write_weights(weights, tmp_path / "x.safetensors")
    with pytest.raises(NpnetError, match=words):
        read_weights(tmp_path / "x.safetensors")


def test_refused_is_a_part_of_a_sentence() -> None:
    with pytest.raises(Refused):
        foreign.Note.read(b"{", Path("x"))
