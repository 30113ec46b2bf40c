"""Depthwise 3x3 convolution, tap by tap. Attempt 1; attempt 2 is kernels/jit/depthwise.py.

The inner loop runs over channels, which lie side by side (NHWC). Away from the border all nine taps
are added in registers; on the border, tap by tap those that lie inside the map.
"""

import numpy as np

from npnet.kernels.arrays import Floats
from npnet.kernels.jit.options import inline, kernel


@kernel
def depthwise3x3_forward(y: Floats, x: Floats, w: Floats, stride: int) -> None:
    """As reference.depthwise3x3_forward."""
    n_images, h, width, channels = x.shape
    _, ho, wo, _ = y.shape
    w00, w01, w02 = w[0, 0], w[0, 1], w[0, 2]
    w10, w11, w12 = w[1, 0], w[1, 1], w[1, 2]
    w20, w21, w22 = w[2, 0], w[2, 1], w[2, 2]
    for n in range(n_images):
        for i in range(ho):
            top = stride * i - 1
            for j in range(wo):
                left = stride * j - 1
                out = y[n, i, j]
                if top < 0 or left < 0 or top + 3 > h or left + 3 > width:
                    for c in range(channels):
                        out[c] = 0
                    for k in range(max(0, -top), min(3, h - top)):
                        for m in range(max(0, -left), min(3, width - left)):
                            add_product(out, x[n, top + k, left + m], w[k, m])
                    continue
                r0, r1, r2 = x[n, top], x[n, top + 1], x[n, top + 2]
                x00, x01, x02 = r0[left], r0[left + 1], r0[left + 2]
                x10, x11, x12 = r1[left], r1[left + 1], r1[left + 2]
                x20, x21, x22 = r2[left], r2[left + 1], r2[left + 2]
                for c in range(channels):
                    out[c] = (
                        (x00[c] * w00[c] + x01[c] * w01[c] + x02[c] * w02[c])
                        + (x10[c] * w10[c] + x11[c] * w11[c] + x12[c] * w12[c])
                        + (x20[c] * w20[c] + x21[c] * w21[c] + x22[c] * w22[c])
                    )


@kernel
def depthwise3x3_backward_input(dx: Floats, dy: Floats, w: Floats, stride: int) -> None:
    """As reference.depthwise3x3_backward_input.

    At stride 1 this is the forward pass with the filter turned by 180 degrees; at stride 2 each
    row of dy is added to the three rows of dx that it came from.
    """
    if stride == 1:
        depthwise3x3_forward(dx, dy, np.ascontiguousarray(w[::-1, ::-1]), 1)
        return
    n_images, h, width, channels = dx.shape
    _, ho, wo, _ = dy.shape
    dx[:] = 0
    for n in range(n_images):
        for i in range(ho):
            for k in range(max(0, 1 - stride * i), min(3, h + 1 - stride * i)):
                row = dx[n, stride * i + k - 1]
                w0, w1, w2 = w[k, 0], w[k, 1], w[k, 2]
                for j in range(wo):
                    gradient = dy[n, i, j]
                    left = stride * j - 1
                    if left < 0 or left + 3 > width:
                        for m in range(max(0, -left), min(3, width - left)):
                            add_product(row[left + m], gradient, w[k, m])
                        continue
                    d0, d1, d2 = row[left], row[left + 1], row[left + 2]
                    for c in range(channels):
                        g = gradient[c]
                        d0[c] += g * w0[c]
                        d1[c] += g * w1[c]
                        d2[c] += g * w2[c]


@kernel
def depthwise3x3_backward_weight(dw: Floats, dy: Floats, x: Floats, stride: int) -> None:
    """As reference.depthwise3x3_backward_weight: the 9*C sums stay in the first-level cache."""
    n_images, h, width, channels = x.shape
    _, ho, wo, _ = dy.shape
    dw[:] = 0
    for n in range(n_images):
        for i in range(ho):
            for k in range(max(0, 1 - stride * i), min(3, h + 1 - stride * i)):
                row = x[n, stride * i + k - 1]
                for j in range(wo):
                    gradient = dy[n, i, j]
                    left = stride * j - 1
                    if left < 0 or left + 3 > width:
                        for m in range(max(0, -left), min(3, width - left)):
                            add_product(dw[k, m], row[left + m], gradient)
                        continue
                    x0, x1, x2 = row[left], row[left + 1], row[left + 2]
                    d0, d1, d2 = dw[k, 0], dw[k, 1], dw[k, 2]
                    for c in range(channels):
                        g = gradient[c]
                        d0[c] += x0[c] * g
                        d1[c] += x1[c] * g
                        d2[c] += x2[c] * g


@inline
def add_product(y: Floats, a: Floats, b: Floats) -> None:
    """y += a*b over the channels of one pixel.   All (C,)."""
    for c in range(len(y)):
        y[c] += a[c] * b[c]
