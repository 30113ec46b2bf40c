"""An output array that lies between guard bands, so that a stray write is seen."""

import numpy as np

BAND = 64  # elements on either side: more than any vector register holds
BESIDE = 5  # channels on either side of a slice: no whole register, so nothing is aligned
SENTINEL, BYTE = 12345.0, 123


class Guarded:
    """`array` has the shape of `like`, filled with NaN (or with `like`, if `keep`).

    If `sliced`, it is a slice of the last axis of a wider array, and what lies beside is guarded.
    There is no NaN among bytes; they keep the band's value.
    """

    def __init__(self, like, keep=False, sliced=False):
        beside = BESIDE if sliced else 0
        *rows, columns = like.shape
        wide = (*rows, columns + 2 * beside)

        def inner(memory):
            middle = memory[BAND : memory.size - BAND].reshape(wide)
            return middle[..., beside : beside + columns]

        self._sentinel = BYTE if like.dtype == np.uint8 else SENTINEL
        self._memory = np.full(np.prod(wide, dtype=int) + 2 * BAND, self._sentinel, like.dtype)
        self._guards = np.ones(self._memory.shape, bool)
        inner(self._guards)[...] = False
        self.array = inner(self._memory)
        if keep or like.dtype != np.uint8:
            self.array[...] = like if keep else np.nan

    @property
    def intact(self):
        return bool(np.all(self._memory[self._guards] == self._sentinel))
