"""A run whose output is closed, on a full disk, or without a reader: its files are complete."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cifar_files import write_cifar
from tests.launch import SOURCES, TINY, clean_environment

NPNET = f"{sys.executable} -m npnet"
TRAIN = f"{NPNET} train {' '.join(TINY)} --batch-per-rank 2 --evaluate never --out run"


def shell(line: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = clean_environment() | {"PYTHONPATH": str(SOURCES)}
    line = f"set -o pipefail; {line}"
    return subprocess.run(
        ["bash", "-c", line], cwd=cwd, env=environment, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    ("streams", "said"),
    [
        ("> /dev/full", "standard output is left out: No space left on device"),
        ("> /dev/full 2>&1", ""),
        (">&- 2>&- <&-", ""),
        ("| head -n 1", "standard output is left out: Broken pipe"),
    ],
)
def test_a_run_goes_on_without_its_output(tmp_path: Path, streams: str, said: str) -> None:
    write_cifar(tmp_path / "data")
    done = shell(f"{TRAIN} {streams}", tmp_path)
    assert done.returncode == 0, done.stderr
    warning = f"npnet: warning: {said}\n"
    assert done.stderr == (warning if said else "")
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["epochs"] == 1
    assert (tmp_path / "run" / "final.npz").exists()


def test_a_table_on_a_full_disk_is_one_line(tmp_path: Path) -> None:
    done = shell(f"{NPNET} info > /dev/full", tmp_path)
    assert done.returncode == 2
    assert done.stderr == ("npnet: error: cannot print: No space left on device; free some space\n")
