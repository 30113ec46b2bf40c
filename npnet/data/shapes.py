"""The built-in dataset: small pictures of shapes, drawn from a seed, so nothing is downloaded.

Five outlines (disc, ring, square, triangle, cross) times two fills (plain, striped) make ten
classes. Colour, position, size, rotation, clutter, light and noise all vary and tell nothing about
the class, so a linear classifier on the pixels does little better than chance.

Pixels are computed with + − × ÷ √, rounding and comparisons alone. IEEE 754 fixes every bit of
these, unlike sin or exp, so machines of different kinds draw the same bytes.
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from npnet.data.dataset import Images, Split
from npnet.errors import NpnetError

F32 = NDArray[np.float32]

SIDE = 32  # pixels
CLUTTER = 3  # dots and dashes behind the figure
CHUNK = 32  # images drawn together: enough to hide the cost of a call, few enough for the cache
TILT = 0.27  # tan(15°): the figure leans up to 30° either way
HALF_CIRCLE = 1.0  # tan(45°): all the directions that stripes and dashes can have
DRAWS = 48  # uniform numbers set aside for each image, a few more than it uses

_CENTRES = np.arange(SIDE, dtype=np.float32) - (SIDE - 1) / 2
_ROW, _COLUMN = _CENTRES[:, None], _CENTRES[None, :]


# Signed distance (n, SIDE, SIDE) to an outline in pixels, negative inside, from the coordinates
# about its centre and a size (n, 1, 1). What a distance is beyond the first pixel does not matter.
OUTLINES: dict[str, Callable[[F32, F32, F32], F32]] = {
    "disc": lambda x, y, r: np.sqrt(x * x + y * y) - r,
    "ring": lambda x, y, r: np.abs(np.sqrt(x * x + y * y) - 0.75 * r) - 0.25 * r,
    "square": lambda x, y, r: np.maximum(np.abs(x), np.abs(y)) - 0.82 * r,
    "triangle": lambda x, y, r: np.maximum(y, 0.866 * np.abs(x) - 0.5 * y) - 0.62 * r,
    "cross": lambda x, y, r: np.maximum(
        np.maximum(np.abs(x), np.abs(y)) - r, np.minimum(np.abs(x), np.abs(y)) - 0.33 * r
    ),
}
FILLS = ("plain", "striped")
CLASSES = tuple(f"{fill} {outline}" for outline in OUTLINES for fill in FILLS)


class Shapes:
    """Ten classes of 32×32 drawings; image i of a split depends on the seed, split and i alone.

    So a rank draws just its own shard, in any order, and all ranks agree byte for byte.
    Raises NpnetError if the seed is negative or a split is empty.
    """

    name = "shapes"
    classes: Sequence[str] = CLASSES
    image_size, resident = SIDE, True

    def __init__(self, seed: int = 0, train: int = 10_000, test: int = 2_000) -> None:
        if seed < 0:
            raise NpnetError(f"shapes: the seed is {seed}; give 0 or more")
        if min(train, test) < 1:
            raise NpnetError(
                f"shapes: {train} train and {test} test images; give 1 or more of each"
            )
        self._seed = seed
        self._sizes: dict[Split, int] = {"train": train, "test": test}

    @property
    def location(self) -> str:
        return f"drawn from seed {self._seed}"

    def size(self, split: Split) -> int:
        return self._sizes.get(split, 0)

    def digest(self) -> str:
        return f"seed {self._seed}, {self._sizes}"

    def read(self, split: Split, indices: NDArray[np.int64]) -> Images:
        """Draw the images at `indices`, shape (n,). Raises NpnetError if one is out of range."""
        size = self.size(split)
        for i in indices[(indices < 0) | (indices >= size)][:1]:
            raise NpnetError(f"shapes: no {split} image {i}; there are {size}, counted from 0")
        pixels = np.empty((len(indices), SIDE, SIDE, 3), np.uint8)
        labels = _label(indices)
        stream = 0 if split == "train" else 1
        for start in range(0, len(indices), CHUNK):
            rows = slice(start, start + CHUNK)
            rngs = [np.random.default_rng((self._seed, stream, int(i))) for i in indices[rows]]
            pixels[rows] = _draw(rngs, labels[rows])
        return Images(pixels, labels)


def _label(indices: NDArray[np.int64]) -> NDArray[np.int64]:
    """Each run of ten images holds all ten classes.

    Were the order within a run the same in all, a shard i mod 10 would be of one class. It moves
    on from run to run, by steps that leave no shard i mod P of a full split without a class, for
    any P up to 48.
    """
    run = indices // 10
    return (indices - run + 2 * run // 11) % len(CLASSES)


class _Chances:
    """The uniform numbers behind a chunk of images: each call uses up one or a few an image."""

    def __init__(self, rngs: list[np.random.Generator]) -> None:
        table = np.stack([rng.random(DRAWS, np.float32) for rng in rngs])
        self._columns: Iterator[F32] = iter(table.T[:, :, None, None])

    def between(self, low: float, high: float) -> F32:
        """One number in [low, high) an image, shape (n, 1, 1)."""
        return low + next(self._columns) * (high - low)

    def turn(self, row: F32, column: F32, reach: float) -> tuple[F32, F32]:
        """Coordinates (x, y) turned either way; `reach` is the tangent of half the widest angle."""
        t = self.between(-reach, reach)
        scale: F32 = np.reciprocal(1 + t * t)
        cos, sin = (1 - t * t) * scale, 2 * t * scale
        return cos * column + sin * row, cos * row - sin * column

    def colour(self) -> F32:
        """A colour an image, shape (n, 3, 1, 1)."""
        return np.stack([self.between(0, 1) for _ in range(3)], axis=1)


def _draw(rngs: list[np.random.Generator], labels: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Draw one image from each generator, uint8 (n, SIDE, SIDE, 3)."""
    chance = _Chances(rngs)
    # Channels wrap round, a third of the way apart, so that each colour stands out from the others.
    ground = chance.colour()
    ink = (ground + 0.33 + 0.2 * (chance.colour() - 0.5)) % 1
    second_ink = (ink + 0.33 + 0.2 * (chance.colour() - 0.5)) % 1

    canvas = _fill(ground)
    for _ in range(CLUTTER):
        _paint(canvas, _dash(chance), chance.colour())
    outline, stripes = _figure(chance, labels)
    figure = _fill(ink)
    _paint(figure, stripes, second_ink)
    _paint(canvas, outline, figure)

    slope = chance.between(-0.3, 0.3)
    along, _ = chance.turn(_ROW, _COLUMN, HALF_CIRCLE)
    canvas *= (1 + slope / SIDE * along)[:, None]
    noise = np.stack([np.frombuffer(rng.bytes(3 * SIDE * SIDE), np.uint8) for rng in rngs])
    canvas = 28 + 200 * canvas + 0.1 * (noise.reshape(canvas.shape) - np.float32(127.5))
    return np.clip(canvas, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)


