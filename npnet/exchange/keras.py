"""Keras' files, read and written without Keras, through h5py (the `exchange` extra).

    .keras        a zip archive: the layers in config.json, the numbers in model.weights.h5
    .weights.h5   HDF5: the numbers alone, those of a layer in layers/<its class>_<n>/vars
    .h5           HDF5, Keras' legacy: numbers in <layer>/<layer>/<name>, the layers in an attribute

h5py follows no link and reads no other file here; a dataset must lie in the file as it is, whole
and unpacked, so a small file cannot ask for much. Source: keras/src/saving/saving_lib.py and
keras/src/legacy/saving/legacy_h5_format.py.
"""

import io
import json
import os
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from npnet.archive import Archive
from npnet.errors import NpnetError
from npnet.exchange.foreign import (
    LARGEST_HEADER,
    Foreign,
    Note,
    Tensor,
    reading,
    tensors_of,
    writer_for,
)
from npnet.exchange.keras_config import LayerConfig, facts_of, layers_of, model_json
from npnet.exchange.names import PEERS, example
from npnet.files import write_atomically
from npnet.kernels.arrays import Floats
from npnet.model.weights import Weights
from npnet.untrusted import Refused, parse_json

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
NOTE = "npnet"  # an attribute of the file
KERAS_VERSION = "3.0.0"  # what npnet's files claim to be of
MOST_OBJECTS = 100_000  # groups and datasets in a file
MOST_GROUPS = 64  # in each other
MOST_LETTERS = 2**24  # of the names of all datasets, with those of the groups around each
# What a layer of a class, see `class_name`, keeps in vars/0, vars/1 and so on.
VARIABLES = {
    "conv2d": ("kernel", "bias"),
    "depthwise_conv2d": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "dense": ("kernel", "bias"),
}
# Groups of a file that hold nothing of the network.
NOT_THE_NETWORK = ("optimizer", "optimizer_weights", "top_level_model_weights", "seed_generator")


@contextmanager
def _h5(file: BinaryIO | io.BytesIO, mode: str, path: Path) -> Iterator[Any]:
    """An HDF5 file. Raises NpnetError without h5py, and Refused for what that cannot read."""
    try:
        import h5py
    except ImportError as error:
        raise NpnetError(f"{path} is a file of Keras': pip install 'npnet[exchange]'") from error
    try:
        with h5py.File(file, mode) as opened:
            yield opened
    except (NpnetError, Refused):
        raise
    except Exception as error:  # h5py's, of many kinds: a damaged file may say anything
        raise Refused(f"h5py cannot read it: {str(error)[:200]}") from error


# --- Reading


def read_keras(path: Path) -> Weights:
    """The network in a file. Raises NpnetError where there is none, or the file is damaged."""
    with reading(path, "file of Keras'", "use another one") as file:
        config = None
        zipped, size = file.read(2) == b"PK", os.fstat(file.fileno()).st_size
        content: BinaryIO = file
        if zipped:
            archive = Archive(file, size)
            if CONFIG not in archive.members or WEIGHTS not in archive.members:
                raise Refused(f"it lacks {CONFIG} or {WEIGHTS}")
            config = parse_json(archive.content(CONFIG, LARGEST_HEADER))
            content = io.BytesIO(archive.content(WEIGHTS, size))
        with _h5(content, "r", path) as opened:
            return _read(opened, config, path)


def _read(opened: Any, config: Any, path: Path) -> Weights:
    note = _attribute(opened, NOTE)
    text = _attribute(opened, "model_config")
    if config is None and text is not None:
        config = parse_json(text)
    layers = list(layers_of(config))
    tensors = _tensors(opened, layers)
    facts = facts_of(layers, path)
    read = Note.read(note, path) if note is not None else None
    padding = read.model.padding if read else facts.get("padding", "tf_same")
    what = "a model" if layers else "the weights"
    # Without layers, kernels are those of Keras' own model, which pads as `tf_same` does.
    turned = padding == "tf_same" or not layers
    return Foreign(path, what, "keras", tensors, read, facts, turned).weights()


