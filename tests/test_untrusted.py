"""A stranger's files: refused in one line, or read; never a traceback, never memory they ask for.

NPNET_FUZZ=10000 python -m pytest tests/test_untrusted.py tries 10,000 mutants of each kind.
"""

import csv
import hashlib
import io
import json
import os
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from npnet.archive import array_header
from npnet.cli import options
from npnet.cli.train import train
from npnet.cli.words import one_line
from npnet.data.npz import KerasArrays
from npnet.data.packed import PackedImages
from npnet.errors import NpnetError
from npnet.exchange import pth, read_weights
from npnet.exchange.keras_config import facts_of, layers_of
from npnet.study import collapse, scale, sweep
from npnet.study.cases import Case, Finished, Study
from npnet.study.plots import training_curves
from npnet.study.report.reading import read
from npnet.training import checkpoint
from npnet.training.run_folder import LOG_COLUMNS, RunFolder
from npnet.untrusted import Refused, open_file, parse_json, read_file
from tests.in_time import in_time
from tests.summaries import SUMMARY

FIXTURE = Path(__file__).parent / "training" / "checkpoints" / "version-3.npz"
SEAL = 64
MEGABYTES = 2**20


def sealed(body: bytes) -> bytes:
    """A checkpoint's bytes but for the seal, sealed as if npnet had written them."""
    return body + hashlib.sha256(body).hexdigest().encode()


def archive(members: dict[str, Any], **how: Any) -> bytes:
    """A sealed zip file of arrays, or of bytes as they are."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **how) as file:
        for name, content in members.items():
            if not isinstance(content, bytes):
                array = io.BytesIO()
                np.save(array, content)
                content = array.getvalue()
            file.writestr(f"{name}.npy", content)
        file.comment = b"0" * SEAL
    return sealed(buffer.getvalue()[:-SEAL])


@pytest.fixture(scope="module")
def good() -> dict[str, Any]:
    with np.load(FIXTURE) as found:
        return dict(found)


@contextmanager
def at_most(megabytes: int) -> Iterator[None]:
    """What Python and NumPy allocate in the block."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < megabytes * MEGABYTES, f"{peak / MEGABYTES:.0f} MB"


def refusal(path: Path) -> str:
    with at_most(16), pytest.raises(NpnetError) as caught:
        checkpoint.load(path)
    assert path.name in str(caught.value)
    assert len(str(caught.value)) < 600
    return str(caught.value)


