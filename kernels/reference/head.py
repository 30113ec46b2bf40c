"""The end of the network: global average pool, linear classifier, softmax cross-entropy."""

import numpy as np

from npnet.kernels.arrays import Floats, Ints


def average_pool_forward(y: Floats, x: Floats) -> None:
    """y[n,c] = mean of x[n,:,:,c].   y (N,C), x (N,H,W,C)."""
    y[...] = x.mean(axis=(1, 2))


def average_pool_backward(dx: Floats, dy: Floats) -> None:
    """dx[n,i,j,c] = dy[n,c]/(H*W).   dx (N,H,W,C), dy (N,C)."""
    _, h, w, _ = dx.shape
    dx[...] = dy[:, None, None, :] / (h * w)


def linear_forward(y: Floats, x: Floats, w: Floats, b: Floats) -> None:
    """y = x w + b.   y (N,K), x (N,C), w (C,K), b (K,)."""
    y[...] = x @ w + b


def linear_backward_input(dx: Floats, dy: Floats, w: Floats) -> None:
    """dx = dy w^T.   dx (N,C), dy (N,K), w (C,K)."""
    dx[...] = dy @ w.T


def linear_backward_weight(dw: Floats, db: Floats, dy: Floats, x: Floats) -> None:
    """dw = x^T dy, db = sum over the batch of dy.   dw (C,K), db (K,), dy (N,K), x (N,C)."""
    dw[...] = x.T @ dy
    db[...] = dy.sum(axis=0)


def softmax_cross_entropy_forward(
    loss: Floats, probabilities: Floats, logits: Floats, labels: Ints, smoothing: float
) -> None:
    """loss[n] = -sum_k t[n,k] log p[n,k] in nats, p = softmax(logits).

    The target t is smoothing/K everywhere, plus 1-smoothing at the label (Szegedy et al. 2016,
    section 7). The largest logit is subtracted first, so no exponential overflows.
    loss (N,), probabilities p (N,K) kept for backward, logits (N,K), labels int64 (N,).
    """
    shifted = logits - logits.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    log_p = shifted - log_sum
    probabilities[...] = np.exp(log_p)
    rows = np.arange(len(labels))
    loss[...] = -(1 - smoothing) * log_p[rows, labels] - smoothing * log_p.mean(axis=1)


def softmax_cross_entropy_backward(
    dlogits: Floats, probabilities: Floats, labels: Ints, smoothing: float, scale: float
) -> None:
    """dlogits = scale*(p - t): the gradient of scale*sum(loss), p and t as in forward.

    dlogits, probabilities (N,K), labels int64 (N,). scale = 1/N gives the mean over this batch.
    """
    classes = probabilities.shape[1]
    rows = np.arange(len(labels))
    dlogits[...] = probabilities - smoothing / classes
    dlogits[rows, labels] -= 1 - smoothing
    dlogits *= scale
