"""`npnet launch`."""

import os
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from npnet.cli import options
from npnet.cli.streams import say
from npnet.cli.train import LAUNCH, default_folder, usual_recipe
from npnet.status import BAD_INPUT, INTERRUPTED, STOPPED

if TYPE_CHECKING:
    from npnet.parallel.launch import Launcher, Ranks
    from npnet.parallel.supervisor import Restart

SECONDS_TO_LEAVE = 30.0
FINAL = (BAD_INPUT, STOPPED, INTERRUPTED)  # after these a job is not started once more


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
@click.option(
    "--binding/--no-binding",
    default=True,
    help="Whether each rank keeps a core; hosts that are one machine share its cores.",
)
@options.threads  # which sets them for this process, and so for the ranks
@click.option("--run", is_flag=True, help="Start it, instead of printing how.")
@click.option(
    "--restarts",
    type=click.IntRange(min=0),
    default=0,
    metavar="TIMES",
    help="With --run: go on with a training whose rank or host died, so many times at most.",
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def launch(
    context: click.Context,
    /,
    count: int | None,
    machinefile: Path | None,
    ranks_per_node: int | None,
    interface: str | None,
    binding: bool,
    threads: int,
    run: bool,
    restarts: int,
    command: Sequence[str],
) -> None:
    """Print the line that starts COMMAND, one of npnet's, on several ranks; or start it.

    \b
    npnet launch -n 8 --machinefile machinefiles/pi-4.txt -- train --epochs 3

    The launcher is mpiexec, MPICH's or Open MPI's, or srun in an allocation of Slurm. Ranks on a
    cluster are bound to cores and kept to one network. With --run the status is the launcher's.
    With --restarts, too, the training goes on from its last checkpoint, on the hosts that answer.
    """
    from npnet.errors import NpnetError

    found, words = resolve(context.find_root(), command)
    if restarts:
        if not run or found.info_name != "train":
            raise NpnetError("`restarts` is for `run` and npnet train: leave it out")
        found = found.command.make_context("train", list(words))  # before NumPy is loaded

    from npnet.machine import program
    from npnet.machine.network import interfaces
    from npnet.parallel.communicator import connect, together
    from npnet.parallel.launch import become, prepare
    from npnet.parallel.launched import launched_size
    from npnet.parallel.supervisor import supervise

    if launched_size() is not None:
        with together(connect()):
            raise NpnetError("npnet launch starts mpiexec by itself: start it without")
    if interface is not None and interface not in interfaces():
        raise NpnetError(
            f"there is no `interface` {interface} that is up: {', '.join(interfaces())} are"
        )
    if run:  # so that a run can say how it is started again
        os.environ[LAUNCH] = shlex.join(launch_words(context))
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)  # of a script, which mpiexec would swallow
    launcher, ranks = prepare(count, machinefile, ranks_per_node, interface, binding)
    line = launcher.command(program.command(*command), ranks)
    if restarts:
        training = Training.of(found.params, words, ranks.number)
        sys.exit(supervise(launcher, ranks, training.command, restarts, training.over, say_restart))
    if run:
        become(line)
    for text in explanation(launcher, ranks):
        click.echo(f"# {text}")
    needed = [f"{name}={value}" for name, value in launcher.environment(ranks).items()]
    click.echo(shlex.join([*(("env", *needed) if needed else ()), *line]))


def launch_words(context: click.Context) -> list[str]:
    """This command as it was given, up to the command that it starts."""
    return ["npnet", "launch", *options.arguments(context, context.command.params), "--"]


def resolve(root: click.Context, command: Sequence[str]) -> tuple[click.Context, list[str]]:
    """The command's own context, and its options. Raises click's error for what npnet lacks."""
    context, words = root, list(command)
    while words and isinstance(context.command, click.Group):
        name, found, words = context.command.resolve_command(context, words)
        context = click.Context(found or context.command, context, info_name=name)
    return context, words


@dataclass(frozen=True)
class Training:
    """An npnet train that may be started several times, always into one folder."""

    words: tuple[str, ...]
    folder: Path

    @classmethod
    def of(cls, values: Mapping[str, Any], words: Sequence[str], ranks: int) -> "Training":
        """Of the options `words`, whose values are these. Without --out a folder is made."""
        from npnet.data.source import name_of
        from npnet.training.resume import folder_of
        from npnet.training.run_folder import RunFolder

        if values["out"] is not None:
            return cls(tuple(words), values["out"])
        folder = folder_of(values["resume"]) if values["resume"] is not None else None
        if folder is not None:
            return cls(tuple(words), folder)
        world = ranks * values["workers_per_rank"]
        name = values["dataset"] if values["data"] is None else name_of(values["data"])
        recipe = values["recipe_name"] or usual_recipe(values["init"])
        new = RunFolder(default_folder(name, recipe, world), True)
        new.make()
        return cls((*words, "--out", str(new.path)), new.path)

    def command(self) -> list[str]:
        """What starts it, or goes on with it."""
        from npnet.machine import program
        from npnet.training.claim import Claim
        from npnet.training.run_folder import RunFolder

        if not RunFolder(self.folder).config.exists():
            return program.command("train", *self.words)
        # Ranks outlive a launcher that was killed, for a moment.
        Claim(self.folder, SECONDS_TO_LEAVE).release()
        return program.command("train", *self.words, "--resume", str(self.folder))

    def over(self, status: int) -> bool:
        """Whether it came to its end. A rank may leave with 0 in the middle, and MPICH agrees."""
        from npnet.training.run_folder import RunFolder

        finished = RunFolder(self.folder).summary.exists()
        return status in FINAL or (status == 0 and finished)


def say_restart(restart: "Restart") -> None:
    """One line about a job that died and what comes now."""
    from npnet.cli.console import clock

    missing = f", without {', '.join(restart.missing)}: no answer" if restart.missing else ""
    say(
        f"npnet: the job died after {clock(restart.seconds)} with status {restart.status}; "
        f"restart {restart.number} on {restart.ranks.number} ranks{missing}",
        err=True,
    )


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
