"""ReLU6 as a pass of its own. Attempt 1; attempt 2 clips in kernels/jit/tiles.py."""

from npnet.kernels.arrays import Floats
from npnet.kernels.jit.options import kernel


@kernel
def relu6_forward(y: Floats, x: Floats) -> None:
    """As reference.relu6_forward."""
    out, values = y.reshape(-1), x.reshape(-1)
    zero, six = y.dtype.type(0), y.dtype.type(6)
    for i in range(len(values)):
        v = values[i]
        v = zero if v < zero else v  # this order of comparing lets a NaN through
        out[i] = six if v > six else v


@kernel
def relu6_backward(dx: Floats, dy: Floats, x: Floats) -> None:
    """As reference.relu6_backward."""
    out, gradients, values = dx.reshape(-1), dy.reshape(-1), x.reshape(-1)
    zero, six = dx.dtype.type(0), dx.dtype.type(6)
    for i in range(len(values)):
        v, g = values[i], gradients[i]
        out[i] = g if v * (six - v) > zero else zero  # 0 < x < 6 in one comparison
