"""`npnet bench`."""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import click

from npnet.cli import options

if TYPE_CHECKING:  # the engine is loaded by the command that measures
    from npnet.measure.benchmark import StepTiming, Timing
    from npnet.measure.roofline import Roof
    from npnet.model.config import ModelConfig
    from npnet.parallel.communicator import Communicator

Function = TypeVar("Function", bound=Callable[..., Any])

CLASSES = 10  # of the models that are measured


@click.group()
def bench() -> None:
    """Measure kernels and steps."""


def kernel_options(function: Function) -> Function:
    """Which kernels, on which shapes, how often."""
    for option in (
        options.threads,
        options.backend,
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line."),
        click.option("--repeats", type=click.IntRange(min=3), default=9, show_default=True),
        options.model,
        options.batch,
        click.option("--op", help="Only kernels with this in their name, such as depthwise."),
    ):
        function = option(function)
    return function


@bench.command(short_help="Time each kernel.")
@kernel_options
def kernels(op: str | None, as_json: bool, threads: int, **measured: Any) -> None:
    """Time every kernel on the model's own shapes: CPU time, GFLOP/s, GB/s, percent of the roof.

    The roof is what this core could reach at best, see `npnet bench roofline`.
    """
    from npnet.measure.roofline import measure_roof

    roof = measure_roof()
    _print_kernels(timings_of(measured, op), roof, as_json, op)


@bench.command(short_help="Hold each kernel against what this core can do.")
@kernel_options
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    help="Draw the roofline into this file; needs the plots extra.",
)
def roofline(
    op: str | None, as_json: bool, threads: int, picture: Path | None, **measured: Any
) -> None:
    """Measure this core's peak and its memory, then how near to them a step's kernels come.

    A kernel's roof is min(peak, FLOP/byte x bandwidth): the peak of a matrix product inside the
    first-level cache, the bandwidth of a copy of large arrays, both on one core. Only kernels that
    a training step runs are listed; the last line adds them up, each as often as the step runs it.
    """
    from npnet.measure.roofline import measure_roof, total

    roof = measure_roof()
    if as_json:
        click.echo(json.dumps({"peak_gflops": roof.peak_gflops, "copy_gbytes": roof.copy_gbytes}))
    else:
        click.echo(
            f"this core multiplies {roof.peak_gflops:.1f} GFLOP/s and copies "
            f"{roof.copy_gbytes:.1f} GB/s; the two meet at {roof.ridge:.1f} FLOP/byte"
        )
    timings = _print_kernels(timings_of(measured, op, only_used=True), roof, as_json, op)
    if not as_json:
        if any(roof.percent(timing) > 100 for timing in timings):
            click.echo(
                "above 100%: arrays so small that a cache holds them in spite of all, or much more "
                "read than written, which memory does faster than a copy"
            )
        step = total(timings, roof)
        click.echo(
            f"a step's kernels together {step.ms:.2f} ms, under their roofs {step.roof_ms:.2f} ms: "
            f"{step.roof_percent:.0f}%"
        )
    if picture is not None:
        from npnet.study import plots

        plots.roofline(timings, roof, picture)
        click.echo(f"wrote {picture}", err=as_json)


def timings_of(
    measured: dict[str, Any], op: str | None, only_used: bool = False
) -> "Iterator[Timing]":
    """Time the kernels of the model that the options name."""
    from npnet.measure.benchmark import measure_kernels
    from npnet.model.zoo import build

    model = build(options.model_config(measured, CLASSES))
    backend, batch, repeats = (measured[name] for name in ("backend", "batch", "repeats"))
    return measure_kernels(backend, op or "", model, batch, repeats, only_used)


def _print_kernels(
    timings: "Iterator[Timing]", roof: "Roof", as_json: bool, op: str | None
) -> "list[Timing]":
    """Print each as it comes; return them all."""
    from npnet.errors import NpnetError

    printed: list[Timing] = []
    for timing in timings:
        if not printed and not as_json:
            click.echo(
                f"{'kernel':36} {'case':26} {'times':>5} {'ms':>8} {'spread':>7} "
                f"{'GFLOP/s':>8} {'GB/s':>7} {'FLOP/B':>7} {'of roof':>8}"
            )
        printed.append(timing)
        if as_json:
            click.echo(json.dumps(roof.record(timing)))
        else:
            click.echo(
                f"{timing.kernel:36} {timing.case:26} {timing.uses:>5} {timing.ms_median:8.3f} "
                f"{timing.spread_percent:6.0f}% {timing.gflops:8.1f} {timing.gbytes:7.1f} "
                f"{timing.intensity:7.1f} {roof.percent(timing):7.0f}%"
            )
    if not printed:
        raise NpnetError(f"no kernel has {op!r} in its name: see npnet.kernels.registry")
    return printed


