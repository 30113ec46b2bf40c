"""CIFAR-10 and CIFAR-100 of a few random images, in files as their authors write them."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from npnet.data.cifar import VARIANTS

IMAGES = 30  # of the training split


def write_cifar(data_dir: Path, name: str = "cifar10", seed: int = 0, images: int = IMAGES) -> Path:
    """Write the dataset into a new folder of `data_dir`; returns that folder."""
    variant = VARIANTS[name]
    folder = data_dir / variant.folder
    folder.mkdir(parents=True)
    draw = np.random.default_rng(seed)
    rows = images // len(variant.train)
    for file in (*variant.train, *variant.test):
        pixels = draw.integers(0, 256, (rows, 3072), np.uint8)
        labels = draw.integers(0, variant.classes, rows).tolist()
        write(folder / file, {"data": pixels, variant.labels_key: labels})
    write(folder / variant.meta, {variant.classes_key: [f"c{n}" for n in range(variant.classes)]})
    return folder


def change(file: Path, **values: Any) -> None:
    """Replace entries of a file's dict."""
    write(file, pickle.loads(file.read_bytes()) | values)


def write(path: Path, content: object) -> None:
    path.write_bytes(pickle.dumps(content, protocol=2))
