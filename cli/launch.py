"""`npnet launch`."""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from npnet.cli import options

if TYPE_CHECKING:
    from npnet.parallel.launch import Launcher, Ranks


@click.command(
    short_help="Start a command on the ranks of a cluster.",
    context_settings={"allow_interspersed_args": False},
)
@click.option(
    "-n", "count", type=click.IntRange(min=1), help="Ranks.  [default: as many as the hosts hold]"
)
@click.option(
    "--machinefile",
    type=click.Path(path_type=Path),
    help="The hosts, see `npnet machinefile`.  [default: this host, or Slurm's allocation]",
)
@click.option(
    "--ranks-per-node", type=click.IntRange(min=1), help="On each host.  [default: machinefile's]"
)
@click.option(
    "--interface", help="Network between the hosts.  [default: the wired one, if that is certain]"
)
@options.threads  # which sets them for this process, and so for the ranks
@click.option("--run", is_flag=True, help="Start it, instead of printing how.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def launch(
    context: click.Context,
    /,
    count: int | None,
    machinefile: Path | None,
    ranks_per_node: int | None,
    interface: str | None,
    threads: int,
    run: bool,
    command: Sequence[str],
) -> None:
    """Print the line that starts COMMAND, one of npnet's, on several ranks; or start it.

    \b
    npnet launch -n 8 --machinefile machinefiles/pi-4.txt -- train --epochs 3

    The launcher is mpiexec, MPICH's or Open MPI's, or srun in an allocation of Slurm. Ranks on a
    cluster are bound to cores and kept to one network. With --run the status is the launcher's.
    """
    from npnet.errors import NpnetError
    from npnet.machine import program
    from npnet.machine.network import interfaces
    from npnet.parallel.communicator import connect, together
    from npnet.parallel.launch import become, prepare
    from npnet.parallel.launched import launched_size

    if launched_size() is not None:
        with together(connect()):
            raise NpnetError("npnet launch starts mpiexec by itself: start it without")
    check(context.find_root(), command)
    if interface is not None and interface not in interfaces():
        raise NpnetError(
            f"there is no `interface` {interface} that is up: {', '.join(interfaces())} are"
        )
    launcher, ranks = prepare(count, machinefile, ranks_per_node, interface)
    line = launcher.command(program.command(*command), *ranks)
    if run:
        become(line)
    for text in explanation(launcher, ranks):
        click.echo(f"# {text}")
    needed = [f"{name}={value}" for name, value in launcher.environment(ranks).items()]
    click.echo(shlex.join([*(("env", *needed) if needed else ()), *line]))


def check(root: click.Context, command: Sequence[str]) -> None:
    """Raises click's own error for a command that npnet does not have."""
    context, words = root, list(command)
    while words and isinstance(context.command, click.Group):
        name, found, words = context.command.resolve_command(context, words)
        context = click.Context(found or context.command, context, info_name=name)


def explanation(launcher: "Launcher", ranks: "Ranks") -> Iterator[str]:
    """What each part of the line is for."""
    from npnet.machine import program

    needed = launcher.environment(ranks)
    if needed:
        yield f"{' '.join(needed)}: what Open MPI asks for before it starts as root or on few cores"
    for part in launcher.parts(ranks):
        yield f"{shlex.join(part.words)}: {part.reason}"
    yield f"{shlex.join(program.command())}: this npnet, which every host has at the same path"
    if ranks.machinefile is not None and ranks.interface is None:
        yield "no network is named, as none is certain here: --interface does it"
