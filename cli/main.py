"""`npnet`: the group of commands, and what happens when one of them fails.

Nothing here or at the top of a command's file imports NumPy: thread counts must be set first.
"""

import errno
import io
import platform
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from contextlib import suppress
from typing import NoReturn, TextIO

import click

import npnet
from npnet.cli.bench import bench
from npnet.cli.completion import completion
from npnet.cli.convert import convert
from npnet.cli.data import data
from npnet.cli.doctor import doctor
from npnet.cli.evaluate import evaluate
from npnet.cli.gradcheck import gradcheck
from npnet.cli.help import GroupInOrder
from npnet.cli.info import info
from npnet.cli.launch import launch
from npnet.cli.lr_find import lr_find
from npnet.cli.machinefile import machinefile
from npnet.cli.options import expand_homes
from npnet.cli.plot import plot
from npnet.cli.predict import predict
from npnet.cli.streams import flush, leave_out, occupy, say
from npnet.cli.study import study
from npnet.cli.train import train
from npnet.cli.warmup import warmup
from npnet.cli.words import SECONDS_TO_PASS_ON, as_options, hint, one_line
from npnet.errors import NpnetError, Stopped
from npnet.kernels import SettingError
from npnet.machine.threads import limit_threads
from npnet.parallel.launched import (
    launched_local_rank,
    launched_rank,
    launched_several,
    launched_size,
)
from npnet.status import BAD_INPUT, FAILURE, INTERRUPTED, STOPPED

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # of a stream, for what is printed

_HELP = getattr(click.exceptions, "NoArgsIsHelpError", ())  # `npnet` alone, since click 8.2


@click.group(
    cls=GroupInOrder,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(npnet.__version__, prog_name="npnet")
def cli() -> None:
    """Train MobileNetV2 and SqueezeNet on NumPy and Numba, data-parallel over MPI.

    \b
    npnet train --dataset shapes              one process, no download
    mpiexec -n 2 npnet train --recipe paper   two ranks, the paper's protocol
    npnet COMMAND --help                      the options of a command
    """


for command in (
    *(train, lr_find, evaluate, predict, convert),
    *(study, launch, machinefile, doctor),
    *(plot, info, data, bench, gradcheck, warmup, completion),
):
    cli.add_command(command)
expand_homes(cli)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and leave with its status: 0, 2 for bad input, 1 for a failure of ours.

    130 after Ctrl-C, and 75 after a signal by which a run has saved itself to be gone on with.

    Bad input is one line on standard error. An error that only this rank knows of ends all ranks.
    """
    occupy()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a test may have put something else there
            stream.reconfigure(errors="backslashreplace")  # of a path whose bytes are no text
    limit_threads()
    warnings.showwarning = _warn
    try:
        _run(sys.argv[1:] if arguments is None else arguments)
    except (click.Abort, KeyboardInterrupt) as error:
        _interrupted(error.__cause__ or error)
    except Stopped as error:  # all ranks are
        _stopped(error)
    except NpnetError as error:
        _end_run(error)
    except SettingError as error:  # of this host's environment: one line a node
        if launched_local_rank() == 0:
            say(f"npnet: error: {one_line(error)}", err=True)
        _leave(BAD_INPUT)
    except MemoryError as error:
        cause = f": {error}" if str(error) else ""  # Python's own have no words
        _end_run(NpnetError(f"not enough memory{cause}; give a smaller batch, width or input"))
    except BrokenPipeError:
        leave_out(sys.stdout)  # Python flushes it yet
        _leave(FAILURE)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in NO_ROOM and error.filename is None:
            leave_out(sys.stdout)
            _end_run(NpnetError(f"cannot print: {error.strerror}; free some space"))
        begin = f"npnet: {who}it failed\n" if (who := _who()) else ""
        say(begin + traceback.format_exc(), err=True, newline=False)  # in one write
        _leave(FAILURE)
    flush()
    sys.exit(0)


def _run(arguments: Sequence[str]) -> None:
    """Run a command. A wrong command line is made an error that every rank knows of.

    A rank that left before the others have joined would end them, and the message might be lost,
    or let them wait. So each of several joins them, at the latest before it leaves.
    """
    try:
        cli.main(arguments, prog_name="npnet", standalone_mode=False)
    except _HELP as error:
        error.show()
        _join(arguments)
        sys.exit(BAD_INPUT)
    except click.ClickException as error:
        from npnet.parallel.communicator import connect

        connect(refusal=hint(error) or error.format_message())
    except SystemExit as leaving:
        if launched_several() and not leaving.code:
            raise RuntimeError("it left before the command's end") from leaving
        raise
    _join(arguments)


def _join(arguments: Sequence[str]) -> None:
    """Where this is one of several ranks, find the others, unless that was done."""
    if not launched_several():
        return
    from npnet.parallel.communicator import connect, has_joined

    if not has_joined():
        connect(_command(arguments))


def _command(arguments: Sequence[str]) -> str:
    """What a process did by itself, to be compared with what the others do."""
    asks = [word for word in arguments if word in ("-h", "--help", "--version")][:1]
    return " ".join(["npnet", *arguments[: 0 if arguments[:1] == asks else 1], *asks])


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """One line, of one rank of a node; but a warning that is not for users is Python's own."""
    if not issubclass(category, UserWarning):
        say(warnings.formatwarning(message, category, filename, lineno), err=True, newline=False)
    elif launched_local_rank() == 0:
        say(f"npnet: warning: {one_line(message)}", err=True)


def _interrupted(error: BaseException) -> NoReturn:
    """Rank 0 says how to go on, if the command knows: usually all ranks are interrupted."""
    if launched_rank() == 0:
        for note in getattr(error, "__notes__", ()):
            say(note, err=True)
    _leave(INTERRUPTED)


def _stopped(error: Stopped) -> NoReturn:
    if launched_rank() == 0:
        say(f"npnet: {error}", err=True)
    _leave(STOPPED, end_others=False)


def _end_run(error: NpnetError) -> NoReturn:
    from npnet.parallel.communicator import CollectiveError

    shared = isinstance(error, CollectiveError)
    if not shared or launched_rank() == 0:
        who = "" if shared else _who()
        say(f"npnet: error: {who}{as_options(one_line(error))}", err=True)
    _leave(BAD_INPUT, end_others=not shared)


def _who() -> str:
    """Begins a line that one rank of several prints alone."""
    return f"rank {launched_rank()} ({platform.node()}): " if launched_several() else ""


def _leave(status: int, end_others: bool = True) -> NoReturn:
    """End this rank and, if MPI runs, all others too: they may be waiting for this one."""
    from npnet.parallel.communicator import abort, connect, has_joined

    flush()
    if end_others and launched_several() and status != INTERRUPTED and not has_joined():
        with suppress(NpnetError):
            connect()  # or they would wait for it there, with a launcher that does not end them
    if launched_size() is not None:
        time.sleep(SECONDS_TO_PASS_ON)
    if end_others:
        abort(status)
    sys.exit(status)
