"""PyTorch's files of a state dict (.pth), read and written without PyTorch.

Since PyTorch 1.6 such a file is a zip archive: a pickle, `data.pkl`, of a dict of tensors, and a
member for the numbers of each, its storage. Before, it was some pickles in a row and the storages
behind them. Source: torch/serialization.py, torch/_utils.py.

The pickle is read by npnet.data.unpickle: nothing is imported, nothing called.
"""

import io
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from npnet.archive import Archive
from npnet.data.unpickle import Machine
from npnet.exchange.foreign import (
    LARGEST_HEADER,
    MOST_AXES,
    Foreign,
    Note,
    Tensor,
    reading,
    tensors_of,
    writer_for,
)
from npnet.files import write_atomically
from npnet.kernels.arrays import Floats
from npnet.model.parameters import Shape
from npnet.model.weights import Weights
from npnet.untrusted import Refused

ADVICE = "in PyTorch, save it with torch.save(model.state_dict(), FILE)"
MOST_LEVELS = 4  # of dicts in each other, down to that of the tensors
MOST_KEYS = 2**31  # a dict's numbers are below: those of an optimiser's state
NOTE = "npnet.json"
ALIGNMENT = 64  # bytes

# A storage's type, and its numbers. bfloat16 is the upper half of a float32.
STORAGES = {
    "Float": "<f4", "Double": "<f8", "Half": "<f2", "BFloat16": "bfloat16", "Long": "<i8",
    "Int": "<i4", "Short": "<i2", "Char": "<i1", "Byte": "<u1", "Bool": "<u1",
}  # fmt: skip
BFLOAT16 = "bfloat16"

# --- The pickle


class Storage(NamedTuple):
    """Numbers in a row, which the file keeps elsewhere."""

    key: str
    dtype: str
    length: int

    @property
    def itemsize(self) -> int:
        return itemsize(self.dtype)


class View(NamedTuple):
    """A tensor: where it lies in its storage. `offset`, `strides`: numbers."""

    storage: Storage
    offset: int
    shape: Shape
    strides: Shape


def itemsize(dtype: str) -> int:
    """Bytes."""
    return 2 if dtype == BFLOAT16 else np.dtype(dtype).itemsize


def numbers(data: bytes, dtype: str) -> NDArray[Any]:
    """What bytes stand for."""
    if dtype == BFLOAT16:
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, dtype)


class StorageType(NamedTuple):
    """What a file refers to by a name such as torch.FloatStorage."""

    dtype: str


class Call(Enum):
    """What a file calls, by name. The machine acts on the name; it looks nothing up."""

    ORDERED_DICT = "collections OrderedDict"
    TENSOR = "torch._utils _rebuild_tensor_v2"
    PARAMETER = "torch._utils _rebuild_parameter"


class StateDictMachine(Machine):
    """Makes dicts, and a View of each tensor."""

    aim = "state dict"
    names: Mapping[str, object] = {
        **{call.value: call for call in Call},
        **{f"torch {name}Storage": StorageType(dtype) for name, dtype in STORAGES.items()},
    }

    def __init__(self, file_size: int) -> None:
        super().__init__(file_size)
        self.storages: dict[str, Storage] = {}

    def may_be_key(self, key: object) -> bool:
        return super().may_be_key(key) or (type(key) is int and 0 <= key < MOST_KEYS)

    def persistent(self, key: object) -> object:
        match key:
            case ("storage", StorageType(dtype), str() as name, str(), int() as count, *old) if (
                count >= 0 and old in ([], [None])
            ):
                storage = Storage(name, dtype, count)
                if self.storages.setdefault(name, storage) != storage:
                    raise Refused(f"it has two storages {name!r:.40}")
                return storage
        raise Refused("a storage is described in a way that no state dict needs")

    def reduce(self, function: object, args: object) -> object:
        match args:
            case () if function is Call.ORDERED_DICT:
                return {}
            case (
                Storage() as storage,
                int() as offset,
                tuple() as shape,
                tuple() as strides,
                *_,
            ) if function is Call.TENSOR:
                return _checked(View(storage, offset, shape, strides))
            case (View() as view, *_) if function is Call.PARAMETER:
                return view
        raise Refused("it calls something in a way that no state dict needs")

    def build(self, target: object, state: object) -> None:
        """A state dict has an attribute, the versions of its modules, which nobody needs."""
        if not isinstance(target, dict) or not isinstance(state, dict):
            raise Refused(f"a {type(target).__name__} has no such state")


