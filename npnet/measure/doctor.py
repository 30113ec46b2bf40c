"""What will go wrong in a run, told before: checks on the facts that hosts tell of themselves.

A check takes all hosts, the first one first, and yields a finding for each fault. `CHECKS` lists
them all; links are judged in links.py.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median_low
from typing import TypeVar

from npnet.measure.findings import Finding, merged
from npnet.measure.host import Host, Plan, look
from npnet.measure.links import judge, measure_links, names_of_nodes
from npnet.parallel.communicator import Communicator
from npnet.training.trace import ahead_of_root

CLOCKS_APART_SECONDS = 1.0
HOT_CELSIUS = 80.0  # a Raspberry Pi lowers its clock from here on
SLOW_DISK, LEAST_FREE = 5e6, 200e6  # bytes/s; bytes
SWAP_IN_USE = 64e6  # bytes; a healthy host may have some less there, from long ago
FAST_BLAS = re.compile("openblas|mkl|blis|accelerate|atlas|armpl", re.IGNORECASE)

Findings = Iterator[Finding]
Check = Callable[[Sequence[Host]], Findings]
T = TypeVar("T")


def examine(comm: Communicator, plan: Plan) -> tuple[list[Finding], int, int]:
    """The findings, and the numbers of checks and of hosts; the same on every rank.

    One rank a host looks at it. All ranks must call.
    """
    names, ahead = names_of_nodes(comm), ahead_of_root(comm, time.time)
    host = None
    if comm.first_of_node:
        host = look(plan, comm.nodes.count(comm.rank), ahead, writes_runs=comm.rank == 0)
        host = replace(host, name=names[comm.rank])
    comm.barrier()  # the node's other ranks sleep, and disturb no measurement
    hosts = [each for each in comm.gather(host) if each is not None]
    findings = [finding for check in CHECKS for finding in check(hosts)]
    findings += judge(measure_links(comm))
    return merged(findings), len(CHECKS) + (len(hosts) > 1), len(hosts)


# What all hosts must have alike


def systems_of_64_bits(hosts: Sequence[Host]) -> Findings:
    for host in hosts:
        if host.pointer_bits < 64:
            yield Finding(
                (host.name,),
                f"its system has {host.pointer_bits} bits, whatever `uname -m` says of its kernel",
                "there is no compiler for it, and a process has 3 GB at most",
                "flash the 64-bit Raspberry Pi OS",
            )


def versions(hosts: Sequence[Host]) -> Findings:
    for name in hosts[0].versions:
        mine = [host.versions[name] for host in hosts]
        for host, usual in _odd(hosts, mine):
            code = name == "npnet's code"
            yield Finding(
                (host.name,),
                f"{name} is {host.versions[name]}, elsewhere {usual}",
                "a run refuses to start" if code else "ranks may round differently, and drift",
                "copy npnet's folder there once more, then ./setup.sh in it",
                harms=code,
            )


def mpi_libraries(hosts: Sequence[Host]) -> Findings:
    for host, usual in _odd(hosts, [host.mpi for host in hosts]):
        yield Finding(
            (host.name,),
            f"its MPI library is {host.mpi or 'not found'}, elsewhere {usual}",
            "ranks of different libraries do not understand each other",
            "copy npnet's folder there once more, then ./setup.sh in it",
        )


def processors(hosts: Sequence[Host]) -> Findings:
    for host, usual in _odd(hosts, [host.target for host in hosts]):
        mine, theirs = (" ".join(each.split()[:2]) for each in (host.target, usual))
        yield Finding(
            (host.name,),
            f"its processor is {mine}, elsewhere {theirs}"
            if mine != theirs
            else f"its processor, {mine}, offers other instructions than elsewhere",
            "other machine code may round differently, and the slower one sets the pace",
            "use boards of one kind, with the same system",
            harms=False,
        )


def data_alike(hosts: Sequence[Host]) -> Findings:
    having = [host for host in hosts if host.data]
    for host, usual in _odd(having, [host.data for host in having]):
        yield Finding(
            (host.name,),
            f"its dataset is another: digest {host.data}, elsewhere {usual}",
            "a run refuses to start",
            "copy data/ there once more",
        )


def clocks(hosts: Sequence[Host]) -> Findings:
    """Compared with each other; alone, with the date of npnet's own files."""
    usual = median_low(host.clock_ahead_seconds for host in hosts)
    for host in hosts:
        apart, words = host.clock_ahead_seconds - usual, ""
        if abs(apart) > CLOCKS_APART_SECONDS:
            words = f"{abs(apart):.0f} s {'ahead of' if apart > 0 else 'behind'} others"
        elif host.clock_before_files:
            words = "behind the date of npnet's own files"
        if words:
            yield Finding(
                (host.name,),
                f"its clock is {words}",
                "logs and dates of files mislead; certificates may count as not yet valid",
                "sudo timedatectl set-ntp true",
                harms=False,
            )


