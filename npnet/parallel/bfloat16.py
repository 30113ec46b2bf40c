"""bfloat16, the upper half of a float32: a sign, 8 bits of exponent, 7 of fraction.

NumPy has no such type; its numbers are kept as the bits of whole ones. A loop in machine code was
no faster than these passes over an array.
"""

import numpy as np
from numpy.typing import NDArray

from npnet.kernels.arrays import Floats

Halves = NDArray[np.uint16]
NAN = 0x7FC0


@np.errstate(invalid="ignore", over="ignore")  # of a run that diverges, which the loss tells
def to_bfloat16(halves: Halves, carry: Floats, numbers: Floats) -> None:
    """Round to the nearest, to the even one of two, and keep what that takes away.

        halves = round(numbers + carry),  carry = numbers + carry - halves

    All (n,); carry and numbers float32. Adding half of what the last bit is worth, less one where
    that bit is 0, makes cutting off into rounding.
    """
    carry += numbers
    bits = carry.view(np.uint32)
    halves[:] = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    halves[np.isnan(carry)] = NAN  # of one with all bits set, the sum would be a zero
    carry -= from_bfloat16(halves)


def from_bfloat16(halves: Halves) -> Floats:
    """The same numbers, float32 (n,)."""
    return (halves.astype(np.uint32) << 16).view(np.float32)
