"""The kinds of operations: one class a kind, its numbers, buffers, forward and backward together.

An `Operation` is a row of a model's list: its name, the names of its inputs, its shapes. It gives
its parameters, work and memory. Its `Layer` runs it: `forward`, and `backward` below it. A new kind
is a class in a file here and a name in this list; models use it in their tables. Where it has a
kink, `Network.kinks` tells gradient checks on which side of it a forward pass was.
"""

from npnet.model.operations.base import (
    Activation,
    BatchNorm,
    Layer,
    Mode,
    Operation,
    Resources,
)
from npnet.model.operations.combine import Add, Concat
from npnet.model.operations.convolution import Convolution
from npnet.model.operations.expansion import ExpandedDepthwise, Expansion
from npnet.model.operations.head import Dropout, Linear
from npnet.model.operations.pooling import AveragePool, MaxPool

__all__ = [
    "Activation",
    "Add",
    "AveragePool",
    "BatchNorm",
    "Concat",
    "Convolution",
    "Dropout",
    "ExpandedDepthwise",
    "Expansion",
    "Layer",
    "Linear",
    "MaxPool",
    "Mode",
    "Operation",
    "Resources",
]
