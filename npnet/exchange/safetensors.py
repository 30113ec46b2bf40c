"""Safetensors files: a JSON header of names, types, shapes and places, and the numbers behind it.

The format is small enough to be read and written here. Source: the README of
huggingface/safetensors, section Format.
"""

import json
import os
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

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
from npnet.exchange.pth import BFLOAT16, itemsize, numbers, with_counts
from npnet.files import write_atomically
from npnet.model.weights import Weights
from npnet.untrusted import Refused, parse_json

LENGTH = 8  # bytes, of the header's length
METADATA, NOTE = "__metadata__", "npnet"  # a dict of texts
DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": BFLOAT16, "I64": "<i8", "I32": "<i4",
    "I16": "<i2", "I8": "<i1", "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "<u1", "BOOL": "<u1",
}  # fmt: skip


def read_safetensors(path: Path) -> Weights:
    """The network in a file. Raises NpnetError where there is none, or the file is damaged."""
    with reading(path, "safetensors file", "use another one") as file:
        header, start, size = _header(file)
        metadata = header.pop(METADATA, {})
        tensors = _tensors(file, header, start, size)
        note = None
        if isinstance(metadata, dict) and isinstance(metadata.get(NOTE), str):
            note = Note.read(metadata[NOTE].encode(errors="surrogatepass"), path)
        return Foreign(path, "tensors", "torch", tensors, note).weights()


def _header(file: BinaryIO) -> tuple[dict[str, Any], int, int]:
    """The header, where the numbers begin, and how many bytes they have."""
    size = os.fstat(file.fileno()).st_size
    length = int.from_bytes(file.read(LENGTH), "little")
    if not 2 <= length <= min(LARGEST_HEADER, size - LENGTH):
        raise Refused(f"its header is said to have {length:,} bytes")
    header = parse_json(file.read(length))
    if not isinstance(header, dict):
        raise Refused("its header holds no object of named values")
    return header, LENGTH + length, size - LENGTH - length


def _tensors(file: BinaryIO, header: dict[str, Any], start: int, size: int) -> dict[str, Tensor]:
    """The tensors of a header, which lie in a row, one after the other, up to the end."""
    tensors, places = {}, [(0, 0), (size, size)]
    for name, fields in header.items():
        match fields:
            case {
                "dtype": str() as word,
                "shape": list() as shape,
                "data_offsets": [first, last],
            } if word in DTYPES and all(_is_count(each) for each in (*shape, first, last)):
                dtype = DTYPES[word]
            case _:
                raise Refused(f"it does not say what {name!r:.80} is, or of no known kind")
        if len(shape) > MOST_AXES:
            raise Refused(f"{name!r:.80} has {len(shape):,} axes, where {MOST_AXES} are the most")
        if last - first != prod(shape) * itemsize(dtype):
            raise Refused(f"{name!r:.80} has not the {last - first:,} bytes that its shape takes")
        places.append((first, last))
        tensors[name] = _tensor(file, dtype, tuple(shape), start + first, last - first)
    if any(before[1] != after[0] for before, after in pairwise(sorted(places))):
        raise Refused("its tensors do not lie one after the other, up to its end")
    return tensors


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0


def _tensor(file: BinaryIO, dtype: str, shape: tuple[int, ...], at: int, length: int) -> Tensor:
    def read() -> NDArray[Any]:
        file.seek(at)
        return numbers(file.read(length), dtype).reshape(shape)

    return Tensor(shape, read)


def write_safetensors(weights: Weights, path: Path) -> None:
    """torchvision's tensors, as the library safetensors would write them. Raises NpnetError."""
    peer = writer_for(weights, "torch", path)
    note = {NOTE: Note.of(weights).text()}
    header: dict[str, Any] = {METADATA: {"format": "pt", **note}}
    data: list[bytes] = []
    # The 8 bytes of a count begin at a multiple of 8, as a reader that maps the file expects.
    arrays = sorted(with_counts(tensors_of(weights, peer)), key=lambda each: -each[1].itemsize)
    at = 0
    for name, array in arrays:
        end = at + array.nbytes
        word = "I64" if array.dtype == np.int64 else "F32"
        header[name] = {"dtype": word, "shape": array.shape, "data_offsets": [at, end]}
        data.append(array.tobytes())
        at = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % LENGTH)
    write_atomically(path, len(text).to_bytes(LENGTH, "little") + text + b"".join(data))
