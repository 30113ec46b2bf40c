"""The kinds of operations: one class a kind, its numbers, buffers, forward and backward together.

An `Operation` is a row of a model's list: its name, the names of its inputs, its shapes. From it
derive parameters, work and memory. Its `Layer` is what runs it: `forward`, and `backward` below it.
A new kind is a new file here; models name it in their tables, and nothing else has to know.
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
    "Layer",
    "Linear",
    "MaxPool",
    "Mode",
    "Operation",
    "Resources",
]
