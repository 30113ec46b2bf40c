"""`npnet study report`."""

from pathlib import Path

import click


@click.command(short_help="One page about runs and studies.")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="[default: report.html in the first path]"
)
def report(paths: tuple[Path, ...], out: Path | None) -> None:
    """Write one self-contained HTML page about the runs and studies in PATHS.

    A path is the folder of a run, such as runs/NAME, or of a study, or a folder that holds such.
    """
    from npnet.study.report import report as write

    path = out or paths[0] / "report.html"
    write(paths, path)
    click.echo(f"wrote {path}")
