"""MobileNetV2 as a table, and the list of operations that the table stands for.

Everything that depends on the model's shape (parameters, buffers, work, memory traffic, benchmark
cases, weight names) is derived from that list; no shape is written down twice.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from typing import Literal, NamedTuple

from npnet.errors import NpnetError
from npnet.kernels.arrays import output_size

Shape = tuple[int, ...]
Kind = Literal["stem", "pointwise", "depthwise", "pool", "dropout", "linear"]


class Stage(NamedTuple):
    """One row of a table: `repeats` inverted residual blocks, the first with `stride`."""

    expansion: int
    channels: int
    repeats: int
    stride: int


# Sandler et al. 2018 (arXiv 1801.04381), Table 2: t, c, n, s.
MOBILENET_V2 = (
    Stage(1, 16, 1, 1),
    Stage(6, 24, 2, 2),
    Stage(6, 32, 3, 2),
    Stage(6, 64, 4, 2),
    Stage(6, 96, 3, 1),
    Stage(6, 160, 3, 2),
    Stage(6, 320, 1, 1),
)
STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
SMALLEST_INPUT = 32


class ParameterSpec(NamedTuple):
    """A trainable array. `fan_in`/`fan_out` feed the initialisers; only weights are decayed."""

    name: str
    shape: Shape
    role: Literal["weight", "gamma", "beta", "bias"]
    fan_in: int = 0
    fan_out: int = 0


@dataclass(frozen=True)
class Operation:
    """One step of the network: a convolution with its batch norm, or a step of the head.

    Shapes are those of one image: (H, W, C), or (C,) after pooling.
    """

    name: str
    kind: Kind
    input_shape: Shape
    output_shape: Shape
    stride: int = 1
    relu6: bool = False
    rate: float = 0.0  # of dropout

    @property
    def is_convolution(self) -> bool:
        return self.kind in ("stem", "pointwise", "depthwise")

    @property
    def weight(self) -> ParameterSpec | None:
        """The convolution's or classifier's weight, None where there is none.

        Fans as Keras and torchvision compute them: those of a depthwise weight count every channel.
        """
        ci, co = self.input_shape[-1], self.output_shape[-1]
        name = f"{self.name}.weight"
        if self.kind == "stem":
            return ParameterSpec(name, (3, 3, ci, co), "weight", 9 * ci, 9 * co)
        if self.kind == "depthwise":
            return ParameterSpec(name, (3, 3, co), "weight", 9, 9 * co)
        if self.kind in ("pointwise", "linear"):
            return ParameterSpec(name, (ci, co), "weight", ci, co)
        return None

    @property
    def parameters(self) -> tuple[ParameterSpec, ...]:
        """All trainable arrays of the operation, weight first."""
        if self.weight is None:
            return ()
        channels = self.output_shape[-1:]
        if self.kind == "linear":
            return (self.weight, ParameterSpec(f"{self.name}.bias", channels, "bias"))
        return (
            self.weight,
            ParameterSpec(f"{self.name}.gamma", channels, "gamma"),
            ParameterSpec(f"{self.name}.beta", channels, "beta"),
        )

    @property
    def parameter_count(self) -> int:
        return sum(prod(spec.shape) for spec in self.parameters)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image's forward pass, batch norm folded as is usual."""
        inputs_per_output = {
            "stem": 9 * self.input_shape[-1],
            "pointwise": self.input_shape[-1],
            "depthwise": 9,
            "linear": self.input_shape[-1],
        }
        return inputs_per_output.get(self.kind, 0) * prod(self.output_shape)

    def output_bytes(self, itemsize: int = 4) -> int:
        """Bytes of the operation's output for one image."""
        return prod(self.output_shape) * itemsize


@dataclass(frozen=True)
class Block:
    """Operations in a row; with `shortcut`, the block's input is added to its output."""

    name: str
    operations: tuple[Operation, ...]
    shortcut: bool = False


