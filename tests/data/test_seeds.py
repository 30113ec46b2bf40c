"""No two uses of random numbers share a stream."""

from itertools import product

from npnet.data.seeds import AUGMENTATION, DROPOUT, INITIAL_VALUES, ORDER, generator


def test_streams_of_different_uses_differ():
    small = range(4)
    uses = [
        (INITIAL_VALUES,),
        *((ORDER, epoch) for epoch in small),
        *((ORDER, epoch, rank) for epoch, rank in product(small, range(1, 4))),
        *((AUGMENTATION, epoch) for epoch in small),
        *((DROPOUT, *where) for where in product(small, small, small)),
    ]
    draws = [
        generator(seed, *use).integers(0, 2**62, 2).tobytes() for seed in (0, 1) for use in uses
    ]
    assert len(set(draws)) == len(draws)
