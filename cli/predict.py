"""`npnet predict`."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from npnet.cli import options
from npnet.cli.words import one_line, printable

if TYPE_CHECKING:
    from npnet.training.predict import Prediction

COLUMNS = ("file", "index", "place", "class", "probability")  # place 1: the likeliest


@click.command(short_help="Name what is in a picture.")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("pictures", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list, an object a picture.")
@click.option(
    "--csv",
    "table",
    type=click.Path(path_type=Path, allow_dash=True),
    metavar="FILE",
    help="Write a table with a row for each picture and class; - prints it.",
)
@options.backend
@options.threads
def predict(
    checkpoint: Path,
    pictures: tuple[Path, ...],
    top: int,
    as_json: bool,
    table: Path | None,
    backend: str,
    threads: int,
) -> None:
    """The likeliest classes of each of PICTURES, by CHECKPOINT, such as runs/NAME/best.npz.

    Files of other programs, such as model.pth or model.h5, do as well.

    PICTURES are .npy files of uint8 (H,W,3) or (N,H,W,3) or, with the `images` extra, JPEG, PNG,
    GIF, WebP, BMP, TIFF and PPM; or folders of them, with all folders below. Files that cannot be
    read are named at the end, and the others predicted.
    """
    import json

    from npnet.errors import NpnetError
    from npnet.exchange import read_weights
    from npnet.files import table_text, write_table
    from npnet.parallel.communicator import connect, together
    from npnet.training.predict import Prediction, predict_pictures

    comm = connect("npnet predict")
    with together(comm):
        if as_json and table == Path("-"):
            raise NpnetError("--json and --csv - both print: give a file to --csv")
        if comm.rank > 0:
            return
        refused: list[NpnetError] = []
        weights = read_weights(checkpoint)
        found: Iterable[Prediction] = predict_pictures(
            weights, pictures, top, backend, refused.append
        )
        if as_json or table is not None:
            found = tuple(found)
        if as_json:
            click.echo(json.dumps([_object(each) for each in found]))
        elif table is None:
            for each in found:
                _print(each)
        if table is not None:
            rows = [row for each in found for row in _rows(each)]
            if table == Path("-"):
                lines = table_text(COLUMNS, rows).splitlines()
                click.echo("\n".join(map(printable, lines)))
            else:
                write_table(table, COLUMNS, rows)
        for error in refused[:-1]:
            click.echo(f"npnet: error: {one_line(error)}", err=True)
        if refused:
            raise refused[-1]


def _object(prediction: "Prediction") -> dict[str, Any]:
    ranking = [{"class": name, "probability": part} for name, part in prediction.ranking]
    return {"file": str(prediction.path), "index": prediction.index, "predictions": ranking}


def _rows(prediction: "Prediction") -> Iterator[dict[str, Any]]:
    for place, (name, part) in enumerate(prediction.ranking, 1):
        cells = (str(prediction.path), prediction.index, place, name, part)
        yield dict(zip(COLUMNS, cells, strict=True))


def _print(prediction: "Prediction") -> None:
    index = f" [{prediction.index}]" * prediction.several
    click.echo(f"{printable(prediction.path)}{index}")
    for name, part in prediction.ranking:
        click.echo(f"  {100 * part:6.2f} %  {printable(name)}")
