"""What a shell is given to complete npnet's commands."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from npnet.cli.completion import SHELLS
from tests.launch import SOURCES, clean_environment, npnet_run

# What bash does when TAB is pressed behind `npnet WORD`.
PRESS_TAB = """
. ./script
COMP_WORDS=(npnet {word}) COMP_CWORD=1
_npnet_completion npnet
echo "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize("shell", SHELLS)
def test_each_shell_has_a_script(tmp_path: Path, shell: str) -> None:
    outcome = npnet_run("completion", shell, cwd=tmp_path)
    assert outcome.status == 0
    assert f"_NPNET_COMPLETE={shell}_complete" in outcome.stdout


def test_the_help_says_where_it_belongs(tmp_path: Path) -> None:
    text = npnet_run("completion", "--help", cwd=tmp_path).stdout
    assert all(place in text for place in ("~/.bashrc", "~/.zshrc", "~/.config/fish/completions"))


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(("word", "found"), [("tr", "train"), ("com", "completion")])
def test_bash_completes(tmp_path: Path, word: str, found: str) -> None:
    (tmp_path / "script").write_text(npnet_run("completion", "bash", cwd=tmp_path).stdout)
    command = tmp_path / "npnet"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m npnet "$@"\n')
    command.chmod(0o755)
    environment = clean_environment() | {"PYTHONPATH": str(SOURCES)}
    environment["PATH"] = f"{tmp_path}:{environment['PATH']}"
    result = subprocess.run(
        ["bash", "-c", PRESS_TAB.format(word=word)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (result.stdout.split(), result.stderr) == ([found], "")


def test_python_m_npnet_is_npnet(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "npnet", "train", "--epochs", "0"]
    environment = clean_environment() | {"PYTHONPATH": str(SOURCES)}
    result = subprocess.run(
        line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 2
    assert result.stderr.startswith("npnet: error: Invalid value for '--epochs'")
