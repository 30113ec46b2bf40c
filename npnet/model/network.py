"""The network: a model's list of operations, run forward and backward.

Each operation's layer (model/operations/) knows its two passes. The network passes activations on,
and adds up gradients where an output has several readers.
"""

from collections.abc import Callable, Collection, Iterator
from types import ModuleType

import numpy as np
from numpy.typing import DTypeLike

from npnet.kernels import backend as kernels_of
from npnet.kernels.arrays import HIGH, LOW, Floats, Ints
from npnet.model.architecture import Architecture
from npnet.model.fusion import for_training
from npnet.model.memory import affine_of_concatenations, plan
from npnet.model.operations import Activation, BatchNorm, Convolution, Mode, Resources
from npnet.model.operations.base import IMAGES, Entrance, consumers, maps
from npnet.model.operations.convolution import ConvolutionLayer, Normalisation
from npnet.model.operations.head import CrossEntropy
from npnet.model.operations.pooling import MaxPoolLayer
from npnet.model.parameters import Parameters

__all__ = ["BatchNorm", "Network"]


class Network:
    """An architecture with its parameters and the buffers for batches of up to `batch` images.

    Fill `images[:n]`, then call `forward(n)`, `loss(labels)` and `backward(scale)`; the gradient
    appears in `parameters.gradients`. What is filled is `entrance`, which `enter_behind` may put
    elsewhere. No step allocates more than the tiles inside a kernel. `store_all`: every output has
    an array, for who runs the layers one by one; else some are computed again (model/fusion.py).
    """

    def __init__(
        self,
        architecture: Architecture,
        batch: int,
        backend: str | ModuleType = "numba",
        dtype: DTypeLike = np.float32,
        bn: BatchNorm | None = None,
        store_all: bool = False,
    ) -> None:
        self.architecture, self.batch, self.kernels = architecture, batch, kernels_of(backend)
        self.parameters = Parameters(architecture, dtype)
        operations = for_training(architecture.operations, store_all)
        arrays = plan(architecture, batch, dtype, store_all).allocate(dtype)
        arrays |= affine_of_concatenations(operations, dtype)
        bn = with_epsilon(bn or BatchNorm(), architecture)
        resources = Resources(self.parameters, arrays, self.kernels, bn)
        self.layers = [operation.layer(resources) for operation in operations]
        self.images: Floats = arrays[IMAGES]
        # Images need no gradient.
        self._entrance = Entrance(IMAGES, Activation.of(self.images, dz=self.images))
        self.cross_entropy = CrossEntropy(self.layers[-1].whole_batch, self.kernels)
        self.junctions = self._junctions(arrays)
        self.set_trainable(None)

    def _junctions(self, arrays: dict[str, Floats]) -> dict[str, "Junction"]:
        """Of outputs with several readers, or with a gradient that still lacks its ReLU's mask."""
        operations, junctions = self.architecture.operations, {}
        for name, readers in consumers(operations).items():
            raw = any(operations[reader].sends_raw_gradient for reader in readers)
            if name != IMAGES and (len(readers) > 1 or raw):
                names = [operations[reader].name for reader in readers]
                junctions[name] = Junction(names, arrays.get(f"{name}.more"), self.kernels)
        return junctions

    def enter_behind(self, operation: str) -> None:
        """Begin with the output of an operation, which is then to be filled as `entrance`.

        Nothing before it may be trainable.
        """
        self._entrance = Entrance.behind(operation, self.layers)

    @property
    def entrance(self) -> Floats:
        """What is to be filled before `forward`."""
        return self._entrance.input.x

    def set_trainable(self, names: Collection[str] | None) -> None:
        """Train the named parameters, or all those of the named operations, alone; None: all.

        Backward then stops where nothing below is trainable, and leaves out unused gradients.
        """
        moving: dict[str, bool] = {IMAGES: False}  # is anything trainable, up to here?
        for layer in self.layers:
            operation = layer.operation
            chosen = [
                spec.role
                for spec in operation.parameters
                if names is None or spec.name in names or operation.name in names
            ]
            below = any(moving[name] for name in operation.inputs)
            layer.trainable, layer.sends_gradient = "weight" in chosen, below
            moving[operation.name] = bool(chosen) or below
        self._backward = [each for each in reversed(self.layers) if moving[each.operation.name]]
        self._open = {name: each for name, each in self.junctions.items() if moving[name]}

    def use_running_statistics(self, names: Collection[str]) -> None:
        """In training, too, normalise the outputs of the named operations with running statistics.

        Those stay as they are.
        """
        for bn in self.normalisations:
            bn.frozen = bn.name in names

    def forward(
        self,
        n: int,
        training: bool = False,
        frozen: bool = False,
        dropout: np.random.Generator | None = None,
    ) -> Floats:
        """Logits (n, K) of `entrance[:n]`.

        In training, batch norm uses the batch's own statistics and updates the running ones;
        otherwise, or when `frozen`, it uses the running ones. `dropout` draws which numbers are
        dropped; None drops nothing.
        """
        mode = Mode(training and not frozen, dropout)
        name, begin, first = self._entrance
        outputs = {name: begin.first(n)}
        for layer in self.layers[first:]:
            operation = layer.operation
            inputs = [
                self._as_read(outputs[name], name, operation.name) for name in operation.inputs
            ]
            output = layer.forward(inputs, mode)
            if operation.name in self.junctions:
                self.junctions[operation.name].open(output)
            outputs[operation.name] = output
        return outputs[operation.name].x

    def _as_read(self, activation: Activation, name: str, reader: str) -> Activation:
        junction = self.junctions.get(name)
        return junction.for_reader(reader) if junction is not None else activation

    def loss(self, labels: Ints, smoothing: float = 0.0) -> Floats:
        """Cross-entropy of each image in nats, (n,), of the last forward's logits."""
        return self.cross_entropy.forward(labels, smoothing)

    @property
    def backward_order(self) -> list[str]:
        """The operations that backward passes, in its order."""
        return [layer.operation.name for layer in self._backward]

    def backward(self, scale: float, completed: Callable[[str], None] = lambda name: None) -> None:
        """The gradient of scale*sum(loss) with respect to every trainable parameter.

        1/n gives the mean over this batch; 1/(images of all ranks) makes the sum over ranks the
        mean over the global batch. `completed` is called with each operation's name when the
        gradients of its weights, and of all behind it, are there; those of gammas and betas are
        there at the end.
        """
        self.cross_entropy.backward(scale)
        for layer in self._backward:
            layer.backward()
            operation = layer.operation
            for name in operation.inputs:
                if name in self._open:
                    self._open[name].arrived(operation.name)
            completed(operation.name)

    @property
    def normalisations(self) -> list[Normalisation]:
        """Every batch norm, in order."""
        found = [each.bn for each in self.layers if isinstance(each, ConvolutionLayer)]
        return [each for each in found if isinstance(each, Normalisation)]

    def batch_statistics(self) -> tuple[Floats, Floats]:
        """Means and variances (C,) of every batch norm in the last forward, float64."""
        norms = self.normalisations
        return (
            np.concatenate([bn.mean for bn in norms]),
            np.concatenate([bn.variance for bn in norms]),
        )

    def kinks(self) -> Iterator[Floats]:
        """On which side of each kink the last forward was: ReLUs and the places of maxima."""
        for layer in self.layers:
            if isinstance(layer.operation, Convolution):
                a: Activation = layer.output  # type: ignore[attr-defined]
                yield (a.z > a.affine[LOW]) & (a.z < a.affine[HIGH])
            elif isinstance(layer, MaxPoolLayer):
                yield layer.index[: len(layer.output.x)]

    def relu_inputs(self) -> Iterator[tuple[str, Floats]]:
        """What went into each ReLU in the last forward, with the operation's name; for checks."""
        for layer in self.layers:
            if isinstance(layer.operation, Convolution) and layer.operation.relu != "none":
                yield layer.operation.name, layer.output.z  # type: ignore[attr-defined]


