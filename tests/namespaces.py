"""Several hosts on this machine: network namespaces on one bridge, and mpiexec over them.

Each has a name, an address, an /etc/hosts and a /dev/shm of its own, so that ranks on two of them
can talk by the network alone. Processor and disk they share. Needs root, and MPICH.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.launch import SOURCES, clean_environment, launcher

TOOLS = ("ip", "tc", "unshare", "mount", "hostname")
# Runs a command on a host. Called by mpiexec as if it were ssh: [-x] HOST COMMAND...
ENTER = """#!/bin/sh
while [ "${{1#-}}" != "$1" ]; do shift; done
host=$1; shift
exec ip netns exec {prefix}$host unshare --uts --mount sh -c '
    hostname "$0"
    mount --bind {folder}/$0.hosts /etc/hosts
    mount -t tmpfs tmpfs /dev/shm
    eval "$@"' $host "$*"
"""


class Hosts:
    """Made by `hosts`. `folder`/NAME.hosts is a host's /etc/hosts, to plant faults in."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.folder, self.names = folder, names
        self.prefix = f"npnet{os.getpid()}-"  # of the namespaces, which all processes see
        self.addresses = {name: f"10.77.0.{number}" for number, name in enumerate(names, 1)}
        table = "".join(f"{address} {name}\n" for name, address in self.addresses.items())
        for name in names:
            (folder / f"{name}.hosts").write_text(f"127.0.0.1 localhost\n{table}")
        self.enter = folder / "enter"
        self.enter.write_text(ENTER.format(prefix=self.prefix, folder=folder))
        self.enter.chmod(0o755)

    def limit(self, name: str, mbit: int) -> None:
        """Let a host's port carry no more than this, each way."""
        rate = ("root", "tbf", "rate", f"{mbit}mbit", "burst", "64kb", "latency", "50ms")
        _run("tc", "-n", f"{self.prefix}{name}", "qdisc", "add", "dev", "eth0", *rate)
        _run("tc", "-n", f"{self.prefix}bridge", "qdisc", "add", "dev", name, *rate)

    def cut(self, name: str) -> None:
        """Take a host off the network, as when its cable is pulled."""
        _run("ip", "-n", f"{self.prefix}bridge", "link", "set", name, "down")

    def run(
        self,
        *command: str | Path,
        ranks_per_host: int = 1,
        environment: Mapping[str, str] | None = None,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """`mpiexec COMMAND` on the first host."""
        ranks = ranks_per_host * len(self.names)
        machines = self.folder / "machines"
        machines.write_text("".join(f"{name}:{ranks_per_host}\n" for name in self.names))
        by_tcp = {"UCX_TLS": "tcp,self", "FI_PROVIDER": "tcp", "PYTHONPATH": str(SOURCES)}
        how = ("-launcher", "ssh", "-launcher-exec", self.enter, "-f", machines)
        return subprocess.run(
            [self.enter, self.names[0], *launcher(), *how, "-n", str(ranks), *command],
            cwd=self.folder,
            env=clean_environment() | by_tcp | dict(environment or {}),
            capture_output=True,
            text=True,
            timeout=timeout,
        )


@contextmanager
def hosts(folder: Path, *names: str) -> Iterator[Hosts]:
    """The hosts, while the block lasts. Skips the test, and says why, where they cannot be made."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)} here")
    if len(launcher()) > 1:
        pytest.skip("Open MPI is not told here how to reach other hosts")
    made = Hosts(folder, names)
    with ExitStack() as stack:
        try:
            bridge = f"{made.prefix}bridge"
            _add(stack, bridge)
            _run("ip", "-n", bridge, "link", "add", "br0", "type", "bridge")
            _run("ip", "-n", bridge, "link", "set", "br0", "up")
            for name, address in made.addresses.items():
                host = f"{made.prefix}{name}"
                _add(stack, host)
                port = ("type", "veth", "peer", "name", name, "netns", bridge)
                _run("ip", "-n", host, "link", "add", "eth0", *port)
                _run("ip", "-n", bridge, "link", "set", name, "master", "br0", "up")
                _run("ip", "-n", host, "addr", "add", f"{address}/24", "dev", "eth0")
                _run("ip", "-n", host, "link", "set", "eth0", "up")
                _run("ip", "-n", host, "link", "set", "lo", "up")
        except subprocess.CalledProcessError as error:
            pytest.skip(f"no network namespaces here: {' '.join(error.cmd)}: {error.stderr}")
        yield made


def _add(stack: ExitStack, namespace: str) -> None:
    _run("ip", "netns", "add", namespace)
    stack.callback(_run, "ip", "netns", "del", namespace)


def _run(*command: str) -> None:
    subprocess.run(command, capture_output=True, text=True, check=True)


# The same for whoever has no boards; without root, and with Open MPI too.

CLUSTER = SOURCES / "bench/cluster.sh"


def on_the_first_of(
    hosts: int | str, *command: str, cwd: Path, path: str = str(SOURCES), timeout: float = 120
) -> subprocess.CompletedProcess[str]:
    """Run a command in a cluster of namespaces, `path` being Python's."""
    return subprocess.run(
        [str(CLUSTER), str(hosts), *command],
        cwd=cwd,
        env=clean_environment() | {"PYTHONPATH": path},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=timeout,
    )


def needs_cluster(cwd: Path) -> None:
    """Skip the test, and say why, where there can be none."""
    try:
        probe = on_the_first_of(2, "true", cwd=cwd)
    except OSError as error:
        pytest.skip(f"no namespaces: {error}")
    if probe.returncode:
        pytest.skip(f"no namespaces here: {probe.stderr.strip()[:200]}")
