"""This npnet as a program, for the processes that it starts."""

import sys
from pathlib import Path

import npnet


def command(*arguments: str) -> list[str]:
    """The command line of this npnet. Nothing is imported from the folder that it is started in.

    That is Python's option -P. Started in npnet's own sources it is left out, for npnet may be
    found there alone.
    """
    sources = Path(npnet.__file__).resolve().parents[1]
    safe = [] if Path.cwd() == sources else ["-P"]
    return [sys.executable, *safe, "-m", "npnet", *arguments]
