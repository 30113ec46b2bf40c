"""`npnet lr-find`."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from npnet.cli import options
from npnet.cli.help import CommandWithHeadings, heading
from npnet.cli.train import initial_weights, plan_of_options, train

if TYPE_CHECKING:
    from npnet.training.lr_find import RangeTest

# Options of `npnet train` that mean nothing here, and what takes their place among the settings.
OF_A_RUN: dict[str, Any] = {
    "lr": None,
    "warmup_epochs": None,
    "epochs": 1,
    "workers_per_rank": 1,
    "deterministic": False,
    "bn_eval": "moving",
    "max_steps": None,
    "checkpoint_every": None,
    "keep": None,
    "patience": None,
    "evaluate": "never",
    **dict.fromkeys(("out", "resume", "trace", "stall_limit", "progress")),
}
ROWS = 12  # of the table that is printed


def of_train(function: options.Function) -> options.Function:
    """Every option of `npnet train` but those of OF_A_RUN."""
    parameters = function.__dict__.setdefault("__click_params__", [])
    parameters += [each for each in reversed(train.params) if each.name not in OF_A_RUN]
    return function


@click.command(
    cls=CommandWithHeadings,
    context_settings={"show_default": True},
    short_help="Find a learning rate.",
)
@heading("The test")
@click.option("--steps", type=click.IntRange(10, 100_000), default=100, help="Of the test.")
@click.option(
    "--from",
    "lowest",
    type=options.Finite(min=0, min_open=True),
    default=1e-5,
    help="Rate of the first step.",
)
@click.option(
    "--to",
    "highest",
    type=options.Finite(min=0, min_open=True),
    default=10.0,
    help="Rate of the last step.",
)
@click.option("--picture", type=click.Path(path_type=Path), help="Draw loss by rate (plots extra).")
@click.option("--csv", "table", type=click.Path(path_type=Path), help="Write a row for each step.")
@of_train
def lr_find(
    init: Path | None,
    steps: int,
    lowest: float,
    highest: float,
    picture: Path | None,
    table: Path | None,
    threads: int,
    **values: Any,
) -> None:
    """Train while the rate grows from step to step, and suggest a rate; under mpiexec, too.

    The other options are those of `npnet train`: give what the run will be given. Nothing is left
    on disk but the files that are asked for.
    """
    from dataclasses import asdict

    from npnet.cli.bar import Progress
    from npnet.cli.console import Console, terminal
    from npnet.errors import NpnetError
    from npnet.files import write_table
    from npnet.parallel.communicator import connect, together
    from npnet.study import plots
    from npnet.study.figures import blank
    from npnet.training.lr_find import find_lr
    from npnet.training.warmup import Rehearsal, prepare

    comm = connect("npnet lr-find")
    with together(comm):
        weights = initial_weights(init) if comm.rank == 0 else None
    weights = comm.broadcast(weights)
    recipe, settings, source, model = plan_of_options(values | OF_A_RUN, comm, weights)
    with together(comm):
        for path in (table, picture):
            if path is not None and not path.parent.is_dir():
                raise NpnetError(f"cannot write {path}: there is no folder {path.parent}")
        if picture is not None:
            blank()  # what draws is missing: that is told before the work
    if settings.backend == "numba":
        console = Console(comm, threads, progress=True)
        prepare(comm, Rehearsal.of(model, recipe, settings.dtype), console.compiling)
    progress = Progress(terminal()) if comm.rank == 0 else None

    def show(step: int) -> None:
        if progress is not None:
            progress.show("Range test", step, steps, "")

    found = find_lr(
        source, model, recipe, settings, comm, steps, lowest, highest, show, weights=weights
    )
    with together(comm):
        if comm.rank != 0 or progress is None:
            return
        progress.finish()
        _print(found)
        _advise(found, comm.size)
        if table is not None:
            rows = [{"step": n} | asdict(each) for n, each in enumerate(found.tries, 1)]
            write_table(table, tuple(rows[0]), rows)
            click.echo(f"wrote {table}")
        if picture is not None:
            name = f"{model.architecture} on {source.name}, {len(found.tries)} steps"
            plots.range_test(found, name, picture)
            click.echo(f"wrote {picture}")


def _print(found: "RangeTest") -> None:
    """A few steps, evenly spread, the last one among them."""
    click.echo(f"{'step':>6} {'rate':>10} {'loss':>9} {'smoothed':>9}")
    last = len(found.tries) - 1
    for row in sorted({round(last * part / (ROWS - 1)) for part in range(ROWS)}):
        each = found.tries[row]
        click.echo(f"{row + 1:6} {each.lr:10.3g} {each.loss:9.4f} {each.smoothed:9.4f}")


def _advise(found: "RangeTest", ranks: int) -> None:
    """What the test says, and the line to type next."""
    if found.risen is None and found.exploded:
        click.echo("The loss was not finite any more before it rose: give a smaller --from")
        return
    if found.risen is None:
        click.echo(
            "The loss did not rise: give a larger --to, so that it shows where training breaks"
        )
        return
    if found.suggestion is None:
        click.echo("The loss rose almost from the start: give a smaller --from")
        return
    click.echo(
        f"The smoothed loss was least at {found.least.lr:.2g} and 10 % above its least at "
        f"{found.risen.lr:.2g}. A tenth of that, {found.suggestion:.2g}, is far enough below"
    )
    if found.hardly_fell:
        click.echo(
            "The loss hardly fell in so few steps: this is where training breaks, not where it is "
            "fastest; more --steps show more"
        )
    context = click.get_current_context()
    of_train = [each for each in context.command.params if each in train.params]
    words = ["npnet", "train", *options.arguments(context, of_train)]
    start = f"mpiexec -n {ranks} " if ranks > 1 else ""
    click.echo(f"{start}{shlex.join(words)} --lr {found.suggestion:.2g}")
