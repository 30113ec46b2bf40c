"""What `npnet convert` can do with an ONNX file besides writing it: options, and their work."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from npnet.cli import options
from npnet.cli.bar import Progress

if TYPE_CHECKING:
    from npnet.model.weights import Weights

FOR_INT8 = ("dataset", "data_dir", "data", "val_split", "stored_size", "skip_damaged")


def onnx_options(function: options.Function) -> options.Function:
    """Batch norm kept; int8, and the images that it needs."""
    for option in (
        options.threads,
        options.taken,
        options.data,
        options.data_dir,
        click.option("--dataset", type=click.Choice(options.DATASETS), help="Images for --int8."),
        click.option(
            "--calibration-images",
            type=click.IntRange(min=1),
            metavar="N",
            help="Training images that --int8 takes the ranges of numbers from.  [default: 512]",
        ),
        click.option(
            "--int8",
            is_flag=True,
            help="To ONNX: round to 8 bits, and print the accuracy before and after. Needs "
            "--dataset or --data.",
        ),
        click.option(
            "--keep-batch-norm",
            is_flag=True,
            help="To ONNX: do not fold batch norms, so that the weights can be read again.",
        ),
    ):
        function = option(function)
    return function


def check(target: Path, values: dict[str, Any]) -> bool:
    """Whether `target` is an ONNX file. Raises NpnetError for options that do not fit."""
    from npnet.errors import NpnetError

    chosen = [name for name in ("int8", "keep_batch_norm") if values[name]]
    if len(chosen) > 1:
        raise NpnetError("--int8 folds batch norms: give it or --keep-batch-norm")
    is_onnx = target.name.lower().endswith(".onnx")
    if chosen and not is_onnx:
        option = f"--{chosen[0].replace('_', '-')}"
        raise NpnetError(f"{option} is for ONNX: give a name that ends in .onnx, not {target}")
    needless = [name for name in (*FOR_INT8, "calibration_images") if values[name]]
    if needless and not values["int8"]:
        raise NpnetError(f"`{needless[0]}` is for --int8: give that, too, or leave it out")
    if values["int8"] and values["dataset"] is None and values["data"] is None:
        raise NpnetError("--int8 is calibrated on training images: give `dataset` or `data`")
    return is_onnx


def write(weights: "Weights", target: Path, values: dict[str, Any]) -> None:
    """Write `target` as the options say."""
    from npnet.exchange.onnx import write_onnx

    if values["int8"]:
        _write_int8(weights, target, values)
        return
    write_onnx(weights, target, fold=not values["keep_batch_norm"])
    if weights.config.batch_norm and not values["keep_batch_norm"]:
        click.echo("batch norms are folded, for programs that run it: to train on, keep the source")


def _write_int8(weights: "Weights", target: Path, values: dict[str, Any]) -> None:
    from npnet.cli import datasets
    from npnet.exchange.quantise import CALIBRATION_IMAGES, write_int8

    data = datasets.chosen(values, weights.config.input_size)
    dataset = datasets.opened(data, values["data_dir"])
    bar = Progress(sys.stdout if sys.stdout.isatty() else None)

    def tell(done: int, total: int) -> None:
        bar.show("Scoring:", done, total, f"{done:,} of {total:,}")

    images = values["calibration_images"] or CALIBRATION_IMAGES
    try:
        found = write_int8(weights, dataset, target, images, told=tell)
    finally:
        bar.finish()
    before, after = f"{found.before:.4f}", f"{found.after:.4f}"
    click.echo(
        f"{found.split} acc: {before} in float32 | {after} in int8 | {found.images:,} images"
    )
