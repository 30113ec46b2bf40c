"""The watchdog of a job: where nothing moves, it says who is awaited, and ends the job at last.

A rank that waits in MPI cannot ask MPI why. So each rank of several has a thread with a UDP socket,
whose address and a random token are exchanged over MPI once, at the start. The thread sleeps, and
answers the others' questions: in which phase is this rank, at which step, for how long? A rank that
computes answers, too; one that was stopped, has ended, or is cut off does not. That differs from a
heartbeat: as long as steps are made, no message is sent at all.

A rank is *quiet* while its clock enters no phase. After `notice` seconds it asks all others:

    some rank has moved meanwhile     nothing is wrong; e.g. ranks that average weights wait at the
                                      end of an epoch for a slow one
    nobody has moved                  the lowest rank that waits says for whom
    and so for `limit` seconds        unless a rank that answers is at work: each rank ends itself

A rank whose launcher's process on its host was killed ends itself at once: nobody else would.

Each rank counts its quiet time by its own wakings, so that one that was itself suspended does not
judge the others in the moment that it comes back. No method but the constructor calls MPI, which is
initialised for one thread at a time.
"""

import hmac
import os
import secrets
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import NamedTuple, NoReturn

from npnet.machine.clock import PHASES, TOGETHER
from npnet.machine.network import interfaces
from npnet.parallel.communicator import Communicator, end_process
from npnet.status import FAILURE

NOTICE = 60.0  # seconds without progress, until it is said and between two such lines
TICK = 1.0  # seconds between two looks of the thread
TRIES = 5  # of a question, a tick each: a packet may be lost, and kernels hold Python's lock
BUSY = 0.05  # of a core: a rank that uses as much is at work
MOST_NAMES = 4  # of ranks in a line
MOST_ADDRESSES = 8  # of a host

# What a rank may be at, by whose number it travels. Those of LONG may take any time.
ACTIVITIES = (*PHASES, "start", "compile")
LONG = ("test", "checkpoint", "other", "start", "compile")
PREPARATION = {"start": "which prepares the run", "compile": "which compiles the kernels"}

ASK, ANSWER = 1, 2
# token, kind, round, rank, activity, at work, epoch, step, quiet seconds
PACKET = struct.Struct("!16sBIIB?IIf")


class State(NamedTuple):
    """What a rank tells of itself."""

    activity: str
    works: bool  # at something that may be long, or uses its processor
    epoch: int  # from 1, as the step; 0: before the first
    step: int
    quiet: float  # seconds

    @property
    def waits(self) -> bool:
        return self.activity in TOGETHER

    @property
    def place(self) -> str:
        """Such as "epoch 2, step 17"."""
        if not self.epoch:
            return "the start of the run"
        return f"epoch {self.epoch}" + (f", step {self.step}" if self.step else "")


class Packet(NamedTuple):
    """A question or an answer; both tell the sender's state."""

    kind: int
    round: int
    rank: int
    state: State

    def encoded(self, token: bytes) -> bytes:
        activity, works, epoch, step, quiet = self.state
        number = ACTIVITIES.index(activity)
        return PACKET.pack(
            token, self.kind, self.round, self.rank, number, works, epoch, step, quiet
        )

    @classmethod
    def decoded(cls, data: bytes, token: bytes, size: int) -> "Packet | None":
        """None for what no rank of this job has sent."""
        if len(data) != PACKET.size:
            return None
        theirs, kind, number, rank, activity, works, epoch, step, quiet = PACKET.unpack(data)
        if not hmac.compare_digest(theirs, token) or kind not in (ASK, ANSWER):
            return None
        if rank >= size or activity >= len(ACTIVITIES) or not 0 <= quiet < 1e9:
            return None
        return cls(kind, number, rank, State(ACTIVITIES[activity], works, epoch, step, quiet))


