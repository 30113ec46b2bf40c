"""What an examination found: a fault, where, why it matters, and what mends it."""

from collections.abc import Iterable
from typing import NamedTuple


class Finding(NamedTuple):
    """One fault. One that does not harm is a warning."""

    hosts: tuple[str, ...]  # those that have it
    what: str
    why: str
    mend: str  # a command, or what to do by hand
    harms: bool = True


def merged(findings: Iterable[Finding]) -> list[Finding]:
    """One finding for all hosts that have the same; those that harm come first."""
    hosts: dict[Finding, tuple[str, ...]] = {}
    for each in findings:
        same = each._replace(hosts=())
        hosts[same] = (*hosts.get(same, ()), *each.hosts)
    found = [each._replace(hosts=tuple(dict.fromkeys(names))) for each, names in hosts.items()]
    return sorted(found, key=lambda each: not each.harms)
