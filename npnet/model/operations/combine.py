"""Where branches join: the sum of a residual block, the concatenation of parallel convolutions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from npnet.model.operations.base import IMAGES, Activation, Mode, Operation, Resources, maps
from npnet.model.parameters import Shape


@dataclass(frozen=True)
class Add(Operation):
    """output = a + b (MobileNetV2, Figure 3)."""

    kind = "add"
    sends_raw_gradient = True

    def layer(self, resources: Resources) -> "AddLayer":
        return AddLayer(self, resources)


class AddLayer:
    """y has an array of its own; its dz is the gradient of both inputs, unchanged."""

    trainable = sends_gradient = True

    def __init__(self, operation: Add, resources: Resources) -> None:
        self.operation, self.kernels = operation, resources.kernels
        self.whole_batch = Activation.of(*resources.output(operation))

    def forward(self, inputs: Sequence[Activation], mode: Mode) -> Activation:
        a, b = self.inputs = inputs
        self.output = output = self.whole_batch.first(len(a.x))
        self.kernels.activation_add_forward(
            maps(output.x), maps(a.x), a.affine, maps(b.x), b.affine
        )
        return output

    def backward(self) -> None:
        """Copy dz to the inputs, unless the memory plan lets them share one array."""
        for name, each in zip(self.operation.inputs, self.inputs, strict=True):
            if name != IMAGES and not np.shares_memory(each.dz, self.output.dz):
                each.dz[...] = self.output.dz


@dataclass(frozen=True)
class Concat(Operation):
    """Channels of all inputs side by side; each input is a convolution without another reader.

    It costs nothing: the convolutions write into channel slices of one array, one affine and one
    gradient.
    """

    kind = "concat"

    @property
    def output_shape(self) -> Shape:
        height, width, _ = self.input_shape
        return height, width, sum(shape[-1] for shape in self.input_shapes)

    @property
    def slices(self) -> dict[str, slice]:
        """The channels of each input."""
        ends = np.cumsum([shape[-1] for shape in self.input_shapes]).tolist()
        starts = [0, *ends[:-1]]
        return {
            name: slice(start, end)
            for name, start, end in zip(self.inputs, starts, ends, strict=True)
        }

    def layer(self, resources: Resources) -> "ConcatLayer":
        return ConcatLayer(self, resources)


class ConcatLayer:
    """Forward: the inputs have filled the array. Backward: each gets its part of the sums."""

    trainable = sends_gradient = True

    def __init__(self, operation: Concat, resources: Resources) -> None:
        self.operation = operation
        y, dz = resources.output(operation)
        affine = resources.arrays[f"{operation.name}.affine"]
        sums = (np.empty_like(affine[0]), np.empty_like(affine[0]))
        self.whole_batch = Activation(y, affine, dz, *sums)

    def forward(self, inputs: Sequence[Activation], mode: Mode) -> Activation:
        self.inputs = inputs
        self.output = self.whole_batch.first(len(inputs[0].x))
        return self.output

    def backward(self) -> None:
        parts = self.operation.slices.values()
        for each, part in zip(self.inputs, parts, strict=True):
            each.dgamma[:], each.dbeta[:] = self.output.dgamma[part], self.output.dbeta[part]
