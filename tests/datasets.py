"""A dataset small enough for tests: a few coloured squares, in memory."""

import numpy as np

from npnet.data.dataset import Images
from npnet.model.config import ModelConfig

# The smallest network that tells the classes of Toy apart.
MODEL = ModelConfig("mobilenet_v2", 3, width=0.1, input_size=32)


class Toy:
    """Images whose class shows in their colour, so that a few steps learn something."""

    name, location, image_size, resident = "toy", "in memory", 32, True
    classes = ("dark", "middle", "bright")

    def __init__(self, train=30, test=9, val=0):
        rng = np.random.default_rng(0)
        self._splits = {}
        for split, count in (("train", train), ("test", test), ("val", val)):
            labels = rng.permutation(np.arange(count, dtype=np.int64) % 3)
            noise = rng.integers(0, 60, (count, 32, 32, 3))
            pixels = (60 * labels[:, None, None, None] + noise).astype(np.uint8)
            self._splits[split] = pixels, labels

    def size(self, split):
        return len(self._splits[split][1]) if split in self._splits else 0

    def digest(self):
        return self.name

    def read(self, split, indices):
        pixels, labels = self._splits[split]
        return Images(pixels[indices], labels[indices])


class OnDisk(Toy):
    """Not kept in memory; notes how many images are read at a time."""

    resident = False

    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.asked = []

    def read(self, split, indices):
        self.asked.append(len(indices))
        return super().read(split, indices)
