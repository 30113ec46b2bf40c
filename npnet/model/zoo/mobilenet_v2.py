"""MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381), and its variant for small images."""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from npnet.model.architecture import Architecture, Builder
from npnet.model.config import ModelConfig
from npnet.model.operations import Add, AveragePool, Convolution, Dropout, Linear
from npnet.model.operations.base import IMAGES
from npnet.model.zoo import Entry


class Stage(NamedTuple):
    """One row of the table: `repeats` inverted residual blocks, the first with `stride`."""

    expansion: int
    channels: int
    repeats: int
    stride: int


# Table 2: t, c, n, s.
TABLE = (
    Stage(1, 16, 1, 1),
    Stage(6, 24, 2, 2),
    Stage(6, 32, 3, 2),
    Stage(6, 64, 4, 2),
    Stage(6, 96, 3, 1),
    Stage(6, 160, 3, 2),
    Stage(6, 320, 1, 1),
)
# For images of 32x32 the stem and the second stage do not halve the map.
CIFAR_TABLE = tuple(stage._replace(stride=1) if stage.channels == 24 else stage for stage in TABLE)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280
# Deep enough for every kind of block, shallow enough that a step of 1e-6 in one weight stays small
# in the last activation: through 52 batch norms of a few samples each it would grow a thousandfold.
MINIATURE = (Stage(1, 8, 1, 1), Stage(6, 8, 2, 2), Stage(6, 16, 2, 2))


def divisible(channels: float, divisor: int = 8) -> int:
    """`channels` rounded to a multiple of `divisor`, never down by more than 10 %.

    The rule of the MobileNet reference implementations for widths other than 1.
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def build(
    net: Builder, config: ModelConfig, table: Sequence[Stage] = TABLE, stem_stride: int = 2
) -> None:
    """Append the operations. `width` multiplies every channel count but the head's, which only
    grows (section 4).
    """
    width = config.width
    channels = divisible(STEM_CHANNELS * width)
    shape = {"channels": channels, "size": 3, "stride": stem_stride}
    x = net(Convolution, "stem", IMAGES, **shape, relu="relu6")
    number = 0
    for stage in table:
        for repeat in range(stage.repeats):
            number += 1
            stride, out = stage.stride if repeat == 0 else 1, divisible(stage.channels * width)
            x = inverted_residual(net, f"block{number}", x, stage.expansion, out, stride)
    features = divisible(HEAD_CHANNELS * max(1.0, width))
    x = net(Convolution, "head", x, channels=features, relu="relu6")
    x = net(AveragePool, "pool", x)
    if config.dropout:
        x = net(Dropout, "dropout", x, rate=config.dropout)
    net(Linear, "classifier", x, classes=config.classes)


def inverted_residual(
    net: Builder, name: str, x: str, expansion: int, channels: int, stride: int
) -> str:
    """Expand, filter, project; a shortcut where input and output agree (section 3.3, Figure 3)."""
    entering = net.shapes[x][-1]
    hidden, y = expansion * entering, x
    if expansion != 1:
        y = net(Convolution, f"{name}.expand", y, channels=hidden, relu="relu6")
    options = {"size": 3, "stride": stride, "depthwise": True, "relu": "relu6"}
    y = net(Convolution, f"{name}.depthwise", y, channels=hidden, **options)
    y = net(Convolution, f"{name}.project", y, channels=channels)
    if stride == 1 and channels == entering:
        return net(Add, f"{name}.add", y, x)
    return y


def mobilenet_v2(
    width: float = 1.0,
    input_size: int = 224,
    classes: int = 1000,
    dropout: float = 0.0,
    table: Sequence[Stage] = TABLE,
) -> Architecture:
    """MobileNetV2 of any width, input size and class count; another `table` gives another network
    of the same blocks. Raises NpnetError where a value is not usable.
    """
    config = ModelConfig("mobilenet_v2", classes, width, input_size, dropout=dropout)
    MODELS["mobilenet_v2"].check(config)
    net = Builder(input_size)
    build(net, config, table)
    return Architecture(config, tuple(net.operations))


def _entry(stem_stride: int, table: Sequence[Stage], smallest: int, usual: int) -> Entry:
    full = partial(build, table=table, stem_stride=stem_stride)
    miniature = partial(build, table=MINIATURE, stem_stride=stem_stride)
    return Entry(full, miniature, smallest, {"width": 0.5, "input_size": usual}, ("width",))


MODELS = {
    "mobilenet_v2": _entry(2, TABLE, smallest=32, usual=128),
    # As CIFAR's model zoos build it: 3x3 stem and second stage at stride 1, native 32x32.
    "mobilenet_v2_cifar": _entry(1, CIFAR_TABLE, smallest=16, usual=32),
}
