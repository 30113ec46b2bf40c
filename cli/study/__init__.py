"""`npnet study`: one file a study."""

import click

from npnet.cli.study.collapse import collapse
from npnet.cli.study.forecast import forecast
from npnet.cli.study.report import report
from npnet.cli.study.scale import scale
from npnet.cli.study.sweep import sweep


@click.group()
def study() -> None:
    """Make the evidence of a study: its runs, a table, a picture."""


for command in (sweep, scale, collapse, forecast, report):
    study.add_command(command)
