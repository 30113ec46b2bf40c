"""`npnet info`."""

from pathlib import Path
from typing import Any

import click

from npnet.cli import options


@click.command(short_help="Show the model, machine, MPI, datasets.")
@options.model
@options.batch
@click.option("--classes", type=click.IntRange(min=2), default=10, show_default=True)
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where to look for datasets too.")
def info(batch: int, classes: int, data_dir: Path | None, **values: Any) -> None:
    """The model, operation by operation; its memory; the machine, MPI, and the datasets found."""
    from npnet.errors import NpnetError
    from npnet.model.memory import training_bytes
    from npnet.model.zoo import build, models
    from npnet.parallel.communicator import launched_rank

    try:
        architecture = build(options.model_config(values, classes))
    except NpnetError as error:  # on every rank: told once, as a wrong command line is
        raise click.ClickException(str(error)) from error
    if launched_rank() > 0:
        return  # without joining the others: MPI may be what somebody wants to know of
    model = architecture.config
    click.echo(
        f"{model.architecture} width={model.width} input={model.input_size} classes={classes} "
        f"(models: {', '.join(sorted(models()))})\n"
    )
    header = f"{'operation':22} {'kind':12} {'input':>14} {'output':>14} {'parameters':>11}"
    click.echo(f"{header} {'MACs':>12} {'output bytes':>13}")
    for operation in architecture.operations:
        click.echo(
            f"{operation.name:22} {operation.kind:12} {shape(operation.input_shape):>14} "
            f"{shape(operation.output_shape):>14} {operation.parameter_count:>11,} "
            f"{operation.macs:>12,} {operation.output_bytes():>13,}"
        )
    total_bytes = sum(operation.output_bytes() for operation in architecture.operations)
    click.echo(
        f"{'total (one image)':22} {'':12} {'':>14} {'':>14} {architecture.parameter_count:>11,} "
        f"{architecture.macs:>12,} {total_bytes:>13,}\n"
    )
    memory = training_bytes(architecture, batch)
    click.echo(f"arrays of a training rank, batch {batch}, beside its images:")
    for name, size in (memory | {"in all": sum(memory.values())}).items():
        click.echo(f"  {name:40} {size:>13,} bytes")
    click.echo()
    for key, value in {**machine(), **mpi(), **numba(), **datasets(data_dir)}.items():
        click.echo(f"{key:22} {value}")


def shape(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))


def machine() -> dict[str, str]:
    from npnet.machine.telemetry import machine as describe

    values = describe()
    memory = f"{values.pop('memory_bytes') / 2**30:.1f} GiB"
    return {key: str(value) for key, value in {**values, "memory": memory}.items()}


def mpi() -> dict[str, str]:
    from npnet.measure.host import mpi_library

    missing = "no library found: pip install 'npnet[mpi]', or run as a single process"
    return {"MPI": mpi_library() or missing}


def numba() -> dict[str, str]:
    from npnet.kernels.jit.options import cache_directory, target

    return {"Numba target": target(), "compiled kernels": cache_directory() or "not kept"}


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
