"""npnet on an emulated Cortex-A72 and A76: kernels, gradients, a training of two ranks.

Run by `run`, apart from the suite. What is compared with this machine's own results was computed by
its own row of kernels/jit/target.py: products are summed in the same order whatever a register
holds, so most results are the same to the bit. The kernels are compiled here (`ahead`), but for
some that are compiled on the emulated core to see that it is the same machine code.
"""

import csv
import json
import pickle
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numba.core.caching import IndexDataCacheFile

from npnet.kernels import reference
from npnet.kernels.jit.cache import SEAL_BYTES
from tests.arm.results import calls, drawn
from tests.datasets import Toy
from tests.kernels.test_twins import worst
from tests.launch import SOURCES, clean_environment, launcher

CORES = ("cortex-a72", "cortex-a76")
PYTHON = SOURCES / "tests/arm/python"
CACHE = SOURCES / ".arm/cache"
CLOSE = 1e-5  # relative to the largest value

# Sums over pixels are added up in as many parts as a register holds numbers.
SUMS = {"mean", "variance", "covariance", "dw", "dw1", "dgamma", "dbeta", "affine_backward"}
# So are the nine products at a map's border, and the mean of an image's grey.
SUMS_OF = {
    "activation_depthwise3x3_stats_backward": "dz",
    "expand_depthwise3x3_stats_backward": "da",
    "image_resized_crop_forward": "y",
}

COMPILED_THERE = ("activation_forward", "sgd_update")  # quick to compile, one by vectors
GRADIENTS = "numba and (mobilenet_v2-batch or mobilenet_v2-frozen or squeezenet1_1-)"

ASK = """
import json, platform
from numba.core.registry import cpu_target
from npnet.kernels.jit.options import cache_directory
from npnet.kernels.jit.target import fitting_row
triple, name, features = cpu_target.target_context.codegen().magic_tuple()
print(json.dumps([platform.machine(), name, fitting_row(), features, cache_directory()]))
"""
# The emulator does not know how to ask for the speed of a network, and lists no processes.
NPNET = """
import psutil
import psutil._psutil_linux as linux
linux.net_if_duplex_speed = lambda name: (255, 0)
psutil._LOWEST_PID = 1
from npnet.cli.main import main
main()
"""


