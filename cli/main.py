"""`npnet`: the group of commands, and what happens when one of them fails.

Nothing here or at the top of a command's file imports NumPy: thread counts must be set first.
"""

import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

import click

import npnet
from npnet.cli.bench import bench
from npnet.cli.data import data
from npnet.cli.evaluate import evaluate
from npnet.cli.gradcheck import gradcheck
from npnet.cli.info import info
from npnet.cli.train import train
from npnet.errors import NpnetError
from npnet.threads import limit_threads

BAD_INPUT, FAILURE, INTERRUPTED = 2, 1, 130


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(npnet.__version__, prog_name="npnet")
def cli() -> None:
    """Train MobileNetV2 from scratch on NumPy and Numba, data-parallel over MPI.

    \b
    npnet train --dataset shapes              one process, a dataset that needs no download
    mpiexec -n 2 npnet train --recipe paper   two ranks, CIFAR-10, the paper's protocol
    npnet COMMAND --help                      the options of a command
    """


for command in (train, evaluate, info, data, bench, gradcheck):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and leave with its status: 0, 2 for bad input, 1 for a failure of ours.

    Bad input is one line on standard error. An error that only this rank knows of ends all ranks.
    """
    limit_threads()
    try:
        cli.main(arguments, prog_name="npnet", standalone_mode=False)
    except click.ClickException as error:
        # Every rank reads the same command line: the first one speaks.
        _leave(error.format_message(), BAD_INPUT, speak=_launched_rank() == 0)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except NpnetError as error:
        _end_run(error)
    except BrokenPipeError:
        sys.exit(FAILURE)
    except Exception:
        traceback.print_exc()
        _abort(FAILURE)
    sys.exit(0)


def _end_run(error: NpnetError) -> NoReturn:
    from npnet.parallel.communicator import CollectiveError

    if isinstance(error, CollectiveError) or not _several_ranks():
        _leave(str(error), BAD_INPUT, speak=_launched_rank() == 0)
    _say(str(error))
    _abort(BAD_INPUT)


def _leave(message: str, status: int, speak: bool) -> NoReturn:
    if speak:
        _say(message)
    sys.exit(status)


def _say(message: str) -> None:
    click.echo(f"npnet: error: {' '.join(message.split())}", err=True)


def _abort(status: int) -> NoReturn:
    """End all ranks, if MPI runs; the others may be waiting for this one."""
    sys.stdout.flush()
    sys.stderr.flush()
    mpi = sys.modules.get("mpi4py.MPI")
    if mpi is not None and mpi.Is_initialized() and mpi.COMM_WORLD.Get_size() > 1:
        mpi.COMM_WORLD.Abort(status)
    sys.exit(status)


def _launched_rank() -> int:
    from npnet.parallel.communicator import launched_rank

    return launched_rank()


def _several_ranks() -> bool:
    from npnet.parallel.communicator import launched_size

    return (launched_size() or 1) > 1
