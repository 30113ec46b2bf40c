"""`npnet predict`."""

from pathlib import Path

import click

from npnet.cli import options
from npnet.cli.words import one_line, printable


@click.command(short_help="Name what is in a picture.")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("pictures", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--top", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a picture.")
@options.backend
@options.threads
def predict(
    checkpoint: Path,
    pictures: tuple[Path, ...],
    top: int,
    as_json: bool,
    backend: str,
    threads: int,
) -> None:
    """The likeliest classes of each of PICTURES, by CHECKPOINT, such as runs/NAME/final.npz.

    PICTURES are .npy files of uint8 (H,W,3) or (N,H,W,3) or, with the `images` extra, JPEG, PNG,
    GIF, WebP, BMP, TIFF and PPM. Of several, those that cannot be read are named at the end.
    """
    import json

    from npnet.errors import NpnetError
    from npnet.parallel.communicator import connect, together
    from npnet.training.predict import predict_pictures

    comm = connect("npnet predict")
    with together(comm):
        if comm.rank > 0:
            return
        refused: list[NpnetError] = []
        for prediction in predict_pictures(checkpoint, pictures, top, backend, refused.append):
            if as_json:
                ranking = [{"class": name, "probability": p} for name, p in prediction.ranking]
                place = {"picture": str(prediction.path), "index": prediction.index}
                click.echo(json.dumps(place | {"predictions": ranking}))
                continue
            index = f" [{prediction.index}]" * prediction.several
            click.echo(f"{printable(prediction.path)}{index}")
            for name, probability in prediction.ranking:
                click.echo(f"  {100 * probability:6.2f} %  {printable(name)}")
        for error in refused[:-1]:
            click.echo(f"npnet: error: {one_line(error)}", err=True)
        if refused:
            raise refused[-1]
