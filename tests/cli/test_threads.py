"""Thread counts are in the environment before NumPy, or MPI, is loaded."""

import subprocess
import sys
from collections.abc import Mapping

import pytest

from npnet.machine import threads
from tests.launch import SOURCES, clean_environment

# A command that tells what lies in the environment when it starts.
TELL = """
import os, sys
import npnet.cli.main as entry
from npnet.cli import options
from npnet.machine.threads import VARIABLES

@entry.cli.command()
@options.threads
def tell(threads):
    print("numpy" in sys.modules, threads, *(os.environ[name] for name in VARIABLES))
    import numpy

entry.main()
"""


def python(
    script: str, *arguments: str, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=clean_environment() | {"PYTHONPATH": str(SOURCES)} | dict(environment or {}),
    )


@pytest.mark.parametrize(
    ("environment", "arguments", "count"),
    [
        ({}, [], 1),
        ({"OMP_NUM_THREADS": "3"}, [], 3),
        ({"OPENBLAS_NUM_THREADS": "3"}, [], 3),
        ({"OMP_NUM_THREADS": "3", "NUMBA_NUM_THREADS": "4"}, [], 3),
        ({"OMP_NUM_THREADS": "many"}, [], 1),
        ({"OMP_NUM_THREADS": "0"}, [], 1),
        ({"OMP_NUM_THREADS": "²"}, [], 1),
        ({"OMP_NUM_THREADS": "9" * 5000}, [], 1),
        ({"OMP_NUM_THREADS": "1000000000"}, [], threads.MOST),
        ({}, ["--threads", "2"], 2),
        ({"OMP_NUM_THREADS": "3", "NUMBA_NUM_THREADS": "4"}, ["--threads", "2"], 2),
    ],
)
def test_thread_count(environment: dict[str, str], arguments: list[str], count: int) -> None:
    result = python(TELL, "tell", *arguments, environment=environment)
    assert result.stderr == ""
    assert result.stdout.split() == ["False", *[str(count)] * (1 + len(threads.VARIABLES))]


def test_the_libraries_obey() -> None:
    """What Numba makes of it; BLAS reads the same variables."""
    numba = "import npnet.cli.main as entry; entry.limit_threads(); import numba; "
    result = python(numba + "print(numba.config.NUMBA_NUM_THREADS)")
    assert (result.stdout.strip(), result.stderr) == ("1", "")


def test_the_command_line_loads_neither_numpy_nor_mpi() -> None:
    """Not even all its commands' files together, nor the help of one."""
    heavy = "print(sorted({'numpy', 'numba', 'mpi4py', 'psutil'} & set(sys.modules)))"
    result = python(f"import sys, npnet.cli.main; {heavy}")
    assert (result.stdout.strip(), result.stderr) == ("[]", "")
    script = f"import atexit, sys; atexit.register(lambda: {heavy}); import npnet.cli.main as e"
    result = python(f"{script}; e.main()", "train", "--help")
    assert result.stdout.splitlines()[-1] == "[]"
    assert "--batch-per-rank" in result.stdout


def test_too_late() -> None:
    result = python(
        "import numpy; from npnet.machine.threads import limit_threads; limit_threads()"
    )
    assert "must run before NumPy is imported" in result.stderr


def test_oversubscription() -> None:
    assert threads.oversubscription(4, 1, 4) is None
    assert threads.oversubscription(1, 4, 4) is None
    warning = threads.oversubscription(4, 2, 4)
    assert warning is not None
    assert "4 ranks x 2 threads on 4 cores" in warning
