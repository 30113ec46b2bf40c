"""`npnet doctor`."""

import os
import platform
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from npnet.cli import options
from npnet.cli.words import SECONDS_TO_PASS_ON, several

if TYPE_CHECKING:  # the engine is loaded by the command that examines
    from npnet.measure.findings import Finding
    from npnet.parallel.communicator import Communicator

CLASSES = 10  # of the model whose memory is asked for
RANK_BYTES = 180e6  # of a rank beside its planned arrays: Python, libraries, images
SECONDS_TO_SPEAK = 3.0


@click.command(short_help="Say what will go wrong, before it does.")
@options.dataset
@options.model
@options.batch
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Where runs will be written: its disk is tried, on the first host.",
)
@click.option(
    "--machinefile",
    type=click.Path(path_type=Path),
    help="Look at its names as well, and count its ranks.",
)
@click.option("--strict", is_flag=True, help="Warnings give status 1, too.")
@options.threads
def doctor(
    dataset: str,
    data_dir: Path | None,
    batch: int,
    out: Path,
    machinefile: Path | None,
    strict: bool,
    threads: int,
    **values: Any,
) -> None:
    """Look for what would stop or slow a run: on this host or, under mpiexec, on all at once.

    \b
    npnet doctor --machinefile hosts.txt                  on the first host, before any is started
    npnet launch --machinefile hosts.txt --run -- doctor  all hosts, and the links between them

    For each finding: on which hosts, why it matters, what mends it. The status is 0 if nothing is
    found or nothing but warnings, 1 if there are faults (with --strict, warnings too).
    """
    from npnet.measure.doctor import examine
    from npnet.measure.host import Plan
    from npnet.model.memory import training_bytes
    from npnet.model.zoo import build
    from npnet.parallel.communicator import together
    from npnet.parallel.hosts import Machinefile

    comm = join()
    with together(comm):
        architecture = build(options.model_config(values, CLASSES))
        plan = Plan(
            dataset=dataset,
            data_dir=data_dir,
            out=out,
            rank_bytes=round(sum(training_bytes(architecture, batch).values()) + RANK_BYTES),
            threads=threads,
            machines=Machinefile.read(machinefile).lines if machinefile and comm.rank == 0 else (),
        )
    findings, checks, hosts = examine(comm, comm.broadcast(plan))
    if comm.rank == 0:
        for finding in findings:
            click.echo(described(finding))
        click.echo(f"{counted(findings)} ({several(checks, 'check')} on {several(hosts, 'host')})")
    if any(finding.harms or strict for finding in findings):
        sys.exit(1)


def join() -> "Communicator":
    """Connect; where that cannot be, say so and end all ranks."""
    from npnet.measure.doctor import launcher_fits, no_world
    from npnet.measure.host import mpi_library
    from npnet.parallel.communicator import CollectiveError, connect
    from npnet.parallel.launched import launched_local_rank, launched_rank, launched_size

    fault = None
    if launched_size() is not None:
        fault = launcher_fits(platform.node(), os.environ, mpi_library())
    if fault is None:
        try:
            return connect("npnet doctor")
        except CollectiveError as error:
            fault = no_world(platform.node(), str(error))
    if launched_rank() > 0:
        time.sleep(SECONDS_TO_SPEAK)  # mostly rank 0 says the same, and its status ends all
    if launched_local_rank() == 0:
        click.echo(described(fault))
    time.sleep(SECONDS_TO_PASS_ON)  # or mpiexec drops the words of a rank that fails
    sys.exit(1)


def described(finding: "Finding") -> str:
    kind = "FAULT" if finding.harms else "WARNING"
    return (
        f"[{kind}] {', '.join(finding.hosts)}: {finding.what}\n"
        f"    why:  {finding.why}\n"
        f"    mend: {finding.mend}"
    )


def counted(findings: "list[Finding]") -> str:
    faults = sum(finding.harms for finding in findings)
    kinds = {"fault": faults, "warning": len(findings) - faults}
    return ", ".join(several(n, kind) for kind, n in kinds.items() if n) or "nothing found"
