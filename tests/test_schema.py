"""Fields of a file against the types of a record."""

from dataclasses import dataclass
from typing import Literal

import pytest

from npnet.errors import NpnetError
from npnet.schema import checked_fields


@dataclass
class Record:
    count: int
    rate: float
    name: str
    on: bool
    kind: Literal["a", "b"]
    steps: int | None
    colour: tuple[float, float, float]
    names: tuple[str, ...] = ()


GOOD = {
    "count": 3, "rate": 2, "name": "x", "on": True, "kind": "b", "steps": None, "colour": [1, 2, 3],
}  # fmt: skip


def test_good_fields_come_as_the_record_wants_them():
    found = checked_fields(Record, GOOD | {"names": ["p", "q"]}, "file")
    assert Record(**found) == Record(3, 2.0, "x", True, "b", None, (1.0, 2.0, 3.0), ("p", "q"))
    assert isinstance(found["rate"], float)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("count", True), ("count", 1.5), ("count", "1"), ("count", None), ("rate", float("nan")),
        ("rate", float("inf")), ("rate", True), ("rate", "1"), ("name", 3), ("on", 1),
        ("kind", "c"), ("kind", ["a"]), ("steps", "no"), ("colour", [1, 2]),
        ("colour", [1, 2, "3"]),
        ("colour", 5), ("names", "pq"), ("names", [1]),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(field, value):
    with pytest.raises(NpnetError, match=rf"^file: {field} is "):
        checked_fields(Record, GOOD | {field: value}, "file")


def test_unknown_missing_and_shapeless_fields_are_named():
    with pytest.raises(NpnetError, match="file has a field 'more' that this npnet does not know"):
        checked_fields(Record, GOOD | {"more": 1}, "file")
    with pytest.raises(NpnetError, match="file lacks the field 'on'"):
        checked_fields(Record, {key: GOOD[key] for key in GOOD if key != "on"}, "file")
    with pytest.raises(NpnetError, match="file holds list instead of named fields"):
        checked_fields(Record, [1], "file")
