"""An output array that lies between guard bands, so that a stray write is seen."""

import numpy as np

BAND = 64  # elements on either side: more than any vector register holds
SENTINEL, BYTE = 12345.0, 123


class Guarded:
    """`array` has the shape of `like`, filled with NaN (or with `like`, if `keep`).

    There is no NaN among bytes; they keep the band's value.
    """

    def __init__(self, like, keep=False):
        self._sentinel = BYTE if like.dtype == np.uint8 else SENTINEL
        self._memory = np.full(like.size + 2 * BAND, self._sentinel, like.dtype)
        self.array = self._memory[BAND : BAND + like.size].reshape(like.shape)
        if keep or like.dtype != np.uint8:
            self.array[...] = like if keep else np.nan

    @property
    def intact(self):
        return bool(np.all(self._memory[:BAND] == self._sentinel)) and bool(
            np.all(self._memory[-BAND:] == self._sentinel)
        )
