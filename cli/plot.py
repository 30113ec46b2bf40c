"""`npnet plot`."""

from pathlib import Path

import click


@click.command(short_help="Draw training curves.")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="[default: curves.png in the first of RUNS]"
)
def plot(runs: tuple[Path, ...], out: Path | None) -> None:
    """Draw the training curves of one or more RUNS into one picture.

    RUNS are run folders, such as runs/NAME, or folders of them, such as runs.
    """
    from npnet.study.plots import runs_in, training_curves

    path = out or runs[0] / "curves.png"
    training_curves(runs_in(runs), path)
    click.echo(f"wrote {path}")
