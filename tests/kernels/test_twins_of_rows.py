"""The twins once more, compiled for other processors, each row in a process of its own."""

import os
import re
import subprocess
import sys

import pytest

from npnet.kernels.jit.target import executable_rows, target_row
from npnet.kernels.registry import COMPILED
from tests.kernels.rows import ALONE, FLOAT64_APART, OTHERS, code_of
from tests.launch import SOURCES


@pytest.mark.slow
@pytest.mark.compiled
@pytest.mark.parametrize("row", OTHERS)
def test_under_the_row_of_another_processor(row):
    # A register of ARM holds two doubles, and no pixel: so the stem is compiled for both there.
    tests = "test_float32 or test_float64 and stem3x3"
    if FLOAT64_APART and row == OTHERS[0]:
        tests = "test_float64"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "tests/kernels/test_twins.py", "-k", tests],
        cwd=SOURCES,
        env=os.environ | {"NPNET_TARGET": row, "NUMBA_OPT": "1"},  # a seventh less to compile
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) >= len(COMPILED)


@pytest.mark.skipif(ALONE, reason="no other row is compiled")
def test_what_is_the_same_code_is_compiled_once():
    codes = [code_of(row) for row in (target_row(), *OTHERS)]
    assert set(codes) == {code_of(row) for row in executable_rows()}
    assert len(codes) == len(set(codes))
