"""`npnet evaluate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from npnet.cli import options
from npnet.cli.words import printable

if TYPE_CHECKING:
    from npnet.training.judgement import Judgement

SHOWN = 10  # classes
ERRORS_SHOWN = 5  # pairs of classes
USUAL_WORST = 20  # images in worst.png


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
@click.option(
    "--split",
    type=click.Choice(["test", "val", "train"]),
    help="[default: test, or val where there are no test images]",
)
@options.bn_eval
@click.option("--batch", type=click.IntRange(min=1), default=32, show_default=True)
@click.option(
    "--per-class", is_flag=True, help=f"List all classes, not only the {SHOWN} worst ones."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write evaluation.json, per_class.csv, confusion.csv, confusion.png and worst.png there.",
)
@click.option(
    "--worst",
    type=click.IntRange(1, 200),
    metavar="N",
    help="Draw the N images that it is most wrong about, as worst.png in --out DIR, or else here."
    f"  [default: {USUAL_WORST} with --out]",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@options.backend
@options.threads
def evaluate(
    checkpoint: Path,
    dataset: str | None,
    data_dir: Path | None,
    split: str | None,
    bn_eval: str,
    batch: int,
    per_class: bool,
    out: Path | None,
    worst: int | None,
    as_json: bool,
    backend: str,
    threads: int,
    **values: Any,
) -> None:
    """Loss, accuracy and errors of CHECKPOINT, such as runs/NAME/best.npz or final.npz.

    Under mpiexec, shared out. Recalibrated statistics are computed from training images; `moving`
    are those of the file. Pictures need the plots extra.
    """
    import json
    from typing import cast

    from npnet.cli import datasets
    from npnet.data.dataset import Split
    from npnet.data.source import Source
    from npnet.errors import NpnetError
    from npnet.exchange.npz import NO_DATASET
    from npnet.parallel.communicator import connect, together
    from npnet.study import judging
    from npnet.study.figures import blank
    from npnet.training import checkpoint as checkpoints
    from npnet.training.evaluate import BatchNormEvaluation, Evaluator, split_at_end

    comm = connect("npnet evaluate")
    with together(comm):
        saved = checkpoints.load(checkpoint)
        header = saved.header
        if dataset is not None or values["data"] is not None:
            named = {"dataset": dataset, "seed": header.seed}
            data = datasets.chosen(values | named, header.model.input_size)
        elif header.dataset == NO_DATASET:
            raise NpnetError(
                f"{checkpoint} does not say what it was trained on: give --data or --dataset"
            )
        else:
            data = header.source or Source(header.dataset)
        if out is not None:
            datasets.check_outside(out, data)
    source = datasets.opened(data, data_dir, comm, progress=False)
    with together(comm):
        chosen = cast(Split, split) if split is not None else split_at_end(source)
        for needed in (chosen, *(["train"] if bn_eval != "moving" else [])):
            # Damaged files come to light here, on every rank.
            if not source.size(cast(Split, needed)):
                raise NpnetError(
                    f"{source.name} has no {needed} images: choose another --split, or hold some "
                    "out by --val-split, as training did"
                )
        evaluator = Evaluator.of_checkpoint(saved, source, comm, batch, backend)
        if out is not None and comm.rank == 0:
            judging.make_folder(out)
        if out is None and worst is not None:
            blank()  # what draws is missing: that is told before the work
    moving, again = evaluator.judgements(cast(BatchNormEvaluation, bn_eval), chosen)
    judgement = moving or again
    assert judgement is not None
    with together(comm):
        if comm.rank != 0:
            return
        found = judging.summary(judgement, source, chosen)
        if moving is not None and again is not None:
            found |= {f"recalibrated_{chosen}_loss": again.loss}
            found |= {f"recalibrated_{chosen}_acc": again.accuracy}
        if worst is not None or out is not None:
            worst = worst or USUAL_WORST
            found["worst"] = judging.worst(judgement, source, chosen, worst)
        if as_json:
            click.echo(json.dumps(found))
        else:
            _print(judgement, chosen, again if moving is not None else None, per_class)
        files = [] if out is None else judging.write_tables(out, judgement, found)
        who = f"{checkpoint.name} on {len(judgement):,} {chosen} images of {source.name}"
        try:
            if out is not None:
                files.append(judging.draw_confusion(out, judgement, who))
            if worst is not None:
                indices = judgement.worst(worst)
                pixels = source.read(chosen, indices).pixels
                seen = (judgement, found["worst"], pixels, who)
                files.append(judging.draw_worst(out or Path(), *seen))
        except NpnetError as error:
            if out is None:
                raise
            click.echo(f"no picture: {error}", err=True)
        if files and not as_json:
            click.echo("wrote " + ", ".join(printable(file) for file in files))


def _print(
    judgement: "Judgement", split: str, recalibrated: "Judgement | None", per_class: bool
) -> None:
    top5 = "" if judgement.top5 is None else f" | {split} top-5 acc: {judgement.top5:.4f}"
    click.echo(f"{split} acc: {judgement.accuracy:.4f} | {split} loss: {judgement.loss:.4f}{top5}")
    if recalibrated is not None:
        click.echo(
            f"recalibrated {split} acc: {recalibrated.accuracy:.4f} | "
            f"recalibrated {split} loss: {recalibrated.loss:.4f}"
        )
    scores = judgement.per_class()
    shown = scores if per_class else scores[:SHOWN]
    wide = max(len("class"), *(len(printable(each.name)) for each in shown))
    click.echo(
        f"\n{'class':{wide}} {'images':>7} {'accuracy':>9} {'precision':>10}  most taken for"
    )
    for each in shown:
        line = (
            f"{printable(each.name):{wide}} {each.images:7} {_percent(each.accuracy):>9} "
            f"{_percent(each.precision):>10}  {printable(each.taken_for or '')}"
        )
        click.echo(line.rstrip())
    if len(scores) > len(shown):
        click.echo(
            f"... and {len(scores) - len(shown)} classes with a better accuracy: --per-class lists "
            "them, --out DIR writes them"
        )
    errors = judgement.confusions()[:ERRORS_SHOWN]
    if errors:
        click.echo("\nmost frequent errors")
    for pair in errors:
        click.echo(
            f"{pair.images:7} of {printable(pair.label)} taken for {printable(pair.predicted)} "
            f"({_percent(pair.share)} of them)"
        )


def _percent(part: float | None) -> str:
    return "-" if part is None else f"{100 * part:.1f} %"
