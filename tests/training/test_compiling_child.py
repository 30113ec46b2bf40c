"""The process that compiles the kernels ends with the run that started it, however that ends."""

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
    lambda kernels: print("compiling", flush=True),
)
"""


@pytest.mark.compiled
def test_a_killed_run_leaves_no_compiler_behind(tmp_path: Path) -> None:
    environment = clean_environment() | {"PYTHONPATH": str(SOURCES), "NPNET_CACHE": str(tmp_path)}
    run = [sys.executable, "-c", COMPILE]
    with subprocess.Popen(run, env=environment, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        for _ in range(3):  # seconds; the child has begun
            assert parent.stdout.readline() == "compiling\n"
        (child,) = psutil.Process(parent.pid).children()
        parent.kill()
    assert child.wait(30) is None or not child.is_running()
