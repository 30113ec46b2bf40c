"""The folder of compiled kernels: found, named after what it holds, and no danger when missing."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import numpy as np
from npnet.kernels.jit import relu6_forward
from npnet.kernels.jit.options import cache_directory
y = np.empty(3, np.float32)
relu6_forward(y, np.array([-1, 2, 9], np.float32))
print(cache_directory(), y.tolist(), len(getattr(relu6_forward, "stats").cache_hits))
"""


def run(folder):
    environment = os.environ | {"NPNET_CACHE": str(folder)}
    environment.pop("NUMBA_DISABLE_JIT", None)
    command = [sys.executable, "-c", SCRIPT]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True)


@pytest.mark.compiled
def test_the_second_start_loads_what_the_first_compiled(tmp_path):
    first, second = run(tmp_path), run(tmp_path)
    assert first.stdout.endswith("[0.0, 2.0, 6.0] 0\n")
    assert second.stdout.endswith("[0.0, 2.0, 6.0] 1\n")
    (folder,) = tmp_path.iterdir()
    assert first.stdout.startswith(str(folder))


@pytest.mark.compiled
def test_without_a_folder_it_compiles_anew_and_says_so(tmp_path):
    occupied = tmp_path / "a file"
    occupied.touch()
    result = run(occupied)
    assert result.stdout == "None [0.0, 2.0, 6.0] 0\n"
    assert "name a folder of your own in NPNET_CACHE" in result.stderr


@pytest.mark.compiled
def test_a_folder_that_others_can_write_is_not_trusted(tmp_path):
    run(tmp_path)
    (folder,) = tmp_path.iterdir()
    folder.chmod(0o777)
    result = run(tmp_path)
    assert result.stdout == "None [0.0, 2.0, 6.0] 0\n"
    assert "others can write there" in result.stderr
