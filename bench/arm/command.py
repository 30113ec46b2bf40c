"""How the programs of this folder end: with one line where something is wrong."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from npnet.errors import NpnetError
from npnet.kernels import SettingError

INTERRUPTED = 130  # as a shell says it


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
    except BrokenPipeError:  # who reads has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(f"bench.arm: {error}")
