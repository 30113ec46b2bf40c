"""Files that are either the old ones or the new ones, never half of one; tables that grow."""

import csv
import io
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from npnet.errors import NpnetError


def write_atomically(path: Path, data: bytes) -> None:
    """Write beside `path`, flush to the disk, rename. Raises NpnetError if the disk refuses."""
    temporary = None
    try:
        if path.exists() and not path.is_file():
            raise NpnetError(f"cannot write {path}: it is no file; choose another `out`")
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


def read_table(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV file by its header's names; none where there is no file.

    Raises NpnetError if it is no such file, or one that could not be written again as it is. Blank
    lines, a byte order mark and Windows' line ends do no harm; what a row lacks is "".
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
        rows = csv.DictReader(io.StringIO(text, newline=""), restval="", strict=True)
        names = rows.fieldnames or ()
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
        return found
    except FileNotFoundError:
        return []
    except OSError as error:
        raise NpnetError(f"cannot read {path}: {error.strerror}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise NpnetError(f"{path} is not a table in CSV: {error}") from error


def append_rows(
    path: Path,
    columns: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
    keep: Callable[[Mapping[str, str]], bool] = lambda row: True,
) -> None:
    """Add rows to those of a CSV file that are to `keep`.

    Columns that it lacks are added behind its own, empty so far. Raises NpnetError if it cannot be
    read or written.
    """
    before = [row for row in read_table(path) if keep(row)]
    theirs = list(before[0]) if before else []
    write_table(
        path, [*theirs, *(name for name in columns if name not in theirs)], [*before, *rows]
    )


def write_table(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as a CSV file; what a row lacks, or has as None, is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(path.resolve(), text.getvalue().encode())  # a link stays one
