"""Read pickled arrays without trusting the file.

`pickle.load` imports and calls whatever the file names. Here `pickletools` takes the file apart and
a small stack machine puts it together again. It knows only the opcodes that arrays in plain
containers need, imports nothing, sets no attribute, and calls nothing that the file chose: a
hostile file can waste a little time, and no more. Other kinds of pickles have a machine that knows
other names, see npnet/exchange/pth.py.
"""

import codecs
import math
import os
import pickletools
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import partial
from mmap import mmap
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from npnet.errors import NpnetError
from npnet.untrusted import Refused, open_file

# The largest CIFAR file takes some 250 000 opcodes, and 2 000 000 where each label is a number of
# NumPy's. An empty dict costs one byte on disk and 64 in memory, so the number of opcodes is what
# bounds the memory that a small hostile file can take.
_MOST_OPCODES = 2_500_000
_LARGE = 1 << 20  # bytes, of a string that has memory of its own
_BY_CODE = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}
_MOST_AXES = 32  # of an array: NumPy's own limit before 2.0


class _Global(Enum):
    """What a pickled array refers to by name. The machine acts on the name; it looks nothing up."""

    NDARRAY = "numpy ndarray"
    DTYPE = "numpy dtype"
    RECONSTRUCT = "multiarray _reconstruct"  # makes the array that BUILD fills
    FROMBUFFER = "numeric _frombuffer"  # protocol 5
    SCALAR = "multiarray scalar"  # a number of NumPy's
    ENCODE = "_codecs encode"  # how Python 3 writes bytes in protocol 2


_GLOBALS = {g.value: g for g in (_Global.NDARRAY, _Global.DTYPE, _Global.ENCODE)} | {
    f"{package}.{g.value}": g
    for package in ("numpy.core", "numpy._core")  # before and since NumPy 2
    for g in (_Global.RECONSTRUCT, _Global.FROMBUFFER, _Global.SCALAR)
}


def damaged(path: Path, reason: str) -> NpnetError:
    """The error for a dataset's file that cannot be used."""
    return NpnetError(f"{path}: {reason}; fetch it again, into another folder")


def load(path: Path) -> object:
    """Read a pickle of arrays of numbers in dicts, lists and tuples, with text, bytes and numbers.

    All protocols are read; Python 2's `str` comes out as `bytes`, and NumPy's whole numbers as
    Python's. An array is a view of the file's bytes, which are in memory once, and cannot be
    written. Raises NpnetError if the file cannot be read, is damaged, or asks for anything else,
    big-endian arrays included.
    """
    try:
        with open_file(path) as file:
            return Machine(os.fstat(file.fileno()).st_size).load(file)
    except OSError as error:
        raise damaged(path, error.strerror or str(error)) from error
    except Refused as error:
        raise damaged(path, str(error)) from error


class LargeBytes(mmap):
    """A large string or large bytes, in pages of their own, which go back to the system at once.

    Memory that malloc gave would stay the process's, beside the arrays that come after it.
    """

    place: int  # where it begins in its file


