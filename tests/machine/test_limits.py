"""What this process may take of the host: its control groups' memory and time, its cores."""

import os
from pathlib import Path

import psutil
import pytest

from npnet.machine import memory
from npnet.machine.telemetry import node_cores

HOST = psutil.cpu_count(logical=True)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


V2 = {"proc/self/cgroup": "0::/a/b\n"}
V1 = {"proc/self/cgroup": "4:cpu,cpuacct:/a\n9:memory:/a/b\n1:name=systemd:/c\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, None),
        ({**V2, "sys/fs/cgroup/a/b/memory.max": "max\n"}, None),
        ({**V2, "sys/fs/cgroup/a/b/memory.max": "1000000\n"}, 1_000_000),
        ({**V2, "sys/fs/cgroup/a/b/memory.max": "max", "sys/fs/cgroup/a/memory.max": "7"}, 7),
        ({**V1, "sys/fs/cgroup/memory/a/memory.limit_in_bytes": "5000\n"}, 5000),
        ({**V1, "sys/fs/cgroup/memory/a/memory.limit_in_bytes": str(2**63)}, None),
        ({**V2, "sys/fs/cgroup/a/b/memory.max": "many\n"}, None),
    ],
)
def test_memory(tmp_path: Path, files: dict[str, str], expected: int | None) -> None:
    host = psutil.virtual_memory().total
    assert memory.limit_bytes(write(tmp_path, files)) == (expected or host)


def test_more_than_there_is_is_refused() -> None:
    memory.check_bytes(1)
    with pytest.raises(MemoryError, match=r"1,000,000\.0 GB are wanted, this host has"):
        memory.check_bytes(10**15)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, HOST),
        ({**V2, "sys/fs/cgroup/a/b/cpu.max": "max 100000\n"}, HOST),
        ({**V2, "sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 1),
        ({**V2, "sys/fs/cgroup/a/cpu.max": "100000 0\n"}, HOST),
        (
            {
                **V1,
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "100000",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000",
            },
            1,
        ),
        (
            {
                **V1,
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu,cpuacct/a/cpu.cfs_period_us": "100000",
            },
            HOST,
        ),
    ],
)
def test_cores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(HOST)))
    assert node_cores(write(tmp_path, files)) == expected


def test_cores_that_this_process_may_not_use_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rank that its launcher has bound may run on fewer than the node's ranks together."""
    here, parent = {0}, {0}
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: parent if process else here)
    nowhere = Path("/none")
    assert node_cores(nowhere) == 1
    parent |= set(range(HOST))
    assert node_cores(nowhere) == HOST