class TestCheckpoints:
    def test_what_the_writer_made_is_read(self, tmp_path: Path, good: dict[str, Any]) -> None:
        (tmp_path / "state.npz").write_bytes(archive(good))
        with at_most(16):
            loaded = checkpoint.load(tmp_path / "state.npz")
        assert loaded.digest() == checkpoint.load(FIXTURE).digest()

    @pytest.mark.parametrize("name", ["header", "values", "statistics", "velocity"])
    def test_a_zip_bomb(self, tmp_path: Path, good: dict[str, Any], name: str) -> None:
        """A thousandth of what it unpacks to."""
        dtype = np.uint8 if name == "header" else np.float32
        bomb = good | {name: np.zeros(10 * MEGABYTES, dtype)}
        how: Any = {"compression": zipfile.ZIP_DEFLATED}
        data = archive(bomb, **how)
        assert len(data) < 2 * MEGABYTES
        (tmp_path / "state.npz").write_bytes(data)
        assert "packed" in refusal(tmp_path / "state.npz")

    @pytest.mark.parametrize("shape", ["10000000000,", "3, 10000000000", "0, 9" + 17 * "0"])
    def test_a_shape_that_is_a_lie(self, tmp_path: Path, good: dict[str, Any], shape: str) -> None:
        words = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({shape}), }}"
        array = b"\x93NUMPY\1\0" + len(words).to_bytes(2, "little") + words.encode()
        (tmp_path / "state.npz").write_bytes(archive(good | {"values": array + bytes(400)}))
        assert "no npnet checkpoint" in refusal(tmp_path / "state.npz")

    def test_vectors_as_long_as_the_file_but_not_as_the_model(
        self, tmp_path: Path, good: dict[str, Any]
    ) -> None:
        """Of 40 MB, which are not read."""
        large = good | {"velocity": np.zeros(10 * MEGABYTES, np.float32)}
        (tmp_path / "state.npz").write_bytes(archive(large))
        assert "10,485,760 momenta" in refusal(tmp_path / "state.npz")

    @pytest.mark.parametrize("dtype", [np.int64, np.float16, np.complex64, np.dtype(">f4")])
    def test_other_numbers(self, tmp_path: Path, good: dict[str, Any], dtype: Any) -> None:
        other = good | {"values": good["values"].astype(dtype)}
        (tmp_path / "state.npz").write_bytes(archive(other))
        assert "where <f4 or <f8 was expected" in refusal(tmp_path / "state.npz")

    def test_a_member_too_many(self, tmp_path: Path, good: dict[str, Any]) -> None:
        (tmp_path / "state.npz").write_bytes(archive(good | {"more": np.zeros(3)}))
        assert "a member 'more.npy'" in refusal(tmp_path / "state.npz")

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    def test_a_member_twice(self, tmp_path: Path, good: dict[str, Any]) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as file:
            for name in ("header", "values", "statistics", "values"):
                file.writestr(f"{name}.npy", b"")
            file.comment = b"0" * SEAL
        (tmp_path / "state.npz").write_bytes(sealed(buffer.getvalue()[:-SEAL]))
        assert "the member 'values.npy' twice" in refusal(tmp_path / "state.npz")

    def test_a_header_of_a_million_brackets(self, tmp_path: Path, good: dict[str, Any]) -> None:
        deep = np.frombuffer(b"[" * 1000_000, np.uint8)
        (tmp_path / "state.npz").write_bytes(archive(good | {"header": deep}))
        assert "in each other" in refusal(tmp_path / "state.npz")

    @pytest.mark.parametrize(
        ("record", "field", "value", "words"),
        [
            ("recipe", "momentum", 1e300, "`momentum` 1e+300 is not usable"),
            ("recipe", "bn_momentum", -1, "`bn_momentum` -1.0 is not usable"),
            ("recipe", "crop_padding", 10**9, "`crop_padding` 1000000000 is not usable"),
            ("recipe", "crop_scale", 0, "`crop_scale` 0.0 is not usable: give 0.01 to 1"),
            ("recipe", "crop_ratio", 0.5, "`crop_ratio` 0.5 is not usable"),
            ("recipe", "color_jitter", 1.5, "`color_jitter` 1.5 is not usable"),
            ("model", "crop_fraction", 0, "`crop_fraction` 0.0 is not usable"),
            ("recipe", "sync", "none", "`sync` 'none' is not usable"),
            ("recipe", "sync_steps", 0, "`sync_steps` 0 is not usable"),
            ("model", "std", [1, 0, 1], "std (1.0, 0.0, 1.0) is not usable"),
            ("model", "std", [1, 1e-300, 1], "std (1.0, 1e-300, 1.0) is not usable"),
            ("model", "mean", [1e300, 0, 0], "mean (1e+300, 0.0, 0.0) is not usable"),
            ("model", "bn_epsilon", 1e-300, "`bn_epsilon` 1e-300 is not usable"),
            ("model", "classes", 10**9, "names 3 classes, its model has 1000000000"),
            (None, "epoch", 11, "epoch is 11 of 10"),
            (None, "seed", 10**60, "seed is 1000"),
            (None, "dataset", ["x" * 10**5], "dataset is ['xxx"),
        ],
    )
    def test_a_header_out_of_range(
        self, tmp_path: Path, good: dict[str, Any], record: str | None, field: str, value: Any,
        words: str,
    ) -> None:  # fmt: skip
        fields = json.loads(good["header"].tobytes())
        (fields if record is None else fields[record])[field] = value
        header = np.frombuffer(json.dumps(fields).encode(), np.uint8)
        (tmp_path / "state.npz").write_bytes(archive(good | {"header": header}))
        assert words in refusal(tmp_path / "state.npz")

    def test_a_header_that_says_it_twice(self, tmp_path: Path, good: dict[str, Any]) -> None:
        text = good["header"].tobytes().replace(b'{"version": 3', b'{"version": 3, "version": 3')
        header = np.frombuffer(text, np.uint8)
        (tmp_path / "state.npz").write_bytes(archive(good | {"header": header}))
        assert "stands twice" in refusal(tmp_path / "state.npz")


