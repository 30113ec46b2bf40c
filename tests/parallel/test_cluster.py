"""Runs over several hosts, which are network namespaces with Gigabit ports on one machine."""

import sys
from pathlib import Path

import pytest

from npnet.parallel.hosts import machinefile
from npnet.parallel.launch import Launcher
from npnet.training.checkpoint import load
from tests.cifar_files import write_cifar
from tests.launch import npnet_run
from tests.namespaces import needs_cluster, on_the_first_of

TRAIN = (
    *("train", "--input-size", "32", "--width", "0.1", "--batch-per-rank", "1", "--epochs", "2"),
    *("--max-steps", "3", "--evaluate", "at-end", "--backend", "reference", "--no-progress"),
    "--out",
)


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("hosts", "options"),
    [
        (2, ()),
        (2, ("--sync", "weights")),
        (2, ("--sync", "gather-bcast")),
        pytest.param(4, ("--deterministic",), marks=pytest.mark.slow),
        pytest.param(8, ("--deterministic",), marks=pytest.mark.slow),
    ],
)
def test_hosts_learn_what_the_ranks_of_one_host_do(
    hosts: int, options: tuple[str, ...], tmp_path: Path
) -> None:
    """Two numbers have one sum; that of more is told by --deterministic."""
    needs_cluster(tmp_path)
    write_cifar(tmp_path / "data")
    alone = npnet_run(*TRAIN, "alone", *options, cwd=tmp_path, ranks=hosts)
    assert alone.status == 0, alone.stderr
    names = [f"node-{number}" for number in range(1, hosts + 1)]
    (tmp_path / "hosts").write_text(machinefile(names, 1, Launcher.find().maker))
    launch = (sys.executable, "-m", "npnet", "launch", "--machinefile", "hosts", "--no-binding")
    command = (*launch, "--run", "--", *TRAIN, "together", *options)
    done = on_the_first_of(hosts, "--mbits", "1000", *command, cwd=tmp_path, timeout=300)
    assert done.returncode == 0, done.stderr
    together = tmp_path / "together"
    assert load(together / "final.npz").digest() == load(tmp_path / "alone/final.npz").digest()
    rows = (together / "log.csv").read_text().splitlines()
    assert {row.split(",")[3] for row in rows[1:]} == set(names)
