"""How many threads a rank may use. Call before NumPy is imported; this module does not import it.

Two ranks that each start one BLAS thread a core fight over the cores: on a Raspberry Pi that costs
more than half of the speed. So a rank gets one thread unless told otherwise.
"""

import os
import re
import sys

VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
)

MOST = 1024  # threads of a rank: BLAS and Numba end a process that asks for many more


def limit_threads(threads: int | None = None) -> int:
    """Set the thread counts of BLAS and Numba; return the count.

    None keeps what the environment says (its first variable wins) and else means one. Raises
    RuntimeError when NumPy is loaded already, because BLAS reads these variables only once.
    """
    if "numpy" in sys.modules:
        raise RuntimeError("limit_threads must run before NumPy is imported")
    if threads is None:
        words = [os.environ.get(name, "") for name in VARIABLES]
        given = [int(word) for word in words if re.fullmatch("[0-9]{1,18}", word)]
        threads = min(max(1, given[0]), MOST) if given else 1
    for name in VARIABLES:
        os.environ[name] = str(threads)
    return threads


def oversubscription(ranks_on_node: int, threads: int, node_cores: int) -> str | None:
    """A sentence when the ranks of a node want more cores than it has, else None."""
    wanted = ranks_on_node * threads
    if wanted <= node_cores:
        return None
    return (
        f"oversubscribed: {ranks_on_node} ranks x {threads} threads on {node_cores} cores of "
        "this node; start fewer ranks a node, or fewer `threads`"
    )
