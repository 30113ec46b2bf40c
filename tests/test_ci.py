"""`.ci/run` and the emulated processor: where it is, where it is missing, where it is unwanted."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.launch import SOURCES

STEPS = ("setup.sh", "tests/arm/root", "tests/run", "tests/more", "tests/arm/run")


@pytest.fixture
def tools(tmp_path):
    """A folder for PATH: what the scripts need, no emulator, no apt-get."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "dirname").symlink_to(shutil.which("dirname"))
    for name in ("chromium", "llvm-mca-19"):
        write(folder / name, "")
    return folder


@pytest.fixture
def checkout(tmp_path):
    """`.ci/run` among scripts that only say their names."""
    for name in STEPS:
        write(tmp_path / name, f"echo {name}\n")
    (tmp_path / ".ci").mkdir()
    shutil.copy(SOURCES / ".ci/run", tmp_path / ".ci/run")
    return tmp_path


def write(path: Path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}")
    path.chmod(0o755)


def run(script, tools, *arguments):
    command = ["/bin/sh", str(script), *arguments]
    return subprocess.run(command, env={"PATH": str(tools)}, capture_output=True, text=True)


def test_without_an_emulator_one_line_says_so(tools):
    done = run(SOURCES / "tests/arm/root", tools)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "arm: there is no qemu-aarch64-static, and no apt-get: the tests cannot run as on a "
        "Raspberry Pi (.ci/run --no-emulation goes without)\n"
    )


def test_all_is_run(checkout, tools):
    done = run(checkout / ".ci/run", tools)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == [*STEPS]


def test_a_lack_ends_the_run_before_the_suite(checkout, tools):
    write(checkout / "tests/arm/root", "exit 1\n")
    done = run(checkout / ".ci/run", tools)
    assert done.returncode != 0
    assert done.stdout.split() == ["setup.sh"]


def test_emulation_can_be_left_out(checkout, tools):
    done = run(checkout / ".ci/run", tools, "--no-emulation")
    assert done.returncode == 0
    assert done.stdout.split() == ["setup.sh", "tests/run", "tests/more"]
    assert done.stderr.count("\n") == 1
    assert "--no-emulation: nothing is run as on a Raspberry Pi" in done.stderr


@pytest.mark.parametrize("step", ["tests/run", "tests/more", "tests/arm/run"])
def test_what_fails_fails_the_run(checkout, tools, step):
    write(checkout / step, "exit 3\n")
    assert run(checkout / ".ci/run", tools).returncode == 3
