"""A job in which nothing moves: who is awaited, and that it ends on every rank."""

import re
import socket
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from npnet.machine.clock import Clock
from npnet.parallel import watchdog
from npnet.parallel.communicator import SerialCommunicator
from npnet.parallel.watchdog import ANSWER, ASK, PACKET, Packet, State, Watchdog
from tests.cifar_files import write_cifar
from tests.launch import IN_STEP, TINY, launcher, npnet_run, programs_run
from tests.namespaces import Hosts, hosts

OPEN_MPI = "--oversubscribe"  # in the launcher's words
SHORT = ("--stall-limit", "4")
SHORTEST = ("--stall-limit", "2")  # where nobody has to join in that time
NPNET = (sys.executable, "-m", "npnet")
TOKEN = bytes(range(16))
STATE = State("forward", True, 2, 17, 61.5)

# What one rank does at the start of the command.
AT_START = """
import npnet.data
opened = npnet.data.open_dataset
def fail(*args):
    if rank == {rank}:
        import os, sys
        {deed}
    return opened(*args)
npnet.data.open_dataset = fail
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_cifar(tmp_path / "data")
    return tmp_path


def processes_of(place: Path) -> list[psutil.Process]:
    """Those that were started in a folder and are left, though mpiexec has had time to end them."""
    found = [each for each in psutil.process_iter(["cwd"]) if each.info["cwd"] == str(place)]
    return psutil.wait_procs(found, timeout=10)[1]


@pytest.mark.mpi
@pytest.mark.parametrize("rank", [0, 1])
def test_a_stopped_rank_is_named_and_all_end(place: Path, rank: int) -> None:
    fault = IN_STEP.format(rank=rank, deed="os.kill(os.getpid(), signal.SIGSTOP)")
    run = ("train", *TINY, *SHORT, "--epochs", 2, "--max-steps", 1, "--out", "run")
    outcome = npnet_run(*run, cwd=place, ranks=2, patches=fault)
    (line,) = outcome.errors
    assert re.match(r"nothing has moved for \d+ s, since \d\d:\d\d:\d\d: epoch 2, step 1 ", line)
    assert re.search(rf"waits for rank {rank} \(\S+\), which does not answer: it is stopped", line)
    assert line.endswith("(--stall-limit 4); go on with mpiexec -n 2 npnet train --resume run")
    assert outcome.status != 0
    assert processes_of(place) == []
    if rank == 1:
        assert npnet_run(*line.split()[-3:], cwd=place, ranks=2).status == 0


@pytest.mark.mpi
def test_ranks_whose_launcher_s_process_is_gone_end(place: Path) -> None:
    """That is MPICH's proxy on the host, or Open MPI's mpiexec itself."""
    fault = IN_STEP.format(rank=0, deed="os.kill(os.getppid(), signal.SIGKILL); time.sleep(90)")
    outcome = npnet_run("train", *TINY, "--out", "run", cwd=place, ranks=2, patches=fault)
    assert outcome.status != 0
    assert processes_of(place) == []


@pytest.mark.mpi
def test_who_computes_is_named_and_nothing_ends(place: Path) -> None:
    """A rank that is long at something that may last: it answers, and the job goes on."""
    fault = """
from npnet.training.evaluate import Evaluator
scores = Evaluator.scores
def slow(self, *args):
    if rank == 1:
        import time
        time.sleep(6)
    return scores(self, *args)
