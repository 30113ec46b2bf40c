"""Names of hosts as Slurm writes them, and machinefiles: which hosts run how many ranks."""

import re
from collections import Counter
from collections.abc import Sequence
from itertools import product
from math import prod
from pathlib import Path
from typing import Literal, NamedTuple

from npnet.errors import NpnetError

Maker = Literal["mpich", "openmpi"]

NAMES: dict[Maker, str] = {"mpich": "MPICH", "openmpi": "Open MPI"}
LINES: dict[Maker, str] = {"mpich": "{host}:{ranks}\n", "openmpi": "{host} slots={ranks}\n"}
MOST_HOSTS = 10_000  # more is a slip, such as [0-9999999]

# Commas in brackets part ranges, the others names.
_COMMA = re.compile(r",(?![^\[]*\])")
_NAME = re.compile(r"(?:[\w.-]|\[[^\[\]]*\])+", re.ASCII)
_PART = re.compile(r"([\w.-]+)|\[(.*?)\]", re.ASCII)
_RANGE = re.compile(r"(\d+)(?:-(\d+))?", re.ASCII)
_LINE = re.compile(r"([\w.-]+)(?::([1-9]\d*)|\s+slots=([1-9]\d*))?(?:\s+[\w-]+=\S+)*", re.ASCII)


def expand(pattern: str) -> list[str]:
    """`pi-[00-02,07],server` as pi-00, pi-01, pi-02, pi-07 and server, in this order.

    A number has at least as many digits as the first of its range. Several brackets in a name give
    all combinations. Raises NpnetError for what is no pattern, and for a host that is named twice.
    """
    hosts: list[str] = []
    for name in _COMMA.split(pattern):
        if not _NAME.fullmatch(name):
            raise _refused(pattern, f"{name!r} is no name")
        choices = [
            [text] if text else _numbers(inside, pattern) for text, inside in _PART.findall(name)
        ]
        if len(hosts) + prod(map(len, choices)) > MOST_HOSTS:
            raise _refused(pattern, f"these are more than {MOST_HOSTS} hosts")
        hosts += map("".join, product(*choices))
    host, times = Counter(hosts).most_common(1)[0]
    if times > 1:
        raise _refused(pattern, f"{host} is named twice")
    return hosts


def _numbers(inside: str, pattern: str) -> list[str]:
    """What stands in brackets, `00-02,07`, number by number."""
    numbers: list[str] = []
    for part in inside.split(","):
        found = _RANGE.fullmatch(part)
        if not found:
            raise _refused(pattern, f"{part!r} is neither a number nor a range such as 00-23")
        first, last = found[1], found[2] or found[1]
        count = int(last) - int(first) + 1
        if count < 1:
            raise _refused(pattern, f"the range {part} ends before it begins")
        if count > MOST_HOSTS:
            raise _refused(pattern, f"these are more than {MOST_HOSTS} hosts")
        numbers += (f"{int(first) + i:0{len(first)}}" for i in range(count))
    return numbers


def _refused(pattern: str, reason: str) -> NpnetError:
    return NpnetError(f"hosts {pattern!r}: {reason}; write them as in pi-[00-03,07],server")


def machinefile(hosts: Sequence[str], ranks_per_node: int, maker: Maker) -> str:
    """The text of a machinefile: a line for each host, in the form of that MPI."""
    return "".join(LINES[maker].format(host=host, ranks=ranks_per_node) for host in hosts)


class Machinefile(NamedTuple):
    """What a machinefile says: host and ranks of each line, whose form it has.

    `maker` is None where no line has a number, which either MPI reads.
    """

    path: Path
    lines: tuple[tuple[str, int], ...]
    maker: Maker | None

    @property
    def ranks(self) -> dict[str, int]:
        """The hosts in their order, with all ranks of each."""
        ranks: dict[str, int] = {}
        for host, count in self.lines:
            ranks[host] = ranks.get(host, 0) + count
        return ranks

    @classmethod
    def read(cls, path: Path) -> "Machinefile":
        """Raises NpnetError for a file that is missing, empty, or of neither form."""
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise NpnetError(
                f"cannot read the machinefile {path}: {getattr(error, 'strerror', 'no text')}; "
                "`npnet machinefile` writes one"
            ) from error
        hosts: list[tuple[str, int]] = []
        makers: set[Maker] = set()
        for number, line in enumerate(lines, 1):
            text = line.partition("#")[0].strip()
            if not text:
                continue
            found = _LINE.fullmatch(text)
            if not found:
                raise NpnetError(
                    f"{path}, line {number}: {text!r} is neither host:2 nor host slots=2"
                )
            host, of_mpich, of_open_mpi = found.groups()
            hosts.append((host, int(of_mpich or of_open_mpi or 1)))
            makers |= {"mpich"} if of_mpich else {"openmpi"} if of_open_mpi else set()
        if not hosts:
            raise NpnetError(f"{path} names no host: `npnet machinefile` writes a machinefile")
        if len(makers) > 1:
            raise NpnetError(f"{path} has lines of both forms, host:2 and host slots=2: keep one")
        return cls(path, tuple(hosts), makers.pop() if makers else None)

    def check(self, ranks: int, ranks_per_node: int | None, maker: Maker) -> None:
        """Raises NpnetError if that MPI does not read this form, or the hosts hold fewer ranks."""
        if self.maker not in (None, maker):
            raise NpnetError(
                f"{self.path} has the form of {NAMES[self.maker]}, and the mpiexec found is "
                f"{NAMES[maker]}'s: `npnet machinefile --mpi {maker}` writes its form"
            )
        most = self.most_ranks(ranks_per_node)
        if ranks > most:
            raise NpnetError(
                f"{self.path} holds {most} ranks ({len(self.ranks)} hosts), {ranks} are too many: "
                "add hosts, or give more `ranks_per_node`"
            )

    def most_ranks(self, ranks_per_node: int | None) -> int:
        """How many ranks the hosts hold; `ranks_per_node` wins over the file's own numbers."""
        if ranks_per_node:
            return ranks_per_node * len(self.ranks)
        return sum(self.ranks.values())
