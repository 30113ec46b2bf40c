"""The end of the network as passes of its own: global average pool and dropout."""

from npnet.kernels.arrays import Bytes, Floats
from npnet.kernels.jit.options import kernel


@kernel
def average_pool_forward(y: Floats, x: Floats) -> None:
    """As reference.average_pool_forward."""
    n_images, h, w, channels = x.shape
    for n in range(n_images):
        out = y[n]
        out[:] = 0
        for i in range(h):
            for j in range(w):
                for c in range(channels):
                    out[c] += x[n, i, j, c]
        for c in range(channels):
            out[c] /= h * w


@kernel
def average_pool_backward(dx: Floats, dy: Floats) -> None:
    """As reference.average_pool_backward."""
    n_images, h, w, channels = dx.shape
    for n in range(n_images):
        for i in range(h):
            for j in range(w):
                for c in range(channels):
                    dx[n, i, j, c] = dy[n, c] / (h * w)


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