class Junction:
    """Adds up the gradient of one output from its readers, then applies the mask of its ReLU.

    Backward runs the last of `readers` first: it writes dz. Each further one writes into `more`,
    which is added. Once all have arrived, the mask and the sums dgamma, dbeta are computed from the
    whole. A single reader needs a junction where it sends the gradient without the mask
    (`Operation.sends_raw_gradient`).
    """

    def __init__(self, readers: list[str], more: Floats | None, kernels: ModuleType) -> None:
        self.readers, self.more, self.kernels = readers, more, kernels

    def open(self, activation: Activation) -> None:
        """Forward has computed the output: the readers of this step are to come."""
        self.activation, self.waiting = activation, list(self.readers)
        if self.more is not None:
            dz = self.more[: len(activation.x)]
            sums = (np.empty_like(activation.dgamma), np.empty_like(activation.dbeta))
            plain = activation.plain
            self.further = Activation(activation.x, activation.affine, dz, *sums, plain)

    def for_reader(self, name: str) -> Activation:
        """The output, with the place where reader `name` writes its gradient."""
        return self.activation if name == self.readers[-1] else self.further

    def arrived(self, name: str) -> None:
        """Reader `name` has written its gradient."""
        a = self.activation
        if name != self.readers[-1]:
            self.kernels.residual_backward_accumulate(maps(a.dz), maps(self.further.dz))
        self.waiting.remove(name)
        if not self.waiting and not a.plain:
            self.kernels.activation_backward(a.dz, a.dgamma, a.dbeta, a.dz, a.x, a.affine)


def with_epsilon(bn: BatchNorm, architecture: Architecture) -> BatchNorm:
    """Its own epsilon, or the model's."""
    if bn.epsilon is not None:
        return bn
    return BatchNorm(bn.momentum, architecture.config.bn_epsilon, bn.sum_over_ranks)
