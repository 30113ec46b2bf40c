"""`npnet study sweep`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from npnet.cli.help import CommandWithHeadings, heading
from npnet.cli.study import common
from npnet.cli.words import several

if TYPE_CHECKING:
    from npnet.study.cases import Finished, Row


@click.command(cls=CommandWithHeadings, short_help="Which batch, and how many ranks a node.")
@heading("The study")
@click.option(
    "--batch-per-node",
    "batches",
    type=common.ListOf(),
    default="8,16,24,32",
    show_default=True,
    help="Images that the ranks of a node share in a step.",
)
@click.option(
    "--ranks-per-node",
    "ranks",
    type=common.ListOf(),
    default="2",
    show_default=True,
    help="Ranks that share a node, such as 1,2,4.",
)
@click.option("--nodes", type=click.IntRange(1, 100_000), default=1, show_default=True)
@click.option("--epochs", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--max-steps",
    type=click.IntRange(min=1),
    default=200,
    show_default=True,
    help="Steps of an epoch.",
)
@common.repeats
@common.machinefile
@common.out("sweep")
@common.progress
@common.options_of_train("evaluate")
@click.pass_context
def sweep(
    context: click.Context,
    /,
    batches: Sequence[int],
    ranks: Sequence[int],
    nodes: int,
    epochs: int,
    max_steps: int,
    repeats: int,
    machinefile: Path | None,
    out: Path,
    progress: bool,
    **_: Any,
) -> None:
    """Train some hundred steps with each batch and number of ranks a node; name the best.

    As the paper's section 3.2.3: a block of results for each run, its Table 1 as CSV and picture
    with the paper's own rows beside, and what to take. Nothing is tested. mpiexec is started by the
    study. Options of `npnet train` are for all runs.
    """
    from npnet.study import sweep as studies
    from npnet.study.cases import Study

    chosen = studies.points(batches, ranks)
    arguments = common.arguments_for_train(context)
    cases = studies.cases(chosen, arguments, epochs, max_steps, repeats, nodes)
    settings = {"nodes": nodes, "epochs": epochs, "max_steps": max_steps, "repeats": repeats}
    shared = ["--nodes", str(nodes), *arguments]
    study = Study("sweep", out, cases, shared, settings | {"train": arguments})
    common.run_study(study, machinefile, progress, lambda: studies.table(study, chosen))
    for point in chosen:
        for run in study.finished(point.name):
            click.echo(block(run))
    print_table(study.rows)
    row, why = studies.best(study.rows)
    ranks_of_best = several(row["ranks_per_node"], "rank")
    click.echo(
        f"\n[STUDY] Best: {row['batch_per_node']} images a node on {ranks_of_best} "
        f"(--batch-per-rank {row['batch_per_rank']}): {why}"
    )
    click.echo(f"[STUDY] Table: {out / 'sweep.csv'}")
    common.picture(out / "sweep.png", lambda path: draw(study.rows, path))


def draw(rows: "Sequence[Row]", path: Path) -> None:
    from npnet.study.figures import save, sweep

    save(sweep(rows), path)


def block(run: "Finished") -> str:
    """A run's results as the paper prints them, its Figures 4 and 5."""
    summary, config = run.summary, run.config
    per_node = summary.batch_per_node // summary.batch_per_rank
    epochs = run.by_epoch("seconds", max).values()
    seconds = sum(epochs) / len(epochs)
    batch = summary.batch_per_rank * summary.world
    lines = [
        f"\n===== {summary.model} {summary.dataset} ({summary.steps} steps) =====",
        f"Host (rank0): {config['hosts'][0]}",
        f"World size: {summary.world} | Ranks/node: {per_node} | "
        f"Nodes: {len(set(config['hosts']))}",
        f"Batch/node: {summary.batch_per_node} | Batch/rank: {summary.batch_per_rank} | "
        f"Global batch: {batch}",
        f"Epochs: {summary.epochs} | Input size: {summary.input_size} | width: {summary.width}",
        f"Steps/epoch used: {summary.steps} (effective samples/epoch: {summary.steps * batch})",
        "--- Results ---",
        f"Avg epoch time (max across ranks): {seconds:.3f} s",
        f"Mean step time: {seconds / summary.steps:.4f} s/step",
        f"Global throughput (effective): {summary.steps * batch / seconds:.2f} img/s",
        f"Peak RSS (max across ranks): {summary.peak_rss_bytes / 1e6:.1f} MB",
        f"CPU% System (epoch-avg): {local_mean_max(run, 'system_cpu_percent')}",
        f"CPU% Process (epoch-avg): {local_mean_max(run, 'cpu_percent')}",
        "=====",
    ]
    return "\n".join(lines)


def local_mean_max(run: "Finished", name: str) -> str:
    """A column of the log: rank 0's, and over all ranks; means over epochs."""
    from statistics import fmean

    ranks: dict[float, list[float]] = {}
    for row in run.log:
        rank, value = row.get("rank"), row.get(name)
        if rank is not None and value is not None:
            ranks.setdefault(rank, []).append(value)
    means = [fmean(values) for _, values in sorted(ranks.items())]
    if not means:
        return "unknown"
    return f"local={means[0]:.1f} mean_ranks={fmean(means):.1f} max_ranks={max(means):.1f}"


def print_table(rows: "Sequence[Row]") -> None:
    """The paper's Table 1, and its own rows where it has the same batch on two ranks."""
    click.echo(
        "\n batch/  ranks/  batch/   epoch     step   images/s   peak RSS   process   the paper's\n"
        "  node    node    rank        s        s                  MB     CPU %      images/s"
    )
    for row in rows:
        click.echo(
            f"{row['batch_per_node']:6.0f} {row['ranks_per_node']:7.0f} "
            f"{row['batch_per_rank']:7.0f} {row['avg_epoch_s']:8.2f} {row['mean_step_s']:8.4f} "
            f"{row['throughput_img_s']:10.2f} {row['peak_rss_mb']:10.1f} "
            f"{row['process_cpu_pct']:9.1f} "
            f"{common.plain(row['paper_throughput_img_s'], 2):>13}"
        )
