"""Inference: batch norm is folded into the convolution before it, so a block needs no statistics.

    w' = w*scale, b = shift,  scale = gamma/sqrt(variance+eps), shift = beta - scale*mean

Nothing is kept for a backward pass, so a whole block is one kernel: what lies between its three
convolutions need never leave the cache.
"""

import numpy as np

from npnet.kernels.arrays import Floats
from npnet.kernels.reference.activation import relu6_forward
from npnet.kernels.reference.depthwise import depthwise3x3_forward
from npnet.kernels.reference.pointwise import pointwise_forward
from npnet.kernels.reference.stem import stem3x3_forward


def stem3x3_inference(y: Floats, x: Floats, w: Floats, b: Floats) -> None:
    """y = relu6(stem3x3(x, w) + b).   y (N,Ho,Wo,Co), x (N,H,W,3), w (3,3,3,Co), b (Co,)."""
    stem3x3_forward(y, x, w)
    y += b
    relu6_forward(y, y)


def separable_inference(
    y: Floats,
    x: Floats,
    w2: Floats,
    b2: Floats,
    w3: Floats,
    b3: Floats,
    stride: int,
    shortcut: bool,
) -> None:
    """A block that does not expand: y = relu6(depthwise3x3(x, w2) + b2) w3 + b3 (+ x).

    y (N,Ho,Wo,Co), x (N,H,W,Ci), w2 (3,3,Ci), b2 (Ci,), w3 (Ci,Co), b3 (Co,).
    """
    filtered = np.empty((*y.shape[:3], x.shape[3]), x.dtype)
    depthwise3x3_forward(filtered, x, w2, stride)
    filtered += b2
    relu6_forward(filtered, filtered)
    pointwise_forward(y, filtered, w3)
    y += b3
    if shortcut:
        y += x


def inverted_residual_inference(
    y: Floats,
    x: Floats,
    w1: Floats,
    b1: Floats,
    w2: Floats,
    b2: Floats,
    w3: Floats,
    b3: Floats,
    stride: int,
    shortcut: bool,
) -> None:
    """An inverted residual block: relu6(x w1 + b1), then as separable_inference, then (+ x).

    y (N,Ho,Wo,Co), x (N,H,W,Ci), w1 (Ci,C), b1 (C,), w2 (3,3,C), b2 (C,), w3 (C,Co), b3 (Co,).
    """
    expanded = np.empty((*x.shape[:3], w1.shape[1]), x.dtype)
    pointwise_forward(expanded, x, w1)
    expanded += b1
    relu6_forward(expanded, expanded)
    separable_inference(y, expanded, w2, b2, w3, b3, stride, shortcut=False)
    if shortcut:
        y += x


def head_inference(features: Floats, x: Floats, w: Floats, b: Floats) -> None:
    """The last convolution and the pool: features = mean over the map of relu6(x w + b).

    features (N,Co), x (N,H,W,Ci), w (Ci,Co), b (Co,).
    """
    maps = np.empty((*x.shape[:3], w.shape[1]), x.dtype)
    pointwise_forward(maps, x, w)
    maps += b
    relu6_forward(maps, maps)
    features[...] = maps.mean(axis=(1, 2))
