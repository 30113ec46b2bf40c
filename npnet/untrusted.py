"""Files that somebody else may have made: looked at before any memory is taken for what they say.

Only regular files are opened, for a pipe would keep npnet waiting and a device never end. What is
read has a size that is known before. Arrays are read in npnet.archive. This module does not import
NumPy: the command line reads its options with it before thread counts are set.
"""

import errno
import json
import os
import re
import stat
from pathlib import Path
from typing import Any, BinaryIO

from npnet.errors import NpnetError

LARGEST_OBJECT = 16 * 2**20  # bytes, of what npnet writes of a run or a study, but for logs
MOST_LEVELS = 32  # of lists and objects in each other


class Refused(ValueError):
    """A file is not what it should be. The message is a part of a sentence, without the name."""


def open_file(path: Path) -> BinaryIO:
    """A regular file, to be read. Raises OSError for anything else, at once."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    raise OSError(errno.EINVAL, "it is a pipe or a device, not a file", str(path))


def stamp_of(status: os.stat_result) -> tuple[int, int, int]:
    """What tells that a file was written to or replaced."""
    return (status.st_ino, status.st_size, status.st_mtime_ns)


def read_file(path: Path, most: int) -> bytes:
    """The content of a regular file of `most` bytes or less. Raises OSError for any other."""
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most:
            words = f"it is larger than {most:,} bytes, which no such file is"
            raise OSError(errno.EFBIG, words, str(path))
        data = file.read(size + 1)
    if len(data) > size:
        raise OSError(errno.EFBIG, "it grew while it was read", str(path))
    return data


def parse_json(data: bytes) -> Any:
    """The value in UTF-8 JSON. Raises Refused for anything else.

    Names stand once in an object, numbers are finite, and no more than MOST_LEVELS lie in each
    other.
    """
    check_levels(data)
    try:
        return json.loads(data.decode(), object_pairs_hook=_each_once, parse_constant=_not_finite)
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are some
        raise Refused(f"it is not JSON: {error}") from error


def read_object(path: Path, advice: str) -> dict[str, Any]:
    """A JSON object in a file. Raises NpnetError, which ends with the advice, for anything else."""
    try:
        content = parse_json(read_file(path, LARGEST_OBJECT))
    except OSError as error:
        raise NpnetError(f"cannot read {path}: {error.strerror}; {advice}") from error
    except Refused as error:
        raise NpnetError(f"cannot read {path}: {error}; {advice}") from error
    if not isinstance(content, dict):
        raise NpnetError(f"{path} holds no object of named values; {advice}")
    return content


def check_levels(data: bytes) -> None:
    """Raise Refused for JSON whose lists and objects lie deep in each other.

    Python would read some hundreds of them, and then fail to print what it read.
    """
    level = 0
    for found in re.finditer(rb"[\[\]{}]", re.sub(rb'"(?:[^"\\]|\\.)*"', b"", data)):
        level += 1 if found[0] in b"[{" else -1
        if level > MOST_LEVELS:
            raise Refused(f"it has more than {MOST_LEVELS} lists or objects in each other")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in one object")
    return found


def _not_finite(name: str) -> Any:
    raise ValueError(f"{name} is not a finite number")
