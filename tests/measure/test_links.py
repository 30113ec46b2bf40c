"""Links between hosts: who meets whom, and who is to blame."""

import itertools
import json
import sys

import pytest

from npnet.measure.links import Link, judge, measure_links, names_of_nodes, rounds, too_slow
from npnet.parallel.communicator import SerialCommunicator
from tests.launch import npnet_run
from tests.namespaces import hosts

GIGABIT, FAST_ETHERNET = 117e6, 11.8e6  # bytes/s, as measured on such links
APART = {"MPIR_CVAR_NOLOCAL": "1"}  # for MPICH every rank is on a host of its own


def network(count, slow=lambda a, b: False, late=lambda a, b: False):
    """Links of hosts pi-0, pi-1, ...; they differ a little, as in truth."""
    return [
        Link(
            f"pi-{a}",
            f"pi-{b}",
            1e-4 * (40 if late(a, b) else 1 + 0.01 * a),
            (FAST_ETHERNET if slow(a, b) else GIGABIT) * (1 - 0.01 * b),
        )
        for a, b in itertools.combinations(range(count), 2)
    ]


def blamed(links):
    return [finding.hosts for finding in judge(links)]


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 24])
def test_every_pair_meets_once_and_no_host_is_in_two_pairs_of_a_round(count):
    players = range(3, 3 + count)
    played = list(rounds(players))
    met = [pair for pairs in played for pair in pairs]
    assert sorted(met) == list(itertools.combinations(players, 2))
    assert len(played) == count - 1 + count % 2 * (count > 1) or count == 1
    for pairs in played:
        busy = [player for pair in pairs for player in pair]
        assert len(busy) == len(set(busy))


@pytest.mark.parametrize("count", [2, 3, 8, 24])
def test_equal_links_are_not_worth_a_word(count):
    assert judge(network(count)) == []


def test_no_links_no_words():
    assert judge([]) == []


@pytest.mark.parametrize("count", [3, 4, 8])
def test_a_host_at_100_mbit_is_named(count):
    (finding,) = judge(network(count, slow=lambda a, b: 2 in (a, b)))
    assert finding.hosts == ("pi-2",)
    assert finding.harms
    assert "11." in finding.what
    assert "11" in finding.what.split("other links ")[1]


def test_a_slow_host_is_named_where_the_others_are_busy():
    """Its third link is above half of the others' by a hair."""
    rates = {(0, 1): 27, (0, 2): 26, (0, 3): 12.4, (1, 2): 25, (1, 3): 12.5, (2, 3): 14}
    links = [Link(f"pi-{a}", f"pi-{b}", 1e-4, 1e6 * rate) for (a, b), rate in rates.items()]
    assert len(too_slow(links)) == 2
    assert blamed(links) == [("pi-3",)]


def test_two_slow_hosts_of_four_are_named_though_most_links_are_slow():
    assert blamed(network(4, slow=lambda a, b: {1, 3} & {a, b})) == [("pi-1",), ("pi-3",)]


def test_one_slow_pair_is_named():
    assert blamed(network(8, slow=lambda a, b: (a, b) == (2, 5))) == [("pi-2", "pi-5")]


def test_a_slow_host_and_a_slow_pair():
    slow = network(6, slow=lambda a, b: 0 in (a, b) or (a, b) == (2, 5))
    assert blamed(slow) == [("pi-0",), ("pi-2", "pi-5")]


@pytest.mark.parametrize("count", [2, 5])
def test_a_network_of_100_mbit_is_one_warning(count):
    """Of two hosts alone, nobody can tell which is slow."""
    (finding,) = judge(network(count, slow=lambda a, b: True))
    assert len(finding.hosts) == count
    assert not finding.harms


def test_a_late_host_is_a_warning():
    (finding,) = judge(network(5, late=lambda a, b: 4 in (a, b)))
    assert finding.hosts == ("pi-4",)
    assert not finding.harms


def test_links_beyond_gigabit_are_never_slow():
    links = [Link("a", "b", 1e-5, 7e9), Link("a", "c", 1e-5, 4e8), Link("b", "c", 1e-5, 7e9)]
    assert judge(links) == []


def test_hosts_of_the_same_name_are_told_apart():
    comm = SerialCommunicator()
    comm.hosts, comm.nodes = ["pi", "pi", "pi", "other"], [0, 0, 2, 3]
    assert names_of_nodes(comm) == {0: "pi (rank 0)", 2: "pi (rank 2)", 3: "other"}


def test_alone_there_is_no_link():
    assert measure_links(SerialCommunicator()) == []


@pytest.mark.mpi
def test_ranks_of_one_host_have_no_link(tmp_path):
    run = npnet_run("bench", "sync", "--pairs", cwd=tmp_path, ranks=2)
    assert run.error.startswith("there is no link to measure on one host")


@pytest.mark.mpi
def test_each_pair_is_measured(tmp_path):
    run = npnet_run(
        *("bench", "sync", "--pairs", "--json"), cwd=tmp_path, ranks=3, environment=APART
    )
    if "no link to measure" in run.stderr:
        pytest.skip("this MPI cannot take ranks of one host for several hosts")
    assert run.status == 0, run.stderr
    links = [Link(**json.loads(line)) for line in run.stdout.splitlines()]
    pairs = [(a.split("rank ")[1], b.split("rank ")[1]) for a, b, *_ in links]
    assert pairs == [("0)", "1)"), ("0)", "2)"), ("1)", "2)")]
    assert all(link.latency_seconds > 0 and link.bytes_per_second > 0 for link in links)


@pytest.mark.mpi
def test_a_slow_port_is_found_from_timings_alone(tmp_path):
    """One at 50 Mbit/s; the others have no limit, so that a busy machine is no danger."""
    with hosts(tmp_path, "pi-1", "pi-2", "pi-3") as made:
        made.limit("pi-2", 50)
        run = made.run(sys.executable, "-m", "npnet", "doctor", "--dataset", "shapes")
    assert "[FAULT] pi-2: all links of this host are slow" in run.stdout, run
    assert run.stdout.count("links of this host") == 1
    assert "on 3 hosts)" in run.stdout
    assert run.returncode == 1