class TestFiles:
    def test_a_pipe_does_not_wait(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "state.npz")
        with in_time():
            assert "a pipe or a device" in refusal(tmp_path / "state.npz")
        with in_time(), pytest.raises(OSError, match="a pipe or a device"):
            open_file(Path("/dev/zero"))

    def test_a_folder_and_nothing(self, tmp_path: Path) -> None:
        assert "Is a directory" in refusal(tmp_path)
        assert "No such file" in refusal(tmp_path / "none")

    def test_a_file_beyond_its_size_is_not_read(self, tmp_path: Path) -> None:
        with (tmp_path / "large").open("wb") as file:
            file.truncate(10**12)  # that takes no place on the disk
        with at_most(1), pytest.raises(OSError, match="larger than 1,000 bytes"):
            read_file(tmp_path / "large", 1000)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 33 + "]" * 33, "in each other"), ('{"a": 1, "a": 2}', "twice"),
        ("[NaN]", "NaN is not a finite number"), ("[-Infinity]", "not a finite"),
        ("1" * 5000, "not JSON"), ("{", "not JSON"), ("\udcff", "not JSON"), ("", "not JSON"),
    ],
)  # fmt: skip
def test_json(text: str, words: str) -> None:
    with pytest.raises(Refused, match=words):
        parse_json(text.encode(errors="surrogateescape"))


def test_brackets_in_a_text_do_not_count() -> None:
    assert parse_json(json.dumps({"a": "[{" * 99 + '\\"'}).encode()) == {"a": "[{" * 99 + '\\"'}


# --- mutants

ROOT = FIXTURE.read_bytes()
BODY = ROOT[:-SEAL]
# Where a byte decides something: the headers of the members, and the directory.
TELLING = [
    place + offset
    for mark, length in ((b"PK\3\4", 200), (b"PK\1\2", 60), (b"PK\5\6", 22))
    for place in range(len(BODY))
    if BODY.startswith(mark, place)
    for offset in range(length)
    if place + offset < len(BODY)
]
AT = st.one_of(st.sampled_from(TELLING), st.integers(0, len(BODY) - 1))
BYTE = st.one_of(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]), st.integers(0, 255))


def harmless(read: Callable[[], object], errors: tuple[type[Exception], ...]) -> None:
    """Reading gives something, or one of the errors in one short line."""
    try:
        with at_most(16):
            read()
    except errors as error:
        text = one_line(getattr(error, "message", error))
        assert 0 < len(text) < 1200, text
        assert text.isprintable(), text


@given(changes=st.lists(st.tuples(AT, BYTE), min_size=1, max_size=4), cut=st.integers(-9, 0))
def test_mutants_of_a_checkpoint(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(BODY)
    for place, byte in changes:
        data[place] = byte
    path = tmp_path_factory.getbasetemp() / "mutant.npz"
    path.write_bytes(sealed(bytes(data[: len(data) + min(0, cut + 8)])))
    harmless(lambda: checkpoint.load(path), (NpnetError,))


# Anything that JSON, TOML or a table may hold, absurd values first.
VALUES = st.recursive(
    st.one_of(
        st.sampled_from([0, -1, 10**9, 10**18, 1e300, -0.0, 10**4000, "", "\0", "\x1b[2J", None]),
        st.integers(), st.floats(), st.booleans(), st.text(max_size=20),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(), inner)),
    max_leaves=6,
)  # fmt: skip


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where a value can be changed: the keys that lead to each part."""
    yield path
    if not isinstance(value, dict | list):
        return
    for key, part in value.items() if isinstance(value, dict) else enumerate(value):
        yield from paths_of(part, (*path, key))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy of nested values with another part at `path`."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(copy[path[0]], path[1:], new)
    return copy


HEADER = json.loads(np.load(FIXTURE)["header"].tobytes())


@given(path=st.sampled_from(list(paths_of(HEADER))), value=VALUES)
def test_mutants_of_a_header(
    tmp_path_factory: pytest.TempPathFactory,
    good: dict[str, Any],
    path: tuple[Any, ...],
    value: Any,
) -> None:
    """The recipe and the model among its fields."""
    text = json.dumps(changed(HEADER, path, value)).encode()
    file = tmp_path_factory.getbasetemp() / "mutant.npz"
    file.write_bytes(archive(good | {"header": np.frombuffer(text, np.uint8)}))
    harmless(lambda: checkpoint.load(file), (NpnetError,))


@given(st.binary(max_size=80), st.integers(0, 200))
def test_mutants_of_an_array(data: bytes, place: int) -> None:
    array = io.BytesIO()
    np.save(array, np.zeros((3, 4, 3), np.uint8))
    content = array.getvalue()
    content = content[:place] + data + content[place + len(data) :]
    file = io.BytesIO(content)
    harmless(lambda: array_header(file, len(content)).read(file), (Refused,))


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """A file of packed images, and its content."""
    from tests.data.image_folders import opened, write_folder

    path = opened(write_folder(tmp_path_factory.mktemp("images"), train=2, test=1)).path
    return path.with_name("mutant.pack"), path.read_bytes()


@given(
    changes=st.lists(st.tuples(st.integers(0, 2**20), BYTE), min_size=1, max_size=4),
    cut=st.integers(-9, 0),
)
def test_mutants_of_packed_images(
    packed: tuple[Path, bytes], changes: list[tuple[int, int]], cut: int
) -> None:
    """The front's sum is made to fit: what guards against chance does not against intent."""
    path, good = packed
    (length,) = struct.unpack_from("<Q", good, 16)
    front, rest = bytearray(good[56 : 56 + length]), bytearray(good[56 + length :])
    for place, byte in changes:
        part = front if place % 3 else rest
        part[place % len(part)] = byte
    head = good[:24] + hashlib.sha256(front).digest()
    data = head + front + rest
    path.write_bytes(data[: len(data) + min(0, cut + 8)])

    def read() -> None:
        images = PackedImages(path)
        images.read("train", np.arange(images.size("train")))

    harmless(read, (NpnetError,))


