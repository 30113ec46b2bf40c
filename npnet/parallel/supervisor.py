"""A job that is started once more when a rank of it, or a host, dies."""

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from npnet.errors import NpnetError
from npnet.parallel.hosts import Machinefile, machinefile
from npnet.parallel.launch import Launcher, Ranks, environment_of_launcher

SECONDS_TO_ANSWER = 60  # a Raspberry Pi takes a while to start a process by ssh
ENDS = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}  # what asks a job to end
PASSED_ON = ENDS | {signal.SIGUSR1}


class Ended(NamedTuple):
    """How a job ended: with which status, and whether a signal had asked for it."""

    status: int
    asked: bool


class Restart(NamedTuple):
    """A start that follows a job which died. `missing`: hosts that do not answer, left out."""

    number: int
    status: int  # of the job that died
    seconds: float  # that it ran
    ranks: Ranks
    missing: Sequence[str] = ()


def supervise(
    launcher: Launcher,
    ranks: Ranks,
    program: Callable[[], Sequence[str]],
    restarts: int,
    over: Callable[[int], bool],
    say: Callable[[Restart], None],
) -> int:
    """Start `program()` on the ranks, and again up to `restarts` times if it dies; its status.

    A job has died if nobody asked it to end, and with its status it is not `over`. Before each
    restart the hosts of the machinefile are tried: on those that answer the job goes on, with as
    many ranks as they hold. Raises NpnetError where none answers, or the launcher does not start.
    """
    with tempfile.TemporaryDirectory(prefix="npnet-hosts-") as folder:
        here = ranks
        for number in range(restarts + 1):
            begin = time.monotonic()
            ended = run(launcher.command(program(), here))
            if ended.asked or over(ended.status) or number == restarts:
                return ended.status
            seconds = time.monotonic() - begin
            here, missing = on_answering_hosts(launcher, ranks, Path(folder))
            say(Restart(number + 1, ended.status, seconds, here, missing))
    raise AssertionError("a last start has a status")


def run(command: list[str]) -> Ended:
    """Start the launcher and wait for its end; signals to this process reach it meanwhile.

    What a terminal sends, it sends to all processes at once, so that is not passed on.
    """
    awaited = PASSED_ON | {signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, awaited)
    try:
        child = os.posix_spawn(command[0], command, environment_of_launcher(), setsigmask=before)
        asked = False
        while True:
            came = signal.sigwaitinfo(awaited)
            if came.si_signo == signal.SIGCHLD:
                done, status = os.waitpid(child, os.WNOHANG)
                if done:
                    code = os.waitstatus_to_exitcode(status)
                    return Ended(code if code >= 0 else 128 - code, asked)
                continue
            asked = asked or came.si_signo in ENDS
            if came.si_code <= 0:  # of a process, not of the terminal
                os.kill(child, came.si_signo)
    except OSError as error:
        raise NpnetError(f"{command[0]} does not start: {error.strerror}") from error
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def on_answering_hosts(
    launcher: Launcher, ranks: Ranks, folder: Path
) -> tuple[Ranks, Sequence[str]]:
    """The ranks as they fit on the hosts that answer, by a machinefile in `folder`; the others."""
    if ranks.machinefile is None:  # this host, or Slurm's, which knows about them
        return ranks, ()
    hosts = Machinefile.read(ranks.machinefile).ranks
    with ThreadPoolExecutor(len(hosts)) as pool:
        found = list(pool.map(lambda host: answers(launcher, ranks, host, folder), hosts))
    missing = [host for host, there in zip(hosts, found, strict=True) if not there]
    if not missing:
        return ranks, ()
    if len(missing) == len(hosts):
        raise NpnetError(f"none of the {len(hosts)} hosts of {ranks.machinefile} answers any more")
    left = {host: count for host, count in hosts.items() if host not in missing}
    path = folder / "hosts"
    path.write_text("".join(machinefile([h], n, launcher.maker) for h, n in left.items()))
    most = Machinefile.read(path).most_ranks(ranks.per_node)
    return ranks._replace(number=min(ranks.number, most), machinefile=path), missing


def answers(launcher: Launcher, ranks: Ranks, host: str, folder: Path) -> bool:
    """Whether the launcher can start a process there."""
    path = folder / f"only-{host}"
    path.write_text(machinefile([host], 1, launcher.maker))
    one = ranks._replace(number=1, machinefile=path, per_node=None)
    process = subprocess.Popen(
        launcher.command(["true"], one),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=environment_of_launcher(),
        start_new_session=True,
    )
    try:
        return process.wait(SECONDS_TO_ANSWER) == 0
    except subprocess.TimeoutExpired:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False
