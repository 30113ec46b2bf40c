"""The links between hosts, each measured; and which port, cable or pair is slow, from that alone.

One rank a host takes part. All pairs meet once, in rounds of pairs that have no host in common
(a round-robin tournament), so 24 hosts need 23 rounds and not 276. Pairs that look slow are
measured once more, one at a time.
"""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from statistics import median, median_high, median_low
from typing import NamedTuple

import numpy as np

from npnet.measure.findings import Finding
from npnet.parallel.communicator import Communicator

SMALL, LARGE = 8, 2**20  # bytes of a message that measures latency, and bandwidth
SWAPS, GROUPS, LARGE_SWAPS = 20, 5, 5
SLOW = 0.5  # of the usual bandwidth
LATE, LATE_SECONDS = 5.0, 1e-3  # times the usual latency, and beyond it
FAST_ETHERNET, GIGABIT = 12.5e6, 125e6  # bytes/s, of 100 and of 1000 Mbit/s
NEAR = 1.2  # times that: what lies in buffers counts as sent
ALIKE = 1.3  # the largest over the smallest of numbers that differ by chance


class Link(NamedTuple):
    """What two hosts reach when both send to each other at once, as ranks do in an exchange."""

    a: str
    b: str
    latency_seconds: float  # until a small message has arrived
    bytes_per_second: float  # each way


Pair = tuple[int, int]
Rates = tuple[float, float]  # latency, seconds; bandwidth, bytes/s


def names_of_nodes(comm: Communicator) -> dict[int, str]:
    """The host name of each node, by its lowest rank; with that rank where two are called alike."""
    names = {node: comm.hosts[node] for node in sorted(set(comm.nodes))}
    called = list(names.values())
    return {
        node: name if called.count(name) == 1 else f"{name} (rank {node})"
        for node, name in names.items()
    }


def measure_links(comm: Communicator) -> list[Link]:
    """Every pair of hosts, the same list on every rank; empty on one host. All ranks must call."""
    names = names_of_nodes(comm)
    rates = _measure(comm, rounds(list(names)))

    def links() -> dict[Link, Pair]:
        return {Link(names[a], names[b], *rates[a, b]): (a, b) for a, b in sorted(rates)}

    measured = links()
    suspects = {*too_slow(measured), *too_late(measured)}
    again = [[measured[link]] for link in sorted(suspects)]
    for pair, (latency, bandwidth) in _measure(comm, again).items():
        rates[pair] = min(latency, rates[pair][0]), max(bandwidth, rates[pair][1])
    return list(links())


def rounds(players: Sequence[int]) -> Iterator[list[Pair]]:
    """Each pair once, in rounds of disjoint pairs: the first stays, the others go round in a ring.

    Of an odd number, one rests in each round.
    """
    ring: list[int | None] = [*players, *([None] if len(players) % 2 else [])]
    for _ in range(len(ring) - 1):
        half = len(ring) // 2
        pairs = zip(ring[:half], reversed(ring[half:]), strict=True)
        yield [(min(a, b), max(a, b)) for a, b in pairs if a is not None and b is not None]
        ring.insert(1, ring.pop())


def _measure(comm: Communicator, matches: Iterable[list[Pair]]) -> dict[Pair, Rates]:
    mine: list[tuple[Pair, Rates]] = []
    for pairs in matches:
        comm.barrier()  # those that have no match sleep
        for a, b in pairs:
            if comm.rank in (a, b):
                mine.append(((a, b), _rates(comm, b if comm.rank == a else a)))
    comm.barrier()
    return dict(comm.of_all(mine))


def _rates(comm: Communicator, peer: int) -> Rates:
    """The median of some groups' fastest small swap; the fastest large one."""
    _fastest_swap(comm, peer, LARGE, 1)  # connects the two
    latency = median(_fastest_swap(comm, peer, SMALL, SWAPS) for _ in range(GROUPS))
    return latency, LARGE / _fastest_swap(comm, peer, LARGE, LARGE_SWAPS)


