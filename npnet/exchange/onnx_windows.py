"""Where the windows of convolutions and max pools lie in an upright image.

A `tf_same` network of npnet sees its images turned by 180 degrees, with kernels turned likewise
(npnet/model/config.py). Turned back, output o of its n becomes output n-1-o, so rows that were
missing behind the last window are missing before the first:

    begin = stride*(n-1) + size - pad - height,   end = pad

pixels of padding, instead of begin = pad. `begin` is below 0 where windows leave out the first row.
"""

from typing import NamedTuple

from npnet.model.operations import Convolution, MaxPool


class Windows(NamedTuple):
    """Of a square map: width and step of a window, and the padding before and behind the map."""

    size: int
    stride: int
    begin: int
    end: int
    outputs: int

    @property
    def pads(self) -> list[int]:
        """As ONNX lists them, rows and columns; never below 0."""
        return [max(self.begin, 0)] * 2 + [max(self.end, 0)] * 2

    @property
    def cut(self) -> int:
        """Rows and columns that no window reads, at the upper left."""
        return max(-self.begin, 0)


def windows_of(operation: Convolution | MaxPool, turned: bool) -> Windows:
    """Those of an operation; `turned`: its network sees images turned."""
    pool = isinstance(operation, MaxPool)
    size, stride, pad = 3, 2, 0  # of a max pool
    if isinstance(operation, Convolution):
        size, stride, pad = operation.size, operation.stride, operation.pad
    outputs = operation.output_shape[0]
    reached = stride * (outputs - 1) + size - pad - operation.input_shape[0]
    if turned:
        return Windows(size, stride, reached, pad, outputs)
    return Windows(size, stride, pad, reached if pool else pad, outputs)
