"""The forecast's formula, against cases that can be worked out by hand, and against a run."""

import json
from dataclasses import replace
from math import log, sqrt

import pytest

from npnet.model.parameters import Parameters
from npnet.model.zoo import build, configure
from npnet.parallel.buckets import Piece, pieces_of
from npnet.study.forecast import (
    Network,
    Work,
    by_root_seconds,
    run_seconds,
    sum_seconds,
    table,
)
from tests.launch import npnet_run

SIZE = 10_000_000  # bytes
NETWORK = Network(latency_seconds=1e-3, bytes_per_second=1e8)  # SIZE passes in 0.1 s
WORK = Work(
    images=4800,
    test_images=0,
    batch_per_rank=10,
    epochs=2,
    message_bytes=SIZE,
    step_seconds=1.0,
    step_deviation=0.0,
    test_seconds_per_image=0.0,
)


@pytest.mark.parametrize(
    ("np", "ranks_per_node", "seconds"),
    [
        (1, 1, 0.0),
        (2, 2, 0.0),  # one node: nothing on the network
        (2, 1, 0.002 + 0.1),  # half of the vector each way, twice
        (4, 1, 0.006 + 0.15),  # to three others, twice
        (8, 2, 0.006 + 0.15),  # the ranks of a node share what it sends
        (6, 2, 0.004 + 2 * 2 / 3 * 0.1),
    ],
)
def test_sum(np, ranks_per_node, seconds):
    assert sum_seconds(np, ranks_per_node, SIZE, NETWORK) == pytest.approx(seconds)


def test_half_of_the_bytes_take_half_of_the_time():
    half = replace(NETWORK, half_width=True)
    assert sum_seconds(4, 1, SIZE, half) == pytest.approx(0.006 + 0.075)
    weights = [run_seconds("weights", 4, 1, WORK, network) for network in (NETWORK, half)]
    assert weights[0] == weights[1]  # they are not rounded


def test_an_exchange_on_one_node_comes_on_top():
    near = replace(NETWORK, local_seconds=0.5)
    assert sum_seconds(2, 2, SIZE, near) == 0.5
    assert sum_seconds(4, 2, SIZE, near) == pytest.approx(0.5 + 0.002 + 0.1)
    assert sum_seconds(4, 1, SIZE, near) == pytest.approx(0.006 + 0.15)


def step_of(np, pieces, network):
    """Seconds, of which 1 is computing."""
    cut = replace(WORK, pieces=pieces)
    return run_seconds("gradients", np, 1, cut, network) / 2 / (4800 / (np * 10))


