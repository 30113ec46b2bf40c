"""`npnet study collapse`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from npnet.cli import options
from npnet.cli.help import CommandWithHeadings, heading
from npnet.cli.study import common

if TYPE_CHECKING:
    from npnet.data.dataset import Dataset
    from npnet.study.collapse import Row

READINGS = ("text", "inferred")
BUDGET: dict[str, Any] = {
    "dataset": "shapes",
    "counts": [2, 16, 48],
    "input_size": 64,
    "epochs": 6,
    "out": Path("studies/collapse-shapes"),
}


@click.command(cls=CommandWithHeadings, short_help="Why more ranks learned nothing in the paper.")
@heading("The study")
@common.counts("workers")
@click.option(
    "--recipe",
    "recipes",
    type=click.Choice(options.RECIPES),
    multiple=True,
    help="Only this recipe; several times for several.  [default: both]",
)
@click.option(
    "--reading",
    type=click.Choice(READINGS),
    default="text",
    show_default=True,
    help="Of the paper's protocol: as it says, or as its numbers say, where each process draws its "
    "own initial weights and a dropout of 0.3 precedes the classifier.",
)
@click.option(
    "--ranks",
    type=click.IntRange(min=1),
    help="Ranks that the workers of a run are spread over.  [default: 2, on one core 1]",
)
@click.option(
    "--budget",
    is_flag=True,
    help="A short version, four minutes on two cores of a PC: --dataset shapes --input-size "
    f"{BUDGET['input_size']} --epochs {BUDGET['epochs']} --np 2,16,48, unless given.",
)
@click.option("--epochs", type=click.IntRange(min=1), default=10, show_default=True)
@common.machinefile
@common.out("collapse")
@common.progress
@common.options_of_train("recipe_name", "evaluate", "bn_eval")
@click.pass_context
def collapse(
    context: click.Context,
    /,
    recipes: Sequence[str],
    reading: str,
    ranks: int | None,
    budget: bool,
    machinefile: Path | None,
    progress: bool,
    **_: Any,
) -> None:
    """Train the paper's protocol and `modern` on more and more workers; write table and picture.

    The same weights of the paper's protocol are tested twice: with batch norm's moving statistics,
    and with recalibrated ones. Workers share the ranks, so two cores show what 48 processes learn.
    An interrupted run goes on after its last whole epoch; one of the paper's protocol then starts
    with new momenta. Options of `npnet train` are for all runs.
    """
    from npnet.cli import datasets
    from npnet.machine.telemetry import node_cores
    from npnet.study import collapse as studies
    from npnet.study.cases import Study

    if budget:
        shorten(context)
    values = context.params
    source = datasets.opened(datasets.chosen(values), values["data_dir"])
    arguments = common.arguments_for_train(context)
    cases = studies.cases(
        values["counts"],
        recipes or ("paper", "modern"),
        arguments,
        images=source.size("train"),
        epochs=values["epochs"],
        ranks=ranks or min(2, node_cores()),
        reading=reading,
    )
    out = values["out"]
    shared = ["--epochs", str(values["epochs"]), *arguments]
    study = Study("collapse", out, cases, shared, {"train": arguments})
    common.run_study(
        study, machinefile, progress, lambda: [row.in_percent() for row in studies.table(study)]
    )
    rows = studies.table(study)
    print_table(rows)
    click.echo(f"[STUDY] Table: {out / 'collapse.csv'}")
    common.picture(out / "collapse.png", lambda path: draw(rows, source, path))


def shorten(context: click.Context) -> None:
    """Take the short version's values, where the command line gives no others."""
    from click.core import ParameterSource

    for name, value in BUDGET.items():
        if context.get_parameter_source(name) != ParameterSource.COMMANDLINE:
            context.params[name] = value
            context.set_parameter_source(name, ParameterSource.DEFAULT_MAP)


def print_table(rows: "Sequence[Row]") -> None:
    """Accuracies in percent."""
    click.echo(
        "\naccuracy, %   the paper's protocol:                                modern:\n"
        "       np     published    train   test, moving   test, recalibrated     test"
    )
    for row in rows:
        click.echo(
            f"{row.np:9} {percent(row.published):>13} {percent(row.train):>8} "
            f"{percent(row.moving):>14} {percent(row.recalibrated):>20} {percent(row.modern):>8}"
        )


def percent(value: float | None) -> str:
    return common.plain(None if value is None else 100 * value, 2)


def draw(rows: "Sequence[Row]", dataset: "Dataset", path: Path) -> None:
    from npnet.study.plots import collapse

    collapse(rows, dataset, path)