def _fastest_swap(comm: Communicator, peer: int, size: int, swaps: int) -> float:
    out, into = np.zeros(size, np.uint8), np.empty(size, np.uint8)
    times = []
    for _ in range(swaps):
        start = time.perf_counter()
        comm.swap_with(peer, out, into)
        times.append(time.perf_counter() - start)
    return min(times)


def too_slow(links: Collection[Link]) -> list[Link]:
    """Those with less than half of the bandwidth that most hosts reach on their best link.

    Or less than half of Gigabit, where most reach more.
    """
    usual = median_high(_best(links, lambda link: link.bytes_per_second, max))
    return [link for link in links if link.bytes_per_second < SLOW * min(usual, GIGABIT)]


def too_late(links: Collection[Link]) -> list[Link]:
    """Those with several times the latency that most hosts reach on their best link."""
    usual = median_low(_best(links, lambda link: link.latency_seconds, min))
    limit = max(LATE * usual, usual + LATE_SECONDS)
    return [link for link in links if link.latency_seconds > limit]


def judge(links: Collection[Link]) -> list[Finding]:
    """What the links tell: a slow host, a slow pair, or a slow network."""
    slow, late = too_slow(links), too_late(links)
    others = [link.bytes_per_second for link in links if link not in slow]
    found = []
    for hosts, these in _blamed(links, slow, lambda link: link.bytes_per_second):
        reached = max(link.bytes_per_second for link in these)
        found.append(
            Finding(
                hosts,
                f"{_place(hosts)} {_rate(reached)}, other links {_rate(median(others))}",
                "all ranks wait at each step for the slowest link",
                "look at its lights, or `cat /sys/class/net/eth0/speed` (1000 is Gigabit); try "
                "another cable, then another port of the switch",
            )
        )
    late = [link for link in late if link not in slow]
    for hosts, these in _blamed(links, late, lambda link: link.latency_seconds):
        latency = 1e3 * min(link.latency_seconds for link in these)
        found.append(
            Finding(
                hosts,
                f"{_place(hosts)} {latency:.1f} ms for a small message, others a fraction of it",
                "each exchange is many messages, one after another",
                "look for Wi-Fi, a second switch, or another program that keeps the host busy",
                harms=False,
            )
        )
    if others and not slow and max(others) < NEAR * FAST_ETHERNET:
        found.append(
            Finding(
                _hosts(links),
                f"no link reaches more than {_rate(max(others))}",
                "a Gigabit network reaches above 100 MB/s; on this one the exchange may take "
                "longer than the step",
                "look for a switch, a cable or ports of 100 Mbit/s, or for Wi-Fi in use: "
                "`ip route`",
                harms=False,
            )
        )
    return found


def _best(
    links: Collection[Link],
    value: Callable[[Link], float],
    best: Callable[[Iterable[float]], float],
) -> list[float]:
    """Of each host its best link's; a host is not blamed for its peers."""
    return [best(map(value, _of(host, links))) for host in _hosts(links)] or [0.0]


def _blamed(
    links: Collection[Link], bad: Collection[Link], value: Callable[[Link], float]
) -> Iterator[tuple[tuple[str, ...], list[Link]]]:
    """Hosts with no good link; then the pairs between the others. Each with its bad links.

    A link that is as bad as a host's others may yet be good by a hair; it does not clear the host.
    """

    def has_no_good_link(host: str) -> bool:
        mine = _of(host, links)
        numbers = [value(link) for link in mine]
        found = [link in bad for link in mine]
        return all(found) or (any(found) and max(numbers) <= ALIKE * min(numbers))

    alone = list(filter(has_no_good_link, _hosts(links)))
    for host in alone:
        yield (host,), _of(host, bad)
    for link in bad:
        if link.a not in alone and link.b not in alone:
            yield (link.a, link.b), [link]


def _hosts(links: Collection[Link]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for link in links for name in (link.a, link.b)))


def _of(host: str, links: Collection[Link]) -> list[Link]:
    return [link for link in links if host in (link.a, link.b)]


def _place(hosts: tuple[str, ...]) -> str:
    return "all links of this host are slow:" if len(hosts) == 1 else "the link between the two:"


def _rate(bytes_per_second: float) -> str:
    return f"{bytes_per_second / 1e6:.1f} MB/s"
