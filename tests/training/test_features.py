"""Features computed once: what they are, when they count, and what is learned from them."""

import hashlib
import os
from dataclasses import replace

import numpy as np
import pytest

from npnet.errors import NpnetError
from npnet.model.inference import Inference
from npnet.model.network import Network
from npnet.model.parameters import initialise
from npnet.model.weights import Weights
from npnet.model.zoo import build, configure
from npnet.parallel.communicator import SerialCommunicator
from npnet.training.features import KEPT, compute_features
from npnet.training.recipe import FINETUNE
from npnet.training.settings import Settings
from npnet.training.trainer import Trainer
from npnet.training.warmup import Silence
from tests.datasets import MODEL, Toy

SETTINGS = Settings(epochs=2, batch_per_rank=4, seed=0, ranks_per_node=1, backend="reference")
RECIPE = replace(FINETUNE, train="head", lr=0.1, flip=False, crop_padding=0)


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("NPNET_CACHE", str(tmp_path))
    return tmp_path / "features"


def weights(seed=0, model=MODEL):
    network = Network(build(model), 1, "reference")
    initialise(network.parameters, "he_fan_out", seed)
    rng = np.random.default_rng(seed)
    parameters = network.parameters
    if len(parameters.statistics):
        parameters.running_means[:] = rng.normal(0, 0.1, parameters.running_means.shape)
        parameters.running_variances[:] = rng.uniform(0.2, 0.8, parameters.running_variances.shape)
    return Weights(model, parameters.values, parameters.statistics, None, "drawn")


def features(given, dataset=None, comm=None):
    found = compute_features(dataset or Toy(), given, comm or SerialCommunicator(), 4, "reference")
    assert found is not None
    return found


def trained(dataset, given):
    trainer = Trainer(
        dataset, MODEL, RECIPE, SETTINGS, SerialCommunicator(), Silence(), weights=given
    )
    return trainer.run(), trainer.parameters


def test_they_are_what_the_classifier_reads():
    given, dataset = weights(), Toy()
    network = Network(build(MODEL), 30, "reference")
    given.load_into(network.parameters, dataset.classes)
    images = dataset.read("train", np.arange(30))
    mean, std = np.array(MODEL.mean), np.array(MODEL.std)
    network.images[:] = (images.pixels - mean) / std
    network.forward(30)
    pool = next(each for each in network.layers if each.operation.name == "pool")
    found = features(given).read("train", np.array([7, 3, 29]))
    assert np.mean(found.pixels > 0.01) > 0.1
    assert np.allclose(found.pixels, pool.whole_batch.x[[7, 3, 29]], rtol=1e-3, atol=1e-5)
    assert np.array_equal(found.labels, images.labels[[7, 3, 29]])


def test_a_classifier_learns_from_them_what_it_learns_from_images():
    """The same weights and scores, to rounding, as by way of the whole network."""
    given = weights()
    by_images, through = trained(Toy(), given)
    by_features, direct = trained(features(given), given)
    moved = np.linalg.norm(through.values - given.values)
    assert moved > 0.01
    assert np.linalg.norm(direct.values - through.values) < 1e-3 * moved
    assert by_features.train_loss == pytest.approx(by_images.train_loss, rel=1e-4)
    assert by_features.test_acc == by_images.test_acc


class Unexpected(AssertionError):
    pass


@pytest.fixture
def not_again(monkeypatch):
    """From now on no image may pass through a network."""

    def forward(self, n):
        raise Unexpected

    return lambda: monkeypatch.setattr(Inference, "forward", forward)


def test_what_lies_there_is_not_computed_again(not_again):
    first = features(weights())
    not_again()
    again = features(weights())
    rows = np.arange(9)
    assert np.array_equal(again.read("test", rows).pixels, first.read("test", rows).pixels)


def test_another_classifier_changes_nothing(not_again):
    given = weights()
    features(given)
    not_again()
    parameters = given.parameters()
    parameters.value("classifier.weight")[:] += 1
    features(replace(given, values=parameters.values))


