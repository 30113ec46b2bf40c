"""Starting ranks: the words of each launcher, and ranks on two hosts with several networks."""

import csv
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from npnet.errors import NpnetError
from npnet.parallel import launch
from npnet.parallel.hosts import machinefile
from npnet.parallel.launch import Launcher, Ranks, environment_of_ranks, prepare
from tests.cifar_files import write_cifar
from tests.launch import TINY
from tests.namespaces import needs_cluster, on_the_first_of

PROGRAM = ["python", "-m", "npnet"]
ON_TWO = Ranks(4, Path("hosts"), 2, "eth0", 1, {"OMP_NUM_THREADS": "1", "NPNET_DATA": "/my data"})


def line(launcher: Launcher, ranks: Ranks) -> str:
    return shlex.join(launcher.command(PROGRAM, ranks))


def test_mpich():
    assert line(Launcher("mpiexec", "mpich"), ON_TWO) == (
        "mpiexec -n 4 -machinefile hosts -bind-to core -ppn 2 -iface eth0 "
        "-genv UCX_NET_DEVICES eth0 -genv FI_PROVIDER tcp -genv FI_TCP_IFACE eth0 "
        "-genv OMP_NUM_THREADS 1 -genv NPNET_DATA '/my data' python -m npnet"
    )


def test_open_mpi():
    assert line(Launcher("mpiexec", "openmpi"), ON_TWO) == (
        "mpiexec -n 4 --hostfile hosts --bind-to core --map-by ppr:2:node "
        "--prtemca prte_if_include eth0 --mca btl_tcp_if_include eth0 "
        "-x OMP_NUM_THREADS=1 -x 'NPNET_DATA=/my data' python -m npnet"
    )


def test_slurm():
    ranks = ON_TWO._replace(machinefile=None)
    assert line(Launcher("srun", "mpich", slurm=True), ranks) == (
        "srun -n 4 --mpi=pmi2 --ntasks-per-node=2 --cpus-per-task=1 --cpu-bind=cores "
        "--kill-on-bad-exit=1 --quit-on-interrupt '--export=ALL,OMP_NUM_THREADS=1,"
        "NPNET_DATA=/my data,UCX_NET_DEVICES=eth0,FI_PROVIDER=tcp,FI_TCP_IFACE=eth0' "
        "python -m npnet"
    )
    open_mpi = line(Launcher("srun", "openmpi", slurm=True), ranks)
    assert "--mpi=pmix" in open_mpi
    assert "OMPI_MCA_btl_tcp_if_include=eth0" in open_mpi
    commas = ranks._replace(environment={"NPNET_A": "1,2"})
    assert "NPNET_A" not in line(Launcher("srun", "mpich", slurm=True), commas)


def test_open_mpi_is_told_to_fill_one_host_after_the_other():
    words = line(Launcher("mpiexec", "openmpi"), ON_TWO._replace(per_node=None))
    assert "--hostfile hosts --bind-to core --map-by slot --prtemca" in words


@pytest.mark.parametrize("root", [True, False])
def test_what_open_mpi_asks_for(root, monkeypatch):
    monkeypatch.setattr(launch.os, "geteuid", lambda: 0 if root else 1000)
    for name in (*launch.AS_ROOT, *launch.MORE_RANKS_THAN_CORES):
        monkeypatch.delenv(name, raising=False)
    as_root = launch.AS_ROOT if root else {}
    open_mpi = Launcher("mpiexec", "openmpi")
    assert open_mpi.environment(ON_TWO) == as_root
    assert open_mpi.environment(Ranks(2)) == as_root | launch.MORE_RANKS_THAN_CORES
    assert Launcher("mpiexec", "mpich").environment(Ranks(2)) == {}


@pytest.mark.parametrize(
    ("launcher", "per_node", "words"),
    [
        (Launcher("mpiexec", "mpich"), None, "-bind-to core:2"),
        (Launcher("mpiexec", "openmpi"), None, "--bind-to core --map-by slot:pe=2"),
        (Launcher("mpiexec", "openmpi"), 1, "--bind-to core --map-by ppr:1:node:pe=2"),
        (Launcher("srun", "mpich", True), None, "--cpus-per-task=2 --cpu-bind=cores"),
    ],
)
def test_a_rank_has_as_many_cores_as_threads(launcher, per_node, words):
    ranks = Ranks(4, None if launcher.slurm else Path("hosts"), per_node, threads=2)
    assert words in line(launcher, ranks)


@pytest.mark.parametrize(
    ("launcher", "words"),
    [
        (Launcher("mpiexec", "mpich"), "-machinefile hosts -ppn 2"),
        (Launcher("mpiexec", "openmpi"), "--hostfile hosts --bind-to none --map-by ppr:2:node -"),
        (Launcher("srun", "mpich", True), "--cpus-per-task=2 --cpu-bind=no "),
    ],
)
def test_ranks_need_not_be_bound(launcher, words):
    free = ON_TWO._replace(machinefile=None if launcher.slurm else Path("hosts"), threads=2)
    assert words in line(launcher, free._replace(binding=False))


def test_without_a_network_nothing_is_said_of_it():
    for launcher in (
        Launcher("m", "mpich"),
        Launcher("m", "openmpi"),
        Launcher("s", "mpich", True),
    ):
        words = line(launcher, ON_TWO._replace(interface=None))
        assert not any(name in words for name in ("eth0", "None", "iface", "if_include", "UCX"))


@pytest.mark.parametrize("maker", ["mpich", "openmpi"])
@pytest.mark.parametrize("slurm", [False, True])
def test_every_part_says_what_it_is_for(maker, slurm):
    launcher = Launcher("launcher", maker, slurm)
    parts = launcher.parts(ON_TWO)
    assert all(part.words and part.reason for part in parts)
    words = [word for part in parts for word in part.words]
    assert [*words, *PROGRAM] == launcher.command(PROGRAM, ON_TWO)


