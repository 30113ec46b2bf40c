"""How long an exchange between ranks takes."""

import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from npnet.parallel.communicator import Communicator


def exchange_seconds(
    comm: Communicator, exchange: Callable[[], object], repeats: int
) -> NDArray[np.float64]:
    """The slowest rank's seconds of each of `repeats`, after one that is not counted.

    The same on every rank. All ranks must call.
    """
    together, times = np.zeros(1), []
    for _ in range(repeats + 1):
        comm.sum(together)  # ranks leave `barrier` up to 10 ms apart, and would wait in here
        start = time.perf_counter()
        exchange()
        times.append(time.perf_counter() - start)
    slowest: NDArray[np.float64] = np.max(comm.gather(times[1:]), axis=0)
    return slowest
