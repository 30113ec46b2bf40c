"""`npnet study forecast`."""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from npnet.cli import options
from npnet.cli.study import common

if TYPE_CHECKING:
    from npnet.study.cases import Row

STEPS = 15  # that are timed, on all ranks of a node at once
ABOVE_ZERO = options.Finite(min=0, min_open=True)


@click.command(short_help="How long training would take on more nodes than there are.")
@common.counts("ranks")
@click.option("--ranks-per-node", type=click.IntRange(1, 1024), default=2, show_default=True)
@click.option("--batch-per-rank", type=click.IntRange(min=1), default=12, show_default=True)
@click.option("--epochs", type=click.IntRange(min=1), default=10, show_default=True)
@click.option(
    "--images",
    type=click.IntRange(min=1),
    default=50_000,
    show_default=True,
    help="For training, all ranks together; CIFAR-10's, as the next two.",
)
@click.option("--test-images", type=click.IntRange(min=0), default=10_000, show_default=True)
@click.option("--classes", type=click.IntRange(min=2), default=10, show_default=True)
@click.option(
    "--sync-steps", type=click.IntRange(min=1), help="Of `weights`.  [default: an epoch's]"
)
@click.option(
    "--mbits", type=ABOVE_ZERO, default=940, show_default=True, help="Of a port, each way: Mbit/s."
)
@click.option(
    "--latency-us",
    type=ABOVE_ZERO,
    default=100,
    show_default=True,
    help="Of a message between nodes: microseconds.",
)
@click.option(
    "--step-ms", type=ABOVE_ZERO, help="A training step of one rank.  [default: measured here]"
)
@click.option(
    "--test-ms",
    type=ABOVE_ZERO,
    help="A test of one batch.  [default: its part of a step, measured here]",
)
@click.option(
    "--local-ms",
    type=options.Finite(min=0),
    default=0.0,
    help="An exchange among the ranks of one node, as `npnet bench sync` measures it.",
)
@click.option(
    "--overlap/--no-overlap", default=True, help="Of `gradients`: exchanged during backward."
)
@click.option("--wire", type=click.Choice(options.WIRES), default="float32", show_default=True)
@click.option("--watts-per-node", type=ABOVE_ZERO, help="For images per joule.")
@common.out("forecast", "for the table")
@options.model
@options.threads
@click.pass_context
def forecast(
    context: click.Context,
    /,
    counts: Sequence[int],
    ranks_per_node: int,
    batch_per_rank: int,
    epochs: int,
    sync_steps: int | None,
    mbits: float,
    latency_us: float,
    step_ms: float | None,
    test_ms: float | None,
    local_ms: float,
    overlap: bool,
    wire: str,
    watts_per_node: float | None,
    out: Path,
    images: int,
    test_images: int,
    classes: int,
    **values: Any,
) -> None:
    """Foretell time, speed-up and efficiency for each strategy; nothing is trained.

    A step and a test are timed here, with all ranks of a node at work, unless they are given. The
    network is one of equal ports on a switch. The formula and what it assumes stand in
    npnet/study/forecast.py.
    """
    from dataclasses import asdict

    from npnet.model.parameters import Parameters
    from npnet.model.zoo import build, configure
    from npnet.parallel.buckets import pieces_of
    from npnet.study import forecast as studies
    from npnet.study.cases import Study

    common.refuse_ranks()
    architecture = build(options.model_config(values, classes))
    parameters = Parameters(architecture)
    size = parameters.gradients_and_loss.nbytes
    deviation, given = 0.0, [name for name, ms in (("step", step_ms), ("test", test_ms)) if ms]
    if len(given) < 2:
        click.echo(
            f"[STUDY] Timing steps on {ranks_per_node} ranks at once; first, kernels are compiled "
            "that are not kept yet"
        )
        step = ["--batch", str(batch_per_rank), *model_arguments(context)]
        measured, deviation = timed(step, ranks_per_node)
        if test_ms is None:  # of a stated step's machine, not of this one
            test_here, _ = timed([*step, "--inference"], ranks_per_node)
            test_ms = test_here * (step_ms or measured) / measured
        step_ms, deviation = step_ms or measured, 0.0 if step_ms else deviation
    assert step_ms is not None
    assert test_ms is not None
    work = studies.Work(
        images=images,
        test_images=test_images,
        batch_per_rank=batch_per_rank,
        epochs=epochs,
        message_bytes=size,
        step_seconds=step_ms / 1e3,
        step_deviation=deviation / 1e3,
        test_seconds_per_image=test_ms / 1e3 / batch_per_rank,
        pieces=pieces_of(architecture, parameters) if overlap else (),
    )
    network = studies.Network(latency_us / 1e6, mbits * 1e6 / 8, local_ms / 1e3, wire == "bfloat16")
    click.echo(
        f"[STUDY] A step {step_ms:.1f} ms (deviation {deviation:.1f}), a test {test_ms:.1f} ms, "
        f"{size / 1e6:.2f} MB exchanged, ports of {mbits:g} Mbit/s and {latency_us:g} us; "
        f"{' and '.join(f'the {each} is as given' for each in given) or 'both measured here'}"
    )
    rows = studies.table(counts, ranks_per_node, work, network, sync_steps, watts_per_node)
    settings = asdict(work) | asdict(network) | {"ranks_per_node": ranks_per_node}
    study = Study("forecast", out, [], settings=settings)
    study.make_folder()
    study.save(rows)
    print_table(rows, beside_paper=architecture.config == configure("mobilenet_v2", classes))
    click.echo(f"[STUDY] Table: {out / 'forecast.csv'}")


