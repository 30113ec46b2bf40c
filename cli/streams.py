"""Standard output and error that may be closed, on a full disk, or without a reader."""

import os
import sys
from contextlib import suppress
from typing import TextIO

import click


def occupy() -> None:
    """Open what was closed, as by `>&-`, or the next file would get its number, and its text."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the smallest number that is free
            os.set_inheritable(number, True)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w", closefd=False)
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w", closefd=False)


def say(line: str, err: bool = False, newline: bool = True) -> None:
    """Print one line at once, in one write, so that the lines of ranks do not mix.

    A stream that refuses it is left out from here on, which the other one is told: a run goes on,
    for its files say more.
    """
    try:
        click.echo(line, err=err, nl=newline)
    except (OSError, ValueError) as error:
        leave_out(sys.stderr if err else sys.stdout)
        if not err:
            why = getattr(error, "strerror", None) or error
            say(f"npnet: warning: standard output is left out: {why}", err=True)


def leave_out(stream: TextIO | None) -> None:
    """Let all that is still written to a stream, and what Python holds of it, go nowhere."""
    with suppress(OSError, ValueError, AttributeError):  # AttributeError: there is none
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())  # type: ignore[union-attr]
        os.close(null)


def flush() -> bool:
    """Whether all that was printed has arrived. What has not is given up."""
    arrived = True
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):
            leave_out(stream)
            arrived = False
    return arrived
