"""The twins once more, compiled for other processors. Last of this folder: see rows.py."""

import re

import pytest

from npnet.kernels.registry import COMPILED
from tests.kernels.rows import OTHER_ROWS, OTHERS


@pytest.mark.compiled
@pytest.mark.parametrize("row", OTHERS)
def test_under_the_row_of_another_processor(row):
    status, output = OTHER_ROWS.result(row)
    assert status == 0, output
    assert int(re.findall(r"(\d+) passed", output)[-1]) >= len(COMPILED)
