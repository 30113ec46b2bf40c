"""Kernels: arrays in, arrays out. No state, no MPI, no files, no printing.

Every kernel stands twice, under one name and one signature:

    reference/   plain NumPy, any floating dtype; the text to learn from
    jit/         Numba machine code; the text that runs fast

The network runs fused kernels: a convolution with the batch norms before and behind it, such as
activation_depthwise3x3_stats_forward. In reference/ they are composed of plain operations, such as
depthwise3x3_forward, which stand there alone.

`backend("numba")` and `backend("reference")` hand out the two sets; nothing else in npnet chooses.
`registry.py` lists every kernel with its cases, work and tolerance; tests and benchmarks read it.
What the compiled kernels were before they were fused is kept in bench/ladder/.

Legend, used in every docstring and shape comment
    N        images in the batch
    H W      height and width of the input; Ho Wo of the output
    C        channels; Ci Co where input and output differ
    K        classes
    S        height and width of the network's square input
    M        N*H*W, the samples behind one batch-norm statistic
Arrays are C-contiguous, images NHWC, floats of one dtype (float32 to train, float64 to check).
Where a docstring says so, maps may be a slice of channels (N,H,W,C)[..., a:b], and arguments None.

Order of arguments: outputs, inputs, saved tensors, scalars. `dx dw dy` are gradients of the loss
with respect to `x w y`. A kernel overwrites its outputs; one that adds to them has `accumulate`
in its name. Kernels whose docstring says so may run in place (the output is the input).
"""

from importlib import import_module
from types import ModuleType


class SettingError(ValueError):
    """The environment asks for what there is not. The message is a sentence for the user."""


BACKENDS = {"numba": "jit", "reference": "reference"}


def backend(name: str | ModuleType) -> ModuleType:
    """The set of kernels called `name`: "numba" or "reference"; or one that is given itself."""
    if not isinstance(name, str):
        return name
    if name not in BACKENDS:
        raise ValueError(f"unknown backend {name!r}: choose one of {', '.join(BACKENDS)}")
    return import_module(f"npnet.kernels.{BACKENDS[name]}")