def test_ranks_get_what_was_set_for_npnet(monkeypatch):
    monkeypatch.setenv("NPNET_TARGET", "generic")
    monkeypatch.setenv("UNRELATED", "1")
    found = environment_of_ranks(3)
    assert (found["NPNET_TARGET"], found["OMP_NUM_THREADS"]) == ("generic", "3")
    assert "UNRELATED" not in found


def program(folder: Path, name: str, says: str = "HYDRA build details:") -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


def test_no_launcher_is_one_line(tmp_path, monkeypatch):
    """Neither beside this Python nor on the PATH."""
    monkeypatch.setattr(launch.sys, "executable", str(tmp_path / "bin/python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NpnetError, match=r"no mpiexec is installed: pip install 'npnet\[mpi\]'"):
        Launcher.find()
    mpiexec = program(tmp_path / "bin", "mpiexec")
    assert Launcher.find() == Launcher(str(mpiexec), "mpich")
    with pytest.raises(NpnetError, match="srun is not on the PATH: give a `machinefile`"):
        Launcher.find(slurm=True)
    srun = program(tmp_path, "srun")
    assert Launcher.find(slurm=True) == Launcher(str(srun), "mpich", slurm=True)
    program(tmp_path / "bin", "mpiexec", "mpiexec (Open MPI) 5.0.11")
    assert Launcher.find() == Launcher(str(mpiexec), "openmpi")


def test_in_an_allocation_srun_starts_the_ranks_unless_hosts_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(launch.sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(launch, "interface_to", lambda hosts: "+".join(hosts) or None)
    monkeypatch.setenv("PATH", str(tmp_path))
    program(tmp_path, "mpiexec")
    program(tmp_path, "srun")
    for name, value in {"JOB_ID": "7", "JOB_NODELIST": "n[1-2]", "NTASKS": "4"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    launcher, ranks = prepare(None)
    assert launcher.slurm
    assert (ranks.number, ranks.interface) == (4, "n1+n2")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert prepare(2, interface="eth1")[1][:5] == (2, None, None, "eth1", 3)
    hosts = tmp_path / "hosts"
    hosts.write_text("a:2\nb:1\n")
    launcher, ranks = prepare(None, hosts)
    assert not launcher.slurm
    assert (ranks.number, ranks.interface) == (3, "a+b")
    monkeypatch.delenv("SLURM_JOB_ID")
    with pytest.raises(NpnetError, match="how many ranks"):
        prepare(None)


# Two hosts


def test_ports_are_as_fast_as_asked(cluster, tmp_path):
    rates = ("--mbits", "1000", "--slow", "node-2=100", "--slow", "node-3=10")
    script = "hostname; tc qdisc show dev eth0; grep -c 10.7 /etc/hosts"
    done = on_the_first_of(3, *rates, "sh", "-c", script, cwd=tmp_path)
    assert done.stdout.split()[0] == "node-1"
    assert "rate 1Gbit" in done.stdout
    assert done.stdout.split()[-1] == "3"
    enter = '"$CLUSTER" -x node-{} tc qdisc show dev eth0'
    each = "; ".join(enter.format(host) for host in (2, 3))
    found = on_the_first_of(3, *rates, "sh", "-c", each, cwd=tmp_path).stdout
    assert [word for word in found.split() if word.endswith("bit")] == ["100Mbit", "10Mbit"]
    shell = on_the_first_of(2, cwd=tmp_path)  # which ends with its input
    assert (shell.returncode, shell.stderr) == (0, "")
    assert "usage: " in on_the_first_of("four", cwd=tmp_path).stderr
    assert "--slow HOST=RATE" in on_the_first_of("--help", cwd=tmp_path).stdout
    unknown = on_the_first_of(2, "--slow", "node-3=20", "true", cwd=tmp_path)
    assert (unknown.returncode, unknown.stdout) == (2, "")
    assert "--slow node-3=20 is not like node-1=20" in unknown.stderr
    wrong = on_the_first_of(2, "--speed", "1", "true", cwd=tmp_path)
    assert wrong.returncode == 2
    assert "--speed is no option" in wrong.stderr


@pytest.fixture
def cluster(tmp_path):
    """Run npnet on the first of two hosts, on which a cable, Wi-Fi and Docker make networks."""
    needs_cluster(tmp_path)
    maker = Launcher.find().maker
    (tmp_path / "hosts").write_text(machinefile(["node-1", "node-2"], 1, maker))
    write_cifar(tmp_path / "data")

    def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
        command = (sys.executable, "-m", "npnet", "launch", "--machinefile", "hosts", *arguments)
        return on_the_first_of(2, "--traps", *command, cwd=tmp_path)

    return run


TRAIN = ("--", "train", *TINY, "--evaluate", "never", "--out", "run")


@pytest.mark.mpi
def test_the_line_that_is_printed_starts_ranks_on_both_hosts(cluster, tmp_path):
    printed = cluster(*TRAIN)
    (tmp_path / "line.sh").write_text(printed.stdout)
    done = on_the_first_of(2, "--traps", "sh", "line.sh", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    with (tmp_path / "run/log.csv").open(newline="") as file:
        assert {row["host"] for row in csv.DictReader(file)} == {"node-1", "node-2"}


@pytest.mark.mpi
def test_on_another_network_they_do_not_meet(cluster):
    """So the test above can fail: the others lead nowhere."""
    assert cluster("--interface", "wlan0", "--run", *TRAIN).returncode != 0