KERAS = {
    "x_train": np.zeros((4, 4, 4, 3), np.uint8),
    "y_train": np.arange(4) % 2,
    "x_test": np.zeros((2, 4, 4), np.uint8)[..., None].repeat(3, 3),
    "y_test": np.arange(2),
}


@given(
    changes=st.lists(st.tuples(st.integers(0, 2**20), BYTE), min_size=1, max_size=4),
    save=st.sampled_from([np.savez, np.savez_compressed]),
)
def test_mutants_of_keras_arrays(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], save: Any
) -> None:
    file = io.BytesIO()
    save(file, **KERAS)
    data = bytearray(file.getvalue())
    for place, byte in changes:
        data[place % len(data)] = byte
    path = tmp_path_factory.getbasetemp() / "keras.npz"
    path.write_bytes(data)

    def read() -> None:
        arrays = KerasArrays(path)
        arrays.read("train", np.arange(arrays.size("train")))

    harmless(read, (NpnetError,))


# --- weights of other programs


def of_a_few_tensors(ending: str) -> bytes:
    """A file with the beginning of MobileNetV2: small, so that mutants are quick."""
    arrays = {
        "features.0.0.weight": np.ones((8, 3, 3, 3), np.float32),
        "features.0.1.running_var": np.ones(8, np.float32),
        "features.1.conv.1.weight": np.ones((8, 8, 1, 1), np.float32),
    }
    buffer = io.BytesIO()
    if ending == ".pth":
        with zipfile.ZipFile(buffer, "w") as file:
            file.writestr("x/data.pkl", pth._pickle(arrays))
            file.writestr("x/byteorder", b"little")
            for key, array in enumerate(arrays.values()):
                file.writestr(f"x/data/{key}", array.tobytes())
        return buffer.getvalue()
    if ending == ".safetensors":
        header, at = {}, 0
        for name, array in arrays.items():
            end = at + array.nbytes
            header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": [at, end]}
            at = end
        text = json.dumps(header).encode()
        return (
            len(text).to_bytes(8, "little") + text + b"".join(a.tobytes() for a in arrays.values())
        )
    h5py = pytest.importorskip("h5py", reason="h5py is in the `exchange` extra")
    with h5py.File(buffer, "w") as file:
        file.attrs["model_config"] = json.dumps(KERAS_CONFIG)
        file["model_weights/Conv1/Conv1/kernel:0"] = np.ones((3, 3, 3, 8), np.float32)
        file["model_weights/bn_Conv1/bn_Conv1/gamma:0"] = np.ones(8, np.float32)
    return buffer.getvalue()


KERAS_CONFIG = {
    "class_name": "Functional",
    "config": {
        "layers": [
            {"class_name": "InputLayer", "config": {"batch_shape": [None, 32, 32, 3]}},
            {"class_name": "Conv2D", "config": {"name": "Conv1", "padding": "same"}},
            {"class_name": "BatchNormalization", "config": {"name": "b", "epsilon": 0.001}},
            {"class_name": "Rescaling", "config": {"scale": 0.01, "offset": -1}},
        ]
    },
}
MUTABLE = st.lists(st.tuples(st.integers(0, 10**6), BYTE), min_size=1, max_size=4)


