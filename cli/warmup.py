"""`npnet warmup`."""

from typing import Any

import click

from npnet.cli import options


@click.command(short_help="Compile the kernels ahead.")
@click.option(
    "--dtype",
    type=click.Choice(options.DTYPES),
    default="float32",
    show_default=True,
    help="Training takes float32; float64 is for checks.",
)
@options.model
@options.threads
def warmup(dtype: str, threads: int, **values: Any) -> None:
    """Compile what training and evaluation call, once; under mpiexec, on every node.

    `npnet train` does the same where it is needed. The machine code is kept in $NPNET_CACHE, or
    in ~/.cache/npnet, or on the node's own disk where that folder is on a network.
    """
    import time

    from npnet.cli.console import Console
    from npnet.cli.streams import say
    from npnet.errors import NpnetError
    from npnet.parallel.communicator import connect, together
    from npnet.training.warmup import Rehearsal, is_warm, place, prepare

    comm = connect("npnet warmup")
    with together(comm):
        folder = place()
        if folder is None:
            raise NpnetError("there is no place for compiled kernels: name one in NPNET_CACHE")
        rehearsal = Rehearsal.of(options.model_config(values, classes=2), dtype=dtype)
    there = is_warm(rehearsal)
    start = time.monotonic()
    prepare(comm, rehearsal, Console(comm, threads, progress=True).compiling)
    with together(comm):
        if comm.first_of_node and not is_warm(rehearsal):
            raise NpnetError(f"the kernels were compiled, but are not kept in {folder}")
    if comm.first_of_node:
        what = "were there" if there else f"compiled in {time.monotonic() - start:.0f} s"
        name = rehearsal.architecture
        say(f"[Rank {comm.rank}] {dtype} kernels of {name} {what}: {folder}")
