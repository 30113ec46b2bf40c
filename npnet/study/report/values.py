"""Values of a stranger's files as numbers and short texts that can be shown."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from npnet.errors import NpnetError
from npnet.untrusted import check_levels, read_file

LARGEST_FILE = 64 * 2**20  # bytes; the log of 1000 epochs of 96 workers has 40 million
LARGEST_NUMBER = 1e20  # larger ones count as not known
LONGEST_TEXT = 120  # characters
MOST_KEYS = 200

Row = Mapping[str, Any]


def read_text(path: Path) -> str:
    """The content of a file, with or without a byte order mark.

    Raises NpnetError if it is too large, or no text.
    """
    try:
        return read_file(path, LARGEST_FILE).decode("utf-8-sig")
    except OSError as error:
        raise NpnetError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise NpnetError(f"cannot read {path}: {error}") from error


def read_json(path: Path) -> Any:
    """The content, None in place of numbers that are not finite, or absurd."""

    def whole(text: str) -> int | None:
        return int(text) if len(text) <= 20 else None

    text = read_text(path)
    try:
        check_levels(text.encode())
        return json.loads(
            text,
            parse_constant=lambda name: None,  # NaN, Infinity
            parse_float=lambda digits: number(float(digits)),
            parse_int=whole,
        )
    except ValueError as error:  # Refused is one
        raise NpnetError(f"cannot read {path}: {error}") from error


def number(value: float) -> float | None:
    """The value, or None if it is not finite or beyond anything that could be measured."""
    return value if math.isfinite(value) and abs(value) <= LARGEST_NUMBER else None


def known(values: Iterable[float | None]) -> list[float]:
    """Those values that are not None."""
    return [value for value in values if value is not None]


def plain(text: str, longest: int = LONGEST_TEXT) -> str:
    """One short line of printable characters: neither control codes nor turned directions."""
    line = " ".join(text[: 4 * longest].split())
    line = "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in line)
    return line if len(line) <= longest else f"{line[: longest - 1]}…"


def flat(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values of a part of a configuration as short texts."""
    for key in list(found)[:MOST_KEYS]:
        yield plain(str(key)), shown(found[key])


def shown(value: Any) -> str:
    """A value of a configuration as a short text."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        parts = ("…" if isinstance(each, list | dict) else shown(each) for each in value[:20])
        return plain(", ".join(parts)) or "none"
    return "…" if isinstance(value, dict) else plain(str(value))
