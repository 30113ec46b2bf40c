"""An output array that lies between guard bands, so that a stray write is seen."""

import numpy as np

BAND = 64  # elements on either side: more than any vector register holds
SENTINEL = 12345.0


class Guarded:
    """`array` has the shape of `like`, filled with NaN (or with `like`, if `keep`)."""

    def __init__(self, like, keep=False):
        self._memory = np.full(like.size + 2 * BAND, SENTINEL, like.dtype)
        self.array = self._memory[BAND : BAND + like.size].reshape(like.shape)
        self.array[...] = like if keep else np.nan

    @property
    def intact(self):
        return bool(np.all(self._memory[:BAND] == SENTINEL)) and bool(
            np.all(self._memory[-BAND:] == SENTINEL)
        )
