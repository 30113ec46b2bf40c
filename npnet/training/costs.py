"""What training costs a rank: its time by phase, its memory, and how its host fares."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from npnet.machine.clock import PHASES, STEP, Clock, Times
from npnet.machine.sensors import Health, Sensors


class Meter:
    """Takes a clock's times, part by part, and keeps what all parts come to.

    `earlier`: seconds that the run took before this start.
    """

    def __init__(self, clock: Clock, earlier: float = 0.0) -> None:
        self.clock, self.earlier = clock, earlier
        self.start()

    def start(self) -> None:
        """What was before does not count."""
        self.clock.take()
        self.total, self._begin = Times(), time.perf_counter()
        self._sensors = Sensors()
        self.health: Health | None = None

    def numbers(self) -> list[float]:
        """Seconds since the run began, and those of the part under way, for `go_on`."""
        times = self.clock.times
        self.clock.enter(self.clock.phase)  # up to now
        return [self.elapsed, *(part[p] for part in (times.wall, times.cpu) for p in PHASES)]

    def go_on(self, numbers: Sequence[float]) -> None:
        """Count what another start has taken for the part under way."""
        elapsed, *seconds = numbers
        self.earlier, self._begin = elapsed, time.perf_counter()
        for number, phase in enumerate(PHASES):
            self.clock.times.wall[phase] += seconds[number]
            self.clock.times.cpu[phase] += seconds[number + len(PHASES)]

    def read_sensors(self) -> Health:
        """How the host fares; the last reading is kept."""
        self.health = self._sensors.read()
        return self.health

    def take(self) -> Times:
        """The times since the last call."""
        taken = self.clock.take()
        self.total = Times.of_all((self.total, taken))
        return taken

    @property
    def elapsed(self) -> float:
        """Seconds since the run began, without the time between its starts."""
        return self.earlier + time.perf_counter() - self._begin


@dataclass(frozen=True)
class StepSeconds:
    """A rank's training epoch by phase, see npnet.machine.clock: together, its `seconds`.

    `work_cpu_seconds`: processor time of input, forward, backward and update. `longest_stall_*`:
    the most that a phase of one step took beyond its processor time.
    """

    input_seconds: float
    forward_seconds: float
    backward_seconds: float
    update_seconds: float
    wait_seconds: float
    transfer_seconds: float
    other_seconds: float
    work_cpu_seconds: float
    longest_stall_seconds: float
    longest_stall_step: int
    longest_stall_phase: str

    @classmethod
    def of(cls, times: Times) -> "StepSeconds":
        phases = ("input", "forward", "backward", "update", "wait", "transfer")
        seconds = {f"{phase}_seconds": times.wall[phase] for phase in phases}
        return cls(
            **seconds,
            other_seconds=times.seconds - sum(seconds.values()),
            work_cpu_seconds=sum(times.cpu[phase] for phase in STEP),
            longest_stall_seconds=times.stall.seconds,
            longest_stall_step=times.stall.step,
            longest_stall_phase=times.stall.phase,
        )


@dataclass(frozen=True)
class AfterEpoch:
    """What comes to an epoch on top of its training, on one rank, and how its host fares then.

    `elapsed_seconds`: since the run began. `test_seconds` and `checkpoint_seconds` hold waiting.
    Memory in bytes, of the process; the rest as in npnet.machine.sensors.Health. What a host does
    not tell is None, or "".
    """

    elapsed_seconds: float
    test_seconds: float
    checkpoint_seconds: float
    swap_bytes: int | None
    system_cpu_percent: float | None
    temperature_celsius: float | None
    clock_mhz: float | None
    throttled: str

    @classmethod
    def of(cls, meter: Meter, testing: Times, saving: Times) -> "AfterEpoch":
        health = meter.read_sensors()
        return cls(
            elapsed_seconds=meter.elapsed,
            test_seconds=testing.seconds,
            checkpoint_seconds=saving.seconds,
            swap_bytes=health.swap_bytes,
            system_cpu_percent=health.system_cpu_percent,
            temperature_celsius=health.temperature_celsius,
            clock_mhz=health.clock_mhz,
            throttled=health.throttled,
        )


@dataclass(frozen=True)
class Earlier:
    """What a resumed run has taken before, seconds; `known`: whether its log told.

    Of its last epoch, each worker's loss and accuracy, and the images/s of all ranks.
    """

    elapsed: float = 0.0
    train: float = 0.0
    test: float = 0.0
    known: bool = True
    last: tuple[tuple[float, float], ...] = ()
    images_per_second: float = 0.0

    @classmethod
    def of(cls, log: Sequence[Mapping[str, str]], epochs: int) -> "Earlier":
        """From the log of the first `epochs` epochs. An epoch takes as long as its slowest rank."""
        try:
            rows = [row for row in log if int(row["epoch"]) <= epochs]
            parts = [
                max(float(row[name]) for row in rows if int(row["epoch"]) == epoch)
                for name in ("seconds", "test_seconds")
                for epoch in range(1, epochs + 1)
            ]
            elapsed = max((float(row["elapsed_seconds"]) for row in rows), default=0.0)
            ended = [row for row in rows if int(row["epoch"]) == epochs]
            last = tuple((float(row["loss"]), float(row["acc"])) for row in ended)
            speeds = {row["rank"]: float(row["images_per_second"]) for row in ended}
        except (KeyError, ValueError):  # of an older npnet, or not there
            return cls(known=False)
        trained, tested = sum(parts[:epochs]), sum(parts[epochs:])
        return cls(elapsed, trained, tested, True, last, sum(speeds.values()))


@dataclass(frozen=True)
class RankCosts:
    """A rank's whole run. `times` are of this start, seconds of all starts."""

    rank: int
    host: str
    images: float
    elapsed: float
    train_seconds: float
    test_seconds: float
    peak_rss_bytes: int
    times: Times
    health: Health | None = None
