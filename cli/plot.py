"""`npnet plot`."""

from pathlib import Path

import click


@click.command(short_help="Draw training curves.")
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="[default: curves.png in the first run]"
)
def plot(runs: tuple[Path, ...], out: Path | None) -> None:
    """Draw the training curves of one or more RUNS, such as runs/NAME, into one picture."""
    from npnet.study.plots import training_curves

    path = out or runs[0] / "curves.png"
    training_curves(runs, path)
    click.echo(f"wrote {path}")
