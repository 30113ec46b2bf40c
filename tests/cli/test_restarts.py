"""`npnet launch --restarts`: a job that died goes on, with nothing lost but some steps."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from npnet.errors import NpnetError
from npnet.parallel.hosts import LINES, Machinefile
from npnet.parallel.launch import Launcher, Ranks
from npnet.parallel.supervisor import on_answering_hosts
from npnet.training.checkpoint import load
from npnet.training.run_folder import RunFolder
from tests.launch import (
    ENGINE_FIRST,
    SOURCES,
    TINY,
    Outcome,
    npnet_run,
    npnet_started,
    wait_for,
)
from tests.namespaces import CLUSTER, needs_cluster, on_the_first_of

BEGIN = ("train", *TINY, "--evaluate", "at-end", "--batch-per-rank", "1")
TRAIN = (*BEGIN, "--epochs", "3", "--max-steps", "6", "--checkpoint-every", "2")

# Python runs this first, in each process. {who} is killed once at each of the places, as (epoch,
# step) from 0.
DIE = """
import os, platform
if {who}:
{engine}
    from pathlib import Path
    at = Trainer.at
    def die(self, epoch, step):
        at(self, epoch, step)
        place = Path({folder!r}, f"died-{{epoch}}-{{step}}")
        if (epoch, step) in {places} and not place.exists():
            place.touch()
            os.kill(os.getpid(), 9)
    Trainer.at = die