@pytest.mark.parametrize("ending", [".pth", ".safetensors", ".h5"])
@given(changes=MUTABLE, cut=st.integers(-9, 0))
def test_mutants_of_weights(
    tmp_path_factory: pytest.TempPathFactory,
    ending: str,
    changes: list[tuple[int, int]],
    cut: int,
) -> None:
    data = bytearray(of_a_few_tensors(ending))
    for place, byte in changes:
        data[place % len(data)] = byte
    path = tmp_path_factory.getbasetemp() / f"mutant{ending}"
    path.write_bytes(data[: len(data) + min(0, cut + 8)])
    harmless(lambda: read_weights(path), (NpnetError,))


@given(changes=MUTABLE)
def test_mutants_of_a_state_dict(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]]
) -> None:
    """Whose archive is whole."""
    file = io.BytesIO(of_a_few_tensors(".pth"))
    with zipfile.ZipFile(file) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    pickled = bytearray(members["x/data.pkl"])
    for place, byte in changes:
        pickled[place % len(pickled)] = byte
    path = tmp_path_factory.getbasetemp() / "mutant.pth"
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in (members | {"x/data.pkl": bytes(pickled)}).items():
            archive.writestr(name, content)
    harmless(lambda: read_weights(path), (NpnetError,))


@given(path=st.sampled_from(list(paths_of(KERAS_CONFIG))), value=VALUES)
def test_mutants_of_a_model_of_keras(path: tuple[Any, ...], value: Any) -> None:
    layers = list(layers_of(changed(KERAS_CONFIG, path, value)))
    harmless(lambda: facts_of(layers, Path("x")), (NpnetError,))


@pytest.mark.parametrize("ending", [".pth", ".safetensors", ".h5"])
def test_weights_are_read(tmp_path: Path, ending: str) -> None:
    """As far as they go, which makes their mutants worth a test."""
    (tmp_path / f"x{ending}").write_bytes(of_a_few_tensors(ending))
    with pytest.raises(NpnetError, match="does not fit mobilenet_v2"):
        read_weights(tmp_path / f"x{ending}")


# --- what runs and studies left

CONFIG = {
    "hosts": ["pi-1", "pi-2"],
    "machine": {"memory_bytes": 2**32},
    "model": {"architecture": "mobilenet_v2", "width": 0.5, "input_size": 32},
    "recipe": {"name": "modern", "sync": "gradients"},
    "settings": {"batch_per_rank": 12, "epochs": 2, "seed": 0},
    "dataset": {"name": "cifar10"},
    "world": 2,
    "peak_lr": 0.1,
}
CASES = [Case(f"strong-np{n}-r1", f"strong-np{n}", n, ("--flip",), 2, 1.0) for n in (1, 2)]
STUDY = {
    "kind": "scale",
    "shared": ["--epochs", "2"],
    "cases": {case.name: list(case.arguments) for case in CASES},
    "rows": [{"np": 2, "wall_s": 3.5, "recipe": "modern"}],
}
ROW = dict.fromkeys(LOG_COLUMNS, "0.5") | {"epoch": "1", "worker": "0", "rank": "0"}


def write_run(folder: Path, summary: Any, config: Any, row: Any) -> RunFolder:
    folder.mkdir(exist_ok=True)
    run = RunFolder(folder)
    run.summary.write_text(json.dumps(summary))
    run.config.write_text(json.dumps(config))
    with run.log.open("w", newline="", encoding="utf-8", errors="surrogatepass") as file:
        writer = csv.DictWriter(file, LOG_COLUMNS)
        writer.writerows([dict(zip(LOG_COLUMNS, LOG_COLUMNS, strict=True)), row])
    return run


def rows_of(run: RunFolder) -> None:
    """What the studies make of a run."""
    found = Finished.read(run)
    scale._with_speedup([scale._row(found, way, 0.5) for way in ("strong", "weak")], "strong")
    sweep._row(found)


SUMMARY_FIELDS = asdict(SUMMARY)
PARTS = {"summary": SUMMARY_FIELDS, "config": CONFIG, "row": ROW}


