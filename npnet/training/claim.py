"""A claim: what one run at a time has on its folder, by a lock on a file there."""

from pathlib import Path

from npnet.errors import NpnetError
from npnet.locks import Held, Lock

FILE = ".npnet-lock"  # stays behind, and does no harm, where a run was killed


class Claim(Lock):
    """Held from here until `release`, or until this object or the process is gone.

    Raises NpnetError where another run holds the folder, and does so for these seconds; nothing is
    touched then.
    """

    def __init__(self, folder: Path, seconds: float = 0.0) -> None:
        try:
            super().__init__(folder / FILE, str(folder), seconds)
        except Held as error:
            raise NpnetError(
                f"{folder} is held by another run ({error}): choose another `out`, or wait for its "
                "end"
            ) from error
