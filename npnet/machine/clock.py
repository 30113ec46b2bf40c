"""Where a rank's time goes: one clock, told of each change of phase.

| phase        |                                                                |
|--------------|----------------------------------------------------------------|
| `input`      | the next batch: images chosen, augmented, resized              |
| `forward`    | logits and loss                                                |
| `backward`   | gradients                                                      |
| `update`     | the optimiser; sums over a rank's own workers                  |
| `wait`       | until the other ranks have arrived at an exchange              |
| `transfer`   | the exchange itself                                            |
| `test`       | scoring a split                                                |
| `checkpoint` | writing checkpoints and logs                                   |
| `other`      | the rest: shuffling, checks, what is printed                   |

A phase lasts until the next is entered, so phases never overlap and leave nothing out: they add up
to the time that has passed.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

PHASES = (
    "input", "forward", "backward", "wait", "transfer", "update", "test", "checkpoint", "other",
)  # fmt: skip
STEP = ("input", "forward", "backward", "update")  # what a rank does by itself in a step
TOGETHER = ("wait", "transfer")


class Stall(NamedTuple):
    """A rank that did not run: seconds in one phase beyond its processor time there."""

    seconds: float = 0.0
    epoch: int = 0  # from 1, as the step
    step: int = 0
    phase: str = ""


class Event(NamedTuple):
    """A phase on the time line; `begin` in seconds of this host's clock."""

    phase: str
    begin: float
    seconds: float
    epoch: int
    step: int


@dataclass
class Times:
    """Seconds of one rank by phase, wall and processor time, and its longest stall."""

    wall: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    cpu: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    stall: Stall = field(default_factory=Stall)

    @property
    def seconds(self) -> float:
        return sum(self.wall.values())

    @property
    def cpu_percent(self) -> float:
        """Processor time over wall time, percent of one core."""
        return 100 * sum(self.cpu.values()) / max(self.seconds, 1e-9)

    @classmethod
    def of_all(cls, parts: Iterable["Times"]) -> "Times":
        """What the parts come to."""
        total = cls()
        for part in parts:
            for phase in PHASES:
                total.wall[phase] += part.wall[phase]
                total.cpu[phase] += part.cpu[phase]
            total.stall = max(total.stall, part.stall)
        return total


class Clock:
    """Wall and processor time of this process by phase.

    To enter a phase costs about a microsecond, eight times a step. `events` is None, or a list that
    every phase is added to.
    """

    def __init__(self) -> None:
        self.events: list[Event] | None = None
        self.phase = "other"
        self.task = ""  # what takes long within a phase, for the watchdog
        self.epoch = self.step = 0  # from 1; step 0: between steps
        self.times = Times()
        self._wall, self._cpu = time.perf_counter(), time.process_time()

    @property
    def since(self) -> float:
        """When the present phase began, in seconds of time.perf_counter."""
        return self._wall

    def enter(self, phase: str) -> str:
        """The phase that begins now. Returns the one that ends."""
        wall, cpu = time.perf_counter(), time.process_time()
        before, lasted, ran = self.phase, wall - self._wall, cpu - self._cpu
        self.times.wall[before] += lasted
        self.times.cpu[before] += ran
        if lasted - ran > self.times.stall.seconds:
            self.times.stall = Stall(lasted - ran, self.epoch, self.step, before)
        if self.events is not None:
            self.events.append(Event(before, self._wall, lasted, self.epoch, self.step))
        self.phase, self._wall, self._cpu = phase, wall, cpu
        return before

    def take(self) -> Times:
        """The times since the last call, or since the clock was made."""
        self.enter(self.phase)
        taken, self.times = self.times, Times()
        return taken
