"""The kernels in plain NumPy, one readable function a pass. Names and signatures as in jit.

Besides plain operations, such as pointwise_forward, there are the fused ones that the network runs,
such as activation_pointwise_stats_forward. Their names are the chain of what they do, because
between two convolutions lie batch norm and ReLU6, and neither is worth a pass over memory:

    forward     the input x comes as it left the convolution before, with `affine` (6,C), which
                makes it an activation (see kernels/arrays.py); the output y leaves with its
                statistics
    backward    the gradient dz_next of scale*y + shift comes with `affine_backward` (3,C), which
                makes it the gradient of y; the gradient dz of z = scale*x + shift leaves with its
                two sums

Here a fused kernel is composed of plain ones, and every step makes its array. The compiled twin
runs the same steps tile by tile in the cache. Plain kernels whose place a fused one has taken stand
here alone.
"""

from npnet.kernels.reference.activation import (
    activation_backward,
    activation_forward,
    affine_relu6_backward_sums,
    affine_relu6_forward,
    dropout_backward,
    dropout_forward,
    relu6_backward,
    relu6_forward,
    residual_backward_accumulate,
    residual_forward,
)
from npnet.kernels.reference.batchnorm import (
    affine_forward,
    batchnorm_backward,
    batchnorm_backward_sums,
    batchnorm_fold,
    batchnorm_fold_backward,
    batchnorm_statistics,
    batchnorm_track,
)
from npnet.kernels.reference.convolution import (
    activation_conv_stats_backward,
    activation_conv_stats_forward,
    conv_backward_input,
    conv_backward_weight,
    conv_forward,
)
from npnet.kernels.reference.depthwise import (
    activation_depthwise3x3_stats_backward,
    activation_depthwise3x3_stats_forward,
    depthwise3x3_backward_input,
    depthwise3x3_backward_weight,
    depthwise3x3_forward,
)
from npnet.kernels.reference.elementwise import (
    activation_add_forward,
    activation_dropout_backward,
    activation_dropout_forward,
)
from npnet.kernels.reference.expand import (
    expand_depthwise3x3_stats_backward,
    expand_depthwise3x3_stats_forward,
    expand_stats_backward_accumulate,
    expand_stats_forward,
)
from npnet.kernels.reference.head import (
    average_pool_backward,
    average_pool_forward,
    linear_backward_input,
    linear_backward_weight,
    linear_forward,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
)
from npnet.kernels.reference.image import image_forward, image_resized_crop_forward
from npnet.kernels.reference.inference import (
    head_inference,
    inverted_residual_inference,
    separable_inference,
    stem3x3_inference,
)
from npnet.kernels.reference.pointwise import (
    activation_pointwise_stats_backward,
    activation_pointwise_stats_forward,
    pointwise_backward_input,
    pointwise_backward_weight,
    pointwise_forward,
)
from npnet.kernels.reference.pooling import (
    activation_average_pool_backward,
    activation_average_pool_forward,
    activation_max_pool3x3_backward,
    activation_max_pool3x3_forward,
    max_pool3x3_backward,
    max_pool3x3_forward,
)
from npnet.kernels.reference.sgd import sgd_update
from npnet.kernels.reference.stem import (
    stem3x3_backward_weight,
    stem3x3_forward,
    stem3x3_stats_backward,
    stem3x3_stats_forward,
)

__all__ = [
    "activation_add_forward",
    "activation_average_pool_backward",
    "activation_average_pool_forward",
    "activation_backward",
    "activation_conv_stats_backward",
    "activation_conv_stats_forward",
    "activation_depthwise3x3_stats_backward",
    "activation_depthwise3x3_stats_forward",
    "activation_dropout_backward",
    "activation_dropout_forward",
    "activation_forward",
    "activation_max_pool3x3_backward",
    "activation_max_pool3x3_forward",
    "activation_pointwise_stats_backward",
    "activation_pointwise_stats_forward",
    "affine_forward",
    "affine_relu6_backward_sums",
    "affine_relu6_forward",
    "average_pool_backward",
    "average_pool_forward",
    "batchnorm_backward",
    "batchnorm_backward_sums",
    "batchnorm_fold",
    "batchnorm_fold_backward",
    "batchnorm_statistics",
    "batchnorm_track",
    "conv_backward_input",
    "conv_backward_weight",
    "conv_forward",
    "depthwise3x3_backward_input",
    "depthwise3x3_backward_weight",
    "depthwise3x3_forward",
    "dropout_backward",
    "dropout_forward",
    "expand_depthwise3x3_stats_backward",
    "expand_depthwise3x3_stats_forward",
    "expand_stats_backward_accumulate",
    "expand_stats_forward",
    "head_inference",
    "image_forward",
    "image_resized_crop_forward",
    "inverted_residual_inference",
    "linear_backward_input",
    "linear_backward_weight",
    "linear_forward",
    "max_pool3x3_backward",
    "max_pool3x3_forward",
    "pointwise_backward_input",
    "pointwise_backward_weight",
    "pointwise_forward",
    "relu6_backward",
    "relu6_forward",
    "residual_backward_accumulate",
    "residual_forward",
    "separable_inference",
    "sgd_update",
    "softmax_cross_entropy_backward",
    "softmax_cross_entropy_forward",
    "stem3x3_backward_weight",
    "stem3x3_forward",
    "stem3x3_inference",
    "stem3x3_stats_backward",
    "stem3x3_stats_forward",
]