class Watchdog:
    """Watches over a job from its making on, which all ranks must do together.

    `limit`: seconds, 0 for no end; rank 0's counts. `say` prints a line about who is awaited,
    `last_words` the one with which the job ends. A rank that is alone has neither thread nor
    socket.
    """

    def __init__(
        self,
        comm: Communicator,
        limit: float,
        say: Callable[[str], None],
        last_words: Callable[[str], None],
    ) -> None:
        self.rank, self.clock = comm.rank, comm.clock
        self.hosts, self._nodes = comm.hosts, comm.nodes
        self.others = [rank for rank in range(comm.size) if rank != comm.rank]
        self.say, self.last_words = say, last_words
        self.advice: Callable[[], str] = lambda: "start it again"
        if not self.others:
            return
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("", 0))
        self._socket.setblocking(False)
        self._token, self.limit = comm.broadcast((secrets.token_bytes(16), limit))
        port = self._socket.getsockname()[1]
        here = self._nodes[self.rank]
        self._places = [
            [("127.0.0.1", port)] if node == here else [(each, port) for each in addresses]
            for node, (port, addresses) in zip(
                self._nodes, comm.gather((port, addresses_of_host())), strict=True
            )
        ]
        self.notice = min(NOTICE, self.limit / 2) if self.limit else NOTICE
        self.tick = min(TICK, self.notice / 4)
        self._round, self._answers = 0, dict[int, State]()
        self._heard: set[int] = set()  # of all rounds
        self._quiet = self._unused = 0.0  # seconds without a new phase; without work, too
        self._next = self.notice
        self._since, self._cpu = self.clock.since, time.process_time()
        self._parent = os.getppid()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """No more questions, and no more answers."""
        if self.others:
            self._over.set()
            self._thread.join()
            self._socket.close()

    def _run(self) -> None:
        self._ask()  # so that it is known whom questions reach
        while not self._over.is_set():
            self._listen(self.tick)
            if os.getppid() != self._parent:
                self._end_as_orphan()
            if self._quiet >= self._next and not self.state().works:
                self._judge(self._ask())

    def _end_as_orphan(self) -> NoReturn:
        name = f"rank {self.rank} ({self.hosts[self.rank]})"
        self._said(self.last_words, f"{name}: what had started it is gone; {self.advice()}")
        os._exit(FAILURE)

    def state(self) -> State:
        """This rank's own."""
        clock = self.clock
        activity = clock.task or clock.phase
        if activity == "other" and not clock.epoch:
            activity = "start"
        used = self._unused < self.notice and activity not in TOGETHER
        return State(activity, activity in LONG or used, clock.epoch, clock.step, self._quiet)

    def _look(self, elapsed: float) -> None:
        """Count what has passed since the last look, but no time in which this rank was stopped."""
        passed, cpu = min(elapsed, 2 * self.tick), time.process_time()
        if self.clock.since != self._since:
            self._since, self._quiet, self._next = self.clock.since, 0.0, self.notice
            self._unused = 0.0
        else:
            self._quiet += passed
            worked = self.clock.phase not in TOGETHER and cpu - self._cpu > BUSY * elapsed
            self._unused = 0.0 if worked else self._unused + passed
        self._cpu = cpu

    def _listen(self, seconds: float) -> None:
        """Answer, and take answers, for so long; then look at the clock."""
        start = time.monotonic()
        while (left := start + seconds - time.monotonic()) > 0 and not self._over.is_set():
            if select.select([self._socket], [], [], min(left, TICK))[0]:
                self._receive()
        self._look(time.monotonic() - start)

    def _receive(self) -> None:
        try:
            data, place = self._socket.recvfrom(PACKET.size + 1)
        except OSError:  # such as that a peer's port is closed
            return
        packet = Packet.decoded(data, self._token, len(self.hosts))
        if packet is None or packet.rank == self.rank:
            return
        self._heard.add(packet.rank)
        if packet.kind == ASK:
            self._send(ANSWER, packet.round, place)
        elif packet.round == self._round:
            self._answers[packet.rank] = packet.state

    def _send(self, kind: int, number: int, place: tuple[str, int]) -> None:
        packet = Packet(kind, number, self.rank, self.state())
        with suppress(OSError):  # no way there
            self._socket.sendto(packet.encoded(self._token), place)

    def _ask(self) -> dict[int, State]:
        """The state of every rank that answers."""
        self._round, self._answers = self._round + 1, {}
        for _ in range(TRIES):
            for rank in self.others:
                if rank not in self._answers:
                    for place in self._places[rank]:
                        self._send(ASK, self._round, place)
            self._listen(self.tick)
            if len(self._answers) == len(self.others):
                break
        return self._answers

    def _judge(self, answers: dict[int, State]) -> None:
        """Say who is awaited; end where that has lasted too long."""
        mine = self.state()
        everyone = {**answers, self.rank: mine}
        quiet = min(state.quiet for state in everyone.values())  # seconds, of the whole job
        left = self.limit - quiet if self.limit else self.notice
        if left > 0:  # to ask again when it will be the limit
            self._next = self._quiet + max(self.tick, min(self.notice, left))
        else:
            self._next = self._quiet + self.notice
        if quiet < self.notice or not self._quiet:
            return
        speaks = min((rank for rank in everyone if everyone[rank].waits), default=min(everyone))
        words = self._words(quiet, everyone)
        working = any(state.works for state in everyone.values())
        silent = [rank for rank in self.others if rank not in answers]
        unknown = not self._heard.issuperset(silent)
        if left > 0 or working or unknown:
            if speaks == self.rank:
                self._said(self.say, words)
            return
        if speaks != self.rank:  # which may take as long to find out
            before = self._since
            self._listen(2 * TRIES * self.tick)
            if self._over.is_set() or self.clock.since != before:
                return
        else:
            ends = f"the job is ended (--stall-limit {self.limit:g})"
            self._said(self.last_words, f"{words}: {ends}; {self.advice()}")
        end_process(FAILURE, any(self._nodes[rank] != self._nodes[self.rank] for rank in silent))

    def _said(self, printer: Callable[[str], None], words: str) -> None:
        with suppress(OSError, ValueError):  # the console may be gone
            printer(words)

    def _words(self, quiet: float, everyone: dict[int, State]) -> str:
        waiting = [state for state in everyone.values() if state.waits]
        since = time.strftime("%H:%M:%S", time.localtime(time.time() - quiet))
        begin = f"nothing has moved for {quiet:.0f} s, since {since}"
        place = (waiting or list(everyone.values()))[0].place
        awaited = [
            self._of(rank, everyone.get(rank))
            for rank in range(len(self.hosts))
            if rank not in everyone or not everyone[rank].waits
        ]
        if not awaited:
            return f"{begin}: all ranks answer, and wait in {place}: MPI's messages are lost"
        if len(awaited) > MOST_NAMES:
            more = len(awaited) - MOST_NAMES
            awaited = [*awaited[:MOST_NAMES], f"{more} more"]
        return f"{begin}: {place} waits for {'; and for '.join(awaited)}"

    def _of(self, rank: int, state: State | None) -> str:
        name = f"rank {rank} ({self.hosts[rank]})"
        if state is not None:
            phase = PREPARATION.get(state.activity, f"in phase {state.activity}")
            where = f" of {state.place}" if state.epoch else ""
            return f"{name}, {phase}{where} for {state.quiet:.0f} s"
        if rank in self._heard:
            return f"{name}, which does not answer: it is stopped, has ended, or is cut off"
        return f"{name}, which has never answered: UDP may be blocked on the way"


def addresses_of_host() -> Sequence[str]:
    """The IPv4 addresses at which other hosts may reach this one."""
    found = [str(each.ip) for own in interfaces().values() for each in own if not each.is_loopback]
    return found[:MOST_ADDRESSES]
