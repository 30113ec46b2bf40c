"""`npnet machinefile` and `npnet launch`: what they write, print, start and refuse."""

import os
import shlex
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner

from npnet.cli.main import cli
from npnet.parallel.hosts import LINES
from npnet.parallel.launch import Launcher
from tests.launch import SOURCES, TINY, npnet_run, npnet_started, wait_for

READY = SOURCES / "machinefiles"
NODES_OF_PAPER = (1, 2, 4, 8, 12, 16, 20, 24)
TRAIN = ("train", *TINY, "--evaluate", "never", "--out", "run")


@pytest.mark.parametrize("maker", LINES)
@pytest.mark.parametrize("nodes", NODES_OF_PAPER)
def test_the_ready_files_are_what_the_command_makes(nodes, maker):
    hosts = f"rpi4b-ma-[00-{nodes - 1:02d}]"
    made = CliRunner().invoke(cli, ["machinefile", "--hosts", hosts, "--mpi", maker]).output
    name = f"pi-{nodes}.txt" if maker == "mpich" else f"pi-{nodes}.openmpi.txt"
    assert (READY / name).read_text() == made
    assert made.count("\n") == nodes
    assert made.startswith(LINES[maker].format(host="rpi4b-ma-00", ranks=2))


def test_there_are_no_other_ready_files():
    assert len(list(READY.glob("*.txt"))) == 2 * len(NODES_OF_PAPER)


def test_a_machinefile_is_written(tmp_path):
    command = ("machinefile", "--hosts", "a[1-2],b", "--ranks-per-node", 3, "--out", "hosts")
    assert npnet_run(*command, cwd=tmp_path).stdout == "wrote hosts: 3 hosts, 9 ranks\n"
    assert (tmp_path / "hosts").read_text() == "a1:3\na2:3\nb:3\n"
    outcome = npnet_run("machinefile", "--hosts", "a", "--out", "no/hosts", cwd=tmp_path)
    assert "cannot write no/hosts" in outcome.error


@pytest.mark.mpi
def test_what_is_printed_can_be_pasted(tmp_path):
    """Comments, then one line; words that a shell would change are quoted."""
    outcome = npnet_run(
        *("launch", "-n", 2, "--", "info", "--data-dir", "my data"),
        cwd=tmp_path,
        environment={"NPNET_DATA": "$HOME it's"},
    )
    assert outcome.status == 0, outcome.stderr
    *comments, line = outcome.stdout.splitlines()
    assert len(comments) > 2
    assert all(comment.startswith("# ") and ": " in comment for comment in comments)
    words = shlex.split(line)
    assert words[-7:] == [sys.executable, "-P", "-m", "npnet", "info", "--data-dir", "my data"]
    assert any("$HOME it's" in word for word in words)
    assert words[words.index("-n") + 1] == "2"


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-n", 2, "--", "trian"), "No such command 'trian'"),
        (("-n", 2, "--", "fit"), "it is npnet train here"),
        (("-n", 2, "bench", "steep"), "No such command 'steep'"),
        (("-n", 2), "Missing argument 'COMMAND...'"),
        (("--", "train"), "how many ranks? Give -n, or a --machinefile"),
        (("-n", 0, "train"), "0 is not in the range"),
        (("-n", 2, "--machinefile", "no", "train"), "cannot read the machinefile no: No such file"),
        (("-n", 5, "--machinefile", "hosts", "train"), "hosts holds 4 ranks (2 hosts), 5 are too"),
        (("--machinefile", "other", "train"), "other has the form of "),
        (("-n", 2, "--interface", "eth77", "train"), "there is no --interface eth77 that is up"),
    ],
)
def test_what_cannot_be_started_is_one_line(arguments, words, tmp_path):
    maker = Launcher.find().maker
    forms = {"hosts": maker, "other": "openmpi" if maker == "mpich" else "mpich"}
    for name, form in forms.items():
        lines = [LINES[form].format(host=host, ranks=2) for host in ("a", "b")]
        (tmp_path / name).write_text("".join(lines))
    outcome = npnet_run("launch", *arguments, cwd=tmp_path)
    assert words in outcome.error
    assert outcome.stdout == ""


@pytest.mark.mpi
def test_it_is_not_started_under_mpiexec(tmp_path):
    outcome = npnet_run("launch", "-n", 2, "--run", "--", *TRAIN, cwd=tmp_path, ranks=2)
    assert "npnet launch starts mpiexec by itself" in outcome.error
    assert not (tmp_path / "run").exists()


@pytest.mark.mpi
def test_ranks_are_started_and_their_status_is_passed_on(place):
    outcome = npnet_run("launch", "-n", 2, "--run", "--", *TRAIN, cwd=place)
    assert outcome.status == 0, outcome
    assert "[SUMMARY] world=2 " in outcome.stdout
    outcome = npnet_run("launch", "-n", 2, "--run", "--", *TRAIN, cwd=place)
    assert outcome.status == 2
    assert "run holds a run already" in outcome.errors[0]


def test_in_an_allocation_of_slurm_it_is_srun(tmp_path):
    """A stand-in for srun, which says how it was called."""
    (tmp_path / "srun").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\nexit 7\n')
    (tmp_path / "srun").chmod(0o755)
    slurm = {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_JOB_NODELIST": "pi-00"}
    outcome = npnet_run(
        *("launch", "--run", "--", "info"),
        cwd=tmp_path,
        environment={**slurm, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )
    assert outcome.status == 7
    assert outcome.stdout.split()[:2] == ["-n", "4"]
    assert outcome.stdout.split()[-5:] == [sys.executable, "-P", "-m", "npnet", "info"]


@pytest.mark.mpi
def test_ctrl_c_ends_all(place):
    """As a terminal sends it: to the whole group of processes."""
    endless = ("--epochs", "10000", "--input-size", "32")
    long = ("--out", str(place / "long"))
    command = ("launch", "-n", "2", "--run", "--", *TRAIN, *endless, *long)
    process = npnet_started(*command, cwd=place)
    wait_for(place / "long/log.csv")
    assert len(started(place)) > 2  # mpiexec and its ranks
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(timeout=60) != 0
    deadline = time.monotonic() + 60
    while started(place) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert started(place) == []


def started(folder: Path) -> list[int]:
    """The processes that have the folder on their command line."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        if any(str(folder) in word for word in process.info["cmdline"] or ()):
            found.append(process.pid)
    return found
