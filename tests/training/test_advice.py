"""What a network favours, from what an exchange and a step take."""

import json
import re
import sys

import pytest

from npnet.parallel.buckets import Piece
from npnet.training.advice import favourite, shares_of_computing
from tests.cifar_files import write_cifar
from tests.namespaces import hosts

HALVES = (Piece(500, 0.5), Piece(500))
GRADIENTS, ROUNDED = "--sync gradients", "--sync gradients --wire bfloat16"


@pytest.mark.parametrize(
    ("exchange", "gradients", "rounded", "favoured"),
    [
        (0.1, 1 / 1.05, 1 / 1.025, GRADIENTS),  # the second half is left, of 0.05 s
        (0.5, 1 / 1.25, 1 / 1.125, "--sync weights --sync-steps 5"),
        (0.3, 1 / 1.15, 1 / 1.075, ROUNDED),
        (2.0, 1 / 2.5, 1 / 1.5, "--sync weights --sync-steps 18"),  # 2/18 of a step's second
    ],
)
def test_shares_and_favourite(exchange, gradients, rounded, favoured):
    shares = shares_of_computing(1.0, exchange, HALVES, 18)
    assert shares[GRADIENTS] == pytest.approx(gradients)
    assert shares[ROUNDED] == pytest.approx(rounded)
    assert favourite(shares) == favoured
    assert min(share for how, share in shares.items() if "weights" in how) > 0.8999


def test_no_more_steps_are_favoured_than_an_epoch_has():
    shares = shares_of_computing(1.0, 2.0, HALVES, 14)
    assert favourite(shares) == "--sync weights --sync-steps 14"
    assert shares[favourite(shares)] == pytest.approx(1 / (1 + 2 / 14))


@pytest.mark.mpi
def test_a_run_over_two_hosts_says_it_once(tmp_path):
    write_cifar(tmp_path / "data", images=60)
    with hosts(tmp_path, "one", "two") as cluster:
        for name in cluster.names:
            cluster.limit(name, 50)
        command = ("train", "--input-size", "32", "--epochs", "1", "--batch-per-rank", "2")
        short = ("--max-steps", "11", "--evaluate", "never", "--out", tmp_path / "run")
        plain = ("--backend", "reference")  # a new host would compile
        done = cluster.run(sys.executable, "-m", "npnet", *command, *short, *plain)
    assert done.returncode == 0, done.stdout + done.stderr
    words = [line for line in done.stdout.splitlines() if line.startswith("[NETWORK]")]
    told = " ".join(line.removeprefix("[NETWORK] ") for line in words)
    assert told.startswith("2 hosts exchange 2.8 MB in ")
    assert len(re.findall(r"\. This network favours --sync (gradients|weights)", told)) == 1
    milliseconds = float(told.split(" MB in ")[1].split()[0])
    assert milliseconds > 8 * 2.8e6 / 50e6 * 1e3 * 0.8  # 2.8 MB leave each of two hosts
    settings = json.loads((tmp_path / "run/config.json").read_text())["settings"]
    assert (settings["overlap"], settings["wire"]) == (None, "float32")
