"""`npnet machinefile`."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from npnet.parallel.hosts import Maker


@click.command(short_help="Write which hosts run how many ranks.")
@click.option("--hosts", required=True, help="As Slurm writes them: pi-[00-03,07],server.")
@click.option("--ranks-per-node", type=click.IntRange(min=1), default=2, show_default=True)
@click.option(
    "--mpi",
    type=click.Choice(["mpich", "openmpi"]),
    default="mpich",
    show_default=True,
    help="Whose form: host:2, or host slots=2.",
)
@click.option("--out", type=click.Path(path_type=Path), help="File to write.  [default: print]")
def machinefile(hosts: str, ranks_per_node: int, mpi: "Maker", out: Path | None) -> None:
    """Write a machinefile: a line for each host, with its number of ranks.

    The first host is the one that you start from. `npnet launch` and the studies take the file.
    """
    from npnet.files import write_atomically
    from npnet.parallel.hosts import expand
    from npnet.parallel.hosts import machinefile as text_of

    names = expand(hosts)
    text = text_of(names, ranks_per_node, mpi)
    if out is None:
        click.echo(text, nl=False)
    else:
        write_atomically(out, text.encode())
        click.echo(f"wrote {out}: {len(names)} hosts, {len(names) * ranks_per_node} ranks")
