"""The trained network for prediction alone: batch norm folded, a block a kernel, nothing kept.

`Network.forward` gives the same logits, slower, with everything that backward would need.
"""

from types import ModuleType

from npnet.kernels import backend as kernels_of
from npnet.kernels.arrays import Floats, Ints
from npnet.model.architecture import Architecture
from npnet.model.fusion import Fused, FusedLayer, for_inference
from npnet.model.memory import affine_of_concatenations, inference_plan
from npnet.model.network import with_epsilon
from npnet.model.operations import Activation, BatchNorm, Mode, Resources
from npnet.model.operations.base import IMAGES, Entrance
from npnet.model.operations.head import CrossEntropy
from npnet.model.parameters import Parameters


class Inference:
    """Predictions for up to `batch` images at a time.

    Fill `images[:n]`, then call `forward(n)`. What is filled is `entrance`, which `enter_behind`
    may put elsewhere. It predicts with the weights and running statistics
    that `parameters` had when this was made, or when `fold` was last called.
    """

    def __init__(
        self,
        architecture: Architecture,
        parameters: Parameters,
        batch: int,
        backend: str | ModuleType = "numba",
        epsilon: float | None = None,
    ) -> None:
        self.architecture, self.parameters = architecture, parameters
        self.batch, self.kernels = batch, kernels_of(backend)
        dtype, operations = parameters.values.dtype, for_inference(architecture.operations)
        arrays = inference_plan(architecture, batch, dtype).allocate(dtype)
        arrays |= affine_of_concatenations(operations, dtype)
        bn = with_epsilon(BatchNorm(epsilon=epsilon), architecture)
        resources = Resources(parameters, arrays, self.kernels, bn, inference=True)
        self.layers = [operation.layer(resources) for operation in operations]
        self.images: Floats = arrays[IMAGES]
        self._entrance = Entrance(IMAGES, Activation.of(self.images, dz=self.images))
        self.cross_entropy = CrossEntropy(self.layers[-1].whole_batch, self.kernels)

    @property
    def logits(self) -> Floats:
        """Of the last forward, (batch, K)."""
        return self.cross_entropy.logits.x

    @property
    def probabilities(self) -> Floats:
        """Of the last `loss`, (batch, K)."""
        return self.cross_entropy.probabilities

    def output(self, operation: str) -> Floats:
        """Where an operation leaves its output, (batch, ...)."""
        return next(each.whole_batch.x for each in self.layers if each.operation.name == operation)

    def enter_behind(self, operation: str) -> None:
        """Begin with the output of an operation, which is then to be filled as `entrance`."""
        self._entrance = Entrance.behind(operation, self.layers)

    @property
    def entrance(self) -> Floats:
        """What is to be filled before `forward`."""
        return self._entrance.input.x

    def fold(self) -> None:
        """Fold the present weights and running statistics."""
        for layer in self.layers:
            if isinstance(layer, FusedLayer):
                layer.fold()

    def forward(self, n: int) -> Floats:
        """Logits (n, K) of `entrance[:n]`."""
        name, begin, first = self._entrance
        outputs = {name: begin.first(n)}
        for layer in self.layers[first:]:
            operation = layer.operation
            if isinstance(operation, Fused):
                outputs |= {each: self._plain(outputs[each]) for each in operation.inputs}
            inputs = [outputs[each] for each in operation.inputs]
            outputs[operation.name] = layer.forward(inputs, Mode())
        return outputs[operation.name].x

    def _plain(self, a: Activation) -> Activation:
        """Apply the affine map in place: later readers find the activation itself."""
        if a.plain:
            return a
        self.kernels.activation_forward(a.x, a.x, a.affine)
        return Activation.of(a.x, a.x)

    def loss(self, labels: Ints) -> Floats:
        """Cross-entropy of each image in nats, (n,); fills `probabilities`."""
        return self.cross_entropy.forward(labels, 0.0)
