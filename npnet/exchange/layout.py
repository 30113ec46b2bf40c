"""npnet's arrays as PyTorch and ONNX lay out the same parameter."""

from npnet.kernels.arrays import Floats
from npnet.model.operations import Convolution, Operation
from npnet.model.parameters import Shape


def to_torch_layout(array: Floats, rank: int) -> Floats:
    """npnet's array as the PyTorch array of `rank` dimensions that holds the same parameter.

    (kh,kw,ci,co) becomes (co,ci,kh,kw); a pointwise weight has no kh and kw, and a depthwise one no
    ci: they are put in as 1. A classifier's (C,K) becomes (K,C).
    """
    if rank == 4:
        if array.ndim == 2:
            array = array[None, None]
        elif array.ndim == 3:
            array = array[:, :, None]
        return array.transpose(3, 2, 0, 1)
    return array.T


def torch_shape(operation: Operation) -> Shape:
    """The shape of an operation's weight as PyTorch and ONNX have it."""
    if not isinstance(operation, Convolution):
        return operation.parameters[0].shape[::-1]
    inputs = 1 if operation.depthwise else operation.input_shape[-1]
    return (operation.channels, inputs, operation.size, operation.size)


def to_npnet_layout(array: Floats, shape: tuple[int, ...]) -> Floats:
    """The inverse of `to_torch_layout`; `shape` is npnet's."""
    return (array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T).reshape(shape)