# Names


def own_name_is_loopback(hosts: Sequence[Host]) -> Findings:
    """Where there are other hosts: alone, as Debian has it, it does no harm."""
    for host in hosts:
        loopback = [each for each in host.own_addresses if _is_loopback(each)]
        if loopback and _is_cluster(hosts):
            yield Finding(
                (host.name,),
                f"/etc/hosts gives {loopback[0]} for its own name",
                "MPI tells the other hosts to call back there, and each calls itself",
                "sudo sed -i '/^127.0.1.1/d' /etc/hosts"
                if loopback[0] == "127.0.1.1"
                else f"take the name out of the line of {loopback[0]} in /etc/hosts",
            )


def names_resolve(hosts: Sequence[Host]) -> Findings:
    for host in hosts:
        for name, address in host.resolved.items():
            if not address or (_is_loopback(address) and _is_cluster(hosts)):
                yield Finding(
                    (host.name,),
                    f"it knows {address or 'no address'} for {name} of the machinefile",
                    "ranks cannot connect",
                    f"put the address of {name} into /etc/hosts",
                )


def names_listed_once(hosts: Sequence[Host]) -> Findings:
    first = hosts[0]
    addresses = [first.resolved[name] or name for name in first.listed]
    for name, address in zip(first.listed, addresses, strict=True):
        if addresses.count(address) > 1:
            yield Finding(
                (name,),
                "the machinefile has it more than once",
                "it gets the ranks of all these lines",
                "leave one line for each host",
                harms=False,
            )


def hosts_are_listed(hosts: Sequence[Host]) -> Findings:
    for host in hosts:
        if not host.is_listed:
            yield Finding(
                (host.name,),
                "the machinefile does not have it, by name or address",
                "no rank would run there: it is the file of other hosts, or it has another name",
                "sudo hostnamectl hostname NAME, or mend the machinefile",
                harms=False,
            )


def names_differ(hosts: Sequence[Host]) -> Findings:
    """names_of_nodes added the rank where it had to."""
    alike = tuple(host.name for host in hosts if " (rank " in host.name)
    if alike:
        yield Finding(
            alike,
            "these hosts have the same name",
            "logs and messages cannot tell which is meant",
            "sudo hostnamectl hostname NAME, on each",
            harms=False,
        )


# MPI and the network


def mpiexec_fits(hosts: Sequence[Host]) -> Findings:
    """Asked alone: ranks that have found each other have the right one."""
    host = hosts[0]
    theirs, ours = _maker(host.mpiexec), _maker(host.mpi)
    if host.started_by_mpiexec or not (theirs or host.resolved):
        return
    if theirs != ours or not ours:
        what = f"mpiexec is {theirs or 'not found'}, mpi4py's library is {ours or 'not found'}"
        yield no_world(host.name, what)
    elif _number(host.mpiexec) != _number(host.mpi):
        yield Finding(
            (host.name,),
            f"mpiexec is {theirs} {_number(host.mpiexec)}, the library {_number(host.mpi)}",
            "ranks may not find each other",
            ". .venv/bin/activate; then `which mpiexec` names the one in .venv",
            harms=False,
        )


def launcher_fits(host: str, environment: Mapping[str, str], library: str) -> Finding | None:
    """The finding that no rank may join: some libraries end a process that another MPI started."""
    ours, by_open_mpi = _maker(library), "OMPI_COMM_WORLD_SIZE" in environment
    if not by_open_mpi and "PMI_SIZE" not in environment:
        return None
    if ours and by_open_mpi == (ours == "Open MPI"):
        return None
    theirs = "Open MPI" if by_open_mpi else "MPICH"
    return no_world(host, f"mpiexec is {theirs}'s, mpi4py's library is {ours or 'not found'}")


