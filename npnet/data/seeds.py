"""Streams of random numbers, none of which is a part of another.

A stream is known by the run's seed, its purpose, and where it is used (epoch, step, rank): nothing
depends on time, or on who draws first.
"""

import numpy as np

INITIAL_VALUES, ORDER, AUGMENTATION, DROPOUT, HELD_OUT = range(5)


def generator(seed: int, purpose: int, *where: int) -> np.random.Generator:
    """The stream of one purpose at one place, the same on every machine."""
    return np.random.default_rng([seed, purpose, *where])
