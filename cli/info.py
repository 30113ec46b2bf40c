"""`npnet info`."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

import click

from npnet.cli import options

if TYPE_CHECKING:
    from npnet.model.architecture import Architecture
    from npnet.model.operations import Operation

COLUMNS = 80
MOST_FEATURES = 24  # of a processor, by name


@click.command(short_help="Show the model, machine, MPI, datasets.")
@options.model
@options.batch
@click.option("--classes", type=click.IntRange(min=2), default=10, show_default=True)
@click.option("--operations", is_flag=True, help="The model operation by operation.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where to look for datasets too.")
def info(batch: int, classes: int, operations: bool, data_dir: Path | None, **values: Any) -> None:
    """The model, size by size; its memory; the machine, MPI, and the datasets found."""
    from npnet.errors import NpnetError
    from npnet.model.memory import training_bytes
    from npnet.model.zoo import build, models
    from npnet.parallel.launched import launched_rank

    try:
        architecture = build(options.model_config(values, classes))
    except NpnetError as error:  # on every rank: told once, as a wrong command line is
        raise click.ClickException(str(error)) from error
    if launched_rank() > 0:
        return  # without joining the others: MPI may be what somebody wants to know of
    model = architecture.config
    click.echo(
        f"{model.architecture} width={model.width} input={model.input_size} classes={classes}\n"
        f"models: {', '.join(sorted(models()))}\n"
    )
    (print_operations if operations else print_sizes)(architecture)
    memory = training_bytes(architecture, batch)
    click.echo(f"arrays of a training rank, batch {batch}, beside its images:")
    for name, size in (memory | {"in all": sum(memory.values())}).items():
        click.echo(f"  {name:40} {size:>13,} bytes")
    click.echo()
    for key, value in {**machine(), **mpi(), **numba(), **datasets(data_dir)}.items():
        first, *more = wrap(value, COLUMNS - 23, break_long_words=False) or [""]
        click.echo("\n".join([f"{key:22} {first}", *(f"{'':22} {line}" for line in more)]))


def print_sizes(architecture: "Architecture") -> None:
    """A line for all operations in a row whose outputs are of one height and width."""
    click.echo(f"{'output':7} {'operations':36}{numbers('parameters', 'MACs', 'output bytes')}")
    for size, group in groupby(architecture, lambda operation: operation.output_shape[:-1]):
        these = list(group)
        names = " to ".join(dict.fromkeys((these[0].name, these[-1].name)))
        click.echo(f"{shape(size) or '-':7} {names:36}{sums(these)}")
    click.echo(f"{'total, one image':44}{sums(architecture.operations)}")
    click.echo(f"each of the {len(architecture.operations)} operations: --operations\n")


def print_operations(architecture: "Architecture") -> None:
    click.echo(
        f"{'operation':22} {'kind':12} {'input':>14} {'output':>14}"
        f"{numbers('parameters', 'MACs', 'output bytes')}"
    )
    for operation in architecture:
        click.echo(
            f"{operation.name:22} {operation.kind:12} {shape(operation.input_shape):>14} "
            f"{shape(operation.output_shape):>14}{sums([operation])}"
        )
    click.echo(f"{'total, one image':65}{sums(architecture.operations)}\n")


def sums(operations: "Sequence[Operation]") -> str:
    """Parameters, multiply-accumulates, bytes of the outputs."""
    return numbers(
        f"{sum(operation.parameter_count for operation in operations):,}",
        f"{sum(operation.macs for operation in operations):,}",
        f"{sum(operation.output_bytes() for operation in operations):,}",
    )


def numbers(parameters: str, macs: str, output_bytes: str) -> str:
    return f" {parameters:>10} {macs:>11} {output_bytes:>12}"


def shape(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


def machine() -> dict[str, str]:
    from npnet.machine.telemetry import machine as describe

    values = describe()
    memory = f"{values.pop('memory_bytes') / 2**30:.1f} GiB"
    libraries = ("numpy", "numba", "mpi4py", "click", "psutil")
    versions = ", ".join(f"{name} {values.pop(name)}" for name in libraries)
    return {key: str(value) for key, value in values.items()} | {
        "memory": memory,
        "libraries": versions,
    }


def mpi() -> dict[str, str]:
    from npnet.measure.host import mpi_library

    missing = "no library found: pip install 'npnet[mpi]', or run as a single process"
    return {"MPI": mpi_library() or missing}


def numba() -> dict[str, str]:
    from npnet.kernels.jit.options import cache_directory, target

    first, *features = target().split(",")
    shown = ", ".join([first, *features[:MOST_FEATURES]])  # to be folded
    if len(features) > MOST_FEATURES:
        shown += f" and {len(features) - MOST_FEATURES} more"
    return {"Numba target": shown, "compiled kernels": cache_directory() or "not kept"}


def datasets(data_dir: Path | None) -> dict[str, str]:
    from npnet.data import DATASETS, open_dataset
    from npnet.errors import NpnetError

    found = {}
    for name in DATASETS:
        try:
            found[f"dataset {name}"] = open_dataset(name, data_dir).location
        except NpnetError as error:
            found[f"dataset {name}"] = f"not found ({str(error).split(';')[0]})"
    return found
