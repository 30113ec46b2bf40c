"""The twins compared under the other rows of jit/target.py, in processes beside the tests.

Compiling is what takes long, and a test run has one core. So other rows are compiled on a second
one, from the start of the run; what they found is asked for at its end.
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from npnet.kernels.jit.options import config
from npnet.kernels.jit.target import TARGETS, executable_rows, target_row
from npnet.parallel.launched import launched_size
from tests.launch import SOURCES


def code_of(row):
    """What of a row decides on machine code; the rest are the lengths of loops."""
    target = TARGETS[row]
    return target.vector_bytes, target.blocks, target.nan_comes_through


# Of rows with the same code one does, the host's own or the first.
DIFFERENT = {code_of(row): row for row in (*reversed(executable_rows()), target_row())}
# None without the compiler, nor on ranks, which would each start them.
ALONE = bool(config.DISABLE_JIT) or launched_size() is not None
OTHERS = tuple(
    row
    for row in executable_rows()
    if not ALONE and row in DIFFERENT.values() and row != target_row()
)
# Double precision is the same text under any row: the first of two others does for all. Then the
# host's own is compiled by the gradient check of a network only.
FLOAT64_APART = len(OTHERS) > 1 and "NPNET_TARGET" not in os.environ


class OtherRows:
    """Processes, one after the other."""

    def __init__(self):
        self._worker = ThreadPoolExecutor(1)
        self._results, self._running, self._ended = {}, None, False

    def start(self, row):
        self._results[row] = self._worker.submit(self._run, row)

    def result(self, row):
        """(status, output), once it is known."""
        return self._results[row].result()

    def end(self):
        self._ended = True
        if self._running is not None:
            self._running.kill()
        self._worker.shutdown(cancel_futures=True)

    def _run(self, row):
        if self._ended:
            return None
        tests = "test_float64" if FLOAT64_APART and row == OTHERS[0] else "test_float32"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        self._running = subprocess.Popen(
            [*command, "tests/kernels/test_twins.py", "-k", tests],
            cwd=SOURCES,
            env=os.environ | {"NPNET_TARGET": row, "NUMBA_OPT": "1"},  # a seventh less to compile
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        output, _ = self._running.communicate()
        return self._running.returncode, output


OTHER_ROWS = OtherRows()
