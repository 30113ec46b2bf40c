"""The stem: the first 3x3 convolution, stride 2, from 3 image channels (MobileNetV2, Table 2)."""

from npnet.kernels.arrays import Floats
from npnet.kernels.reference.batchnorm import batchnorm_statistics, through_batchnorm
from npnet.kernels.reference.convolution import conv_backward_weight, conv_forward

STRIDE, PADDING = 2, 1


def stem3x3_forward(y: Floats, x: Floats, w: Floats) -> None:
    """y[n,i,j,o] = sum_{k,l,c} x[n, 2i+k-1, 2j+l-1, c] w[k,l,c,o], zero outside the image.

    y (N,Ho,Wo,Co), x (N,H,W,3), w (3,3,3,Co).
    """
    conv_forward(y, x, w, STRIDE, PADDING)


def stem3x3_backward_weight(dw: Floats, dy: Floats, x: Floats) -> None:
    """dw[k,l,c,o] = sum_{n,i,j} x[n, 2i+k-1, 2j+l-1, c] dy[n,i,j,o].

    dw (3,3,3,Co), dy (N,Ho,Wo,Co), x (N,H,W,3). The image needs no gradient, so there is no
    backward_input.
    """
    conv_backward_weight(dw, dy, x, STRIDE, PADDING)


def stem3x3_stats_forward(y: Floats, mean: Floats, variance: Floats, x: Floats, w: Floats) -> None:
    """stem3x3_forward, then batchnorm_statistics.

    y (N,Ho,Wo,Co), mean, variance float64 (Co,), x (N,H,W,3), w (3,3,3,Co).
    """
    stem3x3_forward(y, x, w)
    batchnorm_statistics(mean, variance, y)


def stem3x3_stats_backward(
    dw: Floats, dz_next: Floats, y: Floats, affine_backward: Floats, x: Floats
) -> None:
    """dy = p*dz_next + q*y + r, then stem3x3_backward_weight.

    dw (3,3,3,Co), dz_next, y (N,Ho,Wo,Co), affine_backward (3,Co), x (N,H,W,3).
    """
    stem3x3_backward_weight(dw, through_batchnorm(dz_next, y, affine_backward), x)