@bench.command(short_help="Time a step.")
@options.batch
@options.model
@click.option("--steps", type=click.IntRange(min=4), default=30, show_default=True)
@click.option("--inference", is_flag=True, help="Logits of a trained network, not training.")
@options.train
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--report", is_flag=True, help="Print one line about this board, to compare it.")
@options.backend
@options.threads
def step(
    batch: int,
    steps: int,
    inference: bool,
    train: str | None,
    as_json: bool,
    report: bool,
    backend: str,
    threads: int,
    **values: Any,
) -> None:
    """Time one whole training step: forward, loss, backward, update.

    With --train, of that part of the network, as fine-tuning does it. With --inference, the logits
    alone, batch norm folded into the convolutions. With --report, under mpiexec, of all ranks of
    this host together, and what its cores and its memory can do.
    """
    if inference and train is not None:
        raise click.UsageError("--inference trains nothing: leave out --train")
    alike = not (inference or as_json or train or backend != "numba" or threads != 1)
    if report and not alike:
        raise click.UsageError("--report is one line about a whole step: leave out other options")
    from dataclasses import asdict

    from npnet.measure.benchmark import measure_step
    from npnet.model.zoo import build

    model = build(options.model_config(values, CLASSES))
    if report:
        _print_report(lambda steps: measure_step(backend, batch, model, steps), model.config, steps)
        return
    timing = measure_step(backend, batch, model, steps, inference, train or "all")
    if as_json:
        click.echo(json.dumps(asdict(timing)))
        return
    click.echo(
        f"{timing.cpu_ms_median:.1f} ms CPU (quartiles {timing.cpu_ms_spread:.1f} apart), "
        f"{timing.wall_ms_median:.1f} ms wall, {timing.images_per_second:.1f} images/s, "
        f"peak RSS {timing.peak_rss_bytes / 1e6:.0f} MB"
    )


def _print_report(measure: "Callable[[int], StepTiming]", model: "ModelConfig", steps: int) -> None:
    from npnet.cli.console import Console
    from npnet.measure.board import check_ranks, report
    from npnet.parallel.communicator import connect, together
    from npnet.training.warmup import Rehearsal, prepare

    comm = connect("npnet bench step")
    with together(comm):
        check_ranks(comm)
    prepare(comm, Rehearsal.of(model), Console(comm, 1, progress=True).compiling)
    line = report(measure, comm, steps)
    if comm.rank == 0:
        click.echo(line)


class Sizes(click.ParamType):  # type: ignore[type-arg]
    """Sizes of messages, such as 64K,1M: bytes, or units of 1024 of them; multiples of 4."""

    name = "sizes"
    UNITS: ClassVar = {"": 1, "K": 1024, "M": 1024**2}
    LARGEST = 128 * 1024**2

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> list[int]:
        sizes = []
        for word in value.split(","):
            found = re.fullmatch(r"(\d{1,9})([KM]?)", word.strip().upper())
            size = int(found[1]) * self.UNITS[found[2]] if found else 0
            if not 0 < size <= self.LARGEST or size % 4:
                self.fail(
                    f"{word!r:.40} is not a size such as 64K: a multiple of 4 bytes, 128M at most.",
                    param,
                    ctx,
                )
            sizes.append(size)
        return sizes


@bench.command(short_help="Time what ranks exchange.")
@options.model
@click.option("--sizes", type=Sizes(), help="Of messages, such as 1K,64K,1M.  [default: model's]")
@click.option("--pairs", is_flag=True, help="Instead, the link between each two hosts.")
@click.option("--repeats", type=click.IntRange(min=3), default=20, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@options.threads
def sync(
    sizes: list[int] | None, pairs: bool, repeats: int, as_json: bool, threads: int, **values: Any
) -> None:
    """Time, under mpiexec, each strategy's exchange of this model's gradient or weights.

    Beside `npnet bench step` it tells what a step on this network will cost. With --pairs, latency
    and bandwidth of each link, while both hosts send; `npnet doctor` judges them.
    """
    from dataclasses import asdict

    from npnet.measure.benchmark import measure_exchanges
    from npnet.model.parameters import Parameters
    from npnet.model.zoo import build
    from npnet.parallel.communicator import connect, together

    comm = connect("npnet bench sync")
    if pairs:
        _print_links(comm, as_json)
        return
    with together(comm):
        model = build(options.model_config(values, CLASSES))
    if comm.rank == 0 and not as_json:
        click.echo(f"{comm.size} ranks on {len(set(comm.nodes))} nodes, {repeats} times each")
    for size in sizes or [Parameters(model).gradients_and_loss.nbytes]:
        for each in measure_exchanges(comm, size, repeats):
            if comm.rank != 0:
                continue
            if as_json:
                click.echo(json.dumps(asdict(each)))
            else:
                click.echo(
                    f"{each.name:32} {each.bytes / 1e6:8.4g} MB a rank {each.ms_median:9.2f} ms "
                    f"(quartiles {each.ms_spread:.2f} apart)"
                )


def _print_links(comm: "Communicator", as_json: bool) -> None:
    from npnet.errors import NpnetError
    from npnet.measure.links import measure_links
    from npnet.parallel.communicator import together

    with together(comm):
        if len(set(comm.nodes)) == 1:
            raise NpnetError("there is no link to measure on one host: start ranks on several")
    links = measure_links(comm)
    if comm.rank != 0:
        return
    if not as_json:
        click.echo(f"{'hosts':40} {'latency':>10} {'each way':>12}")
    for link in links:
        if as_json:
            click.echo(json.dumps(link._asdict()))
        else:
            click.echo(
                f"{f'{link.a} - {link.b}':40} {1e6 * link.latency_seconds:7.1f} us "
                f"{link.bytes_per_second / 1e6:7.1f} MB/s"
            )
