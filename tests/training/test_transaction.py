"""A run is a transaction: killed at any change of the disk, it goes on to the same end."""

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.cifar_files import write_cifar
from tests.launch import SOURCES, clean_environment

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """See killing.py."""
    place = tmp_path_factory.mktemp("killing") / "place"
    write_cifar(place / "data")
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.killing"],
        cwd=place,
        env=clean_environment() | {"PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_a_run_leaves_no_more_than_it_should(found: dict[str, Any]) -> None:
    files = {"config.json", "epoch-001.npz", "epoch-002.npz", "final.npz", "best.npz", "log.csv"}
    beside = {"data", "output.txt", "run", "trial_results.csv"}
    assert found["run"]["names"] == sorted(files | beside | {"summary.json"})
    assert [row["epoch"] for row in found["run"]["log"]] == ["1", "2"]
    assert len(found["run"]["table"]) == 1


def test_a_run_that_is_killed_anywhere_ends_as_if_it_had_not_been(found: dict[str, Any]) -> None:
    kills = found["run, killed"]
    assert len(kills) > 12
    for number, kill in enumerate(kills, 1):
        assert kill["left"] == found["run"], number
        assert kill["status"] == (2 if kill["finished"] else 0), number


def test_a_branch_that_is_killed_anywhere_is_one_run_or_the_other(found: dict[str, Any]) -> None:
    """Never a log of two. What had a summary at that moment was whole."""
    both = [found["run before the branch"], found["branch"]]
    assert both[0]["log"][0] == both[1]["log"][0]
    assert both[0]["log"][1] != both[1]["log"][1]
    kills = found["branch, killed"]
    assert len(kills) > 20
    for number, kill in enumerate(kills, 1):
        assert kill["left"] in both, number
        assert not kill["finished"] or kill["then"] | {"names": []} in [
            each | {"names": []} for each in both
        ], number
    assert {json.dumps(kill["left"]) for kill in kills} == {json.dumps(each) for each in both}