def model_arguments(context: click.Context) -> list[str]:
    """The options of `model` that were given, as `npnet bench step` takes them."""
    names = ("model_name", "width", "input_size", "batch_norm")
    return options.arguments(
        context, [each for each in context.command.params if each.name in names]
    )


def timed(arguments: Sequence[str], ranks_per_node: int) -> tuple[float, float]:
    """Milliseconds of a step and their deviation, the slowest of a node's ranks at once."""
    import json

    from npnet.errors import NpnetError
    from npnet.machine import program

    words = program.command("bench", "step", "--json", "--steps", str(STEPS), *arguments)
    ranks = [subprocess.Popen(words, stdout=subprocess.PIPE) for _ in range(ranks_per_node)]
    answers = [rank.communicate()[0] for rank in ranks]
    if any(rank.returncode for rank in ranks):
        raise NpnetError("a step cannot be timed here, see above: give `step_ms` and `test_ms`")
    found = [json.loads(answer) for answer in answers]
    slowest = max(found, key=lambda each: each["wall_ms_median"])
    # The quartiles of a normal distribution lie 1.35 deviations apart.
    return slowest["wall_ms_median"], slowest["cpu_ms_spread"] / 1.35


def print_table(rows: "Sequence[Row]", beside_paper: bool) -> None:
    """The paper's efficiency where it has as many processes; energy where watts are known."""
    from npnet.study.paper import BY_NP

    head = "        sync   np  nodes     time s   images/s  speed-up  efficiency %"
    energy = any(row["images_per_joule"] is not None for row in rows)
    click.echo(f"\n{head}{'  (paper)' * beside_paper}{'  images/J' * energy}")
    for row in rows:
        line = (
            f"{row['sync']:>12} {row['np']:4d} {row['nodes']:6d} {row['wall_s']:10.1f} "
            f"{row['images_per_second']:10.1f} {row['speedup']:9.2f} {row['efficiency_pct']:13.1f}"
        )
        if beside_paper:
            theirs = BY_NP.get(row["np"])
            line += f" {common.plain(theirs and theirs.efficiency_pct, 1):>8}"
        if energy:
            line += f" {common.plain(row['images_per_joule'], 2):>9}"
        click.echo(line)
