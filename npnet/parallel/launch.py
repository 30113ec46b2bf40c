"""Starting ranks: which launcher there is, and how it wants its words."""

import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from npnet.errors import NpnetError
from npnet.machine.network import interface_to
from npnet.parallel.hosts import NAMES, Machinefile, Maker, expand

# Open MPI asks twice before it starts as root, as in a container, and before it starts more ranks
# than there are cores.
AS_ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
MORE_RANKS_THAN_CORES = {"PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}


class Ranks(NamedTuple):
    """How many ranks, and where and how they are to run.

    `per_node` wins over the machinefile's own numbers. `interface` is the network between hosts.
    `environment` is every rank's, beside what the launcher passes on by itself. Without `binding`
    the system moves ranks between cores as it likes.
    """

    number: int
    machinefile: Path | None = None
    per_node: int | None = None
    interface: str | None = None
    threads: int = 1
    environment: Mapping[str, str] = {}
    binding: bool = True


class Part(NamedTuple):
    """Some words of a command line, and what they are for."""

    words: tuple[str, ...]
    reason: str


class Launcher(NamedTuple):
    """What starts ranks: its path, whose MPI they load, and whether it is Slurm's srun.

    mpiexec is the one beside this Python, or else the system's.
    """

    path: str
    maker: Maker
    slurm: bool = False

    @classmethod
    def find(cls, slurm: bool = False) -> "Launcher":
        """Raises NpnetError where there is none, or mpiexec does not run."""
        beside = Path(sys.executable).parent / "mpiexec"
        path = str(beside) if beside.exists() else shutil.which("mpiexec")
        if path is None:
            raise NpnetError("no mpiexec is installed: pip install 'npnet[mpi]' brings one")
        try:
            told = subprocess.run(
                [path, "--version"],
                capture_output=True,
                text=True,
                errors="replace",
                check=True,
                timeout=60,
                env=environment_of_launcher(),
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise NpnetError(f"{path} --version does not run: {error}") from error
        maker: Maker = "openmpi" if "Open MPI" in told.stdout else "mpich"
        if not slurm:
            return cls(path, maker)
        srun = shutil.which("srun")
        if srun is None:
            raise NpnetError("Slurm's srun is not on the PATH: give a `machinefile` for mpiexec")
        return cls(srun, maker, slurm=True)

    def command(self, program: Sequence[str], ranks: Ranks) -> list[str]:
        """The command line that starts `program` on the ranks.

        With a machinefile each rank is bound to a core, or as many as it has threads: two that
        share one would wait for each other.
        """
        return [*(word for part in self.parts(ranks) for word in part.words), *program]

    def parts(self, ranks: Ranks) -> list[Part]:
        """The words that stand before the program, and what each is for."""
        if self.slurm:
            parts = _srun(ranks, self.maker)
        elif self.maker == "openmpi":
            parts = _open_mpi(ranks)
        else:
            parts = _hydra(ranks)
        start = Part(
            (self.path, "-n", str(ranks.number)),
            f"{'Slurm' if self.slurm else NAMES[self.maker]} starts {ranks.number} ranks",
        )
        return [start, *(part for part in parts if part.words)]

    def environment(self, ranks: Ranks) -> dict[str, str]:
        """What the launcher needs in its own environment, and the user's does not have yet."""
        if self.slurm or self.maker == "mpich":
            return {}
        needed = {} if ranks.machinefile else MORE_RANKS_THAN_CORES
        if os.geteuid() == 0:
            needed = AS_ROOT | needed
        return {name: value for name, value in needed.items() if name not in os.environ}


# What parts are for, where several launchers have them.
HOSTS = "the hosts, and how many ranks each runs"
PER_NODE = "ranks on each host, whatever the machinefile says"
CONTROL = "the network on which the hosts find each other"
EXCHANGE = "the network on which ranks exchange gradients; MPI would try all, Wi-Fi too"
ENVIRONMENT = "environment of every rank"
FREE = Part(("--bind-to", "none"), "ranks share the cores as the system likes")


def _binding(threads: int) -> str:
    cores = "a core" if threads == 1 else f"{threads} cores"
    return f"each rank keeps {cores} of its own"


def _hydra(ranks: Ranks) -> list[Part]:
    """MPICH's mpiexec. MPICH's exchange runs through UCX or libfabric, however it was built."""
    parts = []
    if ranks.machinefile is not None:
        core = "core" if ranks.threads == 1 else f"core:{ranks.threads}"
        parts.append(Part(("-machinefile", str(ranks.machinefile)), HOSTS))
        if ranks.binding:
            parts.append(Part(("-bind-to", core), _binding(ranks.threads)))
        if ranks.per_node:
            parts.append(Part(("-ppn", str(ranks.per_node)), PER_NODE))
    if ranks.interface is not None:
        parts += [
            Part(("-iface", ranks.interface), CONTROL),
            Part(_pairs("-genv", _devices(ranks.interface, "mpich")), EXCHANGE),
        ]
    return [*parts, Part(_pairs("-genv", ranks.environment), ENVIRONMENT)]


def _open_mpi(ranks: Ranks) -> list[Part]:
    """Open MPI's mpiexec, which is PRRTE's; it passes no environment on to other hosts.

    How ranks are mapped is always said: by itself PRRTE starts two on the first host, if more ranks
    than cores are allowed.
    """
    parts = []
    if ranks.machinefile is not None:
        cores = "" if ranks.threads == 1 or not ranks.binding else f":pe={ranks.threads}"
        parts += [
            Part(("--hostfile", str(ranks.machinefile)), HOSTS),
            Part(("--bind-to", "core"), _binding(ranks.threads)) if ranks.binding else FREE,
        ]
        if ranks.per_node:
            mapping, reason = f"ppr:{ranks.per_node}:node", PER_NODE
        else:
            mapping, reason = "slot", "hosts are filled one after the other"
        parts.append(Part(("--map-by", mapping + cores), reason))
    if ranks.interface is not None:
        parts += [
            Part(("--prtemca", "prte_if_include", ranks.interface), CONTROL),
            Part(("--mca", "btl_tcp_if_include", ranks.interface), EXCHANGE),
        ]
    environment = [word for item in ranks.environment.items() for word in ("-x", "=".join(item))]
    return [*parts, Part(tuple(environment), ENVIRONMENT)]


def _srun(ranks: Ranks, maker: Maker) -> list[Part]:
    """Slurm's own launcher: hosts are those of the allocation, all environment is passed on."""
    devices = _devices(ranks.interface, maker) if ranks.interface is not None else {}
    values = [f"{name}={value}" for name, value in {**ranks.environment, **devices}.items()]
    parts = [
        Part(
            (f"--mpi={'pmix' if maker == 'openmpi' else 'pmi2'}",),
            f"how {NAMES[maker]}'s ranks find each other",
        )
    ]
    if ranks.per_node:
        parts.append(Part((f"--ntasks-per-node={ranks.per_node}",), "ranks on each host"))
    return [
        *parts,
        Part(
            (
                f"--cpus-per-task={ranks.threads}",
                f"--cpu-bind={'cores' if ranks.binding else 'no'}",
            ),
            _binding(ranks.threads) if ranks.binding else FREE.reason,
        ),
        Part(
            ("--kill-on-bad-exit=1", "--quit-on-interrupt"),
            "when a rank fails, and at the first Ctrl-C, all end",
        ),
        Part(
            (",".join(("--export=ALL", *(value for value in values if "," not in value))),),
            f"{ENVIRONMENT}: this one's, and more",
        ),
    ]


def _devices(interface: str, maker: Maker) -> dict[str, str]:
    """The environment that keeps an MPI's exchange between hosts to one interface."""
    if maker == "openmpi":
        return {"OMPI_MCA_btl_tcp_if_include": interface}
    return {"UCX_NET_DEVICES": interface, "FI_PROVIDER": "tcp", "FI_TCP_IFACE": interface}


def _pairs(option: str, environment: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(word for item in environment.items() for word in (option, *item))


def environment_of_launcher() -> dict[str, str]:
    """For mpiexec and its ranks: the user's own, and what Open MPI asks for unless it is there."""
    return AS_ROOT | MORE_RANKS_THAN_CORES | os.environ


def environment_of_ranks(threads: int) -> dict[str, str]:
    """What every rank must have: its number of threads, and all that the user set for npnet."""
    own = {name: value for name, value in os.environ.items() if name.startswith("NPNET_")}
    return {"OMP_NUM_THREADS": str(threads), **own}


def prepare(
    count: int | None,
    machinefile: Path | None = None,
    per_node: int | None = None,
    interface: str | None = None,
    binding: bool = True,
) -> tuple[Launcher, Ranks]:
    """The launcher, and the ranks with all that was not given: how many, and on which network.

    Each rank has as many threads as this process, by OMP_NUM_THREADS. srun is taken in an
    allocation of Slurm, unless a machinefile names the hosts. Raises NpnetError for a machinefile
    that is unfit, or where the number of ranks is unknown.
    """
    slurm = machinefile is None and "SLURM_JOB_ID" in os.environ
    launcher = Launcher.find(slurm)
    hosts: list[str] = []
    if machinefile is not None:
        file = Machinefile.read(machinefile)
        hosts = list(file.ranks)
        count = count or file.most_ranks(per_node)
        file.check(count, per_node, launcher.maker)
    elif slurm:
        hosts = expand(os.environ.get("SLURM_JOB_NODELIST", platform.node()))
        tasks = os.environ.get("SLURM_NTASKS", "")
        count = count or (int(tasks) if tasks.isdigit() else None)
    if count is None:
        raise NpnetError("how many ranks? Give -n, or a `machinefile`")
    told = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(told) if told.isdigit() else 1
    return launcher, Ranks(
        count,
        machinefile,
        per_node,
        interface or interface_to(hosts),
        threads,
        environment_of_ranks(threads),
        binding,
    )


def become(command: Sequence[str]) -> NoReturn:
    """Replace this process by the launcher: its status is the launcher's, and Ctrl-C reaches it.

    Raises NpnetError if it does not start.
    """
    try:
        os.execve(command[0], list(command), environment_of_launcher())
    except OSError as error:
        raise NpnetError(f"{command[0]} does not start: {error.strerror}") from error