def _checked(view: View) -> View:
    """A view, if it lies in its storage and is not larger."""
    sizes = (*view.shape, *view.strides, view.offset)
    if not (
        len(view.shape) == len(view.strides) <= MOST_AXES
        and all(type(each) is int and each >= 0 for each in sizes)
        and prod(view.shape) <= view.storage.length
        and view.offset + _span(view) <= view.storage.length
    ):
        raise Refused(f"a tensor does not lie in its storage of {view.storage.length} numbers")
    return view


def _span(view: View) -> int:
    """Numbers from its first to its last."""
    if 0 in view.shape:
        return 0
    return 1 + sum((n - 1) * s for n, s in zip(view.shape, view.strides, strict=True))


# --- Reading


class Places:
    """Where the numbers of storages lie in a file: their first byte."""

    def __init__(self, file: BinaryIO, starts: Mapping[str, int]) -> None:
        self.file, self.starts = file, starts

    def tensor(self, view: View) -> Tensor:
        return Tensor(view.shape, lambda: self._read(view))

    def _read(self, view: View) -> NDArray[Any]:
        storage = view.storage
        self.file.seek(self.starts[storage.key] + view.offset * storage.itemsize)
        data = self.file.read(_span(view) * storage.itemsize)
        flat = numbers(data, storage.dtype)
        if len(flat) < _span(view):
            raise Refused("it was cut short")
        strides = [each * flat.itemsize for each in view.strides]
        return np.lib.stride_tricks.as_strided(flat, view.shape, strides, writeable=False)


def read_pth(path: Path) -> Weights:
    """The network in a state dict. Raises NpnetError for any other file, or a damaged one."""
    with reading(path, "state dict of PyTorch's", ADVICE) as file:
        size = os.fstat(file.fileno()).st_size
        zipped = file.read(2) == b"PK"
        found, places, note = (_zipped if zipped else _in_a_row)(file, size, path)
        views = _state_dict(found)
        tensors = {name: places.tensor(view) for name, view in views.items()}
        return Foreign(path, "a state dict", "torch", tensors, note).weights()


def _zipped(file: BinaryIO, size: int, path: Path) -> tuple[object, Places, Note | None]:
    archive = Archive(file, size)
    (name,) = [name for name in archive.members if name.endswith("/data.pkl")][:1] or [""]
    if not name:
        raise Refused("it has no data.pkl")
    folder = name.removesuffix("data.pkl")
    order = f"{folder}byteorder"
    if order in archive.members and archive.content(order, 16) != b"little":
        raise Refused("its numbers are not little-endian")
    pickle = archive.content(name, LARGEST_HEADER)
    machine = StateDictMachine(len(pickle))
    found = machine.load(io.BytesIO(pickle))
    starts = {}
    for key, storage in machine.storages.items():
        member = archive.members.get(f"{folder}data/{key}")
        if member is None or member.size != storage.length * storage.itemsize:
            raise Refused(f"its storage {key!r:.40} is missing, or of another size than it says")
        archive.check_sum(f"{folder}data/{key}")
        starts[key] = member.start
    extra, note = f"{folder}{NOTE}", None
    if extra in archive.members:
        note = Note.read(archive.content(extra, LARGEST_HEADER), path)
    return found, Places(file, starts), note


# A number that begins the files before PyTorch 1.6, pickled; then that of the format.
MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."