def no_world(host: str, what: str) -> Finding:
    """For ranks that cannot find each other."""
    return Finding(
        (host,),
        what,
        "ranks do not find each other: each thinks that it is alone",
        "./setup.sh mpi and . .venv/bin/activate; then `which mpiexec` names the one in .venv",
    )


def one_network(hosts: Sequence[Host]) -> Findings:
    """Where there are other hosts: ranks of one host need no network."""
    for host in hosts if _is_cluster(hosts) else ():
        wireless = [each.name for each in host.interfaces if each.wireless]
        on_air = any(each.wireless and each.default_route for each in host.interfaces)
        virtual = [each.name for each in host.interfaces if each.virtual]
        if host.network_chosen or (len(host.interfaces) < 2 and not on_air):
            continue
        names = [each.name for each in host.interfaces]
        wired = next((name for name in names if name not in (*wireless, *virtual)), names[0])
        if wireless:
            mend = "sudo rfkill block wifi"
        else:
            mend = (
                f"export UCX_NET_DEVICES={wired} (MPICH), OMPI_MCA_btl_tcp_if_include={wired} "
                "(Open MPI)"
            )
            if virtual:
                mend = f"sudo ip link set {virtual[0]} down, or {mend}"
        what = f"it has several networks: {', '.join(names)}"
        yield Finding(
            (host.name,),
            f"Wi-Fi is its way out ({', '.join(names)})" if on_air else what,
            "MPI may choose one that is slow, or that other hosts cannot reach, and hang",
            mend,
            harms=False,
        )


# Cores and memory


def cores(hosts: Sequence[Host]) -> Findings:
    for host in hosts:
        if host.ranks * host.threads > host.cores:
            yield Finding(
                (host.name,),
                f"{host.ranks} ranks x {host.threads} threads on {host.cores} cores",
                "ranks that share a core wait for each other at every step",
                f"at most {host.cores} ranks there (machinefile, mpiexec -n), and --threads 1",
            )


def one_thread(hosts: Sequence[Host]) -> Findings:
    for host in hosts:
        if host.threads > 1:
            yield Finding(
                (host.name,),
                f"each rank has {host.threads} threads (--threads or OMP_NUM_THREADS)",
                "compiled kernels use one; BLAS threads of several ranks fight for cores",
                "unset OMP_NUM_THREADS OPENBLAS_NUM_THREADS, or --threads 1; start more ranks",
                harms=False,
            )


def fast_blas(hosts: Sequence[Host]) -> Findings:
    for host in hosts:
        if not FAST_BLAS.search(host.blas):
            yield Finding(
                (host.name,),
                f"NumPy was built with BLAS {host.blas or 'none'}, which may be a slow one",
                "--backend reference multiplies matrices with it",
                "./setup.sh, which installs NumPy with OpenBLAS",
                harms=False,
            )


def memory(hosts: Sequence[Host]) -> Findings:
    for host in hosts:
        if host.needed_bytes > host.available_bytes:
            yield Finding(
                (host.name,),
                f"{host.ranks} ranks need about {host.needed_bytes / 1e6:.0f} MB, "
                f"{host.available_bytes / 1e6:.0f} MB are available",
                "the system swaps, or kills a rank: Killed (signal 9)",
                "a smaller --batch, --width or --input-size, or fewer ranks there",
            )


def swap(hosts: Sequence[Host]) -> Findings:
    for host in hosts:
        if host.swap_used_bytes > SWAP_IN_USE:
            yield Finding(
                (host.name,),
                f"{host.swap_used_bytes / 1e6:.0f} MB of its programs are swapped out",
                "memory was short; a rank that is swapped out holds up all others",
                "end other programs, then sudo swapoff -a && sudo swapon -a",
                harms=False,
            )


