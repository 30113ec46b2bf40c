"""Which runs are shown together, and under which names."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from string import ascii_uppercase

from npnet.study.figures import short
from npnet.study.report.reading import Contents, Run, Study

NARROW = 24  # characters
BESIDE = 6  # runs that one figure or one table of differences compares


@dataclass(frozen=True)
class Named:
    """A run with the name by which the page calls it: a letter, where there are several."""

    letter: str
    run: Run

    @property
    def label(self) -> str:
        return f"{self.letter} {self.run.name}".strip()

    @property
    def short(self) -> str:
        """The label where there is little room."""
        return short(self.label, NARROW)


@dataclass(frozen=True)
class Group:
    """The runs that were given by themselves, or those of a study."""

    title: str
    runs: tuple[Named, ...]
    study: Study | None = None

    @property
    def in_detail(self) -> tuple[Named, ...]:
        """The runs that are shown rank by rank: of a study, the one with the most ranks."""
        if self.study is None or len(self.runs) < 2:
            return self.runs
        return (
            max(self.runs, key=lambda each: (len(each.run.log.ranks), each.run.log.has_phases)),
        )

    @property
    def logged(self) -> list[Named]:
        return [each for each in self.runs if each.run.log.rows]

    @property
    def is_about_speed(self) -> bool:
        """Whether its runs are too short to learn anything."""
        return self.study is not None and self.study.kind == "sweep"


def groups_of(contents: Contents) -> list[Group]:
    """All runs, in the order given, with a letter each."""
    letters = iter(_letters(len(contents.all_runs)))
    groups = []
    if contents.runs:
        title = "The run" if len(contents.runs) == 1 else "The runs"
        groups.append(Group(title, tuple(Named(next(letters), run) for run in contents.runs)))
    for study in contents.studies:
        runs = tuple(Named(next(letters), run) for run in study.runs)
        kind = "" if study.kind in study.name else f" ({study.kind})"
        groups.append(Group(f"Study {study.name}{kind}", runs, study))
    return groups


def _letters(count: int) -> list[str]:
    """A, B ... Z, AA, AB ...; no letter for a run that is alone."""
    if count < 2:
        return [""] * count
    words = [*ascii_uppercase, *map("".join, product(ascii_uppercase, repeat=2))]
    return [words[place] if place < len(words) else str(place + 1) for place in range(count)]


def beside(runs: Sequence[Named]) -> list[Sequence[Named]]:
    """The runs in parts small enough to stand beside each other."""
    return [runs[start : start + BESIDE] for start in range(0, len(runs), BESIDE)]
