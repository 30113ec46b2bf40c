"""Write docs/commands.md, the reference of every command, from the commands themselves.

    python docs/commands.py

click writes each command's help into a formatter; the one here makes Markdown of it.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from npnet.cli.main import cli

PAGE = Path(__file__).with_suffix(".md")
HEAD = """# Commands

Every command with its options, as `npnet COMMAND --help` shows them. In brackets stand an option's
default and its range; a pair such as `--flip / --no-flip` turns something on and off. Every command
has `-h, --help`. This page is written by `python docs/commands.py` from the commands themselves.
"""
UNLIMITED = 10_000  # characters in a line: Markdown breaks lines by itself


class Markdown(click.HelpFormatter):
    """What click would write for a terminal, as Markdown."""

    def __init__(self, path: str) -> None:
        super().__init__(width=UNLIMITED)
        self.path, self.heading = path, ""

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        self.write(f"```\n{prog} {args}".rstrip() + "\n```\n")

    def write_heading(self, heading: str) -> None:
        self.heading = heading
        self.write(f"**{heading}**\n\n")

    def write_text(self, text: str) -> None:
        """Paragraphs; one that begins with a backspace, click's sign, keeps its lines."""
        for paragraph in text.split("\n\n"):
            if paragraph.startswith("\b\n"):
                self.write(f"\n```\n{paragraph[2:]}\n```\n")
            else:
                self.write(f"\n{escaped(' '.join(paragraph.split()))}\n")

    def write_dl(
        self, rows: Iterable[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        commands = self.heading == "Commands"
        self.write("| | |\n|---|---|\n")
        for name, text in rows:
            code = "`" + name.replace("|", r"\|") + "`"  # a table ends its cells at each other |
            self.write(f"| {self.link(name) if commands else code} | {escaped(text)} |\n")

    def link(self, name: str) -> str:
        """To the section of a command of this group."""
        path = f"{self.path} {name}"
        return f"[`{path}`](#{path.replace(' ', '-')})"


def escaped(text: str) -> str:
    """Text in which Markdown finds no HTML, no emphasis and no table; what is in `code` stays."""
    return re.sub(r"(`[^`]*`)|([<*|])", lambda found: found[1] or "\\" + found[2], text)


def contexts(
    name: str, command: click.Command, parent: click.Context | None = None
) -> Iterator[click.Context]:
    """A command's context, then those of its commands, in the order of the help."""
    settings: dict[str, Any] = {**command.context_settings, "help_option_names": []}
    context = click.Context(command, parent, info_name=name, **settings)
    yield context
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            yield from contexts(each, command.commands[each], context)


def reference() -> str:
    """The page."""
    parts = [HEAD]
    for context in contexts("npnet", cli):
        path = context.command_path
        formatter = Markdown(path)
        context.command.format_help(context, formatter)
        text = re.sub(r"\n{3,}", "\n\n", formatter.getvalue())
        level = "###" if path.count(" ") > 1 else "##"
        parts.append(f"{level} {path}\n\n{text.strip()}\n")
    return "\n".join(parts)


if __name__ == "__main__":
    PAGE.write_text(reference(), encoding="utf-8")
