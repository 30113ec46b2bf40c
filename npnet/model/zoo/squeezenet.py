"""SqueezeNet 1.0 and 1.1 (Iandola et al. 2016, arXiv 1602.07360), as torchvision builds them."""

from functools import partial
from typing import NamedTuple

from npnet.model.architecture import Builder
from npnet.model.config import ModelConfig
from npnet.model.operations import AveragePool, Concat, Convolution, Dropout, MaxPool
from npnet.model.operations.base import IMAGES
from npnet.model.zoo import Entry


class Table(NamedTuple):
    """Table 1 of the paper. A row of `fires` is what a fire module squeezes to and expands to, by
    1x1 and by 3x3 each; `pools` are the fires before which the map is halved.
    """

    channels: int
    size: int  # of the first convolution's window
    fires: tuple[tuple[int, int], ...]
    pools: tuple[int, ...]


FIRES = (
    *((16, 64), (16, 64), (32, 128), (32, 128)),
    *((48, 192), (48, 192), (64, 256), (64, 256)),
)
SQUEEZENET_1_0 = Table(96, 7, FIRES, (2, 5, 9))
SQUEEZENET_1_1 = Table(64, 3, FIRES, (2, 4, 6))


def build(net: Builder, config: ModelConfig, table: Table) -> None:
    """Append the operations. With `batch_norm`, one stands behind each convolution but the last,
    whose bias is the logits' own.
    """
    options = {"relu": "relu", "batch_norm": config.batch_norm}
    first = {"channels": table.channels, "size": table.size, "stride": 2, "padding": 0}
    x = net(Convolution, "conv1", IMAGES, **first, **options)
    for number, (squeezed, expanded) in enumerate(table.fires, start=2):
        name = f"fire{number}"
        if number in table.pools:
            x = net(MaxPool, f"pool{number}", x)
        x = net(Convolution, f"{name}.squeeze", x, channels=squeezed, **options)
        wide = {"channels": expanded, **options}
        narrow = net(Convolution, f"{name}.expand1x1", x, **wide)
        broad = net(Convolution, f"{name}.expand3x3", x, size=3, **wide)
        x = net(Concat, f"{name}.concat", narrow, broad)
    if config.dropout:
        x = net(Dropout, "dropout", x, rate=config.dropout)
    # ReLU stands behind the classifier, too: with a bias of 0 the first steps would kill all of it.
    last = {"channels": config.classes, "relu": "relu", "batch_norm": False, "bias_start": 1.0}
    x = net(Convolution, "classifier", x, **last)
    net(AveragePool, "pool", x)


def _entry(table: Table, smallest_input: int) -> Entry:
    defaults = {"input_size": 128, "batch_norm": False, "dropout": 0.5}
    miniature = partial(build, table=Table(4, table.size, ((3, 4), (2, 5)), (2, 3)))
    return Entry(partial(build, table=table), miniature, smallest_input, defaults, ("batch_norm",))


MODELS = {
    "squeezenet1_0": _entry(SQUEEZENET_1_0, 21),
    "squeezenet1_1": _entry(SQUEEZENET_1_1, 17),
}
