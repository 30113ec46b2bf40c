"""`npnet data`: get datasets, and look at them."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from npnet.cli import options
from npnet.cli.bar import Progress


@click.group()
def data() -> None:
    """Get datasets, and look at them."""


@data.command()
@click.argument("name", type=click.Choice(["cifar10", "cifar100"]))
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("data"),
    show_default=True,
    help="Where the dataset's folder is to lie.",
)
@click.option("--url", help="Fetch the same archive from here.  [default: its authors' site]")
def fetch(name: str, data_dir: Path, url: str | None) -> None:
    """Download a dataset: some 170 MB, and 190 MB more once unpacked.

    An interrupted download goes on where it stopped when the command is repeated.
    """
    from npnet.data import fetch as fetching

    if fetching.is_complete(name, data_dir):
        click.echo(f"{name} is already in {data_dir}")
        return
    label = f"Fetching {name}"
    progress = Progress(sys.stdout if sys.stdout.isatty() else None)
    progress.say(label)

    def show(received: int, total: int | None) -> None:
        progress.show(label, received, total, f"{received / 1e6:.0f} MB")

    try:
        folder = fetching.fetch(name, data_dir, url=url, progress=show)
    finally:
        progress.finish()
    click.echo(f"{name} is in {folder}")


@data.command()
@options.dataset
@click.option("--out", type=click.Path(path_type=Path), help="[default: <dataset>.png]")
@click.option(
    "--augmented",
    is_flag=True,
    help="Ten images, and what epochs of the recipe `modern` make of them, or these options:",
)
@options.augmentation
@click.option(
    "--input-size",
    type=click.IntRange(1, 1024),
    default=128,
    show_default=True,
    help="Of --augmented: images are resized to this.",
)
def preview(
    dataset: str,
    data_dir: Path | None,
    out: Path | None,
    augmented: bool,
    input_size: int,
    **values: Any,
) -> None:
    """Draw some training images of each class into a picture."""
    from npnet.data import open_dataset
    from npnet.study.plots import augmentation_sheet, contact_sheet
    from npnet.training.recipe import MODERN

    path = out or Path(f"{dataset}.png")
    source = open_dataset(dataset, data_dir)
    given = {name: value for name, value in values.items() if value is not None}
    if augmented:
        augmentation_sheet(source, replace(MODERN, **given), input_size, path)
    elif given:
        raise click.UsageError("these options are of --augmented: give that, too")
    else:
        contact_sheet(source, path)
    click.echo(f"wrote {path}")
