"""The kernels as machine code: all that a run calls. What came before them: bench/ladder/."""

from npnet.kernels.jit.activation import (
    activation_backward,
    activation_forward,
    residual_backward_accumulate,
    residual_forward,
)
from npnet.kernels.jit.batchnorm import (
    batchnorm_fold,
    batchnorm_fold_backward,
    batchnorm_track,
)
from npnet.kernels.jit.convolution import (
    activation_conv_stats_backward,
    activation_conv_stats_forward,
    conv_backward_input,
    conv_backward_weight,
    conv_forward,
)
from npnet.kernels.jit.depthwise import (
    activation_depthwise3x3_stats_backward,
    activation_depthwise3x3_stats_forward,
)
from npnet.kernels.jit.elementwise import (
    activation_add_forward,
    activation_dropout_backward,
    activation_dropout_forward,
)
from npnet.kernels.jit.expand import (
    expand_depthwise3x3_stats_backward,
    expand_depthwise3x3_stats_forward,
    expand_stats_backward_accumulate,
    expand_stats_forward,
)
from npnet.kernels.jit.head import (
    linear_backward_input,
    linear_backward_weight,
    linear_forward,
    softmax_cross_entropy_backward,
    softmax_cross_entropy_forward,
)
from npnet.kernels.jit.image import (
    image_forward,
    image_resized_crop_forward,
)
from npnet.kernels.jit.inference import (
    head_inference,
    inverted_residual_inference,
    separable_inference,
    stem3x3_inference,
)
from npnet.kernels.jit.pointwise import (
    activation_pointwise_stats_backward,
    activation_pointwise_stats_forward,
)
from npnet.kernels.jit.pooling import (
    activation_average_pool_backward,
    activation_average_pool_forward,
    activation_max_pool3x3_backward,
    activation_max_pool3x3_forward,
    max_pool3x3_backward,
    max_pool3x3_forward,
)
from npnet.kernels.jit.sgd import (
    sgd_update,
)
from npnet.kernels.jit.stem import (
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
    "batchnorm_fold",
    "batchnorm_fold_backward",
    "batchnorm_track",
    "conv_backward_input",
    "conv_backward_weight",
    "conv_forward",
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
    "residual_backward_accumulate",
    "residual_forward",
    "separable_inference",
    "sgd_update",
    "softmax_cross_entropy_backward",
    "softmax_cross_entropy_forward",
    "stem3x3_inference",
    "stem3x3_stats_backward",
    "stem3x3_stats_forward",
]