def _in_a_row(file: BinaryIO, size: int, path: Path) -> tuple[object, Places, Note | None]:
    """Before PyTorch 1.6: magic number, version, machine, state dict, the storages' keys, each a
    pickle; then for each key a count of 8 bytes and as many numbers.
    """
    file.seek(0)
    if file.read(len(MAGIC)) != MAGIC:
        raise Refused("it does not begin as such a file does")
    version, system = StateDictMachine(0).load(file), StateDictMachine(0).load(file)
    if version != 1001 or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Refused("it is of another version, or not little-endian")
    machine = StateDictMachine(size)
    found, keys = machine.load(file), StateDictMachine(0).load(file)
    if not (
        isinstance(keys, list)
        and all(isinstance(key, str) for key in keys)  # before they are compared
        and sorted(keys) == sorted(machine.storages)
    ):
        raise Refused("its storages are not those that its tensors lie in")
    starts: dict[str, int] = {}
    at = file.tell()
    for key in keys:
        storage = machine.storages[key]
        file.seek(at)
        if file.read(8) != storage.length.to_bytes(8, "little"):
            raise Refused(f"its storage {key!r:.40} is of another size than it says")
        starts[key], at = at + 8, at + 8 + storage.length * storage.itemsize
    if at != size:
        raise Refused(f"it has {size:,} bytes where {at:,} were expected")
    return found, Places(file, starts), None


def _state_dict(found: object) -> dict[str, View]:
    """The dict of tensors in what was saved: it itself or, of the dicts in it, the largest."""
    best: dict[str, View] = {}
    seen: set[int] = set()  # a file may have the same dict in many places
    dicts = [(found, 0)]
    for each, level in dicts:
        if not isinstance(each, dict) or id(each) in seen or level > MOST_LEVELS:
            continue
        seen.add(id(each))
        tensors = {name: view for name, view in each.items() if isinstance(view, View)}
        named = {name: view for name, view in tensors.items() if isinstance(name, str)}
        best = max(best, named, key=len)
        dicts += [(value, level + 1) for value in each.values()]
    if not best:
        raise Refused("it holds no dict of tensors")
    return best


# --- Writing


def write_pth(weights: Weights, path: Path) -> None:
    """A state dict for torchvision's model, as torch.save would write it. Raises NpnetError."""
    peer = writer_for(weights, "torch", path)
    arrays = dict(with_counts(tensors_of(weights, peer)))
    members = {
        "data.pkl": _pickle(arrays),
        "byteorder": b"little",
        **{f"data/{key}": array.tobytes() for key, array in enumerate(arrays.values())},
        "version": b"3\n",
        NOTE: Note.of(weights).text().encode(),
    }
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            _add(archive, buffer, f"archive/{name}", data)
    write_atomically(path, buffer.getvalue())


def with_counts(tensors: Iterator[tuple[str, Floats]]) -> Iterator[tuple[str, NDArray[Any]]]:
    """PyTorch's batch norms also count their batches."""
    for name, array in tensors:
        yield name, array
        if name.endswith(".running_var"):
            yield name.replace("running_var", "num_batches_tracked"), np.zeros((), np.int64)


def _add(archive: zipfile.ZipFile, buffer: io.BytesIO, name: str, data: bytes) -> None:
    """A member whose data begin at a multiple of ALIGNMENT bytes, so that they can be mapped."""
    info = zipfile.ZipInfo(name)
    filled = -(buffer.tell() + 30 + len(name) + 4) % ALIGNMENT  # 30: a member's header
    info.extra = b"FB" + struct.pack("<H", filled) + bytes(filled)
    archive.writestr(info, data)


def _pickle(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """An OrderedDict of tensors, in protocol 2; see Python's pickletools for the opcodes."""
    empty = b"ccollections\nOrderedDict\n)R"
    parts = [b"\x80\x02" + empty + b"("]
    for key, (name, array) in enumerate(arrays.items()):
        kind = b"ctorch\nLongStorage\n" if array.dtype == np.int64 else b"ctorch\nFloatStorage\n"
        storage = _text("storage") + kind + _text(str(key)) + _text("cpu") + _integer(array.size)
        strides = [each // array.itemsize for each in array.strides]
        view = _integer(0) + _tuple(array.shape) + _tuple(strides)
        parts += [_text(name), b"ctorch._utils\n_rebuild_tensor_v2\n(("]
        parts += [storage, b"tQ", view, b"\x89", empty, b"tR"]
    return b"".join(parts) + b"u."


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _tuple(values: Sequence[int]) -> bytes:
    return b"(" + b"".join(map(_integer, values)) + b"t"
