"""The clock of phases."""

import time

import pytest

from npnet.machine import clock as clocks
from npnet.machine.clock import PHASES, Clock, Times


@pytest.fixture
def hands(monkeypatch):
    """Wall and processor time, to be set by hand."""
    now = {"wall": 100.0, "cpu": 7.0}
    monkeypatch.setattr(clocks.time, "perf_counter", lambda: now["wall"])
    monkeypatch.setattr(clocks.time, "process_time", lambda: now["cpu"])
    return now


def advance(hands, wall, cpu):
    hands["wall"] += wall
    hands["cpu"] += cpu


def test_each_phase_gets_the_time_until_the_next(hands):
    clock = Clock()
    advance(hands, 1, 1)
    assert clock.enter("forward") == "other"
    advance(hands, 2, 1.5)
    assert clock.enter("wait") == "forward"
    advance(hands, 4, 4)
    clock.enter("forward")
    advance(hands, 8, 8)
    times = clock.take()
    assert times.wall == dict.fromkeys(PHASES, 0) | {"other": 1, "forward": 10, "wait": 4}
    assert times.cpu == dict.fromkeys(PHASES, 0) | {"other": 1, "forward": 9.5, "wait": 4}
    assert times.seconds == 15
    assert times.cpu_percent == pytest.approx(100 * 14.5 / 15)


def test_what_is_taken_is_not_counted_again(hands):
    clock = Clock()
    clock.enter("input")
    advance(hands, 3, 3)
    clock.take()
    advance(hands, 5, 5)
    assert clock.take().wall["input"] == 5
    assert clock.take().seconds == 0


def test_the_longest_stall_and_where_it_was(hands):
    clock = Clock()
    for epoch, step, wall, cpu in ((1, 1, 0.5, 0.4), (1, 2, 7.0, 0.5), (2, 1, 3.0, 0.5)):
        clock.epoch, clock.step = epoch, step
        clock.enter("backward")
        advance(hands, wall, cpu)
        clock.enter("other")
    assert clock.take().stall == (6.5, 1, 2, "backward")
    assert clock.take().stall.seconds == 0


def test_parts_come_to_a_whole(hands):
    clock = Clock()
    parts = []
    for phase, wall, cpu in (("input", 2, 1), ("test", 4, 4), ("input", 1, 1)):
        clock.enter(phase)
        advance(hands, wall, cpu)
        parts.append(clock.take())
    whole = Times.of_all(parts)
    assert (whole.wall["input"], whole.cpu["input"], whole.wall["test"]) == (3, 2, 4)
    assert whole.stall.phase == "input"
    assert whole.stall.seconds == 1


def test_events_are_without_a_gap(hands):
    clock = Clock()
    clock.events = []
    for phase in ("input", "forward", "update"):
        clock.enter(phase)
        advance(hands, 2, 2)
    clock.enter("other")
    assert [event.phase for event in clock.events] == ["other", "input", "forward", "update"]
    ends = [event.begin + event.seconds for event in clock.events]
    assert [event.begin for event in clock.events][1:] == ends[:-1]


def test_the_real_hands_run():
    clock = Clock()
    clock.enter("wait")
    time.sleep(0.02)
    times = clock.take()
    assert times.wall["wait"] >= 0.02
    assert times.cpu["wait"] < times.wall["wait"]
