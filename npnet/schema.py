"""Untrusted fields, such as a checkpoint's header, against the types of a dataclass."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from math import isfinite
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from npnet.errors import NpnetError


def known_fields(record: type, found: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the values that the dataclass `record` has a field for."""
    names = {each.name for each in fields(record)}
    return {name: value for name, value in found.items() if name in names}


def checked_fields(record: type, found: Any, where: str) -> dict[str, Any]:
    """`found` as arguments of the dataclass `record`: lists as tuples, whole numbers as floats.

    Raises NpnetError, naming `where` and the field, unless each field is known and of its type, and
    none without a default is missing.
    """
    if not isinstance(found, Mapping):
        raise NpnetError(f"{where} holds {type(found).__name__} instead of named fields")
    hints, known = get_type_hints(record), {each.name: each for each in fields(record)}
    for name in found:
        if name not in known:
            raise NpnetError(
                f"{where} has a field {name!r:.80} that this npnet does not know: "
                "it may be of a newer version"
            )
    for name, each in known.items():
        if name not in found and each.default is MISSING and each.default_factory is MISSING:
            raise NpnetError(f"{where} lacks the field {name!r}")
    return {name: _checked(hints[name], value, f"{where}: {name}") for name, value in found.items()}


def _checked(hint: Any, value: Any, where: str) -> Any:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Literal:
        if value in arguments:
            return value
    elif origin is UnionType or NoneType in arguments:
        if value is None and NoneType in arguments:
            return None
        return _checked(next(each for each in arguments if each is not NoneType), value, where)
    elif origin is tuple:
        if isinstance(value, list | tuple):
            parts = arguments[:1] * len(value) if arguments[-1] is Ellipsis else arguments
            if len(parts) == len(value):
                return tuple(_checked(part, v, where) for part, v in zip(parts, value, strict=True))
    elif origin is dict or hint is dict:
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return value
    elif hint is float:
        number = _finite(value)
        if number is not None:
            return number
    elif hint is str:
        if isinstance(value, str) and not any("\ud800" <= each <= "\udfff" for each in value):
            return value  # half of a character could not be printed
    elif isinstance(value, hint) and (hint is bool or not isinstance(value, bool)):
        return value
    wanted = f"one of {', '.join(map(str, arguments))}" if origin is Literal else _words(hint)
    raise NpnetError(f"{where} is {value!r:.80}, where {wanted} was expected")


def _finite(value: Any) -> float | None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value) if isfinite(value) else None
    except OverflowError:  # a whole number of hundreds of digits
        return None


def _words(hint: Any) -> str:
    names = {int: "a whole number", float: "a finite number", str: "a text", bool: "true or false"}
    return names.get(hint, str(hint))
