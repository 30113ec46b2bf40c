"""Paths as people write them: with ~ where no shell sees it, of bytes that are no text."""

import os
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from npnet.cli import options
from npnet.cli.main import cli
from npnet.cli.words import LONGEST, one_line, printable
from npnet.data import cifar
from npnet.kernels.jit import cache
from tests.cifar_files import write_cifar
from tests.launch import TINY, npnet_run


def parameters(command: click.Command) -> Iterator[click.Parameter]:
    if isinstance(command, click.Group):
        for each in command.commands.values():
            yield from parameters(each)
    yield from command.params


def test_every_path_knows_the_home_folder() -> None:
    paths = [each for each in parameters(cli) if isinstance(each.type, click.Path)]
    assert len(paths) > 20
    assert all(isinstance(each.type, options.HomePath) for each in paths)


def test_the_home_folder_in_an_option_a_file_and_the_environment(tmp_path: Path) -> None:
    write_cifar(tmp_path / "home" / "data")
    (tmp_path / "options.toml").write_text('out = "~/runs/second"\n')
    homes = {"HOME": str(tmp_path / "home"), "NPNET_DATA": "~/data"}
    for more in (("--out=~/runs/first",), ("--config", "options.toml")):
        outcome = npnet_run("train", *TINY, *more, cwd=tmp_path, environment=homes)
        assert outcome.status == 0, outcome.stderr
    found = {path.name for path in (tmp_path / "home" / "runs").iterdir() if path.is_dir()}
    assert found == {"first", "second"}
    assert {path.name for path in tmp_path.iterdir()} == {"home", "options.toml"}


def test_a_home_that_there_is_not(tmp_path: Path) -> None:
    outcome = npnet_run("train", "--dataset", "shapes", "--out", "~nobody-here/x", cwd=tmp_path)
    assert "no home ~nobody-here/x; a file of that name is ./~nobody-here/x" in outcome.error
    assert list(tmp_path.iterdir()) == []


def test_environment_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HOME", "NPNET_CACHE", "XDG_CACHE_HOME", "NPNET_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache.home() == tmp_path / ".cache" / "npnet"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache.home() == tmp_path / ".cache" / "npnet"
    monkeypatch.setenv("NPNET_CACHE", "~/code")
    assert cache.root() == tmp_path / "code"
    monkeypatch.setenv("NPNET_DATA", "~/data")
    assert cifar._default_roots()[0] == tmp_path / "data"


def test_a_long_value_is_cut_in_the_middle(tmp_path: Path) -> None:
    outcome = npnet_run("train", "--epochs", "9" * 5000, cwd=tmp_path)
    assert len(outcome.error) <= LONGEST
    assert outcome.error.startswith("Invalid value for '--epochs': '999")
    assert outcome.error.endswith("is not a valid integer range.")


def test_lines_are_printable() -> None:
    assert one_line("a\n  b\tc") == "a b c"
    assert printable("\x1b[2J\u202e\udcff\x00é 漢") == r"\x1b[2J\u202e\udcff\x00é 漢"


@pytest.mark.parametrize(
    "command", ["evaluate", "train --dataset shapes --resume", "train --config"]
)
def test_a_file_whose_name_is_no_text(tmp_path: Path, command: str) -> None:
    name = os.fsdecode(b"\xff\x1b]0;title\x07")
    outcome = npnet_run(*command.split(), name, cwd=tmp_path)
    assert r"\udcff\x1b]0;title\x07" in outcome.error
    assert "\x1b" not in outcome.stderr
