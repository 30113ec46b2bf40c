"""`npnet bench`."""

import click

from npnet.cli import options


@click.group()
def bench() -> None:
    """Measure kernels."""


@bench.command(short_help="Time each kernel.")
@click.option("--op", help="Only kernels with this in their name, such as depthwise.")
@click.option("--batch", type=click.IntRange(min=1), default=12, show_default=True)
@click.option(
    "--width", type=click.FloatRange(min=0, min_open=True), default=0.5, show_default=True
)
@click.option("--input-size", type=click.IntRange(min=32), default=128, show_default=True)
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