@given(
    where=st.sampled_from([(part, p) for part, of in PARTS.items() for p in paths_of(of)]),
    value=VALUES,
)
def test_mutants_of_a_run(
    tmp_path_factory: pytest.TempPathFactory, where: tuple[str, tuple[Any, ...]], value: Any
) -> None:
    part, path = where
    if part == "row" and not path:
        return
    mutant = PARTS | {part: changed(PARTS[part], path, value)}
    folder = tmp_path_factory.getbasetemp() / "mutant"
    run = write_run(folder, **mutant)
    harmless(lambda: rows_of(run), (NpnetError,))
    harmless(lambda: read([folder]), (NpnetError,))


def test_a_run_is_read(tmp_path: Path) -> None:
    """As it is, which makes its mutants worth a test."""
    run = write_run(tmp_path / "run", **PARTS)
    rows_of(run)
    (found,) = read([run.path]).runs
    assert found.results.test_acc == 0.45


@given(path=st.sampled_from(list(paths_of(STUDY))), value=VALUES)
def test_mutants_of_a_study(
    tmp_path_factory: pytest.TempPathFactory, path: tuple[Any, ...], value: Any
) -> None:
    folder = tmp_path_factory.getbasetemp() / "study"
    folder.mkdir(exist_ok=True)
    (folder / "study.json").write_text(json.dumps(changed(STUDY, path, value)))

    def use() -> None:
        study = Study("scale", folder, CASES, ("--epochs", "2"))
        study.save(study.rows)
        collapse.table(study)

    harmless(use, (NpnetError,))


def test_a_study_is_read(tmp_path: Path) -> None:
    (tmp_path / "study.json").write_text(json.dumps(STUDY))
    assert Study("scale", tmp_path, CASES, ("--epochs", "2")).rows[0]["wall_s"] == 3.5


@pytest.mark.parametrize("epoch", ["1" * 400, "-1", "nan", "1e3", "\x1b"])
def test_curves_of_absurd_epochs(tmp_path: Path, epoch: str) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is in the `plots` extra")
    run = write_run(tmp_path / "run", SUMMARY_FIELDS, CONFIG, ROW | {"epoch": epoch})
    with pytest.raises(NpnetError, match="epoch is"):
        training_curves([run.path], tmp_path / "curves.png")


# --- files of options

TOML = 'epochs = 3\nlr = 0.1\nflip = true\nfreeze = ["stem", "block1.*"]\n'
PIECES = st.one_of(
    st.sampled_from(["[", "]", "{", "}", "=", "\n", '"', "'", ".", "#", "9" * 5000]),
    st.sampled_from(["x = 0x" + "f" * 5000 + "\n", "epochs = 0x" + "f" * 5000 + "\n"]),
    st.sampled_from(["nan", "inf", "1e999", "1979-99-99", "true", "[" * 2000, "a." * 500, "\0"]),
    st.sampled_from(['"""', "\\u", "\\UFFFFFFFF", "\udcff", "epochs", "width", "-", "_"]),
    st.text(max_size=5),
)


@given(place=st.integers(0, len(TOML)), cut=st.integers(0, 8), pieces=st.lists(PIECES, max_size=4))
@example(place=0, cut=99, pieces=["a = " + "[" * 5000])
@example(place=0, cut=99, pieces=["a = " + "{b=" * 5000])
@example(place=0, cut=99, pieces=["a." * 5000 + "b = 1"])
@example(place=0, cut=99, pieces=["epochs = " + "9" * 5000])
@example(place=0, cut=99, pieces=["epochs = 0x" + "f" * 5000])
@example(place=0, cut=99, pieces=["epochs = '" + "x" * 50_000 + "'"])
def test_mutants_of_options(
    tmp_path_factory: pytest.TempPathFactory, place: int, cut: int, pieces: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "options.toml"
    text = TOML[:place] + "".join(pieces) + TOML[place + cut :]
    path.write_bytes(text.encode(errors="surrogateescape" if "\udcff" in text else "replace"))

    def parse() -> None:
        train.make_context("train", ["--config", str(path)])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(options, "limit_threads", lambda threads: 1)  # NumPy is loaded here
        harmless(parse, (click.ClickException,))


def test_options_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "limit_threads", lambda threads: 1)
    (tmp_path / "options.toml").write_text(TOML)
    context = train.make_context("train", ["--config", str(tmp_path / "options.toml")])
    assert context.params["epochs"] == 3
    assert context.params["freeze"] == ("stem", "block1.*")
