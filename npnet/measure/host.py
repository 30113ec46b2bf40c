"""What a host tells of itself before a run: the facts that `doctor` judges.

`root` is the root folder of the host; tests give one of their own.
"""

import os
import platform
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil

import npnet
from npnet.data import open_dataset
from npnet.errors import NpnetError
from npnet.kernels.jit import cache, options
from npnet.machine import telemetry
from npnet.machine.memory import ROOT
from npnet.machine.sensors import CPUS, Health, Sensors
from npnet.parallel.launched import environment_of_no_rank, launched_size

DISK_BYTES = 4 * 2**20  # written to measure the disk
# Any of these tells MPI which network to take.
NETWORK_VARIABLES = (
    *("UCX_NET_DEVICES", "FI_TCP_IFACE"),
    *("OMPI_MCA_btl_tcp_if_include", "OMPI_MCA_btl_tcp_if_exclude"),
)


@dataclass(frozen=True)
class Plan:
    """What is to be run."""

    dataset: str
    data_dir: Path | None
    out: Path  # the run folder
    rank_bytes: int  # of a rank's arrays
    threads: int  # of a rank
    machines: Sequence[tuple[str, int]] = ()  # the machinefile's lines: host, ranks


class Interface(NamedTuple):
    """A network interface that has an address, beside the loopback."""

    name: str
    wireless: bool
    virtual: bool  # of a container, a virtual machine or a tunnel
    default_route: bool


class Disk(NamedTuple):
    """Where the run folder will lie."""

    folder: str
    bytes_per_second: float  # written, down to the medium; 0 if nothing can be written
    free_bytes: int
    on_network: bool
    problem: str = ""


@dataclass(frozen=True)
class Host:
    """The facts of one host. What it does not tell is "" or None."""

    name: str
    ranks: int  # that are to run here
    threads: int  # of each
    cores: int
    pointer_bits: int  # of this Python: 32 in a 32-bit system, whatever its kernel
    versions: dict[str, str]  # code, npnet, python, numpy, numba
    mpi: str  # the library that mpi4py loads
    mpiexec: str  # what `mpiexec --version` says
    started_by_mpiexec: bool
    own_addresses: tuple[str, ...]  # that /etc/hosts gives to its own name
    interfaces: tuple[Interface, ...]
    network_chosen: bool  # by a variable of the environment
    listed: tuple[str, ...]  # the machinefile's hosts, line by line
    resolved: dict[str, str]  # the address of each, "" for none
    is_listed: bool  # in the machinefile, or there is none
    target: str  # the processor, as the compiler sees it
    cache_problem: str
    cache_on_network: str  # the folder, if it lies there
    data: str  # digest
    data_problem: str
    clock_ahead_seconds: float  # of rank 0's
    clock_before_files: bool  # the clock is behind the date of npnet's own files
    health: Health
    governors: tuple[str, ...]
    swap_used_bytes: int  # of all programs
    available_bytes: int
    needed_bytes: int
    blas: str
    disk: Disk | None  # on the first host alone


def look(
    plan: Plan,
    ranks: int,
    clock_ahead_seconds: float = 0.0,
    writes_runs: bool = True,
    root: Path = ROOT,
    resolve: Callable[[str], str] = socket.gethostbyname,
) -> Host:
    """Ask this host for everything. It takes seconds: the dataset is read, a file is written.

    `ranks` are running here now; the machinefile may ask for more. Nothing that is wrong raises.
    """
    name = platform.node()
    resolved = {listed: _address(listed, resolve) for listed, _ in plan.machines}
    mine = [listed for listed, address in resolved.items() if _is_me(listed, address)]
    planned = max(ranks, sum(count for listed, count in plan.machines if listed in mine))
    data, data_problem = dataset(plan)
    return Host(
        name=name,
        ranks=planned,
        threads=plan.threads,
        cores=telemetry.node_cores(),
        pointer_bits=8 * struct.calcsize("P"),
        versions=versions(),
        mpi=mpi_library(),
        mpiexec=mpiexec_version(),
        started_by_mpiexec=launched_size() is not None,
        own_addresses=own_addresses(name, root),
        interfaces=interfaces(root),
        network_chosen=any(os.environ.get(variable) for variable in NETWORK_VARIABLES),
        listed=tuple(listed for listed, _ in plan.machines),
        resolved=resolved,
        is_listed=bool(mine) or not resolved,
        target=options.target(),
        cache_problem=cache_problem(),
        cache_on_network=str(cache.root()) if cache.on_network(cache.root()) else "",
        data=data,
        data_problem=data_problem,
        clock_ahead_seconds=clock_ahead_seconds,
        clock_before_files=time.time() < Path(npnet.__file__).stat().st_mtime,
        health=Sensors(root).read(),
        governors=governors(root),
        swap_used_bytes=psutil.swap_memory().used,
        available_bytes=psutil.virtual_memory().available + ranks * telemetry.rss_bytes(),
        needed_bytes=planned * plan.rank_bytes,
        blas=blas(),
        disk=disk(plan.out) if writes_runs else None,
    )


