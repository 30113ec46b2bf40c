"""`npnet study collapse`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from npnet.cli import options

if TYPE_CHECKING:
    from npnet.data.dataset import Dataset
    from npnet.study.collapse import Case, Row

COUNTS = "2,4,8,16,24,32,40,48"  # the paper's
BUDGET: dict[str, Any] = {
    "dataset": "shapes",
    "np": "2,16,48",
    "input_size": 64,
    "epochs": 6,
    "out": Path("studies/collapse-shapes"),
}


def numbers(text: str) -> list[int]:
    """The numbers of a list such as 2,16,48. Raises NpnetError if it is none."""
    from npnet.errors import NpnetError

    try:
        return sorted({int(part) for part in text.split(",")})
    except ValueError as error:
        raise NpnetError(f"--np {text} is not a list of numbers such as 2,16,48") from error


@click.command(short_help="Why more ranks learned nothing in the paper.")
@options.dataset
@click.option("--np", "counts", default=COUNTS, help="Numbers of workers.", show_default=True)
@click.option(
    "--recipe",
    "recipes",
    type=click.Choice(options.RECIPES),
    multiple=True,
    help="Only this recipe; several times for several.  [default: both]",
)
@click.option(
    "--budget",
    is_flag=True,
    help="A short version, four minutes on two cores of a PC: --dataset shapes --input-size "
    f"{BUDGET['input_size']} --epochs {BUDGET['epochs']} --np {BUDGET['np']}, unless given.",
)
@click.option("--epochs", type=click.IntRange(min=1), default=10, show_default=True)
@options.model
@click.option("--seed", type=click.IntRange(min=0), default=42, show_default=True)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("studies/collapse"),
    show_default=True,
    help="Folder of the study; what lies there already is not run again.",
)
@options.backend
@options.threads
@click.option("--progress/--no-progress", default=True, help="Progress bar, or lines every 30 s.")
@click.pass_context
def collapse(
    context: click.Context,
    /,
    recipes: Sequence[str],
    budget: bool,
    data_dir: Path | None,
    threads: int,
    progress: bool,
    **values: Any,
) -> None:
    """Train the paper's protocol and `modern` on more and more workers; write table and picture.

    The same weights of the paper's protocol are tested twice: with batch norm's moving statistics,
    and with recalibrated ones. Under mpiexec the ranks share the workers out: any even numbers of
    workers on two ranks. An interrupted study goes on, after the last whole epoch, when it is
    started again; runs of the paper's protocol then start with new momenta.
    """
    from npnet.cli.console import Console, say
    from npnet.data import open_dataset
    from npnet.parallel.communicator import connect, together
    from npnet.study import collapse as studies
    from npnet.training.recipe import RECIPES
    from npnet.training.settings import Settings
    from npnet.training.warmup import Rehearsal, prepare

    if budget:
        values = with_budget(context, values)
    comm, chosen = connect(), recipes or ("paper", "modern")
    with together(comm):
        source = open_dataset(values["dataset"], data_dir)
        todo = studies.cases(numbers(values["counts"]), chosen, source.size("train"), comm)
        classes, size = len(source.classes), source.image_size
        models = {name: options.model_config(values, classes, name, size) for name in RECIPES}
    settings = Settings(
        epochs=values["epochs"],
        batch_per_rank=studies.BATCH,
        seed=values["seed"],
        ranks_per_node=2,
        backend=values["backend"],
    )
    console = Console(comm, threads, progress)

    def reporter(case: "Case") -> Console:
        if comm.rank == 0:
            number = f"{todo.index(case) + 1} of {len(todo)}"
            say(f"[STUDY] Run {number}: recipe {case.recipe}, {case.workers} workers")
        return Console(comm, threads, progress)

    if settings.backend == "numba":
        rehearsal = Rehearsal.of(models["modern"], dtype=settings.dtype)
        prepare(comm, rehearsal, console.compiling)
    rows = studies.collapse(todo, source, models, settings, comm, values["out"], reporter)
    if comm.rank == 0:
        print_table(rows)
        click.echo(f"[STUDY] Table: {values['out'] / 'collapse.csv'}")
        draw(rows, source, values["out"] / "collapse.png")


def with_budget(context: click.Context, values: dict[str, Any]) -> dict[str, Any]:
    """The short version's values, where the command line gives no others."""
    from click.core import ParameterSource

    short = {("counts" if key == "np" else key): value for key, value in BUDGET.items()}
    given = {
        key for key in values if context.get_parameter_source(key) == ParameterSource.COMMANDLINE
    }
    return values | {key: value for key, value in short.items() if key not in given}


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
    return "-" if value is None else f"{100 * value:.2f}"


def draw(rows: "Sequence[Row]", dataset: "Dataset", path: Path) -> None:
    """The picture, or a word on why there is none: the table is made all the same."""
    from npnet.errors import NpnetError
    from npnet.study.plots import collapse as picture

    try:
        picture(rows, dataset, path)
    except NpnetError as error:
        click.echo(f"[STUDY] No picture: {error}")
    else:
        click.echo(f"[STUDY] Picture: {path}")
