"""A network as an ONNX model in int8, in the form that runtimes read (QDQ).

Each array of numbers of 8 bits passes through QuantizeLinear and DequantizeLinear, each weight
through DequantizeLinear; between them stand the nodes of the float network. A runtime replaces
such a group by one node on whole numbers.
"""

from collections.abc import Mapping

import numpy as np

from npnet.exchange.int8 import Grid, WholeNumbers
from npnet.exchange.onnx_graph import Graph
from npnet.model.operations import Convolution, Linear
from npnet.model.weights import Weights


class Int8Graph(Graph):
    """`grids`: of each operation's output, and of the images; `layers`: of those with weights."""

    def __init__(
        self, weights: Weights, grids: Mapping[str, Grid], layers: Mapping[str, WholeNumbers]
    ) -> None:
        self.grids, self.layers = grids, layers
        self.rounded: set[str] = set()  # names of what is on a grid
        super().__init__(weights)

    def finished(self, name: str, output: str) -> str:
        """The output on its grid; the logits have none."""
        if name not in self.grids or output in self.rounded:
            return output
        grid = self.grids[name]
        numbers = [
            self.constant(f"{name}.scale", grid.scale),
            self.constant(f"{name}.zero", grid.zero),
        ]
        whole = self.node("QuantizeLinear", f"{name}.uint8", [output, *numbers])
        result = self.node("DequantizeLinear", f"{name}.rounded", [whole, *numbers])
        self.rounded.add(result)
        return result

    def weighted(self, operation: Convolution | Linear) -> list[str]:
        """Weight and bias from whole numbers."""
        name, layer = operation.name, self.layers[operation.name]
        parts = (
            ("weight", self.laid_out(operation, layer.weight), layer.scales),
            ("bias", layer.bias, layer.bias_scales),
        )
        names = []
        for role, whole, scales in parts:
            inputs = [
                self.constant(f"{name}.{role}", whole),
                self.constant(f"{name}.{role}.scale", scales),
                self.constant(f"{name}.{role}.zero", np.zeros(scales.shape, whole.dtype)),
            ]
            names.append(self.node("DequantizeLinear", f"{name}.{role}.float", inputs, axis=0))
        return names
