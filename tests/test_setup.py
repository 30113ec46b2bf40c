"""`setup.sh`: what it offers, and what it says in the end. Nothing is installed here."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def test_its_comment_names_the_extras_that_there_are() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    usage = (ROOT / "setup.sh").read_text().split("\nset -eu", 1)[0]
    named = re.findall(r"^#   ([a-z]+)   +", usage, re.MULTILINE)
    assert named == list(project["optional-dependencies"])


@pytest.mark.parametrize("launcher", [True, False])
def test_it_ends_with_what_to_type_next(tmp_path: Path, launcher: bool) -> None:
    """The README's first run; under mpiexec where that was installed."""
    for name in ("pip", *(["mpiexec"] if launcher else [])):
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text("#!/bin/sh\n")
        command.chmod(0o755)
    result = subprocess.run(
        [str(ROOT / "setup.sh")],
        env={"PATH": "/usr/bin:/bin", "VENV": str(tmp_path), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert result.returncode == 0, result.stderr
    activate, train, _ = result.stdout.split("Next:\n")[1].splitlines()
    assert activate.strip() == f". {tmp_path}/bin/activate"
    assert train.strip().startswith("mpiexec -n 2 npnet train" if launcher else "npnet train")
    words = " ".join((ROOT / "README.md").read_text().replace("\\\n", " ").split())
    assert train.split("npnet ")[1] in words
