"""`npnet study`: one file a study."""

import click

from npnet.cli.study.collapse import collapse


@click.group()
def study() -> None:
    """Make the evidence of a study: its runs, a table, a picture."""


for command in (collapse,):
    study.add_command(command)
