"""Checkpoints come back as they were saved, or not at all."""

import io
import zipfile
from dataclasses import replace

import numpy as np
import pytest

from npnet.errors import NpnetError
from npnet.model.zoo.mobilenet_v2 import mobilenet_v2
from npnet.model.parameters import Parameters, initialise
from npnet.training import checkpoint
from npnet.training.recipe import MODERN


@pytest.fixture(scope="module")
def state():
    parameters = Parameters(mobilenet_v2(0.1, 32, 3))
    initialise(parameters, "he_fan_out", 0)
    header = checkpoint.Header(
        checkpoint.VERSION, "0", "mobilenet_v2", 0.1, 32, ("a", "b", "c"), 0.0, "toy",
        MODERN.as_dict(), 1, 4, 10, 2,
    )  # fmt: skip
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
    assert replace(loaded.header, recipe={}) == replace(state.header, recipe={})
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
    with pytest.raises(NpnetError, match=r"another network: width 0\.1, 3 classes"):
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
