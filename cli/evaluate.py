"""`npnet evaluate`."""

from pathlib import Path

import click

from npnet.cli import options


@click.command(short_help="Test a checkpoint.")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option(
    "--dataset", type=click.Choice(options.DATASETS), help="[default: the one it was trained on]"
)
@click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Folder with the dataset's files."
)
@click.option("--split", type=click.Choice(["test", "train"]), default="test", show_default=True)
@click.option("--batch", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@options.backend
@options.threads
def evaluate(
    checkpoint: Path,
    dataset: str | None,
    data_dir: Path | None,
    split: str,
    batch: int,
    as_json: bool,
    backend: str,
    threads: int,
) -> None:
    """Loss and accuracy of CHECKPOINT, such as runs/NAME/final.npz; under mpiexec, shared out."""
    import json
    from typing import cast

    from npnet import checkpoint as checkpoints
    from npnet.data import open_dataset
    from npnet.data.batches import ImageInput
    from npnet.data.dataset import Split
    from npnet.errors import NpnetError
    from npnet.evaluate import evaluate as score
    from npnet.kernels import backend as kernels_of
    from npnet.parallel.communicator import connect, together
    from npnet.recipe import Recipe

    comm = connect()
    with together(comm):
        saved = checkpoints.load(checkpoint)
        source = open_dataset(dataset or saved.header.dataset, data_dir)
        if len(source.classes) != len(saved.header.classes):
            raise NpnetError(
                f"{checkpoint} tells {len(saved.header.classes)} classes apart, "
                f"{source.name} has {len(source.classes)}: give the --dataset it was trained on"
            )
        inference = saved.inference(batch, backend)
    image_input = ImageInput(Recipe(**saved.header.recipe), kernels_of(backend))
    result = score(inference, source, cast(Split, split), image_input, comm)
    if comm.rank == 0:
        if as_json:
            click.echo(json.dumps({f"{split}_loss": result.loss, f"{split}_acc": result.accuracy}))
        else:
            click.echo(f"{split} acc: {result.accuracy:.4f} | {split} loss: {result.loss:.4f}")
