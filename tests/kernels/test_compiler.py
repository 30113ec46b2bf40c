"""What is given back of the compiler is gone from memory, and there again when it is called."""

import subprocess
import sys

import pytest

SCRIPT = """
import numba, psutil
from npnet.kernels.jit import compiler

def held():
    maps = psutil.Process().memory_maps(grouped=False)
    return [part for part in maps if compiler.LIBRARY in part.path]

@numba.njit
def twice(x):
    return 2 * x

assert twice(1.5) == 3.0  # starts the compiler
before = held()
compiler.give_back()
after = held()
assert sum(part.rss for part in before if compiler.is_as_in_file(part)) > 20e6
assert sum(part.rss for part in after if compiler.is_as_in_file(part)) < 4e6
written = [[p.addr for p in parts if not compiler.is_as_in_file(p)] for parts in (before, after)]
assert written[0] == written[1] != []
assert [p.anonymous for p in before] == [p.anonymous for p in after]
assert twice(2) == 4  # compiled by code that was given back
print("done")
"""


@pytest.mark.compiled
def test_the_compilers_code_is_given_back_and_read_again() -> None:
    script = (sys.executable, "-c", SCRIPT)
    ended = subprocess.run(script, capture_output=True, text=True, timeout=300, check=False)
    assert (ended.returncode, ended.stdout) == (0, "done\n"), ended.stderr[-500:]