def cool_and_fed(hosts: Sequence[Host]) -> Findings:
    for host in hosts:
        if host.health.throttled not in ("", "no"):
            yield Finding(
                (host.name,),
                f"it is held back: {host.health.throttled}",
                "it computes slowly, and all others wait for it",
                "another supply and a short, thick cable for under-voltage, else a fan; look "
                "under load: vcgencmd get_throttled",
                harms=" now" in host.health.throttled,
            )
        if (host.health.temperature_celsius or 0) >= HOT_CELSIUS:
            yield Finding(
                (host.name,),
                f"its processor has {host.health.temperature_celsius:.0f} °C",
                f"from {HOT_CELSIUS:.0f} °C on a Raspberry Pi lowers its clock",
                "a fan, heat sinks, space between the boards",
                harms=False,
            )


def full_clock(hosts: Sequence[Host]) -> Findings:
    for host in hosts:
        for governor in sorted({"powersave", "ondemand"} & set(host.governors)):
            yield Finding(
                (host.name,),
                f"the clock follows the governor {governor}",
                "it stays at its lowest"
                if governor == "powersave"
                else "it drops while a rank waits, and rises late",
                "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor",
                harms=governor == "powersave",
            )


# Files


def data_there(hosts: Sequence[Host]) -> Findings:
    for host in hosts:
        if host.data_problem:
            what, _, mend = host.data_problem.rpartition("; ")
            yield Finding((host.name,), what or mend, "a run refuses to start", mend)


def cache_kept(hosts: Sequence[Host]) -> Findings:
    for host in hosts:
        if host.cache_problem:
            yield Finding(
                (host.name,),
                f"compiled kernels cannot be kept in {host.cache_problem}",
                "each start compiles them anew, for minutes",
                "make room there, or export NPNET_CACHE=FOLDER, one of your own",
            )
        elif host.cache_on_network:
            yield Finding(
                (host.name,),
                f"compiled kernels lie on a network: {host.cache_on_network}",
                "all ranks load them through one server at the same time",
                "unset NPNET_CACHE, or name a folder on the host's own disk there",
                harms=False,
            )


def disk(hosts: Sequence[Host]) -> Findings:
    host = hosts[0]
    if host.disk is None:
        return
    folder, rate, free, on_network, problem = host.disk
    why = "each epoch's checkpoint and log are written there"
    if problem:
        yield Finding((host.name,), f"cannot write in {folder}: {problem}", why, "another --out")
        return
    if free < LEAST_FREE:
        what = f"{free / 1e6:.0f} MB are free in {folder}"
        yield Finding((host.name,), what, why, "make room, or give another --out")
    if rate < SLOW_DISK:
        what = f"{folder} takes {rate / 1e6:.1f} MB/s"
        mend = "another card or disk: --out"
        yield Finding((host.name,), what, f"{why}; meanwhile all ranks wait", mend, harms=False)
    if on_network:
        what = f"{folder} lies on a network"
        mend = "--out on the first host's own disk"
        yield Finding((host.name,), what, f"{why}, over the link that ranks use", mend, harms=False)


CHECKS: tuple[Check, ...] = (
    *(systems_of_64_bits, versions, mpi_libraries, processors, data_alike, clocks),
    *(own_name_is_loopback, names_resolve, names_listed_once, hosts_are_listed, names_differ),
    *(mpiexec_fits, one_network),
    *(cores, one_thread, fast_blas, memory, swap, cool_and_fed, full_clock),
    *(data_there, cache_kept, disk),
)


def _odd(hosts: Sequence[Host], values: Sequence[T]) -> Iterator[tuple[Host, T]]:
    """Hosts with another value than most have, or than the first where none is the usual one."""
    if values:
        usual = max(values, key=values.count)
        yield from (
            (host, usual) for host, each in zip(hosts, values, strict=True) if each != usual
        )


def _is_cluster(hosts: Sequence[Host]) -> bool:
    return len(hosts) > 1 or len(hosts[0].resolved) > 1


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"


def _maker(text: str) -> str:
    """Whose MPI it is, from what its library or its mpiexec says; "" if it says nothing."""
    makers = {"Open MPI": "Open MPI|OpenRTE", "Intel MPI": "Intel", "MPICH": "MPICH|HYDRA"}
    return next((name for name, words in makers.items() if re.search(words, text)), text[:20])


def _number(text: str) -> str:
    """The first version in a text."""
    found = re.search(r"\d+\.\d+(\.\d+)?", text)
    return found[0] if found else ""
