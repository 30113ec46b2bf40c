"""What a run says about itself."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import npnet
from npnet.machine.telemetry import source_digest


@pytest.mark.parametrize("name", ["trainer.py", "kernels/jit/block.py", "cli/train.py"])
def test_any_source_file_changes_the_code_s_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Behind the two links as well; a copy without links, as a wheel installs it, is the same."""
    here = source_digest()
    copy = shutil.copytree(Path(npnet.__file__).parent, tmp_path / "npnet")
    monkeypatch.setattr(npnet, "__file__", str(copy / "__init__.py"))
    assert source_digest() == here
    with (copy / name).open("a") as file:
        file.write("# a comment\n")
    assert source_digest() != here


LARGE = """
import subprocess, sys
held = bytearray(b"x") * 400_000_000
subprocess.run([sys.executable, "-c", sys.argv[1]], check=True)
"""
SMALL = """
from npnet.machine.telemetry import peak_rss_bytes
before = peak_rss_bytes()
held = bytearray(b"x") * 100_000_000
del held
print(before, peak_rss_bytes())
"""


def test_the_peak_is_this_program_s_and_not_of_the_one_that_started_it() -> None:
    command = (sys.executable, "-c", LARGE, SMALL)
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    before, after = map(int, told)
    assert before < 150e6
    assert 90e6 < after - before < 130e6
