"""`npnet evaluate`."""

from pathlib import Path
from typing import Any

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
@options.data
@options.taken
@click.option("--split", type=click.Choice(["test", "train"]), default="test", show_default=True)
@options.bn_eval
@click.option("--batch", type=click.IntRange(min=1), default=32, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@options.backend
@options.threads
def evaluate(
    checkpoint: Path,
    dataset: str | None,
    data_dir: Path | None,
    split: str,
    bn_eval: str,
    batch: int,
    as_json: bool,
    backend: str,
    threads: int,
    **values: Any,
) -> None:
    """Loss and accuracy of CHECKPOINT, such as runs/NAME/final.npz; under mpiexec, shared out.

    Recalibrated statistics are computed from training images; `moving` are those of the file.
    """
    import json
    from typing import cast

    from npnet.cli import datasets
    from npnet.data.dataset import Split
    from npnet.data.source import Source
    from npnet.parallel.communicator import connect, together
    from npnet.training import checkpoint as checkpoints
    from npnet.training.evaluate import BatchNormEvaluation, Evaluator

    comm = connect("npnet evaluate")
    with together(comm):
        saved = checkpoints.load(checkpoint)
        header = saved.header
        if dataset is not None or values["data"] is not None:
            named = {"dataset": dataset, "seed": header.seed}
            data = datasets.chosen(values | named, header.model.input_size)
        else:
            data = header.source or Source(header.dataset)
    source = datasets.opened(data, data_dir, comm, progress=False)
    with together(comm):
        for needed in (split, *(["train"] if bn_eval != "moving" else [])):
            source.size(cast(Split, needed))  # damaged files come to light here, on every rank
        evaluator = Evaluator.of_checkpoint(saved, source, comm, batch, backend)
    found = evaluator.scores(cast(BatchNormEvaluation, bn_eval), cast(Split, split))
    names = (split, f"recalibrated_{split}" if bn_eval == "both" else split)
    scores = {name: score for name, score in zip(names, found, strict=True) if score is not None}
    if comm.rank != 0:
        return
    if as_json:
        keys = {f"{name}_loss": value.loss for name, value in scores.items()}
        click.echo(json.dumps(keys | {f"{n}_acc": v.accuracy for n, v in scores.items()}))
        return
    for name, (loss, accuracy) in scores.items():
        what = name.replace("_", " ")
        click.echo(f"{what} acc: {accuracy:.4f} | {what} loss: {loss:.4f}")
