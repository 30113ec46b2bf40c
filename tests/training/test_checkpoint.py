"""Checkpoints come back as they were saved, or not at all."""

import hashlib
import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from npnet.errors import NpnetError
from npnet.model.parameters import Parameters, initialise
from npnet.model.zoo.mobilenet_v2 import mobilenet_v2
from npnet.training import checkpoint
from npnet.training.recipe import MODERN
from tests.datasets import MODEL


@pytest.fixture(scope="module")
def state():
    parameters = Parameters(mobilenet_v2(0.1, 32, 3))
    initialise(parameters, "he_fan_out", 0)
    classes = ("a", "b", "c")
    header = checkpoint.Header(checkpoint.VERSION, "0", MODEL, classes, "toy", MODERN, 1, 4, 10, 2)
    velocity = np.random.default_rng(0).standard_normal(len(parameters.values), np.float32)
    return checkpoint.Checkpoint(header, parameters.values, parameters.statistics, velocity)


@pytest.fixture
def saved(state, tmp_path):
    path = tmp_path / "state.npz"
    checkpoint.save(path, state)
    return path


def test_round_trip(state, saved):
    loaded = checkpoint.load(saved)
    assert loaded.header.classes == ("a", "b", "c")
    assert loaded.header == state.header
    for name in ("values", "statistics", "velocity"):
        assert np.array_equal(getattr(loaded, name), getattr(state, name))
        assert getattr(loaded, name).dtype == np.float32


def test_numpy_alone_opens_it(saved):
    with np.load(saved, allow_pickle=False) as archive:
        assert set(archive.files) == {"header", "values", "statistics", "velocity"}


def test_any_flipped_byte_is_found(saved):
    good = saved.read_bytes()
    rng = np.random.default_rng(0)
    ends = [0, 1, *range(len(good) - 200, len(good))]
    for position in (*ends, *rng.integers(0, len(good), 50)):
        bad = bytearray(good)
        bad[position] ^= 1 << int(rng.integers(8))
        saved.write_bytes(bad)
        with pytest.raises(NpnetError, match=r"state\.npz"):
            checkpoint.load(saved)