def versions() -> dict[str, str]:
    """Of all that must be the same on every host."""
    return {
        "npnet's code": telemetry.source_digest(),
        "Python": platform.python_version(),
        **{name: telemetry.package_version(name.lower()) for name in ("NumPy", "Numba")},
    }


def mpi_library() -> str:
    """The MPI library that mpi4py loads, "" if it finds none.

    Asked in a process of its own: starting MPI here could end this one. That process is none of a
    launcher's ranks, and runs no mpi4py.py of the current folder.
    """
    script = "from mpi4py import MPI; print(MPI.Get_library_version())"
    first = _output([sys.executable, "-P", "-c", script]).partition("\n")[0]
    return " ".join(first.split())


def mpiexec_version() -> str:
    """Of the mpiexec that a shell would start, else of the one beside this Python; "" for none."""
    path = shutil.which("mpiexec") or str(Path(sys.executable).parent / "mpiexec")
    return _output([path, "--version"])


def own_addresses(name: str, root: Path = ROOT) -> tuple[str, ...]:
    """The addresses that /etc/hosts gives to the host's own name."""
    lines = [line.partition("#")[0].split() for line in _lines(root / "etc/hosts")]
    return tuple(words[0] for words in lines if {name, name.split(".")[0]} & set(words[1:]))


def interfaces(root: Path = ROOT) -> tuple[Interface, ...]:
    """Those with an IPv4 address: the kernel has a route for each.

    Sources: /proc/net/route, whose columns are name, destination and more; /sys/class/net.
    """
    routes = [line.split()[:2] for line in _lines(root / "proc/net/route")[1:] if line.split()]
    default = {name for name, destination in routes if int(destination, 16) == 0}
    folder = root / "sys/class/net"
    return tuple(
        Interface(
            name=name,
            wireless=(folder / name / "wireless").exists() or name.startswith("wl"),
            virtual=not (folder / name / "device").exists(),
            default_route=name in default,
        )
        for name in dict.fromkeys(name for name, _ in routes)
        if name not in ("lo", "*")  # "*": a destination that is refused
    )


def governors(root: Path = ROOT) -> tuple[str, ...]:
    """Who sets the cores' clocks; none where the processor itself does.

    The drivers of Intel's and AMD's newer processors call their usual state `powersave`.
    """
    found = set()
    for folder in (root / CPUS).glob("cpu[0-9]*/cpufreq"):
        if not "".join(_lines(folder / "scaling_driver")).startswith(("intel_", "amd")):
            found |= set(_lines(folder / "scaling_governor"))
    return tuple(sorted(found))


def cache_problem() -> str:
    """Why compiled kernels cannot be kept where they are meant to be; "" if they can."""
    folder = cache.root()
    try:
        cache.usable(folder)
        return ""
    except OSError as error:
        return f"{folder}: {error.strerror}"


def blas() -> str:
    """The library that NumPy multiplies matrices with."""
    built = np.show_config(mode="dicts")
    return str((built or {}).get("Build Dependencies", {}).get("blas", {}).get("name", ""))


def disk(out: Path) -> Disk:
    """Write and flush a file where the run folder will be made."""
    folder = next(path for path in (out.absolute(), *out.absolute().parents) if path.is_dir())
    on_network, path = cache.on_network(folder), folder / f".npnet-doctor-{os.getpid()}"
    try:
        start = time.perf_counter()
        with path.open("wb", buffering=0) as file:
            file.write(os.urandom(DISK_BYTES))
            os.fsync(file.fileno())
        rate = DISK_BYTES / (time.perf_counter() - start)
        return Disk(str(folder), rate, shutil.disk_usage(folder).free, on_network)
    except OSError as error:
        return Disk(str(folder), 0.0, 0, on_network, error.strerror or str(error))
    finally:
        path.unlink(missing_ok=True)


def _is_me(listed: str, address: str) -> bool:
    name = platform.node()
    every = [each.address for of_one in psutil.net_if_addrs().values() for each in of_one]
    return listed.split(".")[0] == name.split(".")[0] or address in every


def _address(name: str, resolve: Callable[[str], str]) -> str:
    try:
        return resolve(name)
    except OSError:
        return ""


def dataset(plan: Plan) -> tuple[str, str]:
    """The dataset's digest, or what is wrong with it."""
    try:
        return open_dataset(plan.dataset, plan.data_dir).digest(), ""
    except NpnetError as error:
        return "", str(error)


def _output(command: list[str]) -> str:
    """What a program prints; "" if it fails. It is none of a launcher's ranks."""
    try:
        done = subprocess.run(
            command,
            env=environment_of_no_rank(),
            capture_output=True,
            text=True,
            errors="replace",
            check=True,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
