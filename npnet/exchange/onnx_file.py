"""The bytes of an ONNX file that somebody else may have made: looked at, then parsed.

A model is a protobuf message of messages. Parsed, the smallest of them takes fifty times the memory
that it has in the file, and a packed whole number eight times. So both are counted first.
Source: protobuf's description of its encoding, and the fields that the package onnx declares.
"""

from math import prod
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto, numpy_helper

from npnet.exchange.foreign import MOST_AXES
from npnet.kernels.arrays import Floats
from npnet.untrusted import Refused

MOST_FIELDS = 200_000  # of all messages together; a network of 52 convolutions has some 8,000
MOST_PACKED = 2**20  # bytes of whole numbers, such as shapes; weights are stored otherwise
_WIDTHS = {1: 8, 5: 4}  # wire types of numbers of fixed width, bytes
_VARINT, _LENGTH = 0, 2  # wire types of a whole number, and of something with its length before it
# Types of fields. Of these, many may be packed into one: int64, uint64, int32, bool, uint32, enum.
_PACKED, _TEXT = (3, 4, 5, 8, 13, 14), 9

FLOATS: dict[int, int] = {
    TensorProto.FLOAT: 4,
    TensorProto.DOUBLE: 8,
    TensorProto.FLOAT16: 2,
}  # bytes of each


def parse(data: bytes) -> ModelProto:
    """The model. Raises Refused for anything else."""
    _check(data)
    try:
        model: ModelProto = ModelProto.FromString(data)
        return model
    except Exception as error:  # protobuf's own
        raise Refused("it is no ONNX model") from error


def _check(data: bytes) -> None:
    """Raise Refused where the model would take far more memory than the file has bytes."""
    messages: list[tuple[Any, int, int]] = [(ModelProto.DESCRIPTOR, 0, len(data))]
    fields = packed = 0
    while messages:
        message, at, end = messages.pop()
        while at < end:
            key, at = _varint(data, at)
            number, wire = key >> 3, key & 7
            field = message.fields_by_number.get(number)
            fields += 1
            if wire == _VARINT:
                _, at = _varint(data, at)
            elif wire in _WIDTHS:
                at += _WIDTHS[wire]
            elif wire == _LENGTH:
                length, at = _varint(data, at)
                if field is not None and field.message_type is not None:
                    messages.append((field.message_type, at, at + length))
                elif field is not None and field.type in _PACKED:
                    packed += length
                elif field is not None and field.type == _TEXT:
                    _check_text(data[at : at + length])
                at += length
            else:
                raise Refused("it is no ONNX model")
            if at > end:
                raise Refused("it is no ONNX model, or was cut short")
            if fields > MOST_FIELDS or packed > MOST_PACKED:
                raise Refused("it has more parts than any network here")


def _check_text(data: bytes) -> None:
    """Raise Refused for what protobuf would give as bytes instead of a text."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        raise Refused("a name in it is no text") from error


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A whole number, seven bits a byte, the lowest first, and where it ends."""
    value = 0
    for place in range(10):
        if at + place >= len(data):
            break
        byte = data[at + place]
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return value, at + place + 1
    raise Refused("it is no ONNX model, or was cut short")


def shape_of(tensor: TensorProto) -> tuple[int, ...]:
    """Its shape, for which it has as many numbers. Raises Refused for any but whole floats."""
    name, shape = f"tensor {tensor.name!r:.80}", tuple(tensor.dims)
    if tensor.external_data or tensor.data_location == TensorProto.EXTERNAL:
        raise Refused(f"{name} lies in another file, which is not opened: save it as one file")
    if tensor.data_type not in FLOATS:
        raise Refused(f"{name} holds no numbers of float32, float64 or float16")
    if len(shape) > MOST_AXES or any(each < 0 for each in shape):
        raise Refused(f"{name} has the shape {shape!s:.40}")
    if tensor.raw_data:
        count, rest = divmod(len(tensor.raw_data), FLOATS[tensor.data_type])
        fits = not rest and count == prod(shape)
    else:
        lists: dict[int, Any] = {
            TensorProto.FLOAT: tensor.float_data,
            TensorProto.DOUBLE: tensor.double_data,
        }
        fits = len(lists.get(tensor.data_type, ())) == prod(shape)
    if not fits:
        raise Refused(f"{name} has not as many numbers as its shape {shape} wants")
    return shape


def floats_of(tensor: TensorProto) -> Floats:
    """Its numbers, float32. Raises Refused where one is not finite."""
    shape_of(tensor)
    with np.errstate(over="ignore"):
        values: Floats = numpy_helper.to_array(tensor).astype(np.float32)
    if not np.isfinite(values).all():
        raise Refused(f"tensor {tensor.name!r:.80} holds a number that is not finite")
    return values


def few_of(tensor: TensorProto) -> list[float]:
    """The numbers of a small constant of any type, such as the bounds of a Clip.

    Raises Refused for anything else.
    """
    if tensor.external_data or prod(tensor.dims) > MOST_AXES or len(tensor.raw_data) > 64:
        raise Refused(f"tensor {tensor.name!r:.80} is no short list of numbers")
    try:
        return [float(each) for each in numpy_helper.to_array(tensor).ravel()]
    except Exception as error:  # onnx's, of many kinds
        raise Refused(f"tensor {tensor.name!r:.80} is damaged") from error