def _figure(chance: _Chances, labels: NDArray[np.int64]) -> tuple[F32, F32]:
    """Signed distances (n, SIDE, SIDE) to the figure's outline and to its stripes."""
    size = chance.between(9, 13)
    room = SIDE / 2 - size
    down, across = _ROW - room * chance.between(-1, 1), _COLUMN - room * chance.between(-1, 1)
    x, y = chance.turn(down, across, TILT)
    outline = np.empty_like(x)
    for k, distance in enumerate(OUTLINES.values()):
        rows = labels // len(FILLS) == k
        outline[rows] = distance(x[rows], y[rows], size[rows])

    period, phase = chance.between(4, 6), chance.between(0, 1)
    along, _ = chance.turn(down, across, HALF_CIRCLE)
    wave = along / period + phase
    stripes = (np.abs(wave - np.floor(wave) - 0.5) - 0.25) * period
    stripes[labels % len(FILLS) == 0] = SIDE  # plain: every pixel is far from a stripe
    return outline, stripes


def _dash(chance: _Chances) -> F32:
    """Signed distance (n, SIDE, SIDE) to a dot or dash: what the figure has to stand out from."""
    half_length, half_width = chance.between(0, 5), chance.between(0.6, 1.4)
    down = _ROW - chance.between(-SIDE / 2, SIDE / 2)
    across = _COLUMN - chance.between(-SIDE / 2, SIDE / 2)
    x, y = chance.turn(down, across, HALF_CIRCLE)
    x = np.maximum(np.abs(x) - half_length, 0)
    return np.sqrt(x * x + y * y) - half_width


def _fill(colour: F32) -> F32:
    """A canvas (n, 3, SIDE, SIDE) of one colour an image."""
    return np.broadcast_to(colour, (len(colour), 3, SIDE, SIDE)).copy()


def _paint(canvas: F32, distance: F32, colour: F32) -> None:
    """Lay `colour` over `canvas` inside an outline, its edge blurred over one pixel."""
    cover = np.clip(0.5 - distance, 0, 1)[:, None]
    canvas += cover * (colour - canvas)
