"""Files that are either the old ones or the new ones, never half of one."""

import os
import tempfile
from pathlib import Path

from npnet.errors import NpnetError


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside `path`, flush to the disk, rename. Raises NpnetError if the disk refuses."""
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", delete=False) as file:
            temporary = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)  # a temporary file is private, a result is not
        os.replace(temporary, path)
    except OSError as error:
        raise NpnetError(
            f"cannot write {path}: {error.strerror}; free some space or choose another `out`"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)  # renamed by now, or of no use
