"""`npnet convert`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from npnet.cli import convert_onnx
from npnet.cli.words import printable

if TYPE_CHECKING:
    from npnet.model.weights import Weights


@click.command(short_help="Carry weights from one format into another.")
@click.argument("source", metavar="IN", type=click.Path(path_type=Path))
@click.argument("target", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace OUT where it is there already.")
@convert_onnx.onnx_options
def convert(source: Path, target: Path, force: bool, **values: Any) -> None:
    """Read the weights in IN and write them as OUT.

    IN is known by its content: a state dict of torchvision or timm (.pth, .safetensors), a model of
    Keras (.keras, .h5, .weights.h5) or ONNX, a checkpoint of npnet. What it was recognised as is
    printed. The ending of OUT says what it becomes; .npz is what npnet's other commands take.
    An .onnx is for programs that run it, with batch norm folded unless it is kept.
    """
    from npnet.errors import NpnetError
    from npnet.exchange import format_for, notes, read_weights, write_weights
    from npnet.exchange.foreign import DoesNotFit
    from npnet.parallel.communicator import connect, together

    comm = connect("npnet convert")
    with together(comm):
        if comm.rank > 0:
            return
        format_for(target)
        is_onnx = convert_onnx.check(target, values)
        if target.exists():
            if source.exists() and target.samefile(source):
                raise NpnetError(f"{target} is what is read: give another file to write")
            if not force:
                raise NpnetError(f"{target} is there already: give another file, or `force`")
        try:
            weights = read_weights(source)
        except DoesNotFit as error:
            for line in error.tensors:
                click.echo(f"  {printable(line)}", err=True)
            raise
        for name, value in described(weights):
            click.echo(f"{name:13} {printable(value)}")
        if is_onnx:
            convert_onnx.write(weights, target, values)
        else:
            write_weights(weights, target)
        click.echo(f"wrote {printable(target)}, {target.stat().st_size:,} bytes")
        for note in notes(weights, target):
            click.echo(note)


def described(weights: "Weights") -> list[tuple[str, str]]:
    """What weights were recognised as."""
    config, names = weights.config, weights.classes
    turned = ", as Keras pads" if config.padding == "tf_same" else ""
    shown = f": {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}" if names else ""
    colours = [" ".join(f"{each:g}" for each in values) for values in (config.mean, config.std)]
    return [
        ("read", weights.source),
        ("architecture", config.architecture),
        ("width", f"{config.width:g}"),
        ("input size", f"{config.input_size}x{config.input_size}"),
        ("padding", f"{config.padding}{turned}"),
        ("epsilon", f"{config.bn_epsilon:g}" if config.batch_norm else "no batch norm"),
        ("classes", f"{config.classes}{shown}"),
        ("preprocessing", f"(pixel - mean) / std of 0..255; mean {colours[0]}, std {colours[1]}"),
        ("parameters", f"{len(weights.values):,}"),
    ]
