"""The ranks of a run. The only module that imports mpi4py, and only when a launcher started us.

`connect()` returns an `MpiCommunicator`, or its serial twin with the same methods, so that a single
process trains without any MPI installed. Methods on arrays move buffers; those on objects pickle
and stay out of the training loop.
"""

import os
import platform
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from itertools import chain, pairwise
from pathlib import Path
from typing import Any, NoReturn, Protocol, TypeVar

import numpy as np
import psutil
from numpy.typing import DTypeLike, NDArray

from npnet.errors import NpnetError
from npnet.kernels.arrays import Floats
from npnet.machine.clock import Clock
from npnet.parallel import joining
from npnet.parallel.exchange import Exchange, HalfWidthLevel, Level, NetworkLevel
from npnet.parallel.launched import environment_of_no_rank, launched_rank, launched_size

T = TypeVar("T")

SMALL = 65536  # bytes: below, latency decides, and MPI's own Allreduce takes fewer messages
SECONDS_BETWEEN_LOOKS = 0.01
SECONDS_FOR_THE_ROOT = 3.0  # to come as far as the others, where it cannot be asked


class CollectiveError(NpnetError):
    """An error that every rank knows of: each ends with a non-zero status, one of them prints."""


class Communicator(Protocol):
    """What training needs of its ranks."""

    rank: int
    size: int
    hosts: list[str]  # the host of each rank
    nodes: list[int]  # the node of each rank, named after the node's lowest rank
    first_of_node: bool  # whether this rank is its node's lowest
    clock: Clock  # where this rank's time goes; waiting for others is told from the exchange

    def sum(self, array: Floats) -> None:
        """Replace `array` on every rank by its sum over the ranks, in place."""

    def allreduce(self, array: Floats) -> None:
        """The same by MPI's own way. Small arrays take it, for fewer messages."""

    def exchange(self, n: int, dtype: DTypeLike, half_width: bool = False) -> Exchange:
        """What sums vectors (n,) like `sum`, its buffers kept.

        `half_width`: between nodes, numbers travel as bfloat16; `dtype` is then float32.
        """

    def sum_in_order(self, rows: Floats) -> Floats:
        """The sum (n,) of the rows (K,n) of all ranks, rank by rank and row by row.

        The order makes it the same, to the bit, however the rows are spread over ranks. Every rank
        has K rows.
        """

    def mean_by_root(self, rows: Floats, mean: Floats) -> None:
        """Gather all ranks' rows (K,n) on rank 0, average there, broadcast `mean` (n,).

        The paper's way (section 3.2.2).
        """

    def gather_rows(self, rows: Floats) -> Floats | None:
        """The rows (K,n) of all ranks, (P*K,n) in rank order, on rank 0; None on the others."""

    def scatter_rows(self, rows: Floats | None, mine: Floats) -> None:
        """The reverse: each rank's part of rank 0's `rows` (P*K,n) becomes `mine` (K,n)."""

    def gather(self, value: T) -> list[T]:
        """One small object of each rank, in rank order, on every rank."""

    def of_all(self, mine: list[T]) -> list[T]:
        """Some small objects of each rank in one list, in rank order, on every rank."""

    def broadcast(self, value: T) -> T:
        """Rank 0's object on every rank."""

    def swap_with(self, peer: int, out: NDArray[Any], into: NDArray[Any]) -> None:
        """Send `out` to one rank and receive `into`, of the same size, from it, both at once."""

    def barrier(self) -> None:
        """Wait for all ranks, asleep: one of them may need the core."""


