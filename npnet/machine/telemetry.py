"""What a run costs: memory, processor time, machine."""

import hashlib
import math
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

import npnet
from npnet.machine.memory import group_folders, status_bytes


def peak_rss_bytes() -> int:
    """The largest resident set of this program so far, bytes.

    On Linux `ru_maxrss` begins with that of the program which started this one; VmHWM is its own.
    Source: getrusage(2).
    """
    if (own := status_bytes("VmHWM")) is not None:
        return own
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def rss_bytes() -> int:
    """The resident set of this process, bytes."""
    rss: int = psutil.Process().memory_info().rss
    return rss


def machine() -> dict[str, Any]:
    """The machine and the versions that figures depend on."""
    return {
        "host": platform.node(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor_name(),
        "cores": psutil.cpu_count(logical=True),
        "memory_bytes": psutil.virtual_memory().total,
        "python": platform.python_version(),
        **{name: package_version(name) for name in ("numpy", "numba", "mpi4py", "click", "psutil")},
        "npnet": npnet.__version__,
        "commit": commit(),
    }


def package_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def commit() -> str | None:
    """The commit of the source tree that npnet runs from, None when it was installed from a wheel.

    A trailing + says that tracked files were changed since.
    """
    root = Path(npnet.__file__).resolve().parent.parent
    if not (root / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12"]
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()


def source_digest() -> str:
    """A hash of npnet's source files: ranks must run the same code, whatever its version."""
    root, digest = Path(npnet.__file__).parent, hashlib.sha256()
    folders = os.walk(root, followlinks=True)  # kernels and cli are links, but not in a wheel
    paths = [Path(folder, name) for folder, _, names in folders for name in names]
    for path in sorted(path for path in paths if path.suffix == ".py"):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _processor_name() -> str:
    """The first model name in /proc/cpuinfo; on a Raspberry Pi the board's name stands last."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    values = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    named = {key.strip().lower(): value.strip() for key, value in values.items()}
    return named.get("model name") or named.get("model") or platform.processor() or "unknown"


def node_cores(root: Path = Path("/")) -> int:
    """The cores that the ranks of this node share.

    Those that this process, or the one that started it, may run on: a launcher binds each rank to
    cores of its own. No more than the time of a control group buys. Sources: sched_getaffinity(2);
    cpu.max of cgroup v2, cpu.cfs_quota_us and cpu.cfs_period_us of v1.
    """
    cores = psutil.cpu_count(logical=True) or os.cpu_count() or 1
    allowed: set[int] = set()
    for process in (0, os.getppid()):
        with suppress(AttributeError, OSError):  # not every system has affinities
            allowed |= os.sched_getaffinity(process)
    quotas = [math.ceil(each) for each in _cpu_quotas(root) if each > 0]
    return max(1, min([cores, len(allowed) or cores, *quotas]))


def _cpu_quotas(root: Path) -> Iterator[float]:
    """Seconds of processor time in a second that the control groups of this process may take."""
    for folder in group_folders(root, "cpu"):
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = (folder / "cpu.max").read_text().split()
            yield int(quota) / int(period)  # "max" is no number
        with suppress(OSError, ValueError, ZeroDivisionError):
            quota = (folder / "cpu.cfs_quota_us").read_text()
            yield int(quota) / int((folder / "cpu.cfs_period_us").read_text())
