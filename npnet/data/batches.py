"""From a dataset to a worker's batches: shards, order, augmentation, the fill of the network.

The images of a step are fixed for all workers together: with `total` training images and `steps`
steps an epoch, step s takes positions s*total//steps .. (s+1)*total//steps of the epoch's order,
and worker w of P those positions i with i mod P = w. So every worker makes the same number of
steps, no image is taken twice, batches differ by at most one image, and under a global shuffle P
workers with batch b see at each step just what one worker with batch P*b sees. Usually a rank is a
worker (see parallel/workers.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from types import ModuleType
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from npnet.data.augmentation import Augmentation, draw
from npnet.data.dataset import Dataset, Images, Split
from npnet.data.seeds import ORDER, generator
from npnet.errors import NpnetError
from npnet.kernels.arrays import Bytes, Floats, Ints

BYTES_AT_ONCE = 6 * 2**20  # of pixels that evaluation reads at once, unless a batch has more


@dataclass(frozen=True)
class Batch:
    """A worker's images of one step: rows of `pixels`, and how each is augmented.

    `box` (N,4) are random resized crops in pixels: top, left, height, width; None: what evaluation
    sees, moved by `shift_yx`. `color` (N,3) are factors of brightness, contrast and saturation;
    None: as stored.
    """

    pixels: NDArray[Any]  # uint8 (images,H,W,3): of the whole shard, or of this batch alone
    rows: Ints
    labels: Ints
    shift_yx: Ints
    flip: Bytes
    everywhere: int  # images of this step of all workers
    box: Floats | None = None
    color: Floats | None = None

    def __len__(self) -> int:
        return len(self.rows)


class Preprocessing(Protocol):
    """What a model expects of its images, see model/config.py."""

    @property
    def mean(self) -> tuple[float, float, float]: ...
    @property
    def std(self) -> tuple[float, float, float]: ...
    @property
    def crop_fraction(self) -> float: ...
    @property
    def padding(self) -> Literal["symmetric", "tf_same"]: ...


class Variation(Augmentation, Protocol):
    """How epochs differ, see training/recipe.py."""

    @property
    def shuffle(self) -> Literal["shard", "global"]: ...


class Input(Protocol):
    """Writes a batch to where a network begins."""

    def fill(self, entrance: Floats, batch: Batch) -> None: ...


class ImageInput:
    """Writes images into a network's input buffer: crop, flip, resize, normalise in one pass.

    What is not cropped at random is the centre of an image, `crop_fraction` of it across. Images
    for a network with TensorFlow's padding are turned by 180 degrees on the way.
    """

    def __init__(self, model: Preprocessing, kernels: ModuleType) -> None:
        self.kernels, self.turned = kernels, model.padding == "tf_same"
        self.crop_fraction = model.crop_fraction
        self.mean = np.array(model.mean)
        self.rstd = 1 / np.array(model.std)

    def fill(self, images: Floats, batch: Batch) -> None:
        """images[:len(batch)] = the batch, float (N,S,S,3)."""
        y, colours = images[: len(batch)], (self.mean, self.rstd)
        if self.only_shifts(batch, y.shape[1]):
            pixels, shift_yx = batch.pixels, batch.shift_yx
            if self.turned:  # cropping a turned image is turning what the opposite shift crops
                pixels, shift_yx = pixels[:, ::-1, ::-1], -shift_yx
            self.kernels.image_forward(y, pixels, batch.rows, shift_yx, batch.flip, *colours)
        else:
            box = self._boxes(batch)
            color = np.ones((len(batch), 3)) if batch.color is None else batch.color
            self.kernels.image_resized_crop_forward(
                y, batch.pixels, batch.rows, box, color, *colours
            )

    def only_shifts(self, batch: Batch, size: int) -> bool:
        """Whether whole images are shifted and enlarged to `size`, for which a kernel is enough
        that interpolates between two pixels."""
        shrunk = max(batch.pixels.shape[1:3]) > size
        return batch.box is None and batch.color is None and self.crop_fraction == 1 and not shrunk

    def _boxes(self, batch: Batch) -> Floats:
        """(N,4), from the corner that becomes the first pixel; turned or flipped, it is another."""
        if batch.box is None:
            whole = np.array(batch.pixels.shape[1:3])
            extent = np.tile(self.crop_fraction * whole, (len(batch), 1))
            corner = (whole - extent) / 2 + batch.shift_yx
        else:
            corner, extent = batch.box[:, :2], batch.box[:, 2:]
        down, across = np.full(len(batch), self.turned), batch.flip != self.turned
        mirrored = np.stack((down, across), axis=1)
        corner, extent = np.where(mirrored, [corner + extent, -extent], [corner, extent])
        return np.concatenate((corner, extent), axis=1)


class TrainingShard:
    """A worker's part of the training split, and its batches epoch by epoch.

    `images` are those of the shard: kept as uint8, or None where the dataset is not resident, and
    each batch is read when its turn comes. They may be given, if they were read already.
    """

    def __init__(
        self,
        dataset: Dataset,
        recipe: Variation,
        batch: int,
        seed: int,
        worker: int,
        workers: int,
        max_steps: int | None = None,
        images: Images | None = None,
    ) -> None:
        self.dataset, self.recipe, self.seed = dataset, recipe, seed
        self.worker, self.workers = worker, workers
        self.total = dataset.size("train")
        check_batch(dataset, batch, workers)
        self.full_steps = ceil(ceil(self.total / workers) / batch)
        self.steps = min(self.full_steps, max_steps or self.full_steps)
        self.indices: Ints = np.arange(worker, self.total, workers)
        self.images = images
        if images is None and dataset.resident:
            self.images = dataset.read("train", self.indices)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def share(self) -> float:
        """This worker's part of all training images."""
        return len(self) / self.total

    @property
    def nbytes(self) -> int:
        """Of the pixels that it keeps in memory."""
        return self.images.pixels.nbytes if self.images is not None else 0

    def epoch(self, epoch: int) -> Iterator[Batch]:
        """The batches of one epoch (counted from 0), the same for the same seed."""
        order = self._deal(epoch)
        augmentation = self._augmentation(epoch)
        ends = np.arange(self.full_steps + 1) * self.total // self.full_steps
        local_ends = -((self.worker - ends) // self.workers)  # positions w, w+P, ... below each end
        for step in range(self.steps):
            rows = order[local_ends[step] : local_ends[step + 1]]
            if self.images is not None:
                pixels, places, labels = self.images.pixels, rows, self.images.labels[rows]
            else:
                read = self.dataset.read("train", self.indices[rows])
                pixels, places, labels = read.pixels, np.arange(len(rows)), read.labels
            yield Batch(
                pixels,
                places,
                labels,
                everywhere=int(ends[step + 1] - ends[step]),
                **{name: numbers[rows] for name, numbers in augmentation.items()},
            )

    def _deal(self, epoch: int) -> Ints:
        """The order in which this worker visits its rows; a global shuffle deals a new shard."""
        if self.recipe.shuffle == "shard":
            rng = generator(self.seed, ORDER, epoch, self.worker)
            return rng.permutation(len(self))
        rng = generator(self.seed, ORDER, epoch)
        self.indices = rng.permutation(self.total)[self.worker :: self.workers]
        if self.dataset.resident:
            self.images = None  # or two shards would be in memory at once
            self.images = self.dataset.read("train", self.indices)
        return np.arange(len(self))

    def _augmentation(self, epoch: int) -> dict[str, Any]:
        """For each image of the shard, fields of its `Batch`."""
        drawn = draw(self.recipe, self.total, self.dataset.image_size, self.seed, epoch)
        return {name: numbers[self.indices] for name, numbers in drawn.items()}


def check_batch(dataset: Dataset, batch: int, workers: int) -> None:
    """Raise NpnetError unless each worker has images for a batch."""
    smallest = dataset.size("train") // workers
    if not 1 <= batch <= smallest:
        raise NpnetError(
            f"batch of {batch} images a rank does not fit a shard of {smallest}: "
            f"{dataset.name} has {dataset.size('train')} training images for {workers} "
            "ranks; give a smaller `batch_per_rank` or start fewer ranks"
        )


def training_shards(
    dataset: Dataset,
    recipe: Variation,
    batch: int,
    seed: int,
    mine: range,
    workers: int,
    max_steps: int | None = None,
) -> list[TrainingShard]:
    """The shards of the workers `mine`; those that are kept in memory are read at once."""
    check_batch(dataset, batch, workers)
    if not dataset.resident:
        return [
            TrainingShard(dataset, recipe, batch, seed, worker, workers, max_steps)
            for worker in mine
        ]
    shares = [np.arange(worker, dataset.size("train"), workers) for worker in mine]
    images = dataset.read("train", np.concatenate(shares))
    ends = np.cumsum([len(share) for share in shares])[:-1]
    parts = zip(np.split(images.pixels, ends), np.split(images.labels, ends), strict=True)
    return [
        TrainingShard(dataset, recipe, batch, seed, worker, workers, max_steps, Images(*part))
        for worker, part in zip(mine, parts, strict=True)
    ]


def plain_batches(
    dataset: Dataset,
    split: Split,
    batch: int,
    mine: range,
    workers: int,
    limit: int | None = None,
) -> Iterator[tuple[Ints, Batch]]:
    """The parts of a split that fall to the workers `mine`, in stored order, not augmented.

    Yields (indices of the batch's images in the split, batch). No batch holds images of two
    workers. With a `limit`, only the first `limit` images of the split are dealt.
    """
    end = min(dataset.size(split), limit or dataset.size(split))
    shares = (np.arange(worker, end, workers) for worker in mine)
    batches = [share[i : i + batch] for share in shares for i in range(0, len(share), batch)]
    at_once = max(1, BYTES_AT_ONCE // (batch * 3 * dataset.image_size**2))
    for first in range(0, len(batches), at_once):
        part = batches[first : first + at_once]
        images, start = dataset.read(split, np.concatenate(part)), 0
        for indices in part:
            rows = slice(start, start + len(indices))
            yield indices, not_augmented(images.pixels[rows], images.labels[rows])
            start += len(indices)


def not_augmented(pixels: NDArray[np.uint8], labels: Ints) -> Batch:
    """Images as they are stored, (N,H,W,3), and their labels (N,)."""
    n = len(labels)
    return Batch(pixels, np.arange(n), labels, np.zeros((n, 2), np.int64), np.zeros(n, np.uint8), n)
