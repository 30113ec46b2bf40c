"""`npnet study scale`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from npnet.cli.help import CommandWithHeadings, heading
from npnet.cli.study import common
from npnet.cli.words import several

if TYPE_CHECKING:
    from npnet.study.cases import Row


@click.command(
    cls=CommandWithHeadings, short_help="Speed-up, efficiency and accuracy with more ranks."
)
@heading("The study")
@common.counts("ranks")
@click.option(
    "--scaling",
    type=click.Choice(["strong", "weak", "both"]),
    default="strong",
    show_default=True,
    help="The same images for all ranks together, or as many steps for each.",
)
@click.option("--epochs", type=click.IntRange(min=1), default=10, show_default=True)
@click.option("--batch-per-rank", type=click.IntRange(min=1), default=12, show_default=True)
@click.option("--ranks-per-node", type=click.IntRange(min=1), default=2, show_default=True)
@click.option("--max-steps", type=click.IntRange(min=1), help="Of an epoch, on the fewest ranks.")
@click.option(
    "--target-acc",
    type=click.FloatRange(0, 100, min_open=True),
    help="Test accuracy in percent; the time to it is told beside the time to the last epoch.",
)
@common.repeats
@common.machinefile
@common.out("scale")
@common.progress
@common.options_of_train()
@click.pass_context
def scale(
    context: click.Context,
    /,
    counts: Sequence[int],
    scaling: str,
    epochs: int,
    batch_per_rank: int,
    ranks_per_node: int,
    max_steps: int | None,
    target_acc: float | None,
    repeats: int,
    machinefile: Path | None,
    out: Path,
    progress: bool,
    **values: Any,
) -> None:
    """Train on more and more ranks; write the paper's Table 3 and its Figures 9 to 13.

    Speed-up and efficiency are over the fewest ranks, as the paper's over its two. The
    paper's rows are drawn beside. An interrupted run goes on after its last whole epoch. mpiexec is
    started by the study. Options of `npnet train` are for all runs.
    """
    from npnet.cli import datasets
    from npnet.errors import NpnetError
    from npnet.study import scale as studies
    from npnet.study.cases import Study

    if target_acc is not None and values["evaluate"] == "never":
        raise NpnetError("`target_acc` needs tests: leave `evaluate` never out")
    source = datasets.opened(datasets.chosen(values), values["data_dir"])
    arguments = common.arguments_for_train(context)
    kinds = ("strong", "weak") if scaling == "both" else (scaling,)
    cases = [
        case
        for kind in kinds
        for case in studies.cases(
            kind,
            counts,
            arguments,
            images=source.size("train"),
            epochs=epochs,
            batch_per_rank=batch_per_rank,
            ranks_per_node=ranks_per_node,
            max_steps=max_steps,
            repeats=repeats,
        )
    ]
    shared = ["--epochs", str(epochs), "--ranks-per-node", str(ranks_per_node), *arguments]
    target = target_acc / 100 if target_acc else None
    settings = {"np": list(counts), "epochs": epochs, "repeats": repeats, "train": arguments}
    study = Study("scale", out, cases, shared, settings)

    def tabulate() -> "list[Row]":
        return [row for kind in kinds for row in studies.table(study, kind, counts, target)]

    common.run_study(study, machinefile, progress, tabulate)
    rows = study.rows
    print_table(rows)
    click.echo(
        f"Speed-up and efficiency are over {several(min(row['np'] for row in rows), 'rank')}: of "
        "time or, in weak scaling, of images/s. (paper): on Raspberry Pis, over 2."
    )
    click.echo(f"[STUDY] Table: {out / 'scale.csv'}")
    paper = source.name == "cifar10"  # whose accuracies can be compared
    common.picture(out / "scale.png", lambda path: draw(rows, paper, path))


def draw(rows: "Sequence[Row]", paper: bool, path: Path) -> None:
    from npnet.study.figures import save, scaling

    save(scaling(rows, paper), path)


def print_table(rows: "Sequence[Row]") -> None:
    """Table 3, and the paper's own speed-up where it has as many ranks."""
    plain = common.plain
    click.echo(
        "\n scaling   np    wall  speed-up  efficiency  (paper)   test acc  train acc   train "
        "  wait  transfer  to target\n"
        "                   s                    %        %          %          %    loss  "
        "    %         %          s"
    )
    for row in rows:
        click.echo(
            f"{row['scaling']:>8} {row['np']:4.0f} {row['wall_s']:7.1f} {row['speedup']:9.2f} "
            f"{row['efficiency_pct']:11.1f} "
            f"{plain(row['paper_efficiency_pct'], 1):>8} "
            f"{plain(row['test_acc_pct'], 2):>10} {row['mean_train_acc_pct']:10.2f} "
            f"{row['mean_train_loss']:7.4f} {plain(row['wait_pct'], 1):>6} "
            f"{plain(row['transfer_pct'], 1):>9} {plain(row['time_to_target_s'], 1):>10}"
        )
