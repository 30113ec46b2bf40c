"""Shards, steps and order: nobody waits, no image is taken twice, and P ranks can be one."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npnet.data import batches
from npnet.data.augmentation import random_boxes, random_colors
from npnet.data.batches import (
    Batch,
    ImageInput,
    TrainingShard,
    not_augmented,
    plain_batches,
    training_shards,
)
from npnet.errors import NpnetError
from npnet.kernels import reference
from npnet.measure.benchmark import Recorder
from npnet.training.recipe import MODERN, PAPER
from tests.datasets import MODEL, OnDisk, Toy

GLOBAL = replace(MODERN, shuffle="global")
PHOTOGRAPHS = replace(MODERN, crop_scale=0.3, color_jitter=0.4)
AUGMENTATION = ("flip", "shift_yx", "box", "color")  # fields of a batch


def shards(total, world, batch, recipe=MODERN, seed=3):
    dataset = Toy(total)
    return [TrainingShard(dataset, recipe, batch, seed, rank, world) for rank in range(world)]


@st.composite
def fitting(draw):
    """(total, world, batch) with a batch that fits the smallest shard."""
    world = draw(st.integers(1, 7))
    total = draw(st.integers(world, 60))
    return total, world, draw(st.integers(1, total // world))


@given(fitting(), st.sampled_from([MODERN, GLOBAL]))
def test_an_epoch_takes_every_image_once_in_equal_steps(sizes, recipe):
    total, world, batch = sizes
    taken, steps = [], set()
    per_step = {}
    for shard in shards(total, world, batch, recipe):
        batches = list(shard.epoch(0))
        steps.add(len(batches))
        assert max(map(len, batches)) <= batch
        assert max(map(len, batches)) - min(map(len, batches)) <= 1
        for number, item in enumerate(batches):
            taken.extend(shard.indices[item.rows])
            per_step.setdefault(number, []).append(item)
            assert np.array_equal(
                item.labels, Toy(total).read("train", shard.indices[item.rows]).labels
            )
    assert sorted(taken) == list(range(total))
    assert len(steps) == 1
    for items in per_step.values():
        assert {item.everywhere for item in items} == {sum(map(len, items))}


def test_sample_i_belongs_to_rank_i_mod_p():
    for rank, shard in enumerate(shards(20, 3, 2)):
        assert np.array_equal(shard.indices, np.arange(rank, 20, 3))
        assert shard.images.pixels.dtype == np.uint8
        assert len(shard.images) == len(shard)


@pytest.mark.parametrize("recipe", [MODERN, GLOBAL], ids=["shard", "global"])
def test_a_shard_that_is_not_resident_is_read_batch_by_batch(recipe):
    """The same batches as from memory, to the bit."""
    dataset, sizes = OnDisk(20), (recipe, 4, 3, range(1, 3), 3)
    for kept, read in zip(
        training_shards(Toy(20), *sizes), training_shards(dataset, *sizes), strict=True
    ):
        assert (read.images, read.nbytes) == (None, 0)
        assert kept.nbytes == 3072 * len(kept)
        for expected, batch in zip(kept.epoch(1), read.epoch(1), strict=True):
            images = np.empty((2, len(batch), 32, 32, 3), np.float32)
            for item, out in zip((expected, batch), images, strict=True):
                ImageInput(MODEL, reference).fill(out, item)
            assert np.array_equal(*images)
            assert np.array_equal(batch.labels, expected.labels)
            assert batch.everywhere == expected.everywhere
    assert max(dataset.asked) <= 4
    assert sum(dataset.asked) == 13  # of 20, what falls to workers 1 and 2 of 3


def test_shares_are_parts_of_the_whole():
    assert sum(shard.share for shard in shards(20, 3, 2)) == pytest.approx(1)


@given(fitting())
def test_under_a_global_shuffle_ranks_see_together_what_one_would(sizes):
    total, world, batch = sizes
    recipe = replace(PHOTOGRAPHS, shuffle="global")
    together = shards(total, world, batch, recipe)
    (alone,) = shards(total, 1, min(batch * world, total), recipe)
    assert alone.steps == together[0].steps
    for single, *parts in zip(alone.epoch(1), *(shard.epoch(1) for shard in together), strict=True):
        seen = {}
        for shard, part in zip(together, parts, strict=True):
            seen |= augmentation(shard, part)
        assert seen == augmentation(alone, single)


def augmentation(shard, batch):
    """What is done to each image of a batch, by the image's index."""
    rows = zip(*(getattr(batch, name).tolist() for name in AUGMENTATION), strict=True)
    return dict(zip(shard.indices[batch.rows].tolist(), rows, strict=True))


