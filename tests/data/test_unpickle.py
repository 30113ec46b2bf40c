"""A pickle of arrays is read; anything else, and any damage, is one NpnetError and no harm."""

import io
import os
import pickle
import random
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from npnet.data import unpickle
from npnet.errors import NpnetError

PIXELS = np.arange(2 * 12, dtype=np.uint8).reshape(2, 12) * 9
RECONSTRUCT = b"cnumpy.core.multiarray\n_reconstruct\n"
NDARRAY = b"cnumpy\nndarray\n"
DTYPE = b"cnumpy\ndtype\n"
U1 = DTYPE + b"U\x02u1K\x00K\x01\x87R"  # a dtype before BUILD
U1_STATE = b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
EMPTY = RECONSTRUCT + NDARRAY + b"K\x00\x85U\x01b\x87R"  # an array before BUILD


def long1(value: int) -> bytes:
    raw = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(raw)]) + raw


def array(shape: bytes, raw: bytes, dtype: bytes = U1 + U1_STATE) -> bytes:
    """What Python 2 wrote for an array."""
    bytestring = b"T" + struct.pack("<i", len(raw)) + raw
    return EMPTY + b"(K\x01" + shape + dtype + b"\x89" + bytestring + b"tb"


PYTHON2 = (
    b"\x80\x02}q\x01(U\x06labelsq\x02]q\x03(K\x07K\x03eU\x04dataq\x04"
    + array(b"K\x02K\x0c\x86", PIXELS.tobytes())
    + b"U\x0bbatch_labelU\x03\x80\xffau."
)


def load(tmp_path: Path, content: bytes) -> object:
    path = tmp_path / "batch"
    path.unlink(missing_ok=True)  # some file systems wait for the disk on an overwrite
    path.write_bytes(content)
    return unpickle.load(path)


def refused(tmp_path: Path, content: bytes) -> str:
    with pytest.raises(NpnetError) as caught:
        load(tmp_path, content)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'batch'}: ")
    assert "\n" not in message
    assert len(message) < 300 + len(str(tmp_path))
    return message


def test_python2_batch(tmp_path: Path) -> None:
    batch = load(tmp_path, PYTHON2)
    assert isinstance(batch, dict)
    assert list(batch) == [b"labels", b"data", b"batch_label"]
    assert batch[b"labels"] == [7, 3]
    assert batch[b"batch_label"] == b"\x80\xffa"
    assert type(batch[b"data"]) is np.ndarray
    assert batch[b"data"].dtype == np.uint8
    np.testing.assert_array_equal(batch[b"data"], PIXELS)
    by_pickle = pickle.loads(PYTHON2.replace(b"numpy.core", b"numpy._core"), encoding="bytes")
    np.testing.assert_array_equal(batch[b"data"], by_pickle[b"data"])


