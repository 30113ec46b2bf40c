"""Which rank is the slowest, and what is said of it."""

import re

import pytest

from npnet.machine.clock import Stall, Times
from npnet.machine.sensors import Health
from npnet.training.costs import RankCosts
from npnet.training.stragglers import slowest


def rank(number, stall=None, cpu=None, health=None, **wall):
    """A rank whose phases took `wall` seconds, all of it processor time but for those in `cpu`."""
    times = Times()
    for phase, seconds in wall.items():
        times.wall[phase] = seconds
        times.cpu[phase] = seconds
    for phase, seconds in (cpu or {}).items():
        times.cpu[phase] = seconds
    times.stall = stall or Stall()
    return RankCosts(number, f"pi-{number}", 1000.0, 100.0, 90.0, 10.0, 1, times, health)


EVEN = {"input": 5, "forward": 30, "backward": 60, "update": 3, "test": 10}


def test_even_ranks_are_not_told_apart():
    assert slowest([rank(0, **EVEN), rank(1, **EVEN | {"backward": 62})]) is None
    assert slowest([rank(0, **EVEN)]) is None


def test_a_difference_too_short_to_matter_is_not_told():
    assert slowest([rank(0, forward=0.4), rank(1, forward=0.1, wait=0.3)]) is None


@pytest.mark.parametrize(
    ("late", "words"),
    [
        (rank(1, **EVEN | {"backward": 95}), "computes slowly, 1.36 times"),
        (rank(1, **EVEN | {"input": 40}, cpu={"input": 5}), "waits for its data, 35.0 s"),
        (rank(1, **EVEN | {"checkpoint": 30}, cpu={"checkpoint": 1}), "slow to write, 30.0 s"),
        (
            rank(1, Stall(29.9, 2, 17, "forward"), {"forward": 30}, **EVEN | {"forward": 60}),
            "stood still for 29.9 s in epoch 2, step 17",
        ),
        (
            rank(1, Stall(0.1, 1, 1, "forward"), {"backward": 60}, **EVEN | {"backward": 158}),
            "had its core for 50 % of the time",
        ),
        (
            rank(1, Stall(20, 1, 4, "wait"), {"wait": 1}, **EVEN | {"wait": 21}),
            "stood still for 20.0 s in epoch 1, step 4",
        ),
    ],
    ids=["slow", "data", "disk", "stopped", "shared", "stopped in an exchange"],
)
def test_the_cause_that_explains_most_is_named(late, words):
    others = [rank(number, **EVEN | {"wait": 30}) for number in (0, 2, 3)]
    told = slowest([others[0], late, *others[1:]])
    assert told.startswith("rank 1 (pi-1) kept the others waiting for ")
    assert words in told


def test_of_several_the_slowest_is_named_and_measured_against_the_usual():
    ranks = [rank(number, **EVEN | {"backward": 60 + 10 * number}) for number in range(4)]
    told = slowest(ranks)
    assert re.match(r"rank 3 \(pi-3\) kept the others waiting for 20.0 s", told)


def test_waiting_is_not_held_against_a_rank():
    ranks = [rank(0, **EVEN | {"wait": 500, "transfer": 20}), rank(1, **EVEN)]
    assert slowest(ranks) is None


def test_what_the_host_tells_is_told():
    hot = Health(82.0, 600.0, 1500.0, "frequency capped now", 30_000_000, None, None, None, 0)
    slow = rank(1, health=hot, **EVEN | {"backward": 160})
    told = slowest([rank(0, **EVEN), slow])
    assert "computes slowly" in told
    assert told.endswith(
        "; its host is throttled: frequency capped now; its clock is at 600 of 1500 MHz; "
        "30 MB of it are swapped out"
    )
    well = hot._replace(clock_mhz=1500.0, throttled="no", swap_bytes=0)
    assert ";" not in slowest([rank(0, **EVEN), rank(1, health=well, **EVEN | {"forward": 90})])


def test_a_host_that_is_busy_is_told_even_if_no_rank_is_slower_than_the_others():
    half = {phase: seconds / 2 for phase, seconds in EVEN.items()}
    told = slowest([rank(0, cpu=half, **EVEN), rank(1, cpu=half, **EVEN)])
    assert told.startswith("all ranks had their cores for only 50 % of the time")
    assert slowest([rank(0, cpu=half, **EVEN)]).startswith("all ranks had their cores")
