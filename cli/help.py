"""What a page of help looks like: options under headings, commands in an order that we choose."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])


def heading(title: str) -> Callable[[Function], Function]:
    """Stands above the options that it is the heading of, down to the next heading."""

    def mark(function: Function) -> Function:
        below: list[click.Parameter] = getattr(function, "__click_params__", [])
        for parameter in below:  # decorators run from the last to the first: others have theirs
            vars(parameter).setdefault("heading", title)
        return function

    return mark


class CommandWithHeadings(click.Command):
    """Its help lists the options in the order of their declaration, `--help` under the last."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        sections: dict[str, list[tuple[str, str]]] = {}
        title = "Options"
        for parameter in self.get_params(ctx):
            title = getattr(parameter, "heading", title)
            line = parameter.get_help_record(ctx)
            if line is not None:
                sections.setdefault(title, []).append(line)
        for title, lines in sections.items():
            with formatter.section(title):
                formatter.write_dl(lines)


class GroupInOrder(click.Group):
    """Its help lists the commands in the order in which they were added."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)