def test_they_are_of_the_crop_that_is_tested(not_again):
    """And found again by a run that goes on, whose checkpoint has the model as it was asked for."""
    asked = replace(MODEL, crop_fraction=0.5, input_size=40, stored_size=32, dropout=0.2)
    own = replace(MODEL, stored_size=160, classes=7)
    drawn = weights(model=own).seen_by(asked)
    assert drawn.config == replace(asked, classes=7)
    first = features(drawn)
    whole = features(weights(model=own).seen_by(replace(asked, crop_fraction=1.0)))
    rows = np.arange(9)
    assert not np.allclose(first.read("test", rows).pixels, whole.read("test", rows).pixels)
    not_again()
    parameters = Network(build(asked), 1, "reference").parameters
    drawn.load_into(parameters, ("a", "b", "c"))
    resumed = Weights(asked, parameters.values, parameters.statistics, None, "a checkpoint")
    again = features(resumed.seen_by(asked)).read("test", rows).pixels
    assert np.array_equal(again, first.read("test", rows).pixels)


OF_THE_FILE = ("cut", "another bit", "a pipe", "a label that is none")


@pytest.mark.parametrize(
    "what", ["weight", "statistics", "colours", "size", "images", *OF_THE_FILE]
)
def test_what_they_depend_on_makes_new_ones(what, place, not_again):
    given, dataset = weights(), Toy()
    features(given)
    not_again()
    if what == "weight":
        parameters = given.parameters()
        parameters.value("stem.weight")[0, 0, 0, 0] += 1
        given = replace(given, values=parameters.values)
    elif what == "statistics":
        given = replace(given, statistics=given.statistics * 2)
    elif what == "colours":
        given = replace(given, config=replace(MODEL, mean=(0.0, 0.0, 0.0)))
    elif what == "size":
        given = replace(given, config=replace(MODEL, input_size=33))
    elif what == "images":
        dataset.name = "other"
    else:
        for file in place.glob("*.npy"):
            spoil(file, what)
    with pytest.raises(Unexpected):
        features(given, dataset)


def spoil(file, what):
    """Change a file of features; what is sealed again was changed by somebody who knew how."""
    data = bytearray(file.read_bytes())
    if what == "a pipe":
        file.unlink()
        os.mkfifo(file)
        return
    if what == "cut":
        del data[-1]
    elif what == "another bit":
        data[-100] ^= 1
    else:
        labels_and_features = np.load(file, mmap_mode="r")
        data[labels_and_features.offset] = 99
        data[-32:] = hashlib.sha256(data[:-32]).digest()
    file.write_bytes(data)


def test_nothing_is_left_where_it_breaks_off(place, not_again):
    not_again()
    with pytest.raises(Unexpected):
        features(weights())
    assert list(place.iterdir()) == []


def test_old_files_are_removed(place):
    for seed in range(KEPT):
        features(weights(seed), Toy(4, 1))
    assert len(list(place.iterdir())) == KEPT


def test_a_disk_that_refuses_is_one_line(place, monkeypatch):
    def refuse(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("npnet.training.features._NewFile.append", refuse)
    with pytest.raises(NpnetError, match=r"features cannot be written .*No space left"):
        features(weights())
    assert list(place.iterdir()) == []


def test_a_folder_that_takes_no_files_is_one_line(monkeypatch):
    def refuse(**options):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("npnet.training.features.mkstemp", refuse)
    with pytest.raises(NpnetError, match=r"features cannot be written .*Read-only"):
        features(weights())


def test_what_a_kill_has_left_is_removed(place):
    place.mkdir()
    old, new = place / "a.new", place / "b.new"
    for file in (old, new):
        file.write_bytes(b"half")
    os.utime(old, (1, 1))
    features(weights())
    assert not old.exists()
    assert new.exists()


def test_a_place_that_cannot_be_made_is_one_line(place):
    place.write_text("a file")
    with pytest.raises(NpnetError, match="features cannot be kept in"):
        features(weights())


def test_a_network_without_such_a_vector_has_none():
    model = configure("squeezenet1_1", 3, input_size=32)
    given = weights(model=model)
    assert compute_features(Toy(), given, SerialCommunicator(), 4, "reference") is None
