"""`npnet predict`."""

from pathlib import Path

import click

from npnet.cli import options


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

    PICTURES are .npy files of uint8 (H,W,3) or (N,H,W,3), or, with the `images` extra, whatever
    Pillow reads.
    """
    import json

    from npnet.parallel.communicator import connect, together
    from npnet.training.predict import predict_pictures

    comm = connect()
    with together(comm):
        if comm.rank > 0:
            return
        for prediction in predict_pictures(checkpoint, pictures, top, backend):
            if as_json:
                ranking = [{"class": name, "probability": p} for name, p in prediction.ranking]
                place = {"picture": str(prediction.path), "index": prediction.index}
                click.echo(json.dumps(place | {"predictions": ranking}))
                continue
            click.echo(f"{prediction.path}" + f" [{prediction.index}]" * prediction.several)
            for name, probability in prediction.ranking:
                click.echo(f"  {100 * probability:6.2f} %  {name}")
