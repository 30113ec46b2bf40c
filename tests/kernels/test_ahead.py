"""Kernels compiled before they are called, in several processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from npnet.kernels.jit import ahead
from npnet.kernels.jit.options import inline, kernel
from tests.launch import SOURCES

pytestmark = pytest.mark.compiled

MEGABYTE = 2**20


@inline
def power(x, exponent):
    return x**exponent


@kernel
def of_constants(x, exponent):
    return power(x, 0) + power(x, 1) + power(x, 3) + power(x, exponent)


def test_a_helper_is_compiled_once_for_all_constants():
    """Constants are types of their own to Numba, which would compile it for each."""
    assert of_constants(2, 2) == 1 + 2 + 8 + 4
    assert len(power.signatures) == 1


# Three small kernels, one for two types. A process that begins leaves a file.
COMPILE = """
import os, sys
import numpy as np
from npnet.kernels.jit import ahead

def begin():
    open(f"begun.{os.getpid()}", "w").close()

ahead.processes_at_once = lambda cores, free_bytes: 2
maps, row = np.ones((1, 1, 6, 4), np.float32), np.ones(4, np.float32)
calls = {
    "residual_backward_accumulate": {
        ahead.types_of([x, x]) for x in (maps, maps.astype(np.float64))
    },
    "batchnorm_fold": {ahead.types_of([np.ones((6, 4), np.float32), row, row, row, row, 0.1])},
    "batchnorm_track": {ahead.types_of([row, row, row, row, 0.1, 8])},
}
PLANTED
ahead.compile_ahead(calls, begin, print)
"""

# Their calls, in another process, and how many of them found their code.
CALL = """
import numpy as np
from npnet.kernels import jit

maps, row = np.ones((1, 1, 6, 4), np.float32), np.ones(4, np.float32)
for x in (maps, maps.astype(np.float64)):
    jit.residual_backward_accumulate(x, x)
    assert (x == 2).all()
jit.batchnorm_fold(np.ones((6, 4), np.float32), row, row, row, row, 0.1)
jit.batchnorm_track(row, row, row, row, 0.1, 8)
kernels = jit.residual_backward_accumulate, jit.batchnorm_fold, jit.batchnorm_track
print(sum(len(kernel.stats.cache_hits) for kernel in kernels))
print(sum(len(kernel.stats.cache_misses) for kernel in kernels))
"""


def run(script: str, cwd: Path, status: int = 0) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"NPNET_CACHE": "cache", "PYTHONPATH": str(SOURCES)}
    environment.pop("NUMBA_DISABLE_JIT", None)
    ended = subprocess.run(
        [sys.executable, "-c", script], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == status, ended.stderr
    return ended


def test_what_other_processes_compiled_is_found(tmp_path: Path) -> None:
    told = run(COMPILE.replace("PLANTED", ""), tmp_path).stdout
    assert told.splitlines() == ["0 3", "2 3", "3 3"]
    assert len(list(tmp_path.glob("begun.*"))) == 2
    assert run(CALL, tmp_path).stdout.split() == ["4", "0"]


def test_a_compilation_that_fails_is_told(tmp_path: Path) -> None:
    planted = "calls['batchnorm_fold'] = {ahead.types_of([row, 'no array', 1, 1, 1, 1])}"
    ended = run(COMPILE.replace("PLANTED", planted), tmp_path, status=1)
    assert "TypingError" in ended.stderr


def test_a_process_that_is_killed_is_told(tmp_path: Path) -> None:
    planted = "begin = lambda: os.kill(os.getpid(), 9)"
    ended = run(COMPILE.replace("PLANTED", planted), tmp_path, status=1)
    assert (
        ended.stderr.strip()
        .split("\n")[-1]
        .startswith("concurrent.futures.process.BrokenProcessPool")
    )


@pytest.mark.parametrize(
    ("cores", "free_megabytes", "processes"),
    [(4, 8000, 4), (4, 1100, 3), (4, 500, 1), (4, 100, 1), (1, 8000, 1)],
)
def test_memory_bounds_how_many_compile_at_once(
    cores: int, free_megabytes: int, processes: int
) -> None:
    assert ahead.processes_at_once(cores, free_megabytes * MEGABYTE) == processes


def test_all_cores_are_used_by_a_rank_that_is_bound_to_one() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        ahead.use_all_cores()
        assert os.sched_getaffinity(0) >= before
    finally:
        os.sched_setaffinity(0, before)


def test_the_longest_are_kernels() -> None:
    assert all(ahead.is_compiled(name) for name in ahead.LONGEST)
    assert not ahead.is_compiled("linear_forward")
