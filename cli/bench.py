"""`npnet bench`."""

import click

from npnet.cli import options


@click.group()
def bench() -> None:
    """Measure kernels and training steps."""


@bench.command(short_help="Time each kernel.")
@click.option("--op", help="Only kernels with this in their name, such as depthwise.")
@options.batch
@options.model
@click.option("--repeats", type=click.IntRange(min=3), default=9, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line.")
@options.backend
@options.threads
def kernels(
    op: str | None,
    batch: int,
    width: float,
    input_size: int,
    repeats: int,
    as_json: bool,
    backend: str,
    threads: int,
) -> None:
    """Time every kernel on the model's own shapes: CPU time, GFLOP/s, GB/s."""
    import json
    from dataclasses import asdict

    from npnet.benchmark import measure_kernels
    from npnet.errors import NpnetError

    found = False
    for timing in measure_kernels(backend, op or "", batch, width, input_size, repeats):
        if as_json:
            click.echo(json.dumps(asdict(timing)))
            continue
        if not found:
            click.echo(
                f"{'kernel':30} {'case':26} {'times':>5} {'ms':>8} {'spread':>7} "
                f"{'GFLOP/s':>8} {'GB/s':>7}"
            )
        found = True
        click.echo(
            f"{timing.kernel:30} {timing.case:26} {timing.uses:>5} {timing.ms_median:8.3f} "
            f"{timing.spread_percent:6.0f}% {timing.gflops:8.1f} {timing.gbytes:7.1f}"
        )
    if not found and not as_json:
        raise NpnetError(f"no kernel has {op!r} in its name: see npnet.kernels.registry")


@bench.command(short_help="Time a training step.")
@options.batch
@options.model
@click.option("--steps", type=click.IntRange(min=4), default=30, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@options.backend
@options.threads
def step(
    batch: int,
    width: float,
    input_size: int,
    steps: int,
    as_json: bool,
    backend: str,
    threads: int,
) -> None:
    """Time one whole training step: forward, loss, backward, update."""
    import json
    from dataclasses import asdict

    from npnet.benchmark import measure_step

    timing = measure_step(backend, batch, width, input_size, steps)
    if as_json:
        click.echo(json.dumps(asdict(timing)))
        return
    click.echo(
        f"{timing.cpu_ms_median:.1f} ms CPU (quartiles {timing.cpu_ms_spread:.1f} apart), "
        f"{timing.wall_ms_median:.1f} ms wall, {timing.images_per_second:.1f} images/s, "
        f"peak RSS {timing.peak_rss_bytes / 1e6:.0f} MB"
    )