def test_what_is_exchanged_during_backward_is_not_waited_for():
    quick, slow = Network(0.0, 1e8), Network(0.0, 1e7)  # two ranks: a vector in 0.1 s, 1 s
    halves = (Piece(SIZE // 2, 0.5), Piece(SIZE // 2, 0.0))
    assert step_of(2, halves, quick) == pytest.approx(1 + 0.05)  # the second half alone
    assert step_of(2, halves, slow) == pytest.approx(1 + 0.5)  # the first ends with backward
    assert step_of(2, (Piece(SIZE, 0.5),), slow) == pytest.approx(1 + 0.5)
    assert step_of(2, (Piece(SIZE, 0.5),), quick) == pytest.approx(1)
    assert step_of(2, (), slow) == pytest.approx(1 + 1)


def test_the_pieces_of_a_network_are_its_gradient():
    architecture = build(configure("mobilenet_v2", classes=10))
    pieces = pieces_of(architecture, Parameters(architecture))
    assert sum(piece.bytes for piece in pieces) == 4 * (architecture.parameter_count + 1)
    shares = [piece.step_share for piece in pieces]
    assert shares == sorted(shares, reverse=True)
    assert 0.5 < shares[0] < 2 / 3
    assert shares[-2:] == [0, 0]


def test_the_root_takes_in_every_vector_of_other_nodes():
    # 6 of 8 vectors arrive, one mean leaves in two halves of three quarters
    assert by_root_seconds(8, 2, SIZE, NETWORK) == pytest.approx(0.004 + 0.6 + 0.15)


def test_a_run_is_its_steps_and_exchanges():
    steps = 4800 // (4 * 10)
    exchange = 0.006 + 0.15
    assert run_seconds("gradients", 4, 1, WORK, NETWORK) == pytest.approx(
        2 * steps * (1 + exchange)
    )
    assert run_seconds("weights", 4, 1, WORK, NETWORK) == pytest.approx(2 * (steps + exchange))
    assert run_seconds("weights", 4, 1, WORK, NETWORK, sync_steps=8) == pytest.approx(
        2 * (steps + 15 * exchange)
    )
    assert run_seconds("gather-bcast", 4, 1, WORK, NETWORK) == pytest.approx(
        2 * (steps + 0.004 + 0.3 + 0.15)
    )


def test_the_latest_of_all_ranks_is_waited_for():
    uneven = replace(WORK, step_deviation=0.1)
    late = 0.1 * sqrt(2 * log(4))
    steps = 120
    even = run_seconds("gradients", 4, 1, WORK, NETWORK)
    assert run_seconds("gradients", 4, 1, uneven, NETWORK) - even == pytest.approx(2 * steps * late)
    each_eighth = run_seconds("weights", 4, 1, WORK, NETWORK, 8)
    assert run_seconds("weights", 4, 1, uneven, NETWORK, 8) - each_eighth == pytest.approx(
        2 * 15 * sqrt(8) * late
    )


def test_tests_are_shared_by_all():
    tested = replace(WORK, test_images=100, test_seconds_per_image=0.2)
    more = run_seconds("weights", 4, 1, tested, NETWORK) - run_seconds(
        "weights", 4, 1, WORK, NETWORK
    )
    assert more == pytest.approx(2 * 100 * 0.2 / 4)


def test_speedup_efficiency_and_energy():
    free = Network(0.0, 1e30)
    rows = table([2, 48], 2, WORK, free, watts_per_node=5.0)
    assert {row["sync"] for row in rows} == {"gradients", "weights", "gather-bcast"}
    two, all_ = rows[:2]
    assert (two["speedup"], two["efficiency_pct"]) == (1, 100)
    assert (all_["nodes"], all_["speedup"]) == (24, 24)
    assert all_["efficiency_pct"] == pytest.approx(100)
    assert two["images_per_joule"] == pytest.approx(2 * 10 / 1.0 / 5)  # images/s over watts
    assert all_["images_per_joule"] == pytest.approx(two["images_per_joule"])


def test_the_command_leaves_a_table(tmp_path):
    command = ("study", "forecast", "--input-size", 32, "--width", "0.1")
    given = ("--step-ms", 800, "--test-ms", 100, "--np", "2,48", "--mbits", 940, "--out", "f")
    outcome = npnet_run(*command, *given, cwd=tmp_path)
    assert outcome.status == 0, outcome
    rows = json.loads((tmp_path / "f/study.json").read_text())["rows"]
    assert [(row["sync"], row["np"]) for row in rows[:2]] == [("gradients", 2), ("gradients", 48)]
    assert 50 < rows[1]["efficiency_pct"] < 100
    assert len((tmp_path / "f/forecast.csv").read_text().splitlines()) == 7
    assert "(paper)" not in outcome.stdout  # which has no such model
    outcome = npnet_run(*command[:2], *given, "--watts-per-node", 5, cwd=tmp_path)
    (at_48,) = [
        each for each in outcome.stdout.splitlines() if each.startswith("   gradients   48")
    ]
    efficiency, paper, energy = map(float, at_48.split()[-3:])
    assert paper == 41.6
    assert efficiency > paper
    assert energy > 0


@pytest.mark.mpi
def test_ranks_do_not_forecast_side_by_side(tmp_path):
    outcome = npnet_run("study", "forecast", cwd=tmp_path, ranks=2)
    assert "a study starts its ranks by itself" in outcome.error


@pytest.mark.compiled
def test_a_step_is_timed_where_none_is_given(tmp_path):
    command = ("study", "forecast", "--input-size", 32, "--width", "0.1")
    outcome = npnet_run(*command, "--ranks-per-node", 1, "--np", "1,2", cwd=tmp_path, timeout=300)
    assert outcome.status == 0, outcome
    step = float(outcome.stdout.split("A step ")[1].split()[0])
    rows = json.loads((tmp_path / "studies/forecast/study.json").read_text())["rows"]
    steps = 50_000 // 12 + 1
    assert rows[0]["wall_s"] > 10 * steps * step / 1e3
