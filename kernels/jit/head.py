"""The end of the network: global average pool, linear classifier, softmax cross-entropy."""

import numpy as np

from npnet.kernels.arrays import Floats, Ints
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


def linear_forward(y: Floats, x: Floats, w: Floats, b: Floats) -> None:
    """As reference.linear_forward."""
    np.matmul(x, w, out=y)
    y += b


def linear_backward_input(dx: Floats, dy: Floats, w: Floats) -> None:
    """As reference.linear_backward_input."""
    np.matmul(dy, w.T, out=dx)


def linear_backward_weight(dw: Floats, db: Floats, dy: Floats, x: Floats) -> None:
    """As reference.linear_backward_weight."""
    np.matmul(x.T, dy, out=dw)
    np.sum(dy, axis=0, out=db)


@kernel
def softmax_cross_entropy_forward(
    loss: Floats, probabilities: Floats, logits: Floats, labels: Ints, smoothing: float
) -> None:
    """As reference.softmax_cross_entropy_forward, one image after the other."""
    n_images, classes = logits.shape
    for n in range(n_images):
        row, p = logits[n], probabilities[n]
        largest = row.max()
        total, mean_logit = 0.0, 0.0
        for k in range(classes):
            p[k] = np.exp(row[k] - largest)
            total += p[k]
            mean_logit += row[k] / classes
        for k in range(classes):
            p[k] /= total
        target = (1 - smoothing) * row[labels[n]] + smoothing * mean_logit
        loss[n] = np.log(total) + largest - target


@kernel
def softmax_cross_entropy_backward(
    dlogits: Floats, probabilities: Floats, labels: Ints, smoothing: float, scale: float
) -> None:
    """As reference.softmax_cross_entropy_backward."""
    n_images, classes = probabilities.shape
    for n in range(n_images):
        for k in range(classes):
            target = smoothing / classes + (1 - smoothing) * (k == labels[n])
            dlogits[n, k] = scale * (probabilities[n, k] - target)