def finished(command, **variables):
    """What a program says that ends well."""
    done = subprocess.run(
        [*map(str, command)],
        cwd=SOURCES,
        env=clean_environment() | {"OMP_NUM_THREADS": "1"} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@dataclass
class Core:
    """An emulated core, and the folder of its machine code."""

    name: str
    folder: Path = CACHE

    def run(self, *arguments, before=(), cache=CACHE):
        """Python there. It finds all that it calls compiled, in the usual cache."""
        there = set(self.folder.glob("*.nbc"))
        said = finished([*before, PYTHON, *arguments], QEMU_CPU=self.name, NPNET_CACHE=str(cache))
        assert set(self.folder.glob("*.nbc")) == there, "ahead.py did not compile all"
        return said


@pytest.fixture(scope="module", params=CORES)
def core(request):
    CACHE.mkdir(mode=0o700, exist_ok=True)
    core = Core(request.param)
    machine, name, row, features, folder = json.loads(core.run("-c", ASK))
    assert (machine, name, row) == ("aarch64", core.name, core.name)
    finished([sys.executable, "-m", "tests.arm.ahead", core.name, folder, features])
    core.folder = Path(folder)
    return core


@pytest.fixture(scope="module")
def begun(core, tmp_path_factory):
    """By name, all that takes one process, in two threads; and the folder of the results."""
    folder = tmp_path_factory.mktemp(core.name)
    results = ("-m", "tests.arm.results", core.name)
    with ThreadPoolExecutor(2) as pool:
        yield {
            "folder": folder,
            "gradients": pool.submit(
                core.run, "-m", "pytest", "-q", "-p", "no:cacheprovider",
                "tests/measure/test_gradients.py", "-k", GRADIENTS,
            ),
            "there": pool.submit(core.run, *results, folder / "there.npz"),
            "compiled": pool.submit(
                core.run, *results, folder / "compiled.npz", *COMPILED_THERE, cache=folder
            ),
            "here": pool.submit(finished, [sys.executable, *results, folder / "here.npz"]),
        }  # fmt: skip


def loaded(begun, name):
    begun[name].result()
    with np.load(begun["folder"] / f"{name}.npz") as file:
        return dict(file)


def test_kernels_match_their_float64_twins(core, begun):
    results = loaded(begun, "there")
    for call, kernel, case in calls(core.name):
        expected = drawn(kernel, case, np.float64)
        getattr(reference, kernel.name)(*expected.values())
        for name in kernel.output_names(case):
            error = worst(results[f"{call}/{name}"], expected[name])
            assert error <= kernel.tolerance, (call, name, error)


def test_kernels_return_what_they_return_here(core, begun):
    there, here = loaded(begun, "there"), loaded(begun, "here")
    assert set(there) == set(here)
    differ = []
    for name in there:
        kernel, _, output = name.split("/")
        if output in SUMS or output == SUMS_OF.get(kernel):
            same = worst(there[name], here[name]) <= CLOSE
        else:
            same = there[name].tobytes() == here[name].tobytes()
        if not same:
            differ.append(name)
    assert differ == []


def test_what_is_compiled_here_is_what_is_compiled_there(core, begun):
    there = loaded(begun, "compiled")
    assert {name.split("/")[0] for name in there} == set(COMPILED_THERE)
    (folder,) = begun["folder"].glob("*/")
    for name in COMPILED_THERE:
        here = code(core.folder, name)
        for signature, instructions in code(folder, name).items():
            assert here[signature] == instructions


def code(folder, kernel):
    """By signature: the machine code of a kernel that Numba finds, without names and addresses."""
    (index,) = folder.glob(f"*.{kernel}-*.nbi")
    found = {}
    for signature, name in IndexDataCacheFile(folder, index.stem, None)._load_index().items():
        (_, _, (object_file, _)), *_ = pickle.loads((folder / name).read_bytes()[:-SEAL_BYTES])
        found[signature] = instructions_and_constants(object_file)
    return found


def instructions_and_constants(elf):
    """Those sections of an ELF file. Others hold names, which Numba numbers by process."""
    (table,) = struct.unpack_from("<Q", elf, 0x28)
    size, count = struct.unpack_from("<HH", elf, 0x3A)
    found = []
    for place in range(table, table + count * size, size):
        _, kind, flags, _, start, length = struct.unpack_from("<IIQQQQ", elf, place)
        if kind == 1 and flags & 0x14 and not flags & 0x20:  # executable, or merged: no strings
            found.append(bytes(elf[start : start + length]))
    assert sum(map(len, found)) > 500
    return found


def test_gradients(begun):
    said = begun["gradients"].result()
    assert "4 passed" in said, said


@pytest.fixture
def alone(core, begun):
    """The core when nothing of `begun` runs any more."""
    wait([job for name, job in begun.items() if name != "folder"])
    return core


def test_two_ranks_train_as_here(alone, tmp_path):
    dataset, arrays = Toy(96, 24), {}
    for split in ("train", "test"):
        images = dataset.read(split, np.arange(dataset.size(split)))
        arrays |= {f"x_{split}": images.pixels, f"y_{split}": images.labels}
    np.savez(tmp_path / "toy.npz", **arrays)
    # Steps so small that rounding is not amplified: none of them carries a value over a kink.
    train = [
        *("-c", NPNET, "train", "--data", tmp_path / "toy.npz", "--input-size", "32"),
        *("--width", "0.25", "--batch-per-rank", "16", "--max-steps", "3", "--epochs", "1"),
        *("--lr", "0.001", "--deterministic", "--no-progress", "--out"),
    ]
    mpiexec = [*launcher(), "-n", "2"]
    alone.run(*train, tmp_path / "there", before=mpiexec)
    finished([*mpiexec, sys.executable, *train, tmp_path / "here"])
    there, here = (saved(tmp_path / name) for name in ("there", "here"))
    for name in ("values", "statistics"):
        assert worst(there[name], here[name]) <= CLOSE
    for one, other in zip(there["log"], here["log"], strict=True):
        assert one["acc"] == other["acc"]
        assert one["test_acc"] == other["test_acc"]
        for loss in ("loss", "test_loss"):
            assert float(one[loss]) == pytest.approx(float(other[loss]), rel=CLOSE)


def test_a_new_board_s_first_commands(alone):
    """Those of docs/cluster.md that compute little."""
    (target,) = (line for line in npnet(alone, "info").splitlines() if "Numba target" in line)
    assert target.split()[2:4] == ["aarch64", alone.name]
    assert "nothing found" in npnet(alone, "doctor", "--dataset", "shapes")
    assert "kernels of mobilenet_v2 were there" in npnet(alone, "warmup")


def npnet(core, *arguments):
    return core.run("-c", NPNET, *arguments)


def saved(run):
    with np.load(run / "final.npz") as arrays, (run / "log.csv").open(newline="") as log:
        return {**arrays, "log": list(csv.DictReader(log))}
