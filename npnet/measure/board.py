"""What a board does in a training step, in one line, to compare boards with each other."""

from collections.abc import Callable
from datetime import UTC, datetime

from npnet.errors import NpnetError
from npnet.machine.sensors import Health, Sensors
from npnet.machine.telemetry import machine, node_cores
from npnet.measure.benchmark import StepTiming
from npnet.measure.roofline import measure_roof
from npnet.parallel.communicator import Communicator

COPY_BYTES = 16 * 2**20  # of an array; more than a board's caches, and 1 GB has room for it


def report(measure: Callable[[int], StepTiming], comm: Communicator, steps: int) -> str:
    """Time `steps` steps on all ranks side by side, and what the cores can do.

    images/s, GFLOP/s and GB/s are sums over the ranks, the milliseconds the slowest rank's.
    """
    measure(1)  # what begins late is not timed beside others
    comm.barrier()
    timing = measure(steps)
    health = Sensors().read()  # while the board is still warm
    comm.barrier()
    measured = comm.gather((timing, measure_roof(COPY_BYTES)))
    timings, roofs = zip(*measured, strict=True)
    slowest = max(timings, key=lambda each: each.cpu_ms_median)
    host = machine()
    parts = (
        datetime.now(UTC).date().isoformat(),
        board(host["processor"], host["cores"], health),
        f"{timing.model} {timing.width:g}, {timing.input_size}x{timing.input_size}, "
        f"batch {timing.batch}",
        f"ranks: {len(timings)}",
        f"{slowest.cpu_ms_median:.1f} ms CPU a step (quartiles {slowest.cpu_ms_spread:.1f} apart)",
        f"{sum(each.images_per_second for each in timings):.1f} images/s",
        f"{max(each.peak_rss_bytes for each in timings) / 1e6:.0f} MB a rank",
        f"can do {sum(roof.peak_gflops for roof in roofs):.1f} GFLOP/s, "
        f"copy {sum(roof.copy_gbytes for roof in roofs):.1f} GB/s",
        f"npnet {host['commit'] or host['npnet']}, Python {host['python']}, "
        f"NumPy {host['numpy']}, Numba {host['numba']}",
    )
    return " | ".join(parts)


def check_ranks(comm: Communicator) -> None:
    """Raise NpnetError unless each has a core of this host to itself."""
    if len(set(comm.nodes)) > 1:
        raise NpnetError("--report is of one host: start all ranks on it")
    if comm.size > node_cores():
        raise NpnetError(
            f"{comm.size} ranks on {node_cores()} cores wait for each other: start as many at most"
        )


def board(processor: str, cores: int, health: Health) -> str:
    """The processor, and how it is; what it does not tell is left out."""
    from npnet.kernels.jit.target import target_row  # which loads the compiler

    words = [f"{processor}, {cores} cores", f"kernels for {target_row()}"]
    if health.clock_mhz is not None:
        words.append(f"{health.clock_mhz:.0f} MHz")
    if health.temperature_celsius is not None:
        words.append(f"{health.temperature_celsius:.0f} degrees")
    if health.throttled not in ("", "no"):
        words.append(health.throttled)
    return ", ".join(words)
