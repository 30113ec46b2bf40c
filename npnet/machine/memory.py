"""What memory this process may take, so that a plan that is too large is refused before it is made.

Linux grants far more than there is, and ends a process when it uses what was granted.
"""

import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

import psutil

ROOT = Path("/")


@cache
def limit_bytes(root: Path = ROOT) -> int:
    """The memory of this host, or the least that a control group above this process may take.

    Sources: psutil.virtual_memory; memory.max of cgroup v2, memory.limit_in_bytes of v1.
    """
    return min([psutil.virtual_memory().total, *group_values(root, "memory", LIMIT_FILES)])


LIMIT_FILES = ("memory.max", "memory.limit_in_bytes")


def status_bytes(name: str, root: Path = ROOT) -> int | None:
    """A line of /proc/self/status that tells memory of this process. Source: proc_pid_status(5)."""
    with suppress(OSError):
        text = (root / "proc/self/status").read_text(encoding="utf-8", errors="replace")
        if found := re.search(rf"^{name}:\s*(\d{{1,18}}) kB", text, re.MULTILINE):
            return 1024 * int(found[1])
    return None


def check_bytes(wanted: int) -> None:
    """Raise MemoryError if there can never be as much."""
    if wanted > limit_bytes():
        raise MemoryError(
            f"{wanted / 1e9:,.1f} GB are wanted, this host has {limit_bytes() / 1e9:,.1f} GB"
        )


def group_values(root: Path, controller: str, names: tuple[str, ...]) -> Iterator[int]:
    """The numbers in files of this process's control groups, and of those above them."""
    for folder in group_folders(root, controller):
        for name in names:
            with suppress(OSError, ValueError):
                yield int((folder / name).read_text())  # "max" is no number


def group_folders(root: Path, controller: str) -> list[Path]:
    """Where this process's control groups of a controller lie, each with those above it."""
    try:
        lines = (root / "proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    found: list[Path] = []
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / controllers
        place = top / path.lstrip("/")
        found += [folder for folder in (place, *place.parents) if folder.is_relative_to(top)]
    return found
