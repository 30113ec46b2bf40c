"""How the programs of this folder begin, and end: with one line where something is wrong."""

import argparse
import os
import sys
from collections.abc import Container, Iterator
from contextlib import contextmanager

from npnet.errors import NpnetError
from npnet.kernels import SettingError

INTERRUPTED = 130  # as a shell says it


def parser_of(description: str | None, targets: Container[str]) -> argparse.ArgumentParser:
    """Of a program that computes for one of the `targets`."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", choices=targets, default="cortex-a72")
    return parser


@contextmanager
def one_line() -> Iterator[None]:
    """Leave with a line for what a user can mend, and without one at Ctrl-C and a closed pipe."""
    try:
        yield
        sys.stdout.flush()
    except (NpnetError, SettingError) as error:
        sys.exit(f"bench.arm: {error}")
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what is left unwritten
        has_read_enough = isinstance(error, BrokenPipeError)
        sys.exit(1 if has_read_enough else f"bench.arm: {error}")
