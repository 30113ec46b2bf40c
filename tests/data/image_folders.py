"""Little folders of images, for tests."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npnet.data.packing import open_folder

Image = pytest.importorskip("PIL.Image", reason="Pillow is in the `images` extra")

SIZE = 4  # stored size, pixels


def write_picture(path: Path, value: int, side: int = SIZE, **how: Any) -> None:
    """A square of one grey, whose bytes are `value` when it is read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(path, **how)


def write_folder(root: Path, **counts: int) -> Path:
    """`root/SPLIT/CLASS/N.png` for cat and dog, as many of each class as `counts` say of a split.

    Each picture has a grey of its own: 10 for the first cat of train, 11 for the second.
    """
    value = 10
    for split, count in counts.items():
        for name in ("cat", "dog"):
            for number in range(count):
                write_picture(root / split / name / f"{number}.png", value)
                value += 1
    return root


def opened(root: Path, **how: Any):
    return open_folder(root, SIZE, **how)


def greys(dataset, split="train") -> list[int]:
    """The one value of each image of a split."""
    pixels = dataset.read(split, np.arange(dataset.size(split))).pixels
    assert pixels.dtype == np.uint8
    flat = pixels.reshape(len(pixels), -1)
    assert (flat == flat[:, :1]).all()
    return flat[:, 0].tolist()


class Heard:
    """A `Packing` that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[tuple[int, int]] = []

    def said(self, line: str) -> None:
        self.lines.append(line)

    def progress(self, done: int, total: int) -> None:
        self.steps.append((done, total))
