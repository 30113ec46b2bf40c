"""A rank that is killed at a planted point takes the others with it, and the run goes on later."""

from pathlib import Path
from typing import Any

import pytest

from tests import faults

pytestmark = pytest.mark.mpi
SECONDS = 20  # generous: it takes well under one


@pytest.fixture(scope="module")
def end(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return faults.undisturbed(tmp_path_factory.mktemp("undisturbed"))


@pytest.mark.parametrize(
    "name",
    [
        *("at the start", "while a child compiles", "within an epoch, rank 0"),
        *("before its part of a sum", "in the test", "at write 5", "before the summary"),
    ],
)
def test_a_killed_rank(tmp_path: Path, end: Any, name: str) -> None:
    survival = faults.killed(faults.POINTS[name], tmp_path, end)
    assert survival.status != 0
    assert survival.left == 0
    assert survival.seconds < SECONDS
    assert survival.same
    assert survival.steps_lost <= 1