class SerialCommunicator:
    """The twin for one process, without MPI."""

    rank = 0
    size = 1

    def __init__(self) -> None:
        self.hosts, self.nodes, self.first_of_node = [platform.node()], [0], True
        self.clock = Clock()

    def sum(self, array: Floats) -> None: ...

    def allreduce(self, array: Floats) -> None: ...

    def exchange(self, n: int, dtype: DTypeLike, half_width: bool = False) -> Exchange:
        return Exchange(None, (), nullcontext)

    def sum_in_order(self, rows: Floats) -> Floats:
        return add_in_order(rows)

    def mean_by_root(self, rows: Floats, mean: Floats) -> None:
        mean[:] = add_in_order(rows) / len(rows)

    def gather_rows(self, rows: Floats) -> Floats | None:
        return rows.copy()

    def scatter_rows(self, rows: Floats | None, mine: Floats) -> None:
        assert rows is not None
        mine[:] = rows

    def gather(self, value: T) -> list[T]:
        return [value]

    def of_all(self, mine: list[T]) -> list[T]:
        return mine

    def broadcast(self, value: T) -> T:
        return value

    def swap_with(self, peer: int, out: NDArray[Any], into: NDArray[Any]) -> None:
        into[...] = out  # with itself: there is nobody else

    def barrier(self) -> None: ...


