"""npnet's arrays as PyTorch and ONNX lay out the same parameter."""

from npnet.kernels.arrays import Floats


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


def to_npnet_layout(array: Floats, shape: tuple[int, ...]) -> Floats:
    """The inverse of `to_torch_layout`; `shape` is npnet's."""
    return (array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T).reshape(shape)