Evaluator.scores = slow
"""
    outcome = npnet_run("train", *TINY, *SHORT, cwd=place, ranks=2, patches=fault)
    assert outcome.status == 0, outcome.stderr
    lines = [line for line in outcome.stdout.splitlines() if line.startswith("[WAIT] ")]
    assert lines
    for line in lines:
        assert re.search(r": epoch 1, step 2 waits for rank 1 \(\S+\), in phase test of ", line)


@pytest.mark.mpi
def test_a_rank_that_hangs_without_work(place: Path) -> None:
    """It answers, but neither moves nor computes, as where a disk is gone."""
    fault = IN_STEP.format(rank=1, deed="time.sleep(60)")
    outcome = npnet_run("train", *TINY, *SHORT, "--out", "run", cwd=place, ranks=2, patches=fault)
    (line,) = outcome.errors
    assert re.search(r"rank 1 \(\S+\), in phase \w+ of epoch 1, step 2 for \d+ s: the job", line)
    assert outcome.status != 0
    assert processes_of(place) == []


@pytest.mark.mpi
@pytest.mark.parametrize("fault", [AT_START, IN_STEP], ids=["at the start", "in a step"])
@pytest.mark.parametrize("deed", ["sys.exit(0)", "os._exit(0)"])
def test_a_rank_that_leaves_as_if_all_were_well(place: Path, fault: str, deed: str) -> None:
    """MPICH's mpiexec ends the others of one that is gone at once, and its status is that one's."""
    patches = fault.format(rank=1, deed=deed)
    outcome = npnet_run("train", *TINY, *SHORT, "--out", "run", cwd=place, ranks=2, patches=patches)
    if deed.startswith("sys"):
        assert re.search(r"^npnet: rank 1 \(\S+\): it failed$", outcome.stderr, re.MULTILINE)
    if deed.startswith("sys") or OPEN_MPI in launcher():
        assert outcome.status != 0
    assert "[SUMMARY]" not in outcome.stdout
    assert processes_of(place) == []


@pytest.mark.mpi
@pytest.mark.parametrize("order", [1, -1])
def test_another_program_on_one_rank(place: Path, order: int) -> None:
    """It never joins; nobody can know who it is."""
    programs = ((*NPNET, "train", *TINY, *SHORTEST), ("true",))
    outcome = programs_run(*programs[::order], cwd=place)
    rank = 0 if order == 1 else 1
    words = rf"rank {rank} \(\S+\) has waited 2 s for the other processes of 2 to join: "
    (line,) = outcome.errors
    assert re.match(words, line)
    assert outcome.status != 0
    assert processes_of(place) == []


@pytest.mark.mpi
@pytest.mark.parametrize("other", [("train", "--help"), ("info",), ("doctor",), ("--version",)])
def test_another_command_on_one_rank(place: Path, other: tuple[str, ...]) -> None:
    outcome = programs_run((*NPNET, "train", *TINY), (*NPNET, *other), cwd=place)
    words = re.escape(" ".join(other))
    expected = rf"rank 1 \(\S+\) runs npnet {words}, rank 0 \(\S+\) npnet train: start every"
    if other != ("doctor",):
        assert re.match(expected, outcome.error)
    assert outcome.status != 0
    assert not (place / "runs").exists()


@pytest.mark.mpi
def test_the_same_help_on_all_ranks_is_well(place: Path) -> None:
    outcome = npnet_run("train", "--help", cwd=place, ranks=2)
    assert (outcome.status, outcome.stderr) == (0, "")
    assert outcome.stdout.count("--stall-limit") == 2


@pytest.mark.mpi
def test_a_command_that_fails_before_it_joins(place: Path) -> None:
    outcome = programs_run((*NPNET, "train", *TINY), (*NPNET, "plot", "nothing"), cwd=place)
    (line,) = outcome.errors
    assert re.match(r"rank 1 \(\S+\): ", line)
    assert outcome.status != 0


@pytest.mark.mpi
def test_a_dead_link_ends_the_ranks_of_both_hosts(tmp_path: Path) -> None:
    """Each side by itself: not even mpiexec reaches the other."""
    write_cifar(tmp_path / "data")
    sizes = ("--input-size", "32", "--width", "0.1", "--backend", "reference")
    run = ("--epochs", "100000", "--evaluate", "at-end", "--keep", "1", "--stall-limit", "3")
    with hosts(tmp_path, "one", "two") as cluster:
        cut = threading.Thread(target=cut_when_it_trains, args=(cluster, tmp_path))
        cut.start()
        command = (*NPNET, "train", *sizes, *run, "--no-progress", "--out", "run")
        done = cluster.run(*command, timeout=60)
        cut.join()
        left = [each.cmdline() for each in processes_of(tmp_path)]
    words = r"epoch \d+, step \d+ waits for rank 1 \(two\), which does not answer: it is stopped,"
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("npnet: error: ")]
    assert re.search(words, line)
    assert done.returncode != 0
    assert [words for words in left if "npnet" in words] == []


def cut_when_it_trains(cluster: Hosts, folder: Path) -> None:
    while not (folder / "run/log.csv").exists():
        time.sleep(0.1)
    cluster.cut("two")


# Without MPI: two watchdogs in one process.


class Ranks:
    """A communicator of threads, as far as a watchdog needs one."""

    def __init__(self, rank: int, met: list[object], barrier: threading.Barrier) -> None:
        self.rank, self.size, self.hosts, self.nodes = rank, 2, ["one", "two"], [0, 0]
        self.clock, self._met, self._barrier = Clock(), met, barrier

    def gather(self, value: object) -> list[object]:
        self._met[self.rank] = value
        self._barrier.wait()
        found = list(self._met)
        self._barrier.wait()
        return found

    def broadcast(self, value: object) -> object:
        return self.gather(value)[0]


def test_packets_of_others_are_dropped() -> None:
    for kind in (ASK, ANSWER):
        packet = Packet(kind, 3, 1, STATE)
        data = packet.encoded(TOKEN)
        assert Packet.decoded(data, TOKEN, 2) == packet
        assert Packet.decoded(data, bytes(16), 2) is None
        assert Packet.decoded(data, TOKEN, 1) is None  # no such rank
        assert Packet.decoded(data[:-1], TOKEN, 2) is None
        assert Packet.decoded(data + b"x", TOKEN, 2) is None
    fields = PACKET.unpack(data)
    wrong = {1: (0, 3), 4: (len(watchdog.ACTIVITIES), 255), 8: (float("nan"), float("inf"), -1.0)}
    for index, values in wrong.items():
        for value in values:
            made_up = PACKET.pack(*fields[:index], value, *fields[index + 1 :])
            assert Packet.decoded(made_up, TOKEN, 2) is None, (index, value)


def test_a_stranger_gets_no_answer() -> None:
    """Nor does what it sends disturb the thread."""
    met, barrier = [None, None], threading.Barrier(2)
    ranks = [Ranks(rank, met, barrier) for rank in range(2)]
    dogs: list[Watchdog] = []
    makers = [
        threading.Thread(target=lambda comm=comm: dogs.append(Watchdog(comm, 600, print, print)))
        for comm in ranks
    ]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    dog = min(dogs, key=lambda each: each.rank)
    try:
        (place, *_) = dog._places[0]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
            stranger.settimeout(0.3)
            for data in (b"", b"x" * 2000, Packet(ASK, 1, 1, STATE).encoded(TOKEN)):
                stranger.sendto(data, place)
                with pytest.raises(TimeoutError):
                    stranger.recv(100)
            stranger.settimeout(10)
            stranger.sendto(Packet(ASK, 9, 1, STATE).encoded(dog._token), place)
            answer = Packet.decoded(stranger.recv(100), dog._token, 2)
        assert answer is not None
        assert (answer.kind, answer.round, answer.rank) == (ANSWER, 9, 0)
        assert answer.state.activity == "start"
    finally:
        for each in dogs:
            each.close()


def test_one_rank_needs_neither_thread_nor_socket() -> None:
    before = threading.active_count()
    dog = Watchdog(SerialCommunicator(), 600, print, print)
    assert threading.active_count() == before
    dog.close()


def test_time_in_which_a_rank_was_itself_stopped_does_not_count() -> None:
    clock = SimpleNamespace(since=1.0, phase="wait", task="", epoch=1, step=1)
    dog = object.__new__(Watchdog)
    vars(dog).update(clock=clock, tick=1.0, notice=60.0, _since=1.0, _cpu=0.0)
    vars(dog).update(_quiet=0.0, _unused=0.0, _next=60.0)
    dog._look(elapsed=3600.0)
    assert dog._quiet == 2.0
    clock.since = 2.0
    dog._look(elapsed=1.0)
    assert dog._quiet == 0.0