@pytest.mark.parametrize("world", [2, 3, 7])
def test_an_image_is_augmented_alike_by_any_number_of_ranks(world):
    (alone,) = shards(24, 1, 4, PHOTOGRAPHS)
    expected, seen = {}, {}
    for batch in alone.epoch(2):
        expected |= augmentation(alone, batch)
    for shard in shards(24, world, 3, PHOTOGRAPHS):
        for batch in shard.epoch(2):
            seen |= augmentation(shard, batch)
    assert seen == expected
    assert len(set(map(str, seen.values()))) == 24


def test_epochs_differ_and_repeat_with_the_seed():
    first, again, other = (shards(24, 2, 4, seed=seed)[0] for seed in (3, 3, 4))
    rows = [np.concatenate([item.rows for item in shard.epoch(epoch)])
            for shard, epoch in ((first, 0), (again, 0), (first, 1), (other, 0))]  # fmt: skip
    assert np.array_equal(rows[0], rows[1])
    assert not np.array_equal(rows[0], rows[2])
    assert not np.array_equal(rows[0], rows[3])


def test_paper_does_not_augment():
    for item in shards(24, 2, 4, PAPER)[0].epoch(0):
        assert not item.flip.any()
        assert not item.shift_yx.any()
        assert (item.box, item.color) == (None, None)


def test_modern_augments():
    items = list(shards(60, 2, 10, MODERN)[0].epoch(0))
    assert {0, 1} == {int(flip) for item in items for flip in item.flip}
    assert max(abs(item.shift_yx).max() for item in items) == MODERN.crop_padding


@given(st.floats(0.01, 1), st.floats(1, 10), st.integers(0, 2**32))
@settings(max_examples=30)
def test_random_crops_lie_inside_and_are_as_large_and_as_long_as_asked(scale, ratio, seed):
    top, left, height, width = random_boxes(np.random.default_rng(seed), 50, 160, scale, ratio).T
    within = 1 + 1e-9
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max(), (left + width).max()) <= 160 * within
    area, aspect = height * width / 160**2, width / height
    assert scale / within <= area.min() <= area.max() <= within
    assert 1 / ratio / within <= aspect.min() <= aspect.max() <= ratio * within


def test_random_crops_use_their_range():
    top, left, height, width = random_boxes(np.random.default_rng(0), 20_000, 1, 0.08, 4 / 3).T
    area = np.quantile(height * width, [0.25, 0.5, 0.75])
    assert np.allclose(area, [0.31, 0.54, 0.77], atol=0.02)  # uniform
    assert np.allclose(np.median(width / height), 1, atol=0.02)
    assert np.allclose(np.median(top / (1 - height)), 0.5, atol=0.02)
    assert np.allclose(np.median(left / (1 - width)), 0.5, atol=0.02)


def test_colours_vary_as_far_as_asked():
    color = random_colors(np.random.default_rng(0), 10_000, 0.4)
    assert np.allclose(color.min(axis=0), 0.6, atol=0.01)
    assert np.allclose(color.max(axis=0), 1.4, atol=0.01)
    assert np.allclose(np.corrcoef(color.T), np.eye(3), atol=0.05)


@pytest.mark.parametrize(("total", "world", "batch"), [(10, 3, 4), (10, 11, 1), (10, 2, 0)])
def test_a_batch_must_fit_the_smallest_shard(total, world, batch):
    with pytest.raises(NpnetError, match=f"batch of {batch} images a rank does not fit a shard"):
        shards(total, world, batch)


def test_workers_beyond_all_number_are_refused_at_once():
    """Before anything is made for each of them."""
    workers = 10**12
    with pytest.raises(NpnetError, match="a shard of 0: toy has 30 training images"):
        training_shards(Toy(), MODERN, 12, 3, range(workers), workers)