def _attribute(group: Any, name: str) -> bytes | None:
    """A text among the attributes of a group."""
    found = group.attrs.get(name)
    if isinstance(found, str):
        found = found.encode(errors="surrogatepass")
    if found is not None and not isinstance(found, bytes):
        raise Refused(f"its attribute {name} is no text")
    if found is not None and len(found) > LARGEST_HEADER:
        raise Refused(f"its attribute {name} has {len(found):,} bytes")
    return found


def _tensors(opened: Any, layers: list[LayerConfig]) -> dict[str, Tensor]:
    """The datasets of a file as layer/variable."""
    datasets: dict[str, Any] = {}
    letters = 0
    for name, dataset in _datasets(opened):
        letters += len(name)
        if letters > MOST_LETTERS:
            raise Refused(f"the names of its arrays have more than {MOST_LETTERS:,} letters")
        datasets[name] = dataset
    new = any("/vars/" in name for name in datasets)
    named = _named_by_class(datasets, layers) if new else _named_by_layer(datasets)
    tensors: dict[str, Tensor] = {}
    for name, dataset in named:
        if name in tensors:
            raise Refused(f"it has two arrays {name!r:.80}")
        tensors[name] = _tensor(name, dataset)
    return tensors


def _datasets(opened: Any) -> Iterator[tuple[str, Any]]:
    """Each dataset of the network once, with its path; links are not followed.

    h5py's own `visititems` would build the path of every group, and go to any depth.
    """
    import h5py

    seen, objects = {h5py.h5o.get_info(opened.id).addr}, 0

    def visit(group: Any, path: str, level: int) -> Iterator[tuple[str, Any]]:
        nonlocal objects
        if level > MOST_GROUPS:
            raise Refused(f"it has more than {MOST_GROUPS} groups in each other")
        for name in group:
            objects += 1
            if objects > MOST_OBJECTS:
                raise Refused(f"it has more than {MOST_OBJECTS:,} groups and datasets")
            if not isinstance(name, str):
                raise Refused(f"the name {name!r:.80} in it is no text")
            link = group.get(name, getlink=True)
            if name in NOT_THE_NETWORK or not isinstance(link, h5py.HardLink):
                continue
            thing = group[name]
            address = h5py.h5o.get_info(thing.id).addr
            if address in seen:
                continue
            seen.add(address)
            if isinstance(thing, h5py.Group):
                yield from visit(thing, f"{path}{name}/", level + 1)
            elif isinstance(thing, h5py.Dataset):
                yield f"{path}{name}", thing

    return visit(opened, "", 0)


def _tensor(name: str, dataset: Any) -> Tensor:
    """A dataset. Raises Refused unless its numbers lie in the file as they are."""
    plain = dataset.chunks is None and dataset.external is None and not dataset.is_virtual
    whole = dataset.id.get_storage_size() == dataset.size * dataset.dtype.itemsize
    if dataset.dtype.kind not in "fiu" or not plain or not whole:
        raise Refused(f"{name!r:.80} is no plain array of numbers")
    return Tensor(tuple(map(int, dataset.shape)), lambda: dataset[()])


