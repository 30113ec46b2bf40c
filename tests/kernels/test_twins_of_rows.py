"""The twins once more, compiled for other processors. Last of this folder: see rows.py."""

import re

import pytest

from npnet.kernels.jit.target import executable_rows, target_row
from npnet.kernels.registry import COMPILED
from tests.kernels.rows import ALONE, OTHER_ROWS, OTHERS, code_of


@pytest.mark.compiled
@pytest.mark.parametrize("row", OTHERS)
def test_under_the_row_of_another_processor(row):
    status, output = OTHER_ROWS.result(row)
    assert status == 0, output
    assert int(re.findall(r"(\d+) passed", output)[-1]) >= len(COMPILED)


@pytest.mark.skipif(ALONE, reason="no other row is compiled")
def test_what_is_the_same_code_is_compiled_once():
    codes = [code_of(row) for row in (target_row(), *OTHERS)]
    assert set(codes) == {code_of(row) for row in executable_rows()}
    assert len(codes) == len(set(codes))
