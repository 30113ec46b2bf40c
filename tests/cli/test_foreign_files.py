"""Nothing that lies in the current folder is imported or run, whatever its name."""

import subprocess
import sys
from pathlib import Path

import pytest

from npnet.machine import program
from tests.launch import SOURCES, clean_environment

# What npnet and its libraries import, of the standard library too.
NAMES = (
    *("numpy", "numba", "llvmlite", "mpi4py", "psutil", "click", "PIL", "matplotlib", "yaml"),
    *("json", "random", "tomllib", "csv", "zipfile", "tarfile", "pickletools", "queue", "cycler"),
)
STARTED = "import pathlib; pathlib.Path('started').touch(); raise SystemExit('started')"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in NAMES:
        (tmp_path / f"{name}.py").write_text(STARTED)
    return tmp_path


def run(folder: Path, *command: str, **environment: str) -> str:
    """What a command prints, which must succeed."""
    environment = {**clean_environment(), "PYTHONPATH": str(SOURCES), **environment}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (folder / "started").exists(), done.stderr
    return done.stdout


MAIN = "import re, sys; from npnet.cli.main import main; sys.exit(main())"


def test_the_script(folder: Path) -> None:
    """As pip writes it, in a folder of its own, which is the first on the path."""
    script = folder / "bin" / "npnet"
    script.parent.mkdir()
    script.write_text(MAIN)
    assert "models: " in run(folder, sys.executable, str(script), "info")


def test_python_m_npnet(folder: Path) -> None:
    assert "models: " in run(folder, sys.executable, "-m", "npnet", "info")


def test_what_npnet_starts(folder: Path) -> None:
    """Not even an npnet that lies there."""
    (folder / "npnet.py").write_text(STARTED)
    line = (sys.executable, "-P", "-m", "npnet", "launch", "-n", "1", "--", "info")
    words = run(folder, *line).splitlines()[-1].split()
    assert words[-5:] == [sys.executable, "-P", "-m", "npnet", "info"]
    assert "models: " in run(folder, *words[-5:])


def test_in_npnet_s_own_sources_it_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SOURCES)
    found = "import npnet.__main__; print(npnet.__file__)"
    assert program.command("info") == [sys.executable, "-m", "npnet", "info"]
    assert str(SOURCES) in run(SOURCES, sys.executable, "-c", found, PYTHONPATH="")
    assert "models: " in run(SOURCES, *program.command("info"), PYTHONPATH="")


def test_a_matplotlibrc_runs_no_latex(folder: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is in the `plots` extra")
    (folder / "matplotlibrc").write_text("text.usetex: True\nbackend: module://json\n")
    (folder / "programs").mkdir()
    for name in ("latex", "dvipng", "pdflatex", "kpsewhich", "gs"):
        latex = folder / "programs" / name
        latex.write_text("#!/bin/sh\ntouch started\nexit 1\n")
        latex.chmod(0o755)
    command = (sys.executable, "-P", "-m", "npnet", "data", "preview", "--dataset", "shapes")
    run(folder, *command, PATH=f"{latex.parent}:/bin:/usr/bin")
    assert (folder / "shapes.png").stat().st_size > 1000