def _named_by_layer(datasets: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """In the legacy format: .../<layer>/<variable>, in Keras 2 with :0 behind it."""
    for name, dataset in datasets.items():
        *_, layer, variable = ["", *name.split("/")]
        variable = variable.removesuffix(":0").removeprefix("depthwise_")
        yield f"{layer}/{variable}", dataset


def _named_by_class(
    datasets: Mapping[str, Any], layers: list[LayerConfig]
) -> Iterator[tuple[str, Any]]:
    """In that of Keras 3: .../<class>_<n>/vars/<k>. Newer files say the layer's name beside it;
    else the n-th layer of its class is meant.
    """
    names = _names_in_order(layers)
    for name, dataset in datasets.items():
        group, _, k = name.rpartition("/vars/")
        if not group or "/" in k:
            raise Refused(f"its array {name!r:.80} is not among the vars of a layer")
        kind, number = _class_and_number(group.rpartition("/")[2])
        said = _attribute(dataset.parent, "name")
        known = names.get(kind, [])
        if said is not None:
            layer = said.decode(errors="replace")
        else:
            layer = known[number] if number < len(known) else group
        variables = VARIABLES.get(kind, ())
        variable = variables[int(k)] if k.isdecimal() and int(k) < len(variables) else k
        yield f"{layer}/{variable}", dataset


def class_name(kind: str) -> str:
    """DepthwiseConv2D is depthwise_conv2d in a file."""
    parted = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", kind)
    return re.sub("([a-z])([A-Z])", r"\1_\2", parted).lower()


def _class_and_number(word: str) -> tuple[str, int]:
    """conv2d_3 is the layer 3 of conv2d, conv2d its layer 0."""
    match = re.fullmatch(r"(.*?)(?:_(\d{1,6}))?", word)
    assert match is not None
    return match[1], int(match[2] or 0)


def _names_in_order(layers: list[LayerConfig]) -> dict[str, list[str]]:
    """The names of a model's layers by class; without a model, those of keras.applications."""
    if not layers:
        (peer,) = [each for each in PEERS if each.family == "keras"]
        layers = list(layers_of(model_json(example(peer).config, peer)))
    names: dict[str, list[str]] = {}
    for each in layers:
        names.setdefault(class_name(each.kind), []).append(each.name)
    return names


# --- Writing


def write_keras(weights: Weights, path: Path) -> None:
    """A model (.keras, .h5) or its weights (.weights.h5), as the name ends. Raises NpnetError.

    A model has the padding of the weights. Weights alone are for keras.applications' model, which
    pads as `tf_same` does: so their kernels are turned, and those of another padding see turned
    images right.
    """
    peer = writer_for(weights, "keras", path)
    name = path.name.lower()
    alone, zipped = name.endswith(".weights.h5"), name.endswith(".keras")
    turned = alone or weights.config.padding == "tf_same"
    arrays = dict(tensors_of(weights, peer, turned))
    model = model_json(weights.config, peer)
    buffer = io.BytesIO()
    with _h5(buffer, "w", path) as opened:
        opened.attrs[NOTE] = Note.of(weights).text()
        (_write_by_class if alone or zipped else _write_by_layer)(opened, arrays, model)
    data = buffer.getvalue()
    write_atomically(path, _zip(json.dumps(model), data) if zipped else data)


def _write_by_class(opened: Any, arrays: Mapping[str, Floats], model: Any) -> None:
    """layers/<class>_<n>/vars/<k>, and the layer's name beside it."""
    opened.create_group("vars")  # the model's own, which Keras 2 looks for
    counts: Counter[str] = Counter()
    for layer in layers_of(model):
        names = _arrays_of(layer, arrays)
        if not names:
            continue
        kind = class_name(layer.kind)
        number = f"_{counts[kind]}" if counts[kind] else ""
        counts[kind] += 1
        group = opened.create_group(f"layers/{kind}{number}/vars")
        group.attrs["name"] = layer.name
        for k, name in enumerate(names):
            group[str(k)] = arrays[name]


def _write_by_layer(opened: Any, arrays: Mapping[str, Floats], model: Any) -> None:
    """model_weights/<layer>/<layer>/<variable>, with the order of both in attributes."""
    opened.attrs["model_config"] = json.dumps(model)
    root = opened.create_group("model_weights")
    for group in (opened, root):
        group.attrs["keras_version"], group.attrs["backend"] = KERAS_VERSION, "tensorflow"
    _, *layers = layers_of(model)
    root.attrs["layer_names"] = [layer.name.encode() for layer in layers]
    for layer in layers:
        group = root.create_group(layer.name)
        names = _arrays_of(layer, arrays)
        group.attrs["weight_names"] = [name.encode() for name in names]
        for name in names:
            group[name] = arrays[name]


def _arrays_of(layer: LayerConfig, arrays: Mapping[str, Floats]) -> list[str]:
    """The names of a layer's arrays, in Keras' order."""
    names = [f"{layer.name}/{word}" for word in VARIABLES.get(class_name(layer.kind), ())]
    return [name for name in names if name in arrays]


def _zip(model: str, weights: bytes) -> bytes:
    """A .keras file. Its date is always the same, so equal weights give equal bytes."""
    metadata = {"keras_version": KERAS_VERSION, "date_saved": "2024-01-01@00:00:00"}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(zipfile.ZipInfo("metadata.json"), json.dumps(metadata))
        archive.writestr(zipfile.ZipInfo(CONFIG), model)
        archive.writestr(zipfile.ZipInfo(WEIGHTS), weights)
    return buffer.getvalue()
