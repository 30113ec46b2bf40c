"""Batch norm folded into weights, and batch norm that passes on what it gets."""

import numpy as np

from npnet.kernels.arrays import Floats
from npnet.model.fusion import folded
from npnet.model.operations import Convolution, Operation
from npnet.model.parameters import Parameters


def folded_numbers(
    parameters: Parameters, operation: Operation, epsilon: float
) -> tuple[Floats, Floats]:
    """An operation's weight, in npnet's layout, and bias, with batch norm folded."""
    if isinstance(operation, Convolution) and operation.batch_norm:
        return folded(operation, parameters, epsilon)
    value, name = parameters.value, operation.name
    return value(f"{name}.weight"), value(f"{name}.bias")


def set_folded(
    parameters: Parameters, operation: Operation, weight: Floats, bias: Floats, epsilon: float
) -> None:
    """Set a weight, in npnet's layout, and a bias, which an operation may have as a batch norm.

    Then gamma is sqrt(1 + epsilon), in the very arithmetic in which npnet.model.fusion divides by
    it, beta the bias, the running mean 0 and the variance 1: folding gives weight and bias again,
    to the bit.
    """
    value, name = parameters.value, operation.name
    value(f"{name}.weight")[...] = weight
    if not isinstance(operation, Convolution) or not operation.batch_norm:
        value(f"{name}.bias")[...] = bias
        return
    mean, variance = parameters.running(name)
    mean[...], variance[...] = 0, 1
    value(f"{name}.gamma")[...] = np.sqrt(variance + epsilon)
    value(f"{name}.beta")[...] = bias
