"""What hosts tell about their health, read from made-up root folders."""

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO, NamedTuple

import pytest

from npnet.machine import sensors
from npnet.machine.sensors import (
    CPUS,
    GET_THROTTLED,
    Sensors,
    SystemCpu,
    clock_mhz,
    oom_kills,
    swap_bytes,
    temperature_celsius,
    throttle_words,
)

CPUFREQ = f"{CPUS}/cpu2/cpufreq"
THROTTLE_COUNT = f"{CPUS}/cpu1/thermal_throttle/core_throttle_count"
ON_CORE_2 = "42 (python (x) 3) R " + " ".join("0" for _ in range(35)) + " 2 0 0\n"
PI_4 = {
    "proc/self/stat": ON_CORE_2,
    "proc/self/status": "Name:\tpython\nVmRSS:\t  9000 kB\nVmSwap:\t    2048 kB\n",
    "sys/class/thermal/thermal_zone0/temp": "80000\n",
    "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
    f"{CPUS}/cpu0/cpufreq/scaling_cur_freq": "1500000\n",
    f"{CPUFREQ}/scaling_cur_freq": "600000\n",
    f"{CPUFREQ}/cpuinfo_max_freq": "1500000\n",
    GET_THROTTLED: "50005\n",
}


def plant(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def program(root: Path, name: str, script: str) -> Path:
    """A program of the made-up host that also notes each call; the file of its notes."""
    path, notes = root / "usr/bin" / name, root / f"{name}.calls"
    plant(root, {f"usr/bin/{name}": f'#!/bin/sh\necho "$@" >> "{notes}"\n{script}\n'})
    path.chmod(0o755)
    return notes


def raises(error: Exception) -> Callable[..., Any]:
    def ask(*_: Any, **__: Any) -> Any:
        raise error

    return ask


@pytest.fixture(autouse=True)
def _psutil_knows_no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors.psutil, "cpu_freq", lambda: None)


def test_this_host_is_read_without_an_error():
    health = Sensors().read()
    assert health.memory_total_bytes >= health.memory_available_bytes > 0
    assert health.involuntary_switches >= 0


def test_the_log_of_this_host_can_be_asked():
    """In a process of its own: a read that waits for news would have no end."""
    code = "from npnet.machine.sensors import oom_kills; print(type(oom_kills(60)).__name__)"
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, text=True, timeout=120).strip() == "list"


def test_a_raspberry_pi_tells_all(tmp_path):
    health = Sensors(plant(tmp_path, PI_4)).read()
    assert health.temperature_celsius == 80
    assert (health.clock_mhz, health.clock_max_mhz) == (600, 1500)
    assert health.throttled == "under-voltage now, throttled now"
    assert health.swap_bytes == 2048 * 1024


def test_a_virtual_machine_tells_nothing(tmp_path, monkeypatch):
    for name in ("cpu_times", "virtual_memory", "cpu_freq"):
        monkeypatch.setattr(sensors.psutil, name, raises(RuntimeError("unknown host")))
    health = Sensors(tmp_path).read()
    assert health._replace(involuntary_switches=0) == (*3 * [None], "", *4 * [None], 0)
    assert oom_kills(60, tmp_path) == []


@pytest.mark.parametrize(
    "garbage", [b"", b"\n", b"<unknown>\n", b"\xff\xfe\0", b"nan", b"9" * 400, b"9" * 9000]
)
def test_garbage_is_unknown(tmp_path, garbage):
    files = {**PI_4, THROTTLE_COUNT: "", "sys/class/hwmon/hwmon0/temp1_input": ""}
    plant(tmp_path, {"sys/class/hwmon/hwmon0/name": "cpu_thermal"} | dict.fromkeys(files, garbage))
    program(tmp_path, "vcgencmd", 'cat "${0%/*}/../../proc/self/stat"')
    log = b"3,1,%b,-;Killed process 1 (x)\n3,1,1,-;Killed process %b (x)\n" % (garbage, garbage)
    plant(tmp_path, {"dev/kmsg": log, "proc/self/status": b"VmSwap: %b kB" % garbage})
    health = Sensors(tmp_path).read()
    assert health[:5] == (None, None, None, "", None)
    assert oom_kills(1e9, tmp_path) == []


