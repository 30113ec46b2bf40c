"""Settings of the whole suite."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Machines are shared, and a kernel's first call compiles it: no test fails for being slow. The same
# examples are tried each time, so that what passes here passes elsewhere. NPNET_FUZZ=10000 tries as
# many examples of each property, new ones each time, where the suite tries a hundred.
settings.register_profile("npnet", deadline=None, derandomize=True, database=None)
if examples := os.environ.get("NPNET_FUZZ"):
    settings.register_profile(
        "fuzz", settings.get_profile("npnet"), max_examples=int(examples), derandomize=False
    )
settings.load_profile("fuzz" if examples else "npnet")

# The files that take longest are begun first: at the end no core waits long for the other's.
LONGEST = (
    *("tests/kernels/test_twins.py", "tests/model/test_shapes_of_networks.py"),
    *("tests/parallel/test_warmup.py", "tests/kernels/test_twins_of_rows.py"),
    *("tests/cli/test_commands.py", "tests/study/test_report.py", "tests/cli/test_bad_input.py"),
    *("tests/parallel/test_failures.py", "tests/kernels/test_cache.py"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without --loadscope-reorder, pytest-xdist keeps to this order."""
    first = {Path(__file__).parents[1] / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: first.get(item.path, len(first)))