def place(array: NDArray[Any]) -> int | None:
    """Where in its file the numbers of an array begin, which is the whole of one from `load`.

    None unless they stand there as they are, and are large: as text they do not.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    raw = base.obj if isinstance(base, memoryview) else None
    if isinstance(raw, LargeBytes) and array.flags.c_contiguous:
        return raw.place
    return None


def _opcodes(file: BinaryIO) -> Iterator[tuple[str, object]]:
    """Names and arguments, as pickletools.genops gives them, up to STOP.

    But Python 2's strings, as which it wrote arrays, stay bytes, for as text they would be in
    memory once more; and large ones, as bytes of Python 3, have pages of their own.
    """
    while code := file.read(1):
        opcode = _BY_CODE.get(code)
        if opcode is None:
            raise ValueError(f"unknown opcode {code!r}")
        reader: Any = None if opcode.arg is None else opcode.arg.reader
        if opcode.name in _READERS:
            reader = _READERS[opcode.name]
        yield opcode.name, None if reader is None else reader(file)
        if opcode.name == "STOP":
            return
    raise ValueError("it ends before its STOP")


def _read_sized(read_length: Callable[[BinaryIO], int], file: BinaryIO) -> bytes | mmap:
    """A string of Python 2, or bytes of Python 3, behind their length."""
    length = read_length(file)
    if length < 0:
        raise ValueError("a string has a negative length")
    if length < _LARGE:
        data: bytes | LargeBytes = file.read(length)
        read = len(data)
    else:
        try:
            data = LargeBytes(-1, length)
        except OSError as error:
            raise MemoryError from error
        data.place = file.tell()
        read = file.readinto(data)  # type: ignore[attr-defined]
    if read != length:
        raise ValueError(f"it ends in a string of {length} bytes")
    return data


def _read_quoted(file: BinaryIO) -> bytes:
    """A string of Python 2 under protocol 0, as it stands in a program."""
    line = file.readline()
    text = line.removesuffix(b"\n").strip()
    if line[-1:] != b"\n" or len(text) < 2 or text[:1] != text[-1:] or text[:1] not in b"'\"":
        raise ValueError("it has a string without its quotes")
    data: bytes = codecs.escape_decode(text[1:-1])[0]
    return data


_READERS = {
    "STRING": _read_quoted,
    "BINSTRING": partial(_read_sized, pickletools.read_int4),
    "BINBYTES": partial(_read_sized, pickletools.read_uint4),
    "BYTEARRAY8": partial(_read_sized, pickletools.read_uint8),
}


class Machine:
    """The stack, the memo and the stacks that MARK set aside, as in Python's own unpickler.

    What it makes is an `aim`. `names` are those that a file may refer to, and what stands for each:
    `reduce` and `build` act on it. They, `may_be_key` and `persistent` differ for other aims.
    """

    aim = "array"
    names: Mapping[str, object] = _GLOBALS

    def __init__(self, file_size: int) -> None:
        self.stack: list[object] = []
        self.marked: list[list[object]] = []
        self.memo: dict[int, object] = {}
        self.encodable = file_size  # characters that `_codecs encode` may still turn into bytes

    def load(self, file: BinaryIO) -> object:
        """The value of the pickle that begins here. Raises Refused, and OSError."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of a stray backslash in a damaged file's names
                return self.run(file)
        except Refused as error:
            raise Refused(f"not a plain pickle of {self.aim}s: {error}") from error
        except (IndexError, KeyError) as error:
            raise Refused("not a whole pickle: an opcode lacks its operand") from error
        except MemoryError as error:
            raise Refused("it asks for more memory than there is") from error
        except (ValueError, OverflowError) as error:
            raise Refused(f"not a whole pickle: {str(error)[:200]}") from error

    def run(self, file: BinaryIO) -> object:
        for count, (name, arg) in enumerate(_opcodes(file)):
            if count == _MOST_OPCODES:
                raise Refused(f"it has more than {_MOST_OPCODES} opcodes")
            self.step(name, arg)
        if len(self.stack) != 1 or self.marked:
            raise Refused("it leaves more or less than one value")
        return self.stack.pop()

    def step(self, name: str, arg: object) -> None:
        match name, arg:
            case "SHORT_BINSTRING", str():
                self.stack.append(arg.encode("latin-1"))
            case (("BININT" | "BININT1" | "BININT2" | "LONG1" | "BINFLOAT"), _):
                self.stack.append(arg)
            case (("INT" | "LONG" | "FLOAT" | "UNICODE" | "STRING"), _):  # of protocol 0
                self.stack.append(arg)
            case (("SHORT_BINUNICODE" | "BINUNICODE" | "BINUNICODE8"), _):
                self.stack.append(arg)
            case (("BINSTRING" | "SHORT_BINBYTES" | "BINBYTES" | "BINBYTES8" | "BYTEARRAY8"), _):
                self.stack.append(arg)
            case (("BINPUT" | "LONG_BINPUT" | "PUT"), int()):
                self.memo[arg] = self.stack[-1]
            case "MEMOIZE", _:
                self.memo[len(self.memo)] = self.stack[-1]
            case (("BINGET" | "LONG_BINGET" | "GET"), int()):
                self.stack.append(self.memo[arg])
            case "NONE", _:
                self.stack.append(None)
            case (("NEWTRUE" | "NEWFALSE"), _):
                self.stack.append(name == "NEWTRUE")
            case "EMPTY_DICT", _:
                self.stack.append({})
            case "EMPTY_LIST", _:
                self.stack.append([])
            case "EMPTY_TUPLE", _:
                self.stack.append(())
            case (("TUPLE1" | "TUPLE2" | "TUPLE3"), _):
                self.stack.append(tuple(self.pop(int(name[-1]))))
            case "MARK", _:
                self.marked.append(self.stack)
                self.stack = []
            case "TUPLE", _:
                items = self.pop_to_mark()
                self.stack.append(tuple(items))
            case "LIST", _:
                items = self.pop_to_mark()
                self.stack.append(items)
            case "DICT", _:
                items = self.pop_to_mark()
                self.stack.append({})
                self.set_items(self.stack[-1], items)
            case (("APPEND" | "APPENDS"), _):
                items = self.pop(1) if name == "APPEND" else self.pop_to_mark()
                _append(self.stack[-1], items)
            case (("SETITEM" | "SETITEMS"), _):
                items = self.pop(2) if name == "SETITEM" else self.pop_to_mark()
                self.set_items(self.stack[-1], items)
            case "GLOBAL", str():
                self.stack.append(self.find(arg))
            case "STACK_GLOBAL", _:
                self.stack.append(self.find(" ".join(map(_text, self.pop(2)))))
            case "REDUCE", _:
                function, args = self.pop(2)
                self.stack.append(self.reduce(function, args))
            case "BUILD", _:
                (state,) = self.pop(1)
                self.build(self.stack[-1], state)
            case (("PROTO" | "FRAME" | "STOP"), _):
                pass
            case "BINPERSID", _:
                self.stack.append(self.persistent(*self.pop(1)))
            case _:
                raise Refused(f"no {self.aim} needs the opcode {name}")

    def pop(self, count: int) -> list[object]:
        return [self.stack.pop() for _ in range(count)][::-1]

    def pop_to_mark(self) -> list[object]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def find(self, name: str) -> object:
        if name not in self.names:
            raise Refused(f"no {self.aim} needs {name[:80]!a}")
        return self.names[name]

    def set_items(self, target: object, items: list[object]) -> None:
        if not isinstance(target, dict) or len(items) % 2:
            raise Refused(f"it sets {len(items)} keys and values of a {type(target).__name__}")
        keys = items[::2]
        if not all(map(self.may_be_key, keys)):
            raise Refused("a dict has keys that are not text")
        target.update(zip(keys, items[1::2], strict=True))

    def may_be_key(self, key: object) -> bool:
        """A tuple's hash, nested deep enough, overflows the C stack; an int's is easy to match."""
        return isinstance(key, str | bytes)

    def persistent(self, key: object) -> object:
        """What the file keeps elsewhere, under a key."""
        raise Refused(f"no {self.aim} needs the opcode BINPERSID")

    def reduce(self, function: object, args: object) -> object:
        """What calling a global would give. A few bytes can ask for it many times over: no case
        may return memory of its own in proportion to its arguments, unless a sum bounds it."""
        match args:
            case (_, _, _) if function is _Global.RECONSTRUCT:
                return np.empty(0, np.uint8)
            case (code, _, _) if function is _Global.DTYPE:
                return _dtype(_text(code))
            case (bytes() | mmap() as raw, np.dtype() as dtype, shape, str("C")) if (
                function is _Global.FROMBUFFER
            ):
                return np.frombuffer(raw, dtype).reshape(_check_shape(shape, dtype, raw))
            case (np.dtype() as dtype, bytes() as raw) if function is _Global.SCALAR:
                if dtype.kind not in "iu" or len(raw) != dtype.itemsize:
                    raise Refused(f"a number of NumPy's is of {dtype} in {len(raw)} bytes")
                return int(np.frombuffer(raw, dtype)[0])
            case (str() as text, str("latin1")) if function is _Global.ENCODE:
                self.encodable -= len(text)
                if self.encodable < 0:
                    raise Refused("it encodes more text than it holds")
                return text.encode("latin-1")
        raise Refused(f"it calls something in a way that no {self.aim} needs")

    def build(self, target: object, state: object) -> None:
        """Put an array of the state in the place of the empty one that `reduce` made.

        Of a dtype, check that it is the one made already.
        """
        match target, state:
            case np.dtype(), (_, order, *_):
                if _text(order) not in ("|", "<"):
                    raise Refused(f"the byte order {_text(order)[:80]!a} is not little-endian")
            case np.ndarray(), (_, shape, np.dtype() as dtype, bool() as fortran, raw) if (
                isinstance(raw, bytes | mmap)
            ):
                checked = _check_shape(shape, dtype, raw)
                made = np.frombuffer(raw, dtype).reshape(checked, order="F" if fortran else "C")
                self.stack[-1] = made
                for key, value in self.memo.items():
                    if value is target:
                        self.memo[key] = made
            case _:
                raise Refused(f"a {type(target).__name__} has no such state")


def _append(target: object, items: list[object]) -> None:
    if not isinstance(target, list):
        raise Refused(f"it appends to a {type(target).__name__}")
    target.extend(items)


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if isinstance(value, str):
        return value
    raise Refused(f"a {type(value).__name__} lies where text should")


def _dtype(code: str) -> np.dtype[Any]:
    # An object's bytes would be taken for a pointer, and a record may hold objects.
    if not re.fullmatch("[iu][1248]|f[248]", code):
        raise Refused(f"the dtype {code[:80]!a} is not a number's")
    return np.dtype(f"<{code}")


def _check_shape(shape: object, dtype: np.dtype[Any], raw: bytes | mmap) -> tuple[int, ...]:
    """`shape`, if an array of it takes just the bytes of `raw`."""
    if not (
        isinstance(shape, tuple)
        and len(shape) <= _MOST_AXES
        and all(type(length) is int and length >= 0 for length in shape)
        and math.prod(shape) * dtype.itemsize == len(raw)
    ):
        raise Refused(f"an array's shape does not match its {len(raw)} bytes")
    return shape