@pytest.mark.parametrize("obstacle", ["vanished", "folder"])
def test_files_that_vanish_or_cannot_be_read_are_unknown(tmp_path, obstacle):
    for name in (*PI_4, THROTTLE_COUNT, "dev/kmsg"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if obstacle == "folder":
            path.mkdir()
        else:
            path.symlink_to(tmp_path / "gone")
    health = Sensors(tmp_path).read()
    assert health[:5] == (None, None, None, "", None)
    assert oom_kills(60, tmp_path) == []


def test_the_hottest_sensor_of_the_processor_counts(tmp_path):
    plant(tmp_path, {"sys/class/thermal/thermal_zone0/temp": "-274000"})
    assert temperature_celsius(tmp_path) is None
    plant(tmp_path, {"sys/class/thermal/thermal_zone1/temp": "30000"})
    assert temperature_celsius(tmp_path) == 30  # of an unknown thing: better than none
    plant(tmp_path, {"sys/class/thermal/thermal_zone0/temp": "255000"})
    assert temperature_celsius(tmp_path) == 30
    plant(tmp_path, {"sys/class/thermal/thermal_zone2/type": "x86_pkg_temp"})
    plant(tmp_path, {"sys/class/thermal/thermal_zone2/temp": "29000"})
    assert temperature_celsius(tmp_path) == 29
    plant(tmp_path, {"sys/class/hwmon/hwmon0/name": "nvme\n"})
    plant(tmp_path, {"sys/class/hwmon/hwmon0/temp1_input": "90000"})
    assert temperature_celsius(tmp_path) == 29
    plant(tmp_path, {"sys/class/hwmon/hwmon1/name": "coretemp\n"})
    plant(tmp_path, {f"sys/class/hwmon/hwmon1/temp{i}_input": f"{50 + i}000" for i in range(3)})
    plant(tmp_path, {"sys/class/hwmon/hwmon1/temp1_crit": "100000"})
    assert temperature_celsius(tmp_path) == 52


def test_the_clock_without_cpufreq_is_psutil_s(tmp_path, monkeypatch):
    class Frequency(NamedTuple):
        current: float
        max: float

    assert clock_mhz(tmp_path) == (None, None)
    monkeypatch.setattr(sensors.psutil, "cpu_freq", lambda: Frequency(2400.0, 0.0))
    assert clock_mhz(tmp_path) == (2400, None)
    plant(tmp_path, {f"{CPUS}/cpu0/cpufreq/scaling_cur_freq": "1800000"})
    assert clock_mhz(tmp_path) == (1800, None)


@pytest.mark.parametrize(
    ("bits", "words"),
    [
        (0, "no"),
        (0x1, "under-voltage now"),
        (0x50000, "under-voltage since boot, throttled since boot"),
        (0x50005, "under-voltage now, throttled now"),
        (0x60002, "frequency capped now, throttled since boot"),
        (0x80008, "soft temperature limit now"),
        (0xA0000, "frequency capped since boot, soft temperature limit since boot"),
        (0x10, "no"),
    ],
)
def test_words_for_get_throttled(bits, words):
    assert throttle_words(bits) == words


def test_the_firmware_knows_better_than_the_kernel(tmp_path):
    calls = program(
        tmp_path,
        "vcgencmd",
        '[ $1 = get_throttled ] && echo "throttled=0x20002" || echo "frequency(48)=750169600"',
    )
    health = Sensors(plant(tmp_path, PI_4)).read()
    assert health.throttled == "frequency capped now"
    assert health.clock_mhz == pytest.approx(750.17, abs=0.01)
    assert calls.read_text().splitlines() == ["measure_clock arm", "get_throttled"]


def test_a_vcgencmd_that_fails_is_not_asked_again(tmp_path):
    calls = program(tmp_path, "vcgencmd", "echo VCHI initialization failed; exit 255")
    host = Sensors(plant(tmp_path, PI_4))
    assert {host.read().throttled for _ in range(3)} == {"under-voltage now, throttled now"}
    assert len(calls.read_text().splitlines()) == 1


def test_a_missing_vcgencmd_is_not_looked_for_again(tmp_path, monkeypatch):
    program(tmp_path / "other", "vcgencmd", "echo throttled=0x1")  # of another root folder
    monkeypatch.setenv("PATH", f"{tmp_path}/other/usr/bin", prepend=os.pathsep)
    host = Sensors(tmp_path)
    assert host.read().throttled == ""
    program(tmp_path, "vcgencmd", "echo throttled=0x1")
    assert host.read().throttled == ""


def test_a_slow_vcgencmd_may_answer_the_next_time(tmp_path, monkeypatch):
    program(tmp_path, "vcgencmd", "echo throttled=0x1")
    host = Sensors(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(sensors.subprocess, "run", raises(subprocess.TimeoutExpired("vcgencmd", 1)))
        assert host.read().throttled == ""
    assert host.read().throttled == "under-voltage now"


def test_an_x86_core_counts_its_throttles(tmp_path):
    plant(tmp_path, {THROTTLE_COUNT: "7\n"})  # before this run
    host = Sensors(tmp_path)
    assert host.read().throttled == "no"
    plant(tmp_path, {THROTTLE_COUNT: "8\n"})
    assert host.read().throttled == "throttled since the run began"
    assert host.read().throttled == "throttled since the run began"
    (tmp_path / THROTTLE_COUNT).unlink()
    assert host.read().throttled == ""


@pytest.mark.parametrize(("line", "expected"), [("VmSwap:\t 0 kB", 0), ("VmSwapped: 1 kB", None)])
def test_swap(tmp_path, line, expected):
    assert swap_bytes(plant(tmp_path, {"proc/self/status": f"VmRSS: 5 kB\n{line}\n"})) == expected


class Times(NamedTuple):
    """As psutil.cpu_times: seconds since boot, all cores together."""

    user: float
    idle: float
    iowait: float = 0.0
    steal: float = 0.0
    guest: float = 0.0


@pytest.mark.parametrize(
    ("after", "percent"),
    [
        (Times(user=130, idle=1010), 75),
        (Times(user=130, idle=1000, iowait=10), 75),
        (Times(user=100, idle=1010, steal=10), 50),
        (Times(user=130, idle=1010, guest=30), 75),  # guest is in user already
        (Times(user=100, idle=1020), 0),
        (Times(user=130, idle=999), 100),  # idle and iowait may run backwards
        (Times(user=100, idle=1000), None),  # no tick yet
    ],
)
def test_cpu_percent_of_the_host(monkeypatch, after, percent):
    times = iter([Times(user=100, idle=1000), after])
    monkeypatch.setattr(sensors.psutil, "cpu_times", lambda: next(times))
    assert SystemCpu().percent() == percent


def test_cpu_percent_counts_from_the_previous_call(monkeypatch):
    idle = iter([Times(0, 0), Times(10, 10), Times(10, 10), Times(10, 20)])
    monkeypatch.setattr(sensors.psutil, "cpu_times", lambda: next(idle))
    watch = SystemCpu()
    assert [watch.percent() for _ in range(3)] == [50, None, 0]


@pytest.fixture
def _up_for_1000_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(
        time=lambda: 51_000.0, clock_gettime=lambda _: 1000.0, CLOCK_MONOTONIC_RAW=None
    )
    monkeypatch.setattr(sensors, "time", clock)


def kernel_messages(form: str) -> str:
    """Three kills, 1000, 5 and 4 s ago, in the form of /dev/kmsg, dmesg or journalctl."""
    rest = "total-vm:8kB, anon-rss:7kB, UID:1000 pgtables:9kB oom_score_adj:0"
    messages = [
        (0, f"Out of memory: Killed process 9 (old) {rest}"),
        (994, "python3 invoked oom-killer: gfp_mask=0x140cca(GFP_HIGHUSER_MOVABLE), order=0"),
        (995, f"Memory cgroup out of memory: Killed process 77 (a (b) c) {rest}"),
        (996, "Killed process 78 (python), UID 1000, total-vm:8kB, anon-rss:7kB"),  # Linux 4
        (997, "oom_reaper: reaped process 78 (python), now anon-rss:0kB, file-rss:0kB"),
    ]
    return "".join(form.format(us=at * 10**6, s=at, text=text) for at, text in messages)


KMSG = "3,901,{us},-;{text}\n SUBSYSTEM=cpu\n"
DMESG = "[{s:12.6f}] {text}\n"
TWO_KILLS = [("a (b) c", 77, 50_995.0), ("python", 78, 50_996.0)]


@pytest.mark.usefixtures("_up_for_1000_seconds")
def test_out_of_memory_kills_from_the_kernel_s_own_file(tmp_path):
    plant(tmp_path, {"dev/kmsg": kernel_messages(KMSG)})
    assert oom_kills(60, tmp_path) == TWO_KILLS
    assert oom_kills(1001, tmp_path) == [("old", 9, 50_000.0), *TWO_KILLS]


@pytest.mark.usefixtures("_up_for_1000_seconds")
@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("dmesg", DMESG),
        ("dmesg", "[{s:12.6f}][  T77] {text}\n"),
        ("journalctl", "[{s:12.6f}] pi-01 kernel: {text}\n"),
    ],
)
def test_out_of_memory_kills_from_the_logs_of_programs(tmp_path, name, form):
    plant(tmp_path, {"log": kernel_messages(form)})
    program(tmp_path, "dmesg", "echo no rights >&2; exit 1")
    calls = program(tmp_path, name, f'cat "{tmp_path}/log"')
    assert oom_kills(60, tmp_path) == TWO_KILLS
    if name == "journalctl":
        since = "--dmesg --output=short-monotonic --since=-60s"
        assert calls.read_text().splitlines()[0] == since


@pytest.mark.usefixtures("_up_for_1000_seconds")
def test_a_reader_of_the_kernel_s_log_does_not_wait_for_more(tmp_path):
    """/dev/kmsg has no end: a read blocks until there is news. So does a pipe."""
    (tmp_path / "dev").mkdir()
    os.mkfifo(tmp_path / "dev/kmsg")
    with open(tmp_path / "dev/kmsg", "r+b", buffering=0) as writer:
        writer.write(kernel_messages(KMSG).encode())
        news = threading.Timer(20, end_with_news, [writer])
        news.start()
        assert oom_kills(60, tmp_path) == TWO_KILLS
        news.cancel()


def end_with_news(writer: BinaryIO) -> None:
    """So that a reader who waits fails, instead of waiting for ever."""
    writer.write(kernel_messages(KMSG).encode())
    writer.close()


def test_no_right_to_read_the_kernel_s_log_makes_no_noise(tmp_path, capfd):
    for name in ("dmesg", "journalctl"):
        program(tmp_path, name, "echo Operation not permitted >&2; exit 1")
    assert oom_kills(60, tmp_path) == []
    assert capfd.readouterr() == ("", "")
