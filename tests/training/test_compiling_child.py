"""The processes that compile the kernels end with the run that started them, however that ends."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.launch import SOURCES, clean_environment

COMPILE = """
from npnet.training.warmup import Rehearsal, compile_apart
compile_apart(
    Rehearsal("mobilenet_v2", True, "symmetric", (), "all", "float32"),
    lambda done, total: print(total, flush=True),
)
"""


@pytest.mark.compiled
def test_a_killed_run_leaves_no_compiler_behind(tmp_path: Path) -> None:
    environment = clean_environment() | {"PYTHONPATH": str(SOURCES), "NPNET_CACHE": str(tmp_path)}
    run = [sys.executable, "-c", COMPILE]
    with subprocess.Popen(run, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        children: list[psutil.Process] = []
        while len(children) < 2:  # one, and those that it shares the kernels out over
            assert parent.stdout.readline()  # one a second
            children = psutil.Process(parent.pid).children(recursive=True)
        parent.kill()
    _, left = psutil.wait_procs(children, timeout=30)
    assert not left
