"""The stem, an output pixel at a time. Attempt 1; attempt 2 is kernels/jit/stem.py."""

from npnet.kernels.arrays import Floats
from npnet.kernels.jit.options import kernel


@kernel
def stem3x3_forward(y: Floats, x: Floats, w: Floats) -> None:
    """As reference.stem3x3_forward. One output pixel at a time, its channels side by side."""
    n_images, h, width, ci = x.shape
    _, ho, wo, co = y.shape
    for n in range(n_images):
        for i in range(ho):
            for j in range(wo):
                out = y[n, i, j]
                for o in range(co):
                    out[o] = 0
                for k in range(max(0, 1 - 2 * i), min(3, h + 1 - 2 * i)):
                    for m in range(max(0, 1 - 2 * j), min(3, width + 1 - 2 * j)):
                        for c in range(ci):
                            value = x[n, 2 * i + k - 1, 2 * j + m - 1, c]
                            weight = w[k, m, c]
                            for o in range(co):
                                out[o] += value * weight[o]


@kernel
def stem3x3_backward_weight(dw: Floats, dy: Floats, x: Floats) -> None:
    """As reference.stem3x3_backward_weight: the 27*Co sums stay in the first-level cache."""
    n_images, h, width, ci = x.shape
    _, ho, wo, co = dy.shape
    dw[:] = 0
    for n in range(n_images):
        for i in range(ho):
            for j in range(wo):
                gradient = dy[n, i, j]
                for k in range(max(0, 1 - 2 * i), min(3, h + 1 - 2 * i)):
                    for m in range(max(0, 1 - 2 * j), min(3, width + 1 - 2 * j)):
                        for c in range(ci):
                            value = x[n, 2 * i + k - 1, 2 * j + m - 1, c]
                            total = dw[k, m, c]
                            for o in range(co):
                                total[o] += value * gradient[o]
