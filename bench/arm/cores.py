"""The processors that code is made for here, and how fast the kernels must stay on them."""

from typing import NamedTuple

KB = 1024
LINE = 64  # bytes of a cache


class Level(NamedTuple):
    """One cache: what it holds, and in how many ways."""

    bytes: int
    ways: int

    @property
    def sets(self) -> int:
        return self.bytes // (LINE * self.ways)


class Core(NamedTuple):
    """`name`: LLVM's. `row`: of kernels/jit/target.py. `model`: the pipeline in llvm-mca.

    `unit`: how its units' names begin; an older llvm-mca takes another model without a word.
    `peak`: float32 FLOP a cycle. `caches`: of data, the nearest first; the last is shared by all
    cores of a board. `options`: what llvm-mca is told besides.
    """

    name: str
    row: str
    model: str
    unit: str
    peak: int
    caches: tuple[Level, ...]
    options: tuple[str, ...] = ()

    def shares(self) -> tuple[tuple[Level, ...], ...]:
        """What each of RANKS processes on a board has of the caches."""
        *own, last = self.caches
        return tuple((*own, last._replace(bytes=last.bytes // ranks)) for ranks in RANKS)


RANKS = (1, 2, 4)  # on a board


LEAVE_OUT = "-skip-unsupported-instructions=lack-sched"

CORES = {
    core.name: core
    for core in (
        # One 128-bit multiply-add a cycle. LLVM gives it the pipeline of the Cortex-A57.
        Core(
            "cortex-a72",
            "cortex-a72",
            "cortex-a72",
            "A57Unit",
            8,
            (Level(32 * KB, 2), Level(1024 * KB, 16)),
        ),
        # Two. LLVM gives it the A57's as well; the Neoverse N1 is the same core for servers. Its
        # pipeline has no times of atomic additions, by which Numba counts references to arrays.
        Core(
            "cortex-a76",
            "cortex-a76",
            "neoverse-n1",
            "N1Unit",
            16,
            (Level(64 * KB, 4), Level(512 * KB, 8), Level(2048 * KB, 16)),
            (LEAVE_OUT,),
        ),
    )
}

# The plain ARMv8 row must suit the smallest: that of a Raspberry Pi 3 and Zero 2 W. Of it count the
# caches; of its pipeline, which waits for each load, LLVM's model makes a sixth of the peak.
SMALLEST = Core(
    "cortex-a53",
    "armv8",
    "cortex-a53",
    "A53Unit",
    8,
    (Level(32 * KB, 4), Level(512 * KB, 16)),
)


class Floor(NamedTuple):
    """Percent of the core's peak: in the hot loops, and of the kernel in a training step, or in a
    call on each of a prediction's shapes."""

    hot: float
    whole: float


# A little under what stands; a floor goes up with what is won, and not down.
FLOORS: dict[str, dict[str, Floor]] = {
    "cortex-a72": {
        "activation_pointwise_stats_forward": Floor(99, 79),
        "activation_pointwise_stats_backward": Floor(99, 75),
        "expand_depthwise3x3_stats_forward": Floor(99, 52),
        "expand_depthwise3x3_stats_backward": Floor(92, 64),
        "activation_depthwise3x3_stats_forward": Floor(62, 31),
        "activation_depthwise3x3_stats_backward": Floor(70, 37),
        "stem3x3_stats_forward": Floor(99, 61),
        "stem3x3_stats_backward": Floor(88, 68),
        "inverted_residual_inference": Floor(99, 73),
        "head_inference": Floor(99, 94),
    },
    "cortex-a76": {
        "activation_pointwise_stats_forward": Floor(99, 75),
        "activation_pointwise_stats_backward": Floor(99, 71),
        "expand_depthwise3x3_stats_forward": Floor(99, 48),
        "expand_depthwise3x3_stats_backward": Floor(86, 61),
        "activation_depthwise3x3_stats_forward": Floor(58, 26),
        "activation_depthwise3x3_stats_backward": Floor(57, 31),
        "stem3x3_stats_forward": Floor(99, 55),
        "stem3x3_stats_backward": Floor(88, 62),
        "inverted_residual_inference": Floor(99, 69),
        "head_inference": Floor(99, 93),
    },
}