@dataclass(frozen=True)
class Architecture:
    """A network: its blocks in order, and the settings they were built from."""

    name: str
    width: float
    input_size: int
    classes: int
    dropout: float
    blocks: tuple[Block, ...] = field(repr=False)

    @cached_property
    def operations(self) -> tuple[Operation, ...]:
        return tuple(operation for block in self.blocks for operation in block.operations)

    @property
    def convolutions(self) -> tuple[Operation, ...]:
        """The operations that carry a batch norm, in order."""
        return tuple(operation for operation in self.operations if operation.is_convolution)

    def stores_output(self, block: Block) -> bool:
        """Whether the activation at the block's end is made there, in an array of its own.

        So it is where a projection ends the block, which is small, and where the next block's
        shortcut reads it again. Elsewhere whoever reads the last convolution's output makes it.
        """
        following = self.blocks.index(block) + 1
        if following == len(self.blocks):  # the head
            return False
        return not block.operations[-1].relu6 or self.blocks[following].shortcut

    @property
    def parameter_count(self) -> int:
        """Trainable parameters; batch norm's running statistics are not among them."""
        return sum(operation.parameter_count for operation in self.operations)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image's forward pass."""
        return sum(operation.macs for operation in self.operations)


def divisible(channels: float, divisor: int = 8) -> int:
    """`channels` rounded to a multiple of `divisor`, never down by more than 10 %.

    The rule of the MobileNet reference implementations for widths other than 1.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def mobilenet_v2(
    width: float = 1.0,
    input_size: int = 224,
    classes: int = 1000,
    dropout: float = 0.0,
    table: Sequence[Stage] = MOBILENET_V2,
) -> Architecture:
    """MobileNetV2 of any width, input size and class count (Sandler et al. 2018, Table 2).

    `width` multiplies every channel count but the head's, which only grows (section 4). Another
    `table` gives another network of the same blocks.
    Raises NpnetError for a width <= 0, an input size < 32, fewer than 2 classes, or a dropout rate
    outside [0, 1).
    """
    _check(width, input_size, classes, dropout)
    size = output_size(input_size, 2)
    channels = divisible(STEM_CHANNELS * width)
    stem = Operation("stem", "stem", (input_size, input_size, 3), (size, size, channels), 2, True)
    blocks = [Block("stem", (stem,))]
    for stage in table:
        for repeat in range(stage.repeats):
            stride = stage.stride if repeat == 0 else 1
            block = _inverted_residual(
                f"block{len(blocks)}", (size, size, channels), stage, stride, width
            )
            blocks.append(block)
            size, _, channels = block.operations[-1].output_shape
    blocks.append(Block("head", tuple(_head(size, channels, classes, width, dropout))))
    return Architecture("mobilenet_v2", width, input_size, classes, dropout, tuple(blocks))


def _inverted_residual(
    name: str, input_shape: Shape, stage: Stage, stride: int, width: float
) -> Block:
    """Expand, filter, project; a shortcut where input and output agree (section 3.3, Figure 3)."""
    size, _, channels = input_shape
    hidden, out = channels * stage.expansion, divisible(stage.channels * width)
    smaller = output_size(size, stride)
    expanded, filtered = (size, size, hidden), (smaller, smaller, hidden)
    operations = [
        Operation(f"{name}.expand", "pointwise", input_shape, expanded, relu6=True),
        Operation(f"{name}.depthwise", "depthwise", expanded, filtered, stride, relu6=True),
        Operation(f"{name}.project", "pointwise", filtered, (smaller, smaller, out)),
    ]
    if stage.expansion == 1:
        operations = operations[1:]
    return Block(name, tuple(operations), shortcut=stride == 1 and channels == out)


def _head(
    size: int, channels: int, classes: int, width: float, dropout: float
) -> Iterator[Operation]:
    features = divisible(HEAD_CHANNELS * max(1.0, width))
    maps = (size, size, features)
    yield Operation("head", "pointwise", (size, size, channels), maps, relu6=True)
    yield Operation("pool", "pool", maps, (features,))
    if dropout:
        yield Operation("dropout", "dropout", (features,), (features,), rate=dropout)
    yield Operation("classifier", "linear", (features,), (classes,))


def _check(width: float, input_size: int, classes: int, dropout: float) -> None:
    if not 0 < width <= 16:
        raise NpnetError(f"width {width} is not usable: give a multiplier above 0, such as 0.5")
    if input_size < SMALLEST_INPUT:
        raise NpnetError(f"input size {input_size} is too small: give {SMALLEST_INPUT} or more")
    if classes < 2:
        raise NpnetError(f"{classes} classes cannot be told apart: give 2 or more")
    if not 0 <= dropout < 1:
        raise NpnetError(f"dropout rate {dropout} is not usable: give 0 <= rate < 1")