@pytest.mark.parametrize("world", [1, 2, 4])
def test_evaluation_sees_every_test_image_once(world):
    labels, seen = [], []
    for rank in range(world):
        for indices, item in plain_batches(Toy(), "test", 2, range(rank, rank + 1), world):
            assert not item.flip.any()
            labels.extend(item.labels)
            seen.extend(indices)
            assert len(item.pixels) == len(item)
    assert sorted(seen) == list(range(9))
    assert np.array_equal(labels, Toy().read("test", np.array(seen)).labels)


def test_evaluation_reads_no_more_at_once_than_a_few_megabytes(monkeypatch):
    dataset = OnDisk(30, 20)
    monkeypatch.setattr(batches, "BYTES_AT_ONCE", 9 * 3072)  # two batches of 4, and a bit
    assert len(list(plain_batches(dataset, "test", 4, range(1), 1))) == 5
    assert dataset.asked == [8, 8, 4]
    monkeypatch.setattr(batches, "BYTES_AT_ONCE", 1)
    assert len(list(plain_batches(dataset, "test", 8, range(1), 1))) == 3
    assert dataset.asked[3:] == [8, 8, 4]


def test_input_is_normalised_as_the_model_expects():
    model = replace(MODEL, mean=(10.0, 20.0, 30.0), std=(1.0, 2.0, 4.0))
    pixels = np.full((1, 32, 32, 3), 50, np.uint8)
    images = np.empty((1, 40, 40, 3))
    ImageInput(model, reference).fill(images, not_augmented(pixels, np.zeros(1, np.int64)))
    assert np.allclose(images, [40.0, 15.0, 5.0])


def called(model, batch, size):
    """The kernel that fills in a batch."""
    recorder = Recorder()
    ImageInput(model, recorder).fill(np.empty((len(batch), size, size, 3)), batch)
    ((name, _),) = recorder.calls
    return name


def test_images_that_are_shifted_and_enlarged_take_the_kernel_that_they_ever_took():
    """Their runs go on to the bit."""
    plain, crop = "image_forward", "image_resized_crop_forward"
    batch = next(shards(24, 2, 4)[0].epoch(0))
    assert called(MODEL, batch, 32) == called(MODEL, batch, 128) == plain
    assert called(MODEL, batch, 31) == crop  # shrunk, so that every pixel has to count
    assert called(replace(MODEL, crop_fraction=0.9), batch, 32) == crop
    for name in ("crop_scale", "color_jitter"):
        recipe = replace(MODERN, **{name: 0.5})
        assert called(MODEL, next(shards(24, 2, 4, recipe)[0].epoch(0)), 32) == crop


def test_evaluation_sees_the_centre_that_the_model_was_made_for():
    pixels = np.zeros((1, 40, 40, 3), np.uint8)
    pixels[:, 4:36, 4:36] = np.arange(1, 33)[:, None, None]
    model, images = replace(MODEL, crop_fraction=0.8, mean=(0, 0, 0), std=(1, 1, 1)), {}
    for size in (32, 16):
        images[size] = np.empty((1, size, size, 3))
        batch = not_augmented(pixels, np.zeros(1, np.int64))
        ImageInput(model, reference).fill(images[size], batch)
    assert np.allclose(images[32], np.arange(1, 33)[:, None, None])
    assert np.allclose(images[16][0, 1:-1, 1:-1], np.arange(1.5, 33, 2)[1:-1, None, None])


@pytest.mark.parametrize(
    "augmentation",
    [
        {},
        {"box": np.array([[1.5, 2, 20, 24], [0, 7.3, 30.2, 17]])},
        {"color": np.array([[0.8, 1.2, 0.5], [1.1, 0.9, 1.3]])},
    ],
    ids=["shift", "box", "color"],
)
@pytest.mark.parametrize("size", [24, 32, 45])
def test_padding_as_tensorflow_has_it_turns_the_image(size, augmentation):
    """Cropped, flipped and resized as ever, then turned by 180 degrees."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    rows = np.array([2, 0])
    shift_yx, flip = np.array([[3, -2], [-1, 4]]), np.array([1, 0], np.uint8)
    batch = Batch(pixels, rows, np.zeros(2, np.int64), shift_yx, flip, 2, **augmentation)
    straight, turned = np.empty((2, 2, size, size, 3))
    ImageInput(MODEL, reference).fill(straight, batch)
    ImageInput(replace(MODEL, padding="tf_same"), reference).fill(turned, batch)
    assert not np.allclose(turned, straight)
    assert np.allclose(turned, straight[:, ::-1, ::-1], atol=1e-12)
