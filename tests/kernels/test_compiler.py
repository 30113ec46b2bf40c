"""What is given back of the compiler is gone from memory, and there again when it is called."""

import subprocess
import sys

import pytest

from npnet.kernels.jit import compiler

SCRIPT = """
import numba, psutil
from npnet.kernels.jit import compiler

def held(unwritten):
    maps = psutil.Process().memory_maps(grouped=False)
    parts = [part for part in maps if compiler.LIBRARY in part.path]
    return [part for part in parts if tuple(int(a, 16) for a in part.addr.split("-")) in unwritten]

@numba.njit
def twice(x):
    return 2 * x

assert twice(1.5) == 3.0  # starts the compiler
places = compiler.unwritten()
before = held(places)
compiler.give_back()
after = held(places)
assert len(before) == len(after) == len(places) >= 1
assert "r-xp" in {part.perms for part in before} <= {"r--p", "r-xp"}
assert all(part.anonymous == 0 for part in before)  # so nothing is lost
assert sum(part.rss for part in before) > 20e6
assert sum(part.rss for part in after) < 4e6
assert places == compiler.unwritten()
assert twice(2) == 4  # compiled by code that was given back
print("done")
"""


def run(script: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-c", script)
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.compiled
def test_the_compilers_code_is_given_back_and_read_again() -> None:
    ended = run(SCRIPT)
    assert (ended.returncode, ended.stdout) == (0, "done\n"), ended.stderr[-500:]


PART = """\
7f0000000000-7f0000001000 {rights} 00000000 08:01 1 /lib/{name}.so
Rss:           4 kB
Anonymous:     {written} kB
Swap:          {swapped} kB
VmFlags: rd ex mr mw me
"""


@pytest.mark.parametrize(
    ("rights", "name", "written", "swapped", "lies"),
    [
        ("r-xp", "libllvmlite", 0, 0, True),
        ("r--p", "libllvmlite", 0, 0, True),
        ("rw-p", "libllvmlite", 0, 0, False),
        ("r--p", "libllvmlite", 4, 0, False),  # it was moved to where it lies, and then sealed
        ("r--p", "libllvmlite", 0, 4, False),
        ("r-xp", "libpython3.11", 0, 0, False),
    ],
)
def test_what_was_written_is_kept(
    monkeypatch: pytest.MonkeyPatch, rights: str, name: str, written: int, swapped: int, lies: bool
) -> None:
    text = PART.format(rights=rights, name=name, written=written, swapped=swapped)
    monkeypatch.setattr(compiler.Path, "read_text", lambda *_, **__: text + PART[:40])
    assert compiler.unwritten() == ([(0x7F0000000000, 0x7F0000001000)] if lies else [])


@pytest.mark.parametrize("text", ["", "7f00", "x y\nVmFlags:", PART.replace("{written}", "?")])
def test_maps_of_another_form_say_nothing(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(compiler.Path, "read_text", lambda *_, **__: text)
    assert compiler.unwritten() == []


def test_without_proc_nothing_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(compiler.Path, "read_text", missing)
    compiler.give_back()
