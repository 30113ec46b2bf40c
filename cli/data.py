"""`npnet data`: get datasets, and look at them."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from npnet.cli import options
from npnet.cli.bar import Progress
from npnet.cli.streams import say
from npnet.cli.words import one_line, printable


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
@click.argument("path", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    help="File, for --data.  [default: in PATH, or the user's cache where that cannot be written]",
)
@click.option(
    "--stored-size",
    type=click.IntRange(min=1),
    metavar="PIXELS",
    help="Of each image, across.  [default: 146, what networks of 128 are trained on]",
)
@click.option("--skip-damaged", is_flag=True, help="Leave out files that are no usable images.")
def pack(path: Path, out: Path | None, stored_size: int | None, skip_damaged: bool) -> None:
    """Pack the folder of images PATH into one file of squares, as training does on first use.

    A file that is there is checked image by image; what has changed is packed again. An interrupted
    packing goes on when the command is repeated. Every file that is no usable image is named.
    """
    from npnet.cli.datasets import Told, check_not_in
    from npnet.data import STORED_SIZE
    from npnet.data.dataset import SPLITS
    from npnet.data.packing import UnusableFiles, open_folder
    from npnet.parallel.communicator import connect, together

    comm = connect("npnet data pack")
    with together(comm):
        if comm.rank > 0:
            return
        if out is not None and out.resolve().parent != path.resolve():
            check_not_in(path, out)
        told = Told(comm)
        try:
            size = stored_size or STORED_SIZE
            images = open_folder(path, size, skip_damaged, told, out, check=True)
        except UnusableFiles as error:
            told.finish()
            for line in error.not_shown:
                say(f"npnet: error: {one_line(line)}", err=True)
            raise
        finally:
            told.finish()
        counts = " ".join(f"{split}={images.size(split):,}" for split in SPLITS)
        say(
            f"{printable(images.path)}: {len(images.classes)} classes, {counts}, "
            f"{images.image_size} pixels across"
        )


@data.command()
@options.dataset
@options.data
@options.taken
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
    data_dir: Path | None, out: Path | None, augmented: bool, input_size: int, **values: Any
) -> None:
    """Draw some training images of each class into a picture."""
    from npnet.cli import datasets
    from npnet.schema import known_fields
    from npnet.study.plots import augmentation_sheet, contact_sheet
    from npnet.training.recipe import MODERN, Recipe

    source = datasets.opened(datasets.chosen(values), data_dir)
    path = out or Path(f"{source.name}.png")
    known = known_fields(Recipe, values)
    given = {name: value for name, value in known.items() if value is not None}
    if augmented:
        augmentation_sheet(source, replace(MODERN, **given), input_size, path)
    elif given:
        raise click.UsageError("these options are of --augmented: give that, too")
    else:
        contact_sheet(source, path)
    click.echo(f"wrote {printable(path)}")
