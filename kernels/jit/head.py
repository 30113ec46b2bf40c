"""The end of the network: linear classifier, softmax cross-entropy."""

import numpy as np

from npnet.kernels.arrays import Floats, Ints
from npnet.kernels.jit.options import kernel


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
