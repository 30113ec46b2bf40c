"""The rank that the others wait for, and why.

Ranks that synchronise go at the pace of the slowest. What a rank does by itself (all but waiting
and transfer) is compared with the median of the others; what it takes more is shared out among the
causes by the part of it that each explains:

| cause           | what stands out                                             |
|-----------------|-------------------------------------------------------------|
| its data        | time in `input` without processor time                      |
| its disk        | time in `checkpoint`                                        |
| it stood still  | time without processor time elsewhere, most of it at once   |
| a shared core   | the same, spread over many steps                            |
| a slow core     | processor time                                              |
"""

from collections.abc import Sequence
from statistics import median

from npnet.machine.clock import PHASES, STEP, TOGETHER, Times
from npnet.machine.sensors import Health
from npnet.training.costs import RankCosts

LEAST_SHARE, LEAST_SECONDS = 0.05, 0.5  # of a run: less is not worth a word
MOST_DISTURBED = 0.8  # of their working time that ranks had their cores: less is told
SLOW_CLOCK = 1.1  # times the clock is what the core may reach
AT_ONCE = 0.5  # of all that a rank did not run


def slowest(ranks: Sequence[RankCosts]) -> str | None:
    """A sentence about the slowest rank, or about all where something else takes their cores."""
    return (_slowest(ranks) if len(ranks) > 1 else None) or _all_disturbed(ranks)


def _all_disturbed(ranks: Sequence[RankCosts]) -> str | None:
    wall = sum(_work(each.times) for each in ranks)
    cpu = sum(_work_cpu(each.times) for each in ranks)
    if cpu > MOST_DISTURBED * wall or wall - cpu < LEAST_SECONDS:
        return None
    return (
        f"all ranks had their cores for only {100 * cpu / wall:.0f} % of the time: something else "
        "runs on these hosts, or there are more ranks than cores"
    )


def _slowest(ranks: Sequence[RankCosts]) -> str | None:
    last = max(ranks, key=lambda each: _own(each.times))
    others = [each.times for each in ranks if each is not last]
    extra = _own(last.times) - median(map(_own, others))
    if extra < max(LEAST_SHARE * last.times.seconds, LEAST_SECONDS):
        return None
    causes = {
        cause: seconds - median(_causes(each)[cause] for each in others)
        for cause, seconds in _causes(last.times).items()
    }
    cause = max(causes, key=lambda each: causes[each])
    why = _words(cause, last.times, others) + _health(cause, last.health)
    return f"rank {last.rank} ({last.host}) kept the others waiting for {extra:.1f} s: {why}"


def _own(times: Times) -> float:
    """Seconds that a rank took by itself, or stood still in an exchange."""
    by_itself = sum(times.wall[phase] for phase in PHASES if phase not in TOGETHER)
    return by_itself + (times.stall.seconds if times.stall.phase in TOGETHER else 0.0)


def _causes(times: Times) -> dict[str, float]:
    """Seconds that each cause may explain."""
    idle = {phase: max(0.0, times.wall[phase] - times.cpu[phase]) for phase in PHASES}
    elsewhere = [each for each in PHASES if each not in (*TOGETHER, "input", "checkpoint")]
    stalled = times.stall.seconds if times.stall.phase in TOGETHER else 0.0
    return {
        "data": idle["input"],
        "disk": times.wall["checkpoint"],
        "idle": sum(idle[phase] for phase in elsewhere) + stalled,
        "slow": sum(times.cpu[phase] for phase in (*elsewhere, "input")),
    }


def _words(cause: str, times: Times, others: Sequence[Times]) -> str:
    if cause == "data":
        seconds = times.wall["input"] - times.cpu["input"]
        return f"it waits for its data, {seconds:.1f} s: look at its disk or network"
    if cause == "disk":
        return f"it is slow to write, {times.wall['checkpoint']:.1f} s for checkpoints and logs"
    if cause == "idle":
        stall, idle = times.stall, _causes(times)["idle"]
        if stall.seconds > AT_ONCE * idle:
            where = f"step {stall.step}" if stall.phase in (*STEP, *TOGETHER) else stall.phase
            return (
                f"it stood still for {stall.seconds:.1f} s in epoch {stall.epoch}, {where}: "
                "stopped, or swapped out"
            )
        share = 100 * _work_cpu(times) / max(_work(times), 1e-9)
        return f"it had its core for {share:.0f} % of the time: something else runs there"
    ratio = _work_cpu(times) / max(median(map(_work_cpu, others)), 1e-9)
    return f"it computes slowly, {ratio:.2f} times the processor time of the others"


def _health(cause: str, health: Health | None) -> str:
    """What its host tells that explains more."""
    found = []
    if health is not None and cause in ("idle", "slow"):
        if health.throttled not in ("", "no"):
            found.append(f"its host is throttled: {health.throttled}")
        if health.clock_mhz and (health.clock_max_mhz or 0) > SLOW_CLOCK * health.clock_mhz:
            found.append(
                f"its clock is at {health.clock_mhz:.0f} of {health.clock_max_mhz:.0f} MHz"
            )
        if health.swap_bytes:
            found.append(f"{health.swap_bytes / 1e6:.0f} MB of it are swapped out")
    return "".join(f"; {words}" for words in found)


def _work(times: Times) -> float:
    return sum(times.wall[phase] for phase in STEP)


def _work_cpu(times: Times) -> float:
    return sum(times.cpu[phase] for phase in STEP)
