"""The network between hosts: which of this host's interfaces leads to the others.

A board often has several networks. MPI uses all that it finds, Wi-Fi too, and Docker's, which has
the same address on every host; ranks that call each other there wait, or fail.
"""

import re
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Interface

import psutil

# Loopback, containers, virtual machines, tunnels, wireless: by the names that Linux gives them.
NOT_WIRED = re.compile(
    r"lo\d*$|docker|podman|br-|veth|virbr|vnet|vmnet|lxc|lxd|cni|flannel|cali|kube|dummy|ifb"
    r"|tun|tap|wg|tailscale|zt|ppp|wl|ww|ap\d|bnep"
)


def interfaces() -> dict[str, list[IPv4Interface]]:
    """This host's interfaces that are up, with the addresses and networks of each."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    return {
        name: [
            IPv4Interface(f"{each.address}/{each.netmask}")
            for each in addresses
            if each.family == socket.AF_INET and each.netmask
        ]
        for name, addresses in psutil.net_if_addrs().items()
        if name in up
    }


def interface_to(hosts: Sequence[str]) -> str | None:
    """The wired interface whose network holds all the hosts; None where it is not certain.

    Where names are unknown here, it is the only wired one. A single host needs none, and
    InfiniBand MPI finds by itself.
    """
    if len(hosts) < 2:
        return None
    here = interfaces()
    if any(name.startswith("ib") for name in here):
        return None
    wired = [name for name in here if here[name] and not NOT_WIRED.match(name)]
    for addresses in _addresses(hosts):
        wired = [
            name
            for name in wired
            if any(address in each.network for each in here[name] for address in addresses)
        ]
    return wired[0] if len(wired) == 1 else None


def _addresses(hosts: Sequence[str]) -> list[set[IPv4Address]]:
    """Each host's addresses, but this host's own name for itself; none if a host is unknown."""
    found = []
    for host in hosts:
        try:
            answers = socket.getaddrinfo(host, None, family=socket.AF_INET)
        except (OSError, UnicodeError):
            return []
        addresses = {IPv4Address(answer[4][0]) for answer in answers}
        if not any(address.is_loopback for address in addresses):
            found.append(addresses)
    return found
