"""Files that are either the old ones or the new ones, never half of one; tables that grow."""

import codecs
import csv
import errno
import io
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from npnet.errors import NotWritten, NpnetError
from npnet.locks import Held, Lock
from npnet.untrusted import read_file

LARGEST_TABLE = 64 * 2**20  # bytes; a log of 48 ranks grows by 20 kB an epoch
SECONDS_FOR_A_TABLE = 60.0  # that another process may hold it: a row takes milliseconds

# Of the system calls that not every file system knows, or that a folder's rights refuse.
_UNKNOWN = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.ENOSYS)


def write_atomically(path: Path, data: bytes | memoryview, exclusive: bool = False) -> None:
    """Write beside `path`, flush to the disk, rename, flush the folder.

    A new file has the rights that the umask leaves, a replaced one keeps its own. Raises NpnetError
    if the disk refuses, and FileExistsError, if `exclusive`, where the file is there already.
    """
    temporary = None
    try:
        if path.exists() and not path.is_file():
            raise NpnetError(f"cannot write {path}: it is no file; choose another `out`")
        temporary = path.with_name(f".{path.name[:200]}.{secrets.token_hex(4)}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        with open(os.open(temporary, flags, 0o666), "wb") as file:
            with suppress(OSError):  # there is no file yet, or no rights on such a disk
                os.fchmod(file.fileno(), stat.S_IMODE(path.stat().st_mode))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if exclusive:
            _link(temporary, path)
        else:
            os.replace(temporary, path)
        flush_folder(path.parent)
    except OSError as error:
        if exclusive and isinstance(error, FileExistsError):
            raise
        raise NotWritten(
            f"cannot write {path}: {error.strerror}", "free some space or choose another `out`"
        ) from error
    finally:
        if temporary is not None:
            with suppress(OSError):  # of a disk that has become read-only; it is swept later
                temporary.unlink(missing_ok=True)  # renamed by now, or of no use


def _link(temporary: Path, path: Path) -> None:
    """Give a file its name unless that is taken: of several processes one succeeds."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise
        if path.exists():  # a disk without links
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST)) from error
        os.replace(temporary, path)


def flush_folder(folder: Path) -> None:
    """See to it that what was named or removed in `folder` stays so if the power fails."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in _UNKNOWN:
            raise


def sweep(folder: Path, names: str) -> None:
    """Remove what killed writes have left of files whose names fit a pattern.

    Nobody may be writing them.
    """
    left = re.compile(rf"\.({names})\.[0-9a-f]{{8}}\.tmp")
    for path in folder.iterdir():
        if left.fullmatch(path.name):
            path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path, seconds: float = SECONDS_FOR_A_TABLE) -> Iterator[None]:
    """While one process at a time changes a file that several share.

    Raises NpnetError if another one has it for longer than `seconds`, or if the disk refuses.
    """
    path = path.resolve()  # of a link, what it points to
    try:
        lock = Lock(path.with_name(f".{path.name[:200]}.lock"), str(path), seconds)
    except Held as error:
        raise NpnetError(
            f"cannot write {path}: another run ({error}) has it for {seconds:.0f} s; end that one, "
            "or choose another `out`"
        ) from error
    except OSError as error:
        what = f"cannot write {path}: {error.strerror}"
        raise NotWritten(what, "choose another `out`") from error
    try:
        sweep(path.parent, re.escape(path.name[:200]))
        yield
    finally:
        lock.release()


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file by its header's names; none where there is no file. See `_read`."""
    return _read(path)[1]


def _read(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    """A CSV file's header and rows; empty where there is no file.

    Raises NpnetError if it is no such file, or one that could not be written again as it is. Blank
    lines, a byte order mark, Windows' line ends and a last line that was cut short do no harm; what
    a row lacks is "".
    """
    try:
        # Half of a character at the end is left out.
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(read_file(path, LARGEST_TABLE))
        try:
            return _rows(text)
        except csv.Error as error:
            if "unexpected end of data" not in str(error):
                raise
            return _rows(text + '"')  # a cell that was cut
    except FileNotFoundError:
        return [], []
    except OSError as error:
        raise NpnetError(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise NpnetError(f"{path} is not a table in CSV: {error}") from error


def _rows(text: str) -> tuple[list[str], list[dict[str, str]]]:
    rows = csv.DictReader(io.StringIO(text, newline=""), restval="", strict=True)
    names = list(rows.fieldnames or ())
    if len(set(names)) < len(names):
        raise csv.Error("two columns have the same name")
    if len(names) == 1 and ";" in names[0]:
        raise csv.Error("its cells are parted by ; instead of ,")
    found = []
    for row in rows:
        if None in row:
            raise csv.Error(f"line {rows.line_num} has more cells than there are columns")
        if any(row.values()):
            found.append(dict(row))
    return names, found


def append_rows(
    path: Path,
    columns: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    keep: Callable[[Mapping[str, str]], bool] = lambda row: True,
) -> None:
    """Add rows to those of a CSV file that are to `keep`.

    Columns that it lacks are added behind its own, empty so far. Raises NpnetError if it cannot be
    read or written. A file that several processes write must be `locked`.
    """
    theirs, found = _read(path)
    before = [row for row in found if keep(row)]
    write_table(
        path, [*theirs, *(name for name in columns if name not in theirs)], [*before, *rows]
    )


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as a CSV file, see `table_text`."""
    # A path's bytes that are no text stand in it as Python escapes them. A link stays one.
    text = table_text(columns, rows)
    write_atomically(path.resolve(), text.encode(errors="backslashreplace"))


def table_text(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows in CSV; what a row lacks, or has as None, is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