@pytest.mark.parametrize("keep", [0, 1, 63, 64, 65, 1000, -1])
def test_a_truncated_file_is_found(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(NpnetError, match=r"state\.npz"):
        checkpoint.load(saved)


def test_another_version_is_named(state, saved):
    checkpoint.save(saved, replace(state, header=replace(state.header, version=99)))
    with pytest.raises(NpnetError, match="version 99"):
        checkpoint.load(saved)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(NpnetError, match=r"nowhere\.npz: No such file"):
        checkpoint.load(tmp_path / "nowhere.npz")


def test_a_foreign_npz_is_refused(tmp_path):
    path = tmp_path / "foreign.npz"
    np.savez(path, x=np.zeros(3))
    with pytest.raises(NpnetError, match=r"foreign\.npz"):
        checkpoint.load(path)


def test_no_pickle_is_written(saved):
    with zipfile.ZipFile(io.BytesIO(saved.read_bytes())) as archive:
        for name in archive.namelist():
            assert b"O'" not in archive.read(name)[:128]  # the dtype of object arrays


def test_another_network_is_refused(state):
    other = Parameters(mobilenet_v2(0.1, 32, 4))
    with pytest.raises(NpnetError, match=r"another network: mobilenet_v2, width 0\.1, 3 classes"):
        state.load_into(other)


def test_a_failed_write_leaves_the_old_file(state, saved, monkeypatch):
    good = saved.read_bytes()
    monkeypatch.setattr("os.replace", _refuse)
    with pytest.raises(NpnetError, match="cannot write"):
        checkpoint.save(saved, state)
    assert saved.read_bytes() == good
    assert list(saved.parent.iterdir()) == [saved]


def _refuse(*_):
    raise OSError(28, "No space left on device")


FIXTURES = Path(__file__).parent / "checkpoints"
# What the npnet that wrote the fixture of version 2 predicted of four images of noise.
LOGITS = [18.82408905, -29.05910110, -8.44790554]


@pytest.mark.parametrize("version", [2, 3])
def test_what_earlier_versions_wrote_is_read_for_ever(version):
    saved = checkpoint.load(FIXTURES / f"version-{version}.npz")
    header = saved.header
    assert header.classes == ("dark", "middle", "bright")
    assert (header.model.architecture, header.model.width, header.model.input_size) == (
        "mobilenet_v2", 0.1, 32,
    )  # fmt: skip
    assert (header.model.bn_epsilon, header.model.std) == (1e-5, (58.395, 57.12, 57.375))
    assert (header.recipe.name, header.recipe.momentum) == ("modern", 0.95)
    assert (header.epoch, header.epochs, header.world) == (3, 10, 2)
    inference = saved.inference(4, "reference")
    noise = np.random.default_rng(8).standard_normal(inference.images.shape)
    inference.images[:] = noise.astype(np.float32)
    assert np.allclose(inference.forward(4)[0], LOGITS, rtol=1e-5)


def test_the_classifier_s_momentum_of_version_2_fits_its_group():
    """It was that of a gradient scaled by 0.1, and is now that of a rate scaled by 0.1."""
    saved = checkpoint.load(FIXTURES / "version-2.npz")
    assert saved.velocity[-3:].tolist() == [5, 5, 5]  # the classifier's bias; 0.5 in the file
    assert saved.velocity[:100].tolist() == [1] * 100  # the stem's weights


def rewritten(path, change=lambda fields: None, **vectors):
    """The fixture of version 3 with another header or vector, sealed as if npnet had written it."""
    with np.load(FIXTURES / "version-3.npz") as archive:
        arrays = dict(archive)
    fields = json.loads(arrays["header"].tobytes())
    change(fields)
    arrays["header"] = np.frombuffer(json.dumps(fields).encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays | vectors)
    return sealed(path, buffer)


def sealed(path, buffer):
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.comment = b"0" * 64
    body = buffer.getvalue()[:-64]
    path.write_bytes(body + hashlib.sha256(body).hexdigest().encode())
    return path


@pytest.mark.parametrize(
    ("record", "field", "value", "words"),
    [
        (None, "newest", 1, "field 'newest' that this npnet does not know"),
        ("recipe", "newest", 1, r"recipe has a field 'newest'"),
        ("recipe", "momentum", "0.9", "momentum is '0.9', where a finite number was expected"),
        ("recipe", "decay", "cubic", "decay is 'cubic', where one of none, linear was expected"),
        ("recipe", "nesterov", 1, "nesterov is 1, where true or false was expected"),
        ("model", "architecture", "resnet50", "unknown model 'resnet50'"),
        ("model", "architecture", "squeezenet1_1", "comes in one `width`"),
        ("model", "architecture", "mobilenet_v2_cifar", None),
        ("model", "classes", 4, "names 3 classes, its model has 4"),
        ("model", "width", 0.5, r"holds 89,923 parameters"),
        ("model", "width", -1, "`width` -1.0 is not usable"),
        ("model", "mean", [1, 2], r"mean is \[1, 2\]"),
        (None, "epoch", 2.5, "epoch is 2.5, where a whole number was expected"),
        (None, "classes", "abc", "classes is 'abc'"),
        (None, "epoch", -5, "epoch is -5"),
        (None, "classes", ["\ud800", "b", "c"], r"classes is '\\ud800', where a text was expected"),
        ("model", "width", 10**400, "width is 1000.*, where a finite number was expected"),
        ("model", "stored_size", 10**400, "`stored_size` 1000.* is not usable"),
    ],
)
def test_a_header_is_checked_before_anything_is_built(tmp_path, record, field, value, words):
    def change(fields):
        (fields if record is None else fields[record])[field] = value

    path = rewritten(tmp_path / "state.npz", change)
    if words is None:  # another network of as many parameters, and not MobileNetV2
        assert checkpoint.load(path).header.build().name == value
        return
    with pytest.raises(NpnetError, match=words) as refusal:
        checkpoint.load(path)
    assert "state.npz" in str(refusal.value)


@pytest.mark.parametrize("name", checkpoint.VECTORS)
@pytest.mark.parametrize("number", [np.nan, np.inf, 1e300, -1])
def test_numbers_of_no_use_are_found_at_once(tmp_path, name, number):
    vector = np.load(FIXTURES / "version-3.npz")[name].astype(np.float64)
    vector[-1] = number
    path = rewritten(tmp_path / "state.npz", **{name: vector})
    if number == -1 and name != "statistics":  # only a variance cannot be that
        assert getattr(checkpoint.load(path), name)[-1] == -1
        return
    with pytest.raises(NpnetError, match=r"state\.npz is of no use"):
        checkpoint.load(path)


CENTRAL = b"PK\x01\x02"  # the first entry of a zip file's directory


@pytest.mark.parametrize(
    ("offset", "found"),
    [(6, b"\xff"), (8, b"\x01"), (10, b"\x63"), (16, b"0000"), (42, b"\xff\xff\xff\x7f")],
    ids=["newer zip", "encrypted", "method", "checksum", "place"],
)
def test_a_sealed_file_whose_directory_lies_is_refused(saved, offset, found):
    data = bytearray(saved.read_bytes())
    at = data.index(CENTRAL) + offset
    data[at : at + len(found)] = found
    saved.write_bytes(data[:-64] + hashlib.sha256(data[:-64]).hexdigest().encode())
    with pytest.raises(NpnetError, match=r"state\.npz is no npnet checkpoint"):
        checkpoint.load(saved)


@pytest.mark.parametrize("name", ["header", "values"])
def test_a_sealed_file_of_other_things_than_arrays_is_refused(saved, name):
    buffer = io.BytesIO()
    with zipfile.ZipFile(saved) as archive, zipfile.ZipFile(buffer, "w") as other:
        for member in archive.namelist():
            other.writestr(member, b"no array" if member[:-4] == name else archive.read(member))
    with pytest.raises(NpnetError, match=r"state\.npz is no npnet checkpoint"):
        checkpoint.load(sealed(saved, buffer))


def test_a_missing_field_is_named(tmp_path):
    path = rewritten(tmp_path / "state.npz", lambda fields: fields["recipe"].pop("momentum"))
    with pytest.raises(NpnetError, match=r"state\.npz: recipe lacks the field 'momentum'"):
        checkpoint.load(path)


def test_rows_of_workers_come_back(state, saved):
    rows = {"velocities": np.stack([state.velocity, 2 * state.velocity])}
    checkpoint.save(saved, replace(state, rows=rows))
    assert np.array_equal(checkpoint.load(saved).rows["velocities"], rows["velocities"])
    assert checkpoint.load(saved).digest() == state.digest()


@pytest.mark.parametrize("name", checkpoint.ROWS)
@pytest.mark.parametrize("fault", ["workers", "columns", "axes", "numbers", "kind"])
def test_rows_that_do_not_fit_are_refused(state, saved, name, fault):
    vector = getattr(state, checkpoint.ROWS[name], np.zeros(checkpoint.TALLIES))
    rows = np.stack([vector, vector])
    faults = {
        "workers": np.concatenate([rows, rows]),
        "columns": rows[:, 1:],
        "axes": rows.ravel(),
        "numbers": np.where(np.arange(len(vector)) == 1, np.nan, rows),
        "kind": rows.astype(np.int32),
    }
    checkpoint.save(saved, replace(state, rows={name: rows}))
    assert np.array_equal(checkpoint.load(saved).rows[name], rows)
    checkpoint.save(saved, replace(state, rows={name: faults[fault]}))
    with pytest.raises(NpnetError, match=r"state\.npz is "):
        checkpoint.load(saved)
