"""What a host tells about its health: heat, clock, throttling, memory, out-of-memory kills.

Cheap enough for once an epoch: a few small files and, on a Raspberry Pi, two short commands. What a
host does not tell is None or "", and nothing here raises: no run ends for want of a sensor. `root`
is the root folder of the host; tests give one of their own.
"""

import glob
import os
import re
import resource
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

import psutil

from npnet.machine.memory import ROOT, status_bytes

CPUS = "sys/devices/system/cpu"
GET_THROTTLED = "sys/devices/platform/soc/soc:firmware/get_throttled"
THROTTLE_STATES = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
# cpu_thermal (Raspberry Pi), coretemp and x86_pkg_temp (Intel), k10temp (AMD), soc_thermal and more
CPU_SENSOR = re.compile("cpu|core|pkg|soc|k10temp|zenpower")
T = TypeVar("T")


class Health(NamedTuple):
    """A host, and this process, at one moment."""

    temperature_celsius: float | None  # the hottest sensor of the processor
    clock_mhz: float | None  # of the core that this process runs on
    clock_max_mhz: float | None  # what that core may reach
    throttled: str  # "" unknown, "no", or words: "under-voltage now, throttled since boot"
    swap_bytes: int | None  # of this process, moved out of memory
    memory_available_bytes: int | None  # of the host, without swapping
    memory_total_bytes: int | None
    system_cpu_percent: float | None  # of all cores, since the previous reading
    involuntary_switches: int  # times that this process lost its core to another, since it began


class Sensors:
    """The sensors of this host. Made when a run begins; `read` at the end of every epoch."""

    def __init__(self, root: Path = ROOT) -> None:
        self._root = root
        self._cpu = SystemCpu()
        self._throttles_before = _thermal_throttles(root)
        self._has_vcgencmd = True  # until it turns out to be missing, or to fail

    def read(self) -> Health:
        memory = _or_none(psutil.virtual_memory)
        clock, clock_max = clock_mhz(self._root)
        return Health(
            temperature_celsius=temperature_celsius(self._root),
            clock_mhz=self._measured_mhz() or clock,
            clock_max_mhz=clock_max,
            throttled=self._throttled(),
            swap_bytes=swap_bytes(self._root),
            memory_available_bytes=memory.available if memory else None,
            memory_total_bytes=memory.total if memory else None,
            system_cpu_percent=self._cpu.percent(),
            involuntary_switches=resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw,
        )

    def _throttled(self) -> str:
        """A Raspberry Pi's firmware, else the thermal throttles that x86 cores count.

        `vcgencmd` needs the group `video`. The kernel's file comes second: it is deprecated, as old
        as a driver's last question, and that driver clears bits 16 to 19 every 2 s. Source:
        raspberrypi/linux, drivers/firmware/raspberrypi.c, drivers/hwmon/raspberrypi-hwmon.c.
        """
        bits = _integer(self._vcgencmd("get_throttled"), 16)
        if bits is None:
            bits = _integer(_text(self._root / GET_THROTTLED), 16)
        if bits is not None:
            return throttle_words(bits)
        before, now = self._throttles_before, _thermal_throttles(self._root)
        if before is None or now is None:
            return ""
        return "throttled since the run began" if now > before else "no"

    def _measured_mhz(self) -> float | None:
        """A Raspberry Pi's true clock: throttled by its firmware, the kernel's figure stays high.

        Source: https://github.com/raspberrypi/linux/issues/2986
        """
        hertz = _integer(self._vcgencmd("measure_clock", "arm"))
        return hertz / 1e6 if hertz else None

    def _vcgencmd(self, *arguments: str) -> str:
        answer = _output(self._root, 1, "vcgencmd", *arguments) if self._has_vcgencmd else None
        self._has_vcgencmd = answer is not None
        return answer or ""


class SystemCpu:
    """How busy all cores of the host are, all processes together."""

    def __init__(self) -> None:
        self._last = _busy_and_total_seconds()

    def percent(self) -> float | None:
        """Busy share of all cores since the previous call, at first since this was made, percent.

        Waiting for a disk is idle. None when the host's clock has not ticked (10 ms) in between.
        """
        last, now = self._last, _busy_and_total_seconds()
        if last is None or now is None or now[1] <= last[1]:
            return None
        self._last = now
        return min(100.0, max(0.0, 100 * (now[0] - last[0]) / (now[1] - last[1])))


def _busy_and_total_seconds() -> tuple[float, float] | None:
    """Since boot, sums over all cores. Source: psutil.cpu_times."""
    times = _or_none(psutil.cpu_times)
    if times is None:
        return None
    seconds = times._asdict()
    guests = seconds.get("guest", 0) + seconds.get("guest_nice", 0)  # part of user and nice, too
    total = sum(seconds.values()) - guests
    return total - seconds["idle"] - seconds.get("iowait", 0), total


def temperature_celsius(root: Path = ROOT) -> float | None:
    """The hottest sensor of the processor, else the hottest thermal zone, degrees Celsius.

    Sources: /sys/class/hwmon, of which psutil.sensors_temperatures would ask the disks, too;
    /sys/class/thermal.
    """
    chips = _matches(root, "sys/class/hwmon/hwmon*")
    zones = _matches(root, "sys/class/thermal/thermal_zone*")
    cpu_chips = [chip for chip in chips if CPU_SENSOR.search(_text(chip / "name"))]
    cpu_zones = [zone for zone in zones if CPU_SENSOR.search(_text(zone / "type"))]
    for folders, files in ((cpu_chips, "temp*_input"), (cpu_zones, "temp"), (zones, "temp")):
        readings = [value / 1000 for folder in folders for value in _integers(folder, files)]
        plausible = [reading for reading in readings if -50 < reading < 150]
        if plausible:
            return max(plausible)
    return None


