"""What the compiled kernels were before they were fused: the rungs by which a step became faster.

A training step, as bench/RECORDS.md has it ("What a step was"):

    1. one kernel an operation, the files of this folder: plain loops, BLAS     83.9 ms
    2. batch norm and ReLU6 fused into the convolutions beside them             30.2 ms
    3. one block of memory, rows asked for before they are written, loops down
       a vector of channels: kernels/jit/                                       24.9 ms

Most of it is memory: in rung 1 every large array is read and written by each of convolution,
statistics, map and ReLU6. Names and signatures are those of reference/, with which tests compare
them. No run calls them, and their machine code is not kept on disk.
"""

from bench.ladder.activation import (
    relu6_backward,
    relu6_forward,
)
from bench.ladder.batchnorm import (
    affine_forward,
    affine_relu6_backward_sums,
    affine_relu6_forward,
    batchnorm_backward,
    batchnorm_backward_sums,
    batchnorm_statistics,
)
from bench.ladder.depthwise import (
    depthwise3x3_backward_input,
    depthwise3x3_backward_weight,
    depthwise3x3_forward,
)
from bench.ladder.head import (
    average_pool_backward,
    average_pool_forward,
    dropout_backward,
    dropout_forward,
)
from bench.ladder.pointwise import (
    pointwise_backward_input,
    pointwise_backward_weight,
    pointwise_forward,
)
from bench.ladder.stem import (
    stem3x3_backward_weight,
    stem3x3_forward,
)

__all__ = [
    "affine_forward",
    "affine_relu6_backward_sums",
    "affine_relu6_forward",
    "average_pool_backward",
    "average_pool_forward",
    "batchnorm_backward",
    "batchnorm_backward_sums",
    "batchnorm_statistics",
    "depthwise3x3_backward_input",
    "depthwise3x3_backward_weight",
    "depthwise3x3_forward",
    "dropout_backward",
    "dropout_forward",
    "pointwise_backward_input",
    "pointwise_backward_weight",
    "pointwise_forward",
    "relu6_backward",
    "relu6_forward",
    "stem3x3_backward_weight",
    "stem3x3_forward",
]