@pytest.mark.parametrize("protocol", range(6))
def test_python3_containers(tmp_path: Path, protocol: int) -> None:
    value = {
        "text": ["é", b"\x00\xff", "two\nlines"],
        b"numbers": (0, -1, 255, 65536, -(2**40), 2**80, 0.5, True, False, None),
        "empty": [(), [], {}, (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
    }
    assert load(tmp_path, pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("code", ["u1", "i1", "i2", "u4", "i8", "f2", "f4", "f8"])
def test_python3_arrays(tmp_path: Path, protocol: int, code: str) -> None:
    # More than 1000 bytes, from where on NumPy does not copy; `same` is read from the memo.
    pixels = (np.arange(5 * 300) % 100).reshape(5, 300).astype(code)
    value = {"data": pixels, "same": pixels, "other": pixels[:2] + pixels[1:3]}
    result = load(tmp_path, pickle.dumps(value, protocol))
    assert isinstance(result, dict)
    assert result["same"] is result["data"]
    assert result["data"].dtype == np.dtype(code)
    np.testing.assert_array_equal(result["data"], pixels)
    np.testing.assert_array_equal(result["other"], value["other"])


@pytest.mark.parametrize("protocol", range(6))
def test_whole_numbers_of_numpy_become_pythons(tmp_path: Path, protocol: int) -> None:
    value = [np.uint8(200), np.int64(-3), np.uint16(65535), np.int32(7)]
    result = load(tmp_path, pickle.dumps(value, protocol))
    assert result == [200, -3, 65535, 7]
    assert {type(each) for each in result} == {int}  # type: ignore[attr-defined]
    for other in (np.float32(0.5), np.bool_(True), np.datetime64("2020"), np.complex64(1)):
        refused(tmp_path, pickle.dumps(other, protocol))


def test_python2_protocol_0(tmp_path: Path) -> None:
    """Text with quotes and escapes, as Python 2's repr wrote it; arrays in it, too."""
    content = rb"""(dp0
S'labels'
p1
(lp2
I7
aI3
asS'data'
p3
cnumpy.core.multiarray
_reconstruct
p4
(cnumpy
ndarray
p5
(I0
tp6
S'b'
p7
tp8
Rp9
(I1
(I1
I4
tp10
cnumpy
dtype
p11
(S'u1'
p12
I0
I1
tp13
Rp14
(I3
S'|'
p15
NNNI-1
I-1
I0
tp16
bI00
S"\x00\xff'a"
p17
tp18
bs."""
    batch = load(tmp_path, content)
    assert isinstance(batch, dict)
    assert batch[b"labels"] == [7, 3]
    np.testing.assert_array_equal(batch[b"data"], [[0, 255, 39, 97]])
    refused(tmp_path, content.replace(b"'data'", b"data'"))


def test_fortran_order_and_old_numpy_names(tmp_path: Path) -> None:
    pixels = np.asfortranarray(PIXELS)
    content = pickle.dumps(pixels, 2).replace(b"numpy._core", b"numpy.core")
    assert b"numpy.core.multiarray\n" in content
    np.testing.assert_array_equal(load(tmp_path, content), PIXELS)


class Call:
    """Pickles as a call of `function`."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", range(6))
def test_code_is_not_run(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "marker"
    code = f"open({str(marker)!r}, 'w').close()"
    for call in (Call(os.system, f"touch {marker}"), Call(exec, code), Call(eval, code)):
        for value in (call, {"data": [call]}, np.array([call], object)):
            content = pickle.dumps(value, protocol)
            refused(tmp_path, content)
            assert not marker.exists()
    pickle.loads(content)  # the pickles do what they are feared for, where they are trusted
    assert marker.exists()


@pytest.mark.parametrize(
    "name",
    [
        "os system",
        "builtins getattr",
        "__builtin__ eval",
        "numpy.testing._private.utils runstring",
        "numpy load",
        "numpy memmap",
        "numpy._core.multiarray fromfile",
        "numpy.core.multiarray ndarray",
        "numpy ndarray.tofile",
        "copyreg _reconstructor",
        "_codecs decode",
    ],
)
def test_names_not_on_the_list(tmp_path: Path, name: str) -> None:
    module, _, attribute = name.partition(" ")
    by_opcode = f"c{module}\n{attribute}\n".encode()
    by_stack = b"".join(b"\x8c" + bytes([len(s)]) + s.encode() for s in (module, attribute))
    for found in (by_opcode, by_stack + b"\x93"):
        assert name in refused(tmp_path, b"\x80\x04" + found + b")R.")
        assert name in refused(tmp_path, b"\x80\x04" + found + b".")


def test_hostile_names_stay_on_one_line(tmp_path: Path) -> None:
    name = "\x1b[2J\n" * 1000
    content = b"\x80\x04X" + struct.pack("<I", len(name)) + name.encode() + b"h\x00\x93."
    refused(tmp_path, content.replace(b"h\x00", b"\x94h\x00"))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        # What may be named may still not be called, instantiated or changed at will.
        (NDARRAY + long1(10**12) + b"\x85\x85R.", "calls"),
        (NDARRAY + b")\x81.", "NEWOBJ"),
        (b"(" + NDARRAY + b"o.", "OBJ"),
        (b"(inumpy\nndarray\n.", "INST"),
        (DTYPE + b"}U\x05shapeK\x00sb.", "state"),
        (DTYPE + b"}N\x86b.", "state"),
        (EMPTY + b"}b.", "state"),
        (U1 + b"}b.", "state"),
        (b"]}b.", "state"),
        (RECONSTRUCT + b")R.", "calls"),
        (RECONSTRUCT + b"}R.", "calls"),
        (EMPTY + EMPTY + b"R.", "calls"),
        (U1 + b"K\x00\x85R.", "calls"),
        # Containers that are not.
        (EMPTY + b"K\x00K\x01s.", "sets"),
        (EMPTY + b"K\x00a.", "appends"),
        (b"}K\x00a.", "appends"),
        (b"]K\x00K\x01s.", "sets"),
        (b"}(K\x00u.", "sets"),
        (b"})K\x00s.", "keys"),
        (b"}K\x01K\x00s.", "keys"),
        (b"}" + EMPTY + b"K\x00s.", "keys"),
        # Other opcodes.
        (b"U\x01aQ.", "BINPERSID"),
        (b"Pa\n.", "PERSID"),
        (b"\x82\x01.", "EXT1"),
        (b"\x97.", "NEXT_BUFFER"),
        (b"U\x01a\x98.", "READONLY_BUFFER"),
        (b"\x8f.", "EMPTY_SET"),
        # Not one value, not enough operands.
        (b".", "one value"),
        (b"K\x01K\x02.", "one value"),
        (b"(K\x01.", "one value"),
        (b"q\x00.", "operand"),
        (b"h\x00.", "operand"),
        (b"t.", "operand"),
        (b"K\x01\x86.", "operand"),
        (b"b.", "operand"),
        (b"R.", "operand"),
        (b"K\x01K\x02\x93.", "text"),
        (b"", "whole"),
        (b"\x00", "whole"),
        (b"ca\\y\nb\n.", "no array needs"),
        (b"S" + b"a" * 10_000 + b"\n.", "whole"),
    ],
)
def test_machine_refuses(tmp_path: Path, content: bytes, reason: str) -> None:
    assert reason in refused(tmp_path, b"\x80\x02" + content)


@pytest.mark.parametrize("code", ["O", "V8", "S4", "M8", "c16", "b1", "u1,O", "(1000000000,)u1"])
def test_dtypes_that_are_not_numbers(tmp_path: Path, code: str) -> None:
    dtype = DTYPE + b"U" + bytes([len(code)]) + code.encode() + b"K\x00K\x01\x87R"
    assert "not a number's" in refused(tmp_path, b"\x80\x02" + dtype + b".")


def test_arrays_of_objects_and_records(tmp_path: Path) -> None:
    for hostile in (np.array([[1], None], object), np.zeros(2, [("a", "u1"), ("b", "O")])):
        for protocol in (2, 3, 4, 5):
            refused(tmp_path, pickle.dumps(hostile, protocol))


def test_big_endian_is_refused(tmp_path: Path) -> None:
    for protocol in (2, 5):
        content = pickle.dumps(np.arange(9).astype(">i4"), protocol)
        assert "little-endian" in refused(tmp_path, content)


@pytest.mark.parametrize(
    "shape",
    [
        b"K\x03K\x0c\x86",
        b"K\x18J\xff\xff\xff\xff\x86",
        b"J\xff\xff\xff\xffJ\xe8\xff\xff\xff\x86",
        long1(10**12) + b"\x85",
        long1(2**64 + 24) + b"\x85",
        long1(2**60) + b"K\x10\x86",
        b"K\x18\x88\x86",
        b"G\x40\x38\x00\x00\x00\x00\x00\x00\x85",
        b"(K\x18" + b"K\x01" * 40 + b"t",
        b"K\x18",
        b"N",
    ],
)
def test_shapes_that_do_not_fit_the_bytes(tmp_path: Path, shape: bytes) -> None:
    message = refused(tmp_path, b"\x80\x02" + array(shape, bytes(24)) + b".")
    assert "shape does not match its 24 bytes" in message
    buffer = b"\x80\x05cnumpy._core.numeric\n_frombuffer\n(\x96" + struct.pack("<Q", 24)
    content = buffer + bytes(24) + U1 + U1_STATE + shape + b"U\x01CtR."
    refused(tmp_path, content.replace(b"U\x01C", b"\x8c\x01C"))


def test_empty_array_of_impossible_shape(tmp_path: Path) -> None:
    shape = b"K\x00" + long1(2**80) + b"\x86"
    refused(tmp_path, b"\x80\x02" + array(shape, b"") + b".")


def test_deep_nesting_does_not_overflow_the_stack(tmp_path: Path) -> None:
    depth = 200_000
    tuples = b")" + b"\x85" * depth
    assert "keys" in refused(tmp_path, b"\x80\x02}" + tuples + b"K\x00s.")
    for nested in (tuples, b"]" * (depth + 1) + b"a" * depth):
        value = load(tmp_path, b"\x80\x02" + nested + b".")
        levels = 0
        while isinstance(value, tuple | list) and value:
            (value,) = value
            levels += 1
        assert levels == depth


def peak_bytes(tmp_path: Path, content: bytes) -> int:
    tracemalloc.start()
    try:
        refused(tmp_path, content)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "content",
    [
        b"N" + b"r" + struct.pack("<I", 2**31) + b"j" + struct.pack("<I", 2**31) + b"0.",  # memo
        EMPTY + b"(K\x01" + long1(2**40) + b"\x85" + U1 + U1_STATE + b"\x89U\x01atb.",
        # One text of 100 kB, encoded a thousand times.
        b"](c_codecs\nencode\nq\x00X"
        + struct.pack("<I", 100_000)
        + bytes(100_000)
        + b"X\x06\x00\x00\x00latin1\x86q\x01R"
        + b"h\x00h\x01R" * 1000
        + b"e.",
        # Lengths far beyond the file's end.
        b"\x8e" + struct.pack("<Q", 2**62) + b"a.",
        b"\x8d" + struct.pack("<Q", 2**62) + b"a.",
        b"\x96" + struct.pack("<Q", 2**62) + b"a.",
        b"T" + struct.pack("<i", -1) + b"a.",
        b"\x8b" + struct.pack("<i", -1) + b"a.",
    ],
)
def test_small_file_takes_little_memory(tmp_path: Path, content: bytes) -> None:
    assert peak_bytes(tmp_path, b"\x80\x02" + content) < 2_000_000


def test_number_of_opcodes_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpickle, "_MOST_OPCODES", 1000)
    content = b"\x80\x02(" + b"}" * 10**6 + b"t."
    assert peak_bytes(tmp_path, content) < 2_000_000
    assert "1000 opcodes" in refused(tmp_path, content)


def test_file_that_cannot_be_read(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(NpnetError, match=reason) as caught:
            unpickle.load(path)
        assert str(path) in str(caught.value)


SAMPLES = [PYTHON2] + [
    pickle.dumps({"data": PIXELS, b"labels": [1, 2**70], "x": (0.5, None, "é")}, protocol)
    for protocol in range(6)
]


@pytest.mark.parametrize("sample", SAMPLES)
def test_every_truncation_is_refused(tmp_path: Path, sample: bytes) -> None:
    for length in range(len(sample)):
        refused(tmp_path, sample[:length])


@pytest.mark.parametrize("sample", SAMPLES)
def test_any_damage_is_read_or_refused(tmp_path: Path, sample: bytes) -> None:
    draw = random.Random(len(sample))
    refusals = 0
    for _ in range(1000):
        damaged = bytearray(sample)
        for _ in range(draw.choice([1, 1, 2, 5])):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        if draw.random() < 0.3:  # part of the file twice
            at = draw.randrange(len(damaged))
            damaged[at:at] = damaged[draw.randrange(at + 1) : at]
        try:
            value = load(tmp_path, bytes(damaged))
        except NpnetError:
            refused(tmp_path, bytes(damaged))
            refusals += 1
        else:
            pickle.dump(value, io.BytesIO())  # whole enough to be walked
    assert refusals > 200


@pytest.mark.parametrize("length", [1 << 20, 1 << 31, 1 << 45, (1 << 63) - 1, (1 << 64) - 1])
def test_bytes_that_are_longer_than_the_file(tmp_path: Path, length: int) -> None:
    """One line, and no memory is taken for what is not there."""
    message = refused(tmp_path, b"\x80\x05\x96" + struct.pack("<Q", length) + b"few.")
    assert "more memory than there is" in message or "not a whole pickle" in message
