"""The trained network for prediction alone: batch norm folded, a block a kernel, nothing kept.

`Network.forward` gives the same logits, slower, with everything that backward would need.
"""

from collections.abc import Callable

import numpy as np

from npnet.kernels import backend as kernels_of
from npnet.kernels.arrays import Floats, Ints
from npnet.model.memory import inference_plan
from npnet.model.mobilenet_v2 import Architecture, Block, Operation
from npnet.model.parameters import Parameters


class Inference:
    """Predictions for up to `batch` images at a time.

    Fill `images[:n]`, then call `forward(n)`. It predicts with the weights and running statistics
    that `parameters` had when this was made, or when `fold` was last called.
    """

    def __init__(
        self,
        architecture: Architecture,
        parameters: Parameters,
        batch: int,
        backend: str = "numba",
        epsilon: float = 1e-5,
    ) -> None:
        self.architecture, self.parameters = architecture, parameters
        self.batch, self.epsilon, self.kernels = batch, epsilon, kernels_of(backend)
        dtype = parameters.values.dtype
        memory = inference_plan(architecture, batch, dtype).allocate(dtype)
        self.images = memory["images"]
        *blocks, _ = architecture.blocks
        self.maps = [memory[f"{block.name}.output"] for block in blocks]
        self.weight = parameters.value("classifier.weight")
        self.bias = parameters.value("classifier.bias")
        features, classes = self.weight.shape
        self.features: Floats = np.empty((batch, features), dtype)
        self.logits: Floats = np.empty((batch, classes), dtype)
        self.probabilities = np.empty_like(self.logits)
        self.losses: Floats = np.empty(batch, dtype)
        self.fold()

    def fold(self) -> None:
        """Fold every batch norm, with its running statistics, into the convolution before it."""
        *blocks, head = self.architecture.blocks
        self.layers = [self._layer(block) for block in blocks]
        self.head_weight, self.head_bias = self._folded(head.operations[0])

    def _layer(self, block: Block) -> Callable[[Floats, Floats], None]:
        """A block as a function of its output and input."""
        folded = [array for operation in block.operations for array in self._folded(operation)]
        stride = max(operation.stride for operation in block.operations)
        kernel = {
            1: self.kernels.stem3x3_inference,
            2: self.kernels.separable_inference,
            3: self.kernels.inverted_residual_inference,
        }[len(block.operations)]
        scalars = () if len(block.operations) == 1 else (stride, block.shortcut)
        return lambda y, x: kernel(y, x, *folded, *scalars)

    def _folded(self, operation: Operation) -> tuple[Floats, Floats]:
        """weight*scale and beta - scale*mean, scale = gamma/sqrt(variance+epsilon)."""
        value, (mean, variance) = self.parameters.value, self.parameters.running(operation.name)
        scale = value(f"{operation.name}.gamma") / np.sqrt(variance + self.epsilon)
        shift = value(f"{operation.name}.beta") - scale * mean
        dtype = self.parameters.values.dtype
        return (value(f"{operation.name}.weight") * scale).astype(dtype), shift.astype(dtype)

    def forward(self, n: int) -> Floats:
        """Logits (n, K) of `images[:n]`."""
        x = self.images[:n]
        for layer, maps in zip(self.layers, self.maps, strict=True):
            y = maps[:n]
            layer(y, x)
            x = y
        features, logits = self.features[:n], self.logits[:n]
        self.kernels.head_inference(features, x, self.head_weight, self.head_bias)
        self.kernels.linear_forward(logits, features, self.weight, self.bias)
        return logits

    def loss(self, labels: Ints) -> Floats:
        """Cross-entropy of each image in nats, (n,); fills `probabilities`."""
        n = len(labels)
        self.kernels.softmax_cross_entropy_forward(
            self.losses[:n], self.probabilities[:n], self.logits[:n], labels, 0.0
        )
        return self.losses[:n]
