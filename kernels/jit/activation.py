"""What acts on each element: ReLU6, the residual sum, dropout."""

from npnet.kernels.arrays import Bytes, Floats
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


@kernel
def residual_forward(y: Floats, x: Floats, shortcut: Floats) -> None:
    """As reference.residual_forward."""
    out, a, b = y.reshape(-1), x.reshape(-1), shortcut.reshape(-1)
    for i in range(len(out)):
        out[i] = a[i] + b[i]


@kernel
def residual_backward_accumulate(dshortcut: Floats, dy: Floats) -> None:
    """As reference.residual_backward_accumulate."""
    out, gradients = dshortcut.reshape(-1), dy.reshape(-1)
    for i in range(len(out)):
        out[i] += gradients[i]


@kernel
def dropout_forward(y: Floats, x: Floats, keep: Bytes, rate: float) -> None:
    """As reference.dropout_forward."""
    out, values, kept = y.reshape(-1), x.reshape(-1), keep.reshape(-1)
    for i in range(len(out)):
        out[i] = values[i] * kept[i] / (1 - rate)


@kernel
def dropout_backward(dx: Floats, dy: Floats, keep: Bytes, rate: float) -> None:
    """As reference.dropout_backward."""
    out, gradients, kept = dx.reshape(-1), dy.reshape(-1), keep.reshape(-1)
    for i in range(len(out)):
        out[i] = gradients[i] * kept[i] / (1 - rate)