class MpiCommunicator:
    """All ranks of MPI's COMM_WORLD. `node`: the node that this rank counts to, if not its own."""

    def __init__(self, mpi: Any, node: int | None = None) -> None:
        self._mpi, self._comm, self.clock = mpi, mpi.COMM_WORLD, Clock()
        self.rank: int = self._comm.Get_rank()
        self.size: int = self._comm.Get_size()
        self.hosts: list[str] = self._comm.allgather(platform.node())
        # Not by host name: Raspberry Pis out of the box are all called the same.
        if node is None:
            self._node = self._comm.Split_type(mpi.COMM_TYPE_SHARED)
        else:
            self._node = self._comm.Split(node)
        self.nodes: list[int] = self._comm.allgather(self._node.bcast(self.rank))
        self.first_of_node = self.nodes[self.rank] == self.rank
        # Rank i of each node, for those i that every node has: where nodes exchange part i.
        self._rails = min(Counter(self.nodes).values())
        mine = self._node.Get_rank()
        self._rail = self._comm.Split(mine if mine < self._rails else mpi.UNDEFINED)
        self._sums: dict[tuple[int, DTypeLike], Exchange] = {}

    def sum(self, array: Floats) -> None:
        if array.nbytes < SMALL:
            self.allreduce(array)
            return
        key = (array.size, array.dtype)
        if key not in self._sums:
            self._sums[key] = self.exchange(*key)
        self._sums[key].sum(array)

    def allreduce(self, array: Floats) -> None:
        with self._exchange():
            self._comm.Allreduce(self._mpi.IN_PLACE, array)

    def exchange(self, n: int, dtype: DTypeLike, half_width: bool = False) -> Exchange:
        levels = []
        if self._node.Get_size() > 1:
            levels.append(Level(self._node, n, dtype, self._rails))
            n = len(levels[0].part)
        if self._rail != self._mpi.COMM_NULL and self._rail.Get_size() > 1:
            if half_width:
                levels.append(HalfWidthLevel(self._rail, n))
            else:
                levels.append(NetworkLevel(self._rail, n, dtype))
        return Exchange(self._comm, levels, self._exchange)

    def sum_in_order(self, rows: Floats) -> Floats:
        """Each rank adds up one part of the vector, from everywhere, then all parts go to all."""
        count, n = rows.shape
        ends = [n * rank // self.size for rank in range(self.size + 1)]
        widths = np.diff(ends)
        mine = widths[self.rank]
        outgoing = np.concatenate([rows[:, a:b].ravel() for a, b in pairwise(ends)])
        incoming = np.empty((self.size * count, mine), rows.dtype)
        total = np.empty(n, rows.dtype)
        with self._exchange():
            self._comm.Alltoallv([outgoing, count * widths], [incoming, [count * mine] * self.size])
            self._comm.Allgatherv(add_in_order(incoming), [total, widths])
        return total

    def mean_by_root(self, rows: Floats, mean: Floats) -> None:
        with self._exchange():
            gathered = self._gathered(rows)
            if gathered is not None:
                mean[:] = add_in_order(gathered) / len(gathered)
            self._comm.Bcast(mean)

    def gather_rows(self, rows: Floats) -> Floats | None:
        with self._exchange():
            return self._gathered(rows)

    def _gathered(self, rows: Floats) -> Floats | None:
        count, n = rows.shape
        gathered = np.empty((self.size * count, n), rows.dtype) if self.rank == 0 else None
        self._comm.Gather(rows, gathered)
        return gathered

    def scatter_rows(self, rows: Floats | None, mine: Floats) -> None:
        out = None if rows is None else np.ascontiguousarray(rows, mine.dtype)
        with self._exchange():
            self._comm.Scatter(out, mine)

    def gather(self, value: T) -> list[T]:
        with self._exchange():
            return list(self._comm.allgather(value))

    def of_all(self, mine: list[T]) -> list[T]:
        return list(chain.from_iterable(self.gather(mine)))

    def broadcast(self, value: T) -> T:
        with self._exchange():
            result: T = self._comm.bcast(value)
        return result

    def swap_with(self, peer: int, out: NDArray[Any], into: NDArray[Any]) -> None:
        self._comm.Sendrecv(out, peer, recvbuf=into, source=peer)

    def barrier(self) -> None:
        before = self.clock.enter("wait")
        everyone_is_here = self._comm.Ibarrier()
        while not everyone_is_here.Test():
            time.sleep(SECONDS_BETWEEN_LOOKS)
        self.clock.enter(before)

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        """Around a collective: first all arrive, so that waiting is not taken for transfer."""
        before = self.clock.enter("wait")
        self._comm.Barrier()
        self.clock.enter("transfer")
        yield
        self.clock.enter(before)


def add_in_order(rows: Floats) -> Floats:
    """The sum (n,) of rows (K,n), one after the other."""
    total: Floats = rows[0].copy()
    for row in rows[1:]:
        total += row
    return total


def connect(
    command: str | None = None, refusal: str | None = None, limit: float = joining.LIMIT
) -> Communicator:
    """Join the ranks that the launcher started, or be the only one.

    `command`: what the ranks are to do together, compared where it is given. `refusal`: why this
    one cannot. `limit`: seconds to wait for others to join, 0 for ever; then the process is ended.
    Raises CollectiveError where a launcher started processes that cannot find each other, run
    different commands, or of which one refuses.
    """
    comm = _connected(limit)
    with together(comm):
        if refusal is not None:
            raise NpnetError(refusal)
    commands = comm.gather(command)
    first = next((rank for rank, each in enumerate(commands) if each is not None), 0)
    for rank, each in enumerate(commands):
        if each not in (None, commands[first]):
            raise CollectiveError(
                f"rank {rank} ({comm.hosts[rank]}) runs {each}, rank {first} "
                f"({comm.hosts[first]}) {commands[first]}: start every rank with the same command"
            )
    return comm


def _connected(limit: float) -> Communicator:
    launched = launched_size()
    if launched is None:
        return SerialCommunicator()
    try:
        import mpi4py

        # MPI starts below: a library that another MPI's launcher started may end the process.
        mpi4py.rc.initialize, mpi4py.rc.finalize = False, True
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        if launched == 1:
            return SerialCommunicator()
        reason = str(error).splitlines()[0]
        raise _error_of_ranks_apart(
            f"mpiexec started {launched} processes, but mpi4py finds no MPI library ({reason}): "
            "install one beside npnet, for example with pip install 'npnet[mpi]'"
        ) from error
    library = " ".join(MPI.Get_library_version().split(",")[0].splitlines()[0].split())
    mpiexec = Path(sys.executable).parent / "mpiexec"
    advice = f"start with the mpiexec of that library{f', {mpiexec}' if mpiexec.exists() else ''}"
    if _started_by_another_mpi(library):
        if launched == 1:
            return SerialCommunicator()
        raise _error_of_ranks_apart(
            f"mpiexec started {launched} processes, but it is not of the MPI of mpi4py's library "
            f"({library}): {advice}"
        )
    with joining.watched(launched_rank(), launched, limit, environment_of_no_rank()):
        if not MPI.Is_initialized():
            MPI.Init_thread(MPI.THREAD_SERIALIZED)  # the main thread or that of Buckets, never both
        found = MPI.COMM_WORLD.Get_size()
        if found != launched:
            raise _error_of_ranks_apart(
                f"mpiexec started {launched} processes, but each sees a world of {found}: mpiexec "
                f"and mpi4py's library ({library}) are of different MPIs; {advice}"
            )
        return MpiCommunicator(MPI)


def _error_of_ranks_apart(message: str) -> CollectiveError:
    """Rank 0 prints it. The others leave later: a launcher may end all as soon as one has left."""
    if launched_rank() > 0:
        time.sleep(SECONDS_FOR_THE_ROOT)
    return CollectiveError(message)


def _started_by_another_mpi(library: str) -> bool:
    """Whether the launcher's marks are of an MPI that `library` is not; with both marks, unknown.

    MPICH's mpiexec leaves the first, Open MPI's the two others, and srun none of them.
    """
    hydra = "HYDI_CONTROL_FD" in os.environ
    open_mpi = {"OMPI_COMM_WORLD_SIZE", "PMIX_NAMESPACE"} <= os.environ.keys()
    return hydra and not open_mpi if "Open MPI" in library else open_mpi and not hydra


def abort(status: int) -> NoReturn:
    """Leave, and end all ranks at once if MPI runs: they may be waiting for this one.

    What MPI itself says about that would bury the message that this rank has just printed.
    """
    if has_joined():
        if "PRTE_LAUNCHED" in os.environ:
            # Open MPI's mpiexec then ends the others, on all nodes, in five lines; of an Abort it
            # and the library make thirteen. MPICH's would let those on other nodes wait for ever.
            os._exit(status)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # MPICH prints its line in this process
        sys.modules["mpi4py.MPI"].COMM_WORLD.Abort(status)
    sys.exit(status)


def end_process(status: int, cut_off: bool) -> NoReturn:
    """Leave from a thread that must not call MPI, and whatever the main thread waits for.

    Either mpiexec then ends the ranks of this host, a stopped one too. Of those on other hosts
    Open MPI's ends all, MPICH's may let them wait: each has to end itself. `cut_off`: another host
    does not answer. MPICH's mpiexec would wait for it for ever, so that is ended, too, if it runs
    on this host.
    """
    if cut_off and "HYDI_CONTROL_FD" in os.environ:
        for parent in psutil.Process().parents():
            if parent.name() in ("mpiexec", "mpiexec.hydra", "mpirun"):
                parent.kill()
                break
    os._exit(status)


def has_joined() -> bool:
    """Whether this process is one of several ranks that have found each other."""
    mpi = sys.modules.get("mpi4py.MPI")
    return mpi is not None and mpi.Is_initialized() and mpi.COMM_WORLD.Get_size() > 1


@contextmanager
def together(comm: Communicator) -> Iterator[None]:
    """A step that may find bad input: if it does on any rank, every rank raises the same error.

    All ranks must enter and leave, so no collective may stand inside.
    """
    message = None
    try:
        yield
    except NpnetError as error:
        message = str(error)
    found = comm.gather(message)
    messages = {text: rank for rank, text in reversed(list(enumerate(found))) if text is not None}
    if not messages:
        return
    text, rank = min(messages.items(), key=lambda item: item[1])
    where = "" if found.count(text) == comm.size else f"rank {rank} ({comm.hosts[rank]}): "
    raise CollectiveError(where + text)


def agree(comm: Communicator, values: Mapping[str, object]) -> None:
    """Raise the same CollectiveError on every rank if one has other values than rank 0.

    Nodes read their own files: a forgotten one would let ranks wait for each other for ever, or
    train apart without a word.
    """
    everyone = comm.gather(dict(values))
    for rank, theirs in enumerate(everyone):
        for name, value in theirs.items():
            if value != everyone[0].get(name):
                raise CollectiveError(
                    f"rank {rank} ({comm.hosts[rank]}) has {name} = {value}, rank 0 has "
                    f"{everyone[0].get(name)}: start every rank with the same options and files"
                )


def odd_ranks(comm: Communicator, digest: str) -> list[str]:
    """The ranks, with their hosts, whose digest is not the one that most have; of two, rank 0's."""
    digests = comm.gather(digest)
    usual = max(digests, key=digests.count)
    return [f"{rank} ({comm.hosts[rank]})" for rank, each in enumerate(digests) if each != usual]
