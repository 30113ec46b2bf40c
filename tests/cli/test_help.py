"""The help of a long command: every option, once, under a heading, the usual ones first."""

import re

import click
import pytest
from click.testing import CliRunner

from npnet.cli.help import CommandWithHeadings, heading
from npnet.cli.main import cli


def sections(*arguments: str) -> dict[str, list[str]]:
    """The options that a command's help lists under each heading."""
    text = CliRunner().invoke(cli, [*arguments, "--help"], prog_name="npnet").output
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if title := re.fullmatch(r"(\w[\w ]*):", line):
            found[title[1]] = []
        elif option := re.match(r"  (?:-\w, )?(--[a-z-]+)", line):
            list(found.values())[-1].append(option[1])
    return found


LONG = [("train",), *(("study", name) for name in ("sweep", "scale", "collapse"))]


@pytest.mark.parametrize("path", LONG, ids=" ".join)
def test_a_long_command_lists_every_option_once_under_a_heading(path: tuple[str, ...]) -> None:
    found = sections(*path)
    listed = [option for options in found.values() for option in options]
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        command = command.commands[name]
    expected = [
        parameter.opts[0]
        for parameter in command.params
        if isinstance(parameter, click.Option) and not parameter.hidden
    ]
    assert sorted(listed) == sorted([*expected, "--help"])
    assert "Options" not in found
    assert len(found) > 4


def test_train_begins_with_what_is_used_most() -> None:
    found = sections("train")
    first = found[next(iter(found))]
    assert {"--dataset", "--model", "--recipe", "--epochs", "--batch-per-rank"} <= set(first)
    assert {"--out", "--resume"} <= set(first)
    assert len(first) < 10


def test_a_heading_holds_down_to_the_next_one() -> None:
    @click.command(cls=CommandWithHeadings)
    @click.option("--early")
    @heading("First")
    @click.option("--one")
    @click.option("--two")
    @heading("Second")
    @click.option("--three", hidden=True)
    @click.option("--four")
    def command() -> None: ...

    output = CliRunner().invoke(command, ["--help"]).output
    words = re.findall(r"^[A-Z]\w+:$|--\w+", output, re.MULTILINE)
    assert words == [
        *("Options:", "--early", "First:", "--one", "--two", "Second:", "--four", "--help")
    ]