"""
RANK_1 = 'os.environ.get("PMI_RANK", os.environ.get("OMPI_COMM_WORLD_RANK")) == "1"'
Places = tuple[tuple[int, int], ...]

RESTART = re.compile(r"npnet: the job died after 0:00:\d\d with status (\d+); restart (\d) on .*")


def plant(cwd: Path, who: str, places: Places) -> str:
    """The PYTHONPATH with which processes die there."""
    engine = "".join(f"    {line}\n" for line in ENGINE_FIRST.splitlines())
    patch = DIE.format(who=who, engine=engine, folder=str(cwd), places=places)
    (cwd / "sitecustomize.py").write_text(patch)
    return f"{cwd}{os.pathsep}{SOURCES}"


def launch(cwd: Path, *options: object, places: Places = ()) -> Outcome:
    """`npnet launch --run` with those options, of a job whose rank 1 dies at those places."""
    path = plant(cwd, RANK_1, places)
    command = ("launch", "-n", "2", "--run", *map(str, options))
    return npnet_run(*command, cwd=cwd, environment={"PYTHONPATH": path}, timeout=300)


def restarts(outcome: Outcome) -> list[int]:
    found = map(RESTART.fullmatch, outcome.stderr.splitlines())
    return [int(match[2]) for match in found if match]


@pytest.mark.mpi
def test_a_job_that_died_goes_on_to_the_same_end(place: Path) -> None:
    whole = launch(place, "--", *TRAIN, "--out", "whole")
    assert whole.status == 0, whole.stderr
    places = ((0, 1), (1, 3), (2, 5))  # before the first checkpoint, in an epoch, in its last step
    outcome = launch(place, "--restarts", 3, "--", *TRAIN, places=places)
    assert outcome.status == 0, outcome.stderr
    assert restarts(outcome) == [1, 2, 3]
    (run,) = (place / "runs").glob("cifar10-modern-np2-*/")
    assert load(run / "final.npz").digest() == load(place / "whole/final.npz").digest()
    assert [row["epoch"] for row in RunFolder(run).read_log()] == list("112233")
    begun, second, third = re.findall(
        r"\[INFO\] (\S+ has no checkpoint.*|Goes on .*)", outcome.stdout
    )
    assert begun.endswith("has no checkpoint yet: it begins once more")
    assert second.endswith("step-002-000002.npz with epoch 2 of 3, step 3 of 6")
    assert third.endswith("step-003-000004.npz with epoch 3 of 3, step 5 of 6")
    # Rank 0 may be a step behind or not when rank 1 is killed.
    assert (
        len(re.findall(r"\[INFO\] Lost: (?:1 step|2 steps) done after that", outcome.stdout)) >= 2
    )
    assert not list(run.glob(".*"))


@pytest.mark.mpi
def test_restarts_are_counted(place: Path) -> None:
    outcome = launch(place, "--restarts", 1, "--", *TRAIN, places=((0, 1), (0, 3)))
    assert outcome.status not in (0, 2)
    assert restarts(outcome) == [1]


@pytest.mark.mpi
def test_what_is_refused_is_not_started_once_more(place: Path) -> None:
    (place / "run").mkdir()
    (place / "run/log.csv").write_text("epoch\n1\n")
    outcome = launch(place, "--restarts", 3, "--", *TRAIN, "--out", "run")
    assert outcome.status == 2
    assert "run holds a run already" in outcome.error
    assert restarts(outcome) == []


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--restarts", "1", "--", "train"), "--restarts is for --run and npnet train"),
        (("--restarts", "1", "--run", "--", "info"), "--restarts is for --run and npnet train"),
        (("--restarts", "1", "--run", "--", "train", "--epochs", "no"), "'no' is not a valid"),
        (("--restarts", "-1", "--run", "--", "train"), "-1 is not in the range"),
    ],
)
def test_what_cannot_be_restarted(options: tuple[str, ...], words: str, tmp_path: Path) -> None:
    assert words in npnet_run("launch", "-n", "2", *options, cwd=tmp_path).error


@pytest.mark.mpi
def test_a_job_that_is_asked_to_end_is_not_started_once_more(place: Path) -> None:
    """A signal to this one process reaches the ranks."""
    endless = (*BEGIN, "--epochs", "10000", "--max-steps", "20", "--out", "long")
    command = ("launch", "-n", "2", "--run", "--restarts", "9", *endless)
    process = npnet_started(*command, cwd=place, stderr=subprocess.PIPE)
    wait_for(place / "long/log.csv")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "; restart" not in errors
    if Launcher.find().maker == "mpich":  # Open MPI's may be too fast for a run to save itself
        assert process.returncode == 75
        launched = "npnet launch -n 2 --run --restarts 9 --"
        assert f"go on with {launched} train --resume long\n" in errors
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # nobody is left


@pytest.fixture
def launcher(tmp_path: Path) -> Launcher:
    """A stand-in for mpiexec, that cannot start anything on pi-1."""
    maker = Launcher.find().maker
    words = LINES[maker].format(host="pi-1", ranks=1).strip()
    script = tmp_path / "mpiexec"
    option = "--hostfile" if maker == "openmpi" else "-machinefile"
    script.write_text(
        f'#!/bin/sh\nwhile [ "$1" != {option} ]; do shift; done\n! grep -q "^{words}$" "$2"\n'
    )
    script.chmod(0o755)
    return Launcher(str(script), maker)


def ranks(folder: Path, maker: str, *hosts: str, number: int, per_node: int | None = None) -> Ranks:
    path = folder / "machines"
    path.write_text("".join(LINES[maker].format(host=host, ranks=2) for host in hosts))
    return Ranks(number, path, per_node)


@pytest.mark.mpi
@pytest.mark.parametrize(("number", "per_node", "left"), [(6, None, 4), (3, None, 3), (3, 1, 2)])
def test_a_host_that_is_gone_is_left_out(
    launcher: Launcher, tmp_path: Path, number: int, per_node: int | None, left: int
) -> None:
    hosts = ("pi-0", "pi-1", "pi-2")
    before = ranks(tmp_path, launcher.maker, *hosts, number=number, per_node=per_node)
    found, missing = on_answering_hosts(launcher, before, tmp_path)
    assert missing == ["pi-1"]
    assert (found.number, found.per_node) == (left, per_node)
    assert found.machinefile is not None
    file = Machinefile.read(found.machinefile)
    assert file.ranks == {"pi-0": 2, "pi-2": 2}
    file.check(found.number, found.per_node, launcher.maker)


@pytest.mark.mpi
def test_ranks_stay_as_they_are_where_all_hosts_answer(launcher: Launcher, tmp_path: Path) -> None:
    before = ranks(tmp_path, launcher.maker, "pi-0", "pi-2", number=4)
    assert on_answering_hosts(launcher, before, tmp_path) == (before, ())
    assert on_answering_hosts(launcher, Ranks(2), tmp_path) == (Ranks(2), ())


@pytest.mark.mpi
def test_no_host_is_left(launcher: Launcher, tmp_path: Path) -> None:
    before = ranks(tmp_path, launcher.maker, "pi-1", number=2)
    with pytest.raises(NpnetError, match=r"none of the 1 hosts of .*machines answers any more"):
        on_answering_hosts(launcher, before, tmp_path)


# In place of ssh: node-3 does not answer once its rank has died.
AGENT = """#!/bin/sh
case " $* " in *" node-3 "*) [ ! -e {folder}/died-1-3 ] || exit 255 ;; esac
export CLUSTER={script}
exec "$CLUSTER" "$@"
"""


@pytest.mark.mpi
def test_a_job_goes_on_without_a_host_that_is_gone(place: Path) -> None:
    needs_cluster(place)
    agent = place / "agent"
    agent.write_text(AGENT.format(folder=place, script=CLUSTER))
    agent.chmod(0o755)
    maker = Launcher.find().maker
    lines = [LINES[maker].format(host=f"node-{i}", ranks=1) for i in (1, 2, 3)]
    (place / "machines").write_text("".join(lines))
    command = (
        *(sys.executable, "-m", "npnet", "launch", "--machinefile", "machines", "--no-binding"),
        *("--restarts", "2", "--run", "--", *TRAIN, "--out", "run"),
    )
    with_agent = f'export HYDRA_LAUNCHER_EXEC={agent} PRTE_MCA_plm_ssh_agent={agent}; exec "$@"'
    done = on_the_first_of(
        *(3, "sh", "-c", with_agent, "sh", *command),
        cwd=place,
        path=plant(place, 'platform.node() == "node-3"', ((1, 3),)),
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "; restart 1 on 2 ranks, without node-3: no answer\n" in done.stderr
    assert "Changed: world 3 -> 2" in done.stdout
    log = RunFolder(place / "run").read_log()
    assert [(row["epoch"], row["host"]) for row in log] == [
        *(("1", f"node-{i}") for i in (1, 2, 3)),
        *((epoch, f"node-{i}") for epoch in "23" for i in (1, 2)),
    ]