def clock_mhz(root: Path = ROOT) -> tuple[float | None, float | None]:
    """Clock of the core that this process runs on, and what that core may reach, MHz.

    Sources: the kernel's cpufreq, else psutil.cpu_freq. Some kernels take 10 ms a core to tell.
    """
    fields = _text(root / "proc/self/stat").rpartition(")")[2].split()
    core = _integer(fields[36]) if len(fields) > 36 else None  # proc(5): field 39, processor
    folder = root / CPUS / f"cpu{core or 0}" / "cpufreq"
    current = _integer(_text(folder / "scaling_cur_freq"))  # kHz
    maximum = _integer(_text(folder / "cpuinfo_max_freq"))
    if current:
        return current / 1000, maximum / 1000 if maximum else None
    frequency = _or_none(psutil.cpu_freq)
    return (frequency.current or None, frequency.max or None) if frequency else (None, None)


def swap_bytes(root: Path = ROOT) -> int | None:
    """Memory of this process that was swapped out, bytes. Source: VmSwap in /proc/self/status."""
    return status_bytes("VmSwap", root)


def throttle_words(bits: int) -> str:
    """Words for a Raspberry Pi's `get_throttled`; "no" if no bit is set.

    Bits 0 to 3 hold now, 16 to 19 have held since boot. What holds now is not said twice.
    Source: https://www.raspberrypi.com/documentation/computers/os.html#get_throttled
    """
    now = {state for bit, state in enumerate(THROTTLE_STATES) if bits >> bit & 1}
    ever = {state for bit, state in enumerate(THROTTLE_STATES, 16) if bits >> bit & 1}
    words = [f"{state} now" for state in THROTTLE_STATES if state in now]
    words += [f"{state} since boot" for state in THROTTLE_STATES if state in ever - now]
    return ", ".join(words) or "no"


def _thermal_throttles(root: Path) -> int | None:
    """Times that x86 cores were throttled for heat since boot."""
    counts = _integers(root, f"{CPUS}/cpu*/thermal_throttle/core_throttle_count")
    return sum(counts) if counts else None


class OomKill(NamedTuple):
    """A process that the kernel killed because memory had run out."""

    process: str  # its name, cut to 15 characters
    pid: int  # as the host counts; a container counts otherwise
    time: float  # seconds since 1970


# A record of /dev/kmsg begins with "priority,sequence,microseconds since boot,flags;", a line of
# dmesg and journalctl with "[seconds since boot]". Source of the words: Linux, mm/oom_kill.c.
OOM_KILL = re.compile(
    r"^(?:\d+,\d+,(?P<microseconds>\d{1,18}),[^;\n]*;|\[ *(?P<seconds>\d+\.\d+)\])"
    r".*Killed process (?P<pid>\d{1,18}) \((?P<process>.*)\)",
    re.MULTILINE,
)


def oom_kills(since_seconds: float, root: Path = ROOT) -> list[OomKill]:
    """Processes killed for want of memory in the last `since_seconds`, the oldest first.

    Source: the kernel's log; an empty list also when this user may not read it.
    """
    uptime = time.clock_gettime(time.CLOCK_MONOTONIC_RAW)  # not corrected by NTP, like the log's
    booted = time.time() - uptime
    kills = []
    for found in OOM_KILL.finditer(_kernel_log(root, since_seconds)):
        seconds = float(found["seconds"] or int(found["microseconds"]) / 1e6)
        if uptime - seconds <= since_seconds:
            kills.append(OomKill(found["process"], int(found["pid"]), booted + seconds))
    return kills


def _kernel_log(root: Path, since_seconds: float) -> str:
    log = _kmsg(root)
    if log is None:
        log = _output(root, 5, "dmesg")
    if log is None:
        since = f"--since=-{since_seconds:.0f}s"
        log = _output(root, 5, "journalctl", "--dmesg", "--output=short-monotonic", since)
    return log or ""


def _kmsg(root: Path) -> str | None:
    """The records of /dev/kmsg; None if it cannot be read."""
    records: list[bytes] = []
    try:
        with open(root / "dev/kmsg", "rb", buffering=0) as file:
            os.set_blocking(file.fileno(), False)  # or the last read waits for news
            while record := file.read(8192):
                records.append(record)
    except OSError:
        return None
    return b"".join(records).decode(errors="replace")


def _output(root: Path, timeout_seconds: float, program: str, *arguments: str) -> str | None:
    """What a program of the host prints. None: there is none, or it fails; "": it took too long."""
    folders = [str(root / folder) for folder in ("usr/bin", "bin", "opt/vc/bin")]
    found = shutil.which(program, path=os.pathsep.join(folders))
    if found is None:
        return None
    command = [found, *arguments]
    try:
        result = subprocess.run(command, capture_output=True, check=True, timeout=timeout_seconds)
    except subprocess.TimeoutExpired:
        return ""
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.decode(errors="replace")


def _or_none(ask: Callable[[], T]) -> T | None:
    """psutil raises errors of many kinds on hosts that it does not know."""
    try:
        return ask()
    except Exception:
        return None


def _matches(root: Path, pattern: str) -> list[Path]:
    return [root / name for name in glob.glob(pattern, root_dir=root)]


def _integers(root: Path, pattern: str) -> list[int]:
    """The numbers in those files of a pattern that can be read and hold one."""
    values = [_integer(_text(path)) for path in _matches(root, pattern)]
    return [value for value in values if value is not None]


def _integer(text: str, base: int = 10) -> int | None:
    """A number, alone or after "name="."""
    try:
        value = int(text.rpartition("=")[2], base)
    except ValueError:
        return None
    return value if abs(value) < 2**63 else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
