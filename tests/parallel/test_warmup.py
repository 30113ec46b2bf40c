"""One rank of a node compiles, apart and once; what is missing or damaged is made good."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cifar_files import write_cifar
from tests.launch import SOURCES, npnet_run

TINY = ("--width", "0.1", "--input-size", "32", "--max-steps", 2)
TRAIN = ("train", *TINY, "--epochs", 1, "--eval-at-end", "--no-progress")
SECONDS_TO_COMPILE = 300
# What is compiled, and when, is asked here; not how well: that the optimiser is told to do less.
HERE = {"NPNET_CACHE": "cache", "NUMBA_OPT": "1"}

COMPILING = "[INFO] Compiling the kernels for this processor, once"
FAILED = "npnet: warning: the process that compiles the kernels failed: "

# Nothing longer than this can be written, as on a full disk; the compiling process inherits it.
FULL_DISK = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
"""

# What is compiled is counted from the start, and each count is a line.
LOOK_OFTEN = """
import npnet.cli.bar, npnet.training.warmup
npnet.cli.bar.SECONDS_BETWEEN_LINES = -1
npnet.training.warmup.SECONDS_BETWEEN_LOOKS = 0.1
"""

# A run's own files would be too large for that disk.
NO_RUN_FOLDER = """
start = Trainer.__init__
def start_without(self, dataset, model, recipe, settings, comm, reporter, *rest, **named):
    start(self, dataset, model, recipe, settings, comm, reporter, **named)
Trainer.__init__ = start_without
"""

pytestmark = [pytest.mark.compiled, pytest.mark.mpi, pytest.mark.slow]


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place whose folder `cache` was filled by the first run of two ranks, which is in `cold`."""
    place = tmp_path_factory.mktemp("warm")
    write_cifar(place / "data")
    outcome = npnet_run(
        *(*TRAIN, "--out", "cold"),
        cwd=place,
        ranks=2,
        environment=HERE,
        timeout=SECONDS_TO_COMPILE,
    )
    assert outcome.status == 0, outcome.stderr
    assert outcome.stderr == ""
    assert outcome.stdout.count(COMPILING) == 1
    return place


@pytest.fixture
def place(warm: Path, tmp_path: Path) -> Path:
    """A copy of the warm place, to damage."""
    return shutil.copytree(warm, tmp_path / "copy")


def run(place: Path, *arguments: str | Path, **how):
    outcome = npnet_run(*arguments, cwd=place, environment=HERE, **how)
    assert "Traceback" not in outcome.stderr
    return outcome


def files(place: Path) -> dict[Path, int]:
    """Everything in the cache, and when it was written."""
    found = (place / "cache").rglob("*")
    return {path: path.stat().st_mtime_ns for path in found if path.is_file()}


def list_of_files(place: Path) -> Path:
    (path,) = (place / "cache").glob("*/complete-mobilenet_v2-float32-*")
    return path


def memory(run_folder: Path) -> tuple[int, int]:
    """The peak of a run, and what was planned of it, bytes."""
    summary = json.loads((run_folder / "summary.json").read_text())
    return summary["peak_rss_bytes"], summary["planned_bytes"]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--recipe", "paper", "--width", "0.5", "--input-size", "64", "--batch-per-rank", 3),
        ("--freeze-bn", "--dropout", "0.2", "--label-smoothing", "0.1", "--no-nesterov"),
        ("--crop-scale", "0.5", "--color-jitter", "0.2", "--crop-fraction", "0.875"),
    ],
)
def test_the_first_run_compiled_all_that_another_calls(warm: Path, options) -> None:
    before = files(warm)
    outcome = run(warm, *TRAIN, *options, "--out", "again", ranks=2)
    assert outcome.status == 0, outcome.stderr
    assert outcome.stderr == ""
    assert COMPILING not in outcome.stdout
    assert files(warm) == before
    shutil.rmtree(warm / "again")


def test_the_compiler_s_memory_is_not_the_training_rank_s(warm: Path) -> None:
    run(warm, *TRAIN, "--out", "loaded", ranks=2)
    (cold, _), (loaded, _) = memory(warm / "cold"), memory(warm / "loaded")
    assert cold < 1.1 * loaded


def test_a_rank_takes_little_beside_its_arrays(warm: Path) -> None:
    write_cifar(warm / "many", images=10_000)
    outcome = run(warm, *TRAIN, "--data-dir", "many", "--input-size", "128", "--out", "large")
    assert outcome.status == 0, outcome.stderr
    peak, planned = memory(warm / "large")
    assert 30e6 < planned < peak - 50e6
    assert peak < planned + 150e6


def test_the_command_says_where_the_code_lies(warm: Path) -> None:
    """One line for each node; all ranks of this test are on one."""
    outcome = run(warm, "warmup", ranks=2)
    folder = list_of_files(warm).parent.relative_to(warm)
    assert outcome.stdout == f"[Rank 0] float32 kernels of mobilenet_v2 were there: {folder}\n"


@pytest.mark.parametrize("content", ["", "jit", "\0\xff\n", None])
def test_a_list_that_is_not_whole_is_made_again(place: Path, content: str | None) -> None:
    path = list_of_files(place)
    whole = path.read_text()
    path.write_text(content, encoding="latin-1") if content is not None else path.unlink()
    outcome = run(place, "warmup")
    assert outcome.status == 0, outcome.stderr
    assert "warning" not in outcome.stderr
    assert path.read_text() == whole


def test_what_someone_tidied_away_is_compiled_again(place: Path) -> None:
    before = set(files(place))
    for path in before:
        if path.name.startswith("activation.residual_backward"):
            path.unlink()
    outcome = run(place, "warmup", patches=LOOK_OFTEN)
    assert outcome.stdout.startswith(COMPILING)
    assert "[INFO] Compiling the kernels: " in outcome.stderr
    assert "[Rank 0] float32 kernels of mobilenet_v2 compiled in " in outcome.stdout
    assert set(files(place)) == before


def test_damaged_code_costs_a_training_run_one_line(place: Path) -> None:
    for path in files(place):
        if path.name.startswith("activation.residual_backward"):
            path.write_bytes(path.read_bytes()[:100])
    outcome = run(place, *TRAIN, "--out", "run")
    assert outcome.status == 0
    folder = list_of_files(place).parent.relative_to(place)
    assert outcome.stderr == (
        f"npnet: warning: compiled kernels in {folder} were damaged: they are compiled anew\n"
    )
    sums = [json.loads((place / name / "summary.json").read_text()) for name in ("run", "cold")]
    assert sums[0]["train_loss"] == pytest.approx(sums[1]["train_loss"], rel=0.2)


def test_without_the_compiling_process_the_rank_compiles(place: Path) -> None:
    """As where there is no memory for a second one."""
    list_of_files(place).unlink()
    patch = "import sys; sys.executable = '/bin/false'"
    outcome = run(place, *TRAIN, "--out", "run", ranks=2, patches=patch)
    assert outcome.status == 0
    assert outcome.stderr == FAILED + "its status is 1\n"


def test_a_full_disk_is_told_and_keeps_nobody_from_training(place: Path) -> None:
    for path in files(place):
        if path.name.startswith("activation.residual_backward"):
            path.unlink()
    outcome = run(place, *TRAIN, patches=FULL_DISK + NO_RUN_FOLDER)
    assert outcome.status == 0, outcome.stderr
    (line,) = outcome.stderr.splitlines()
    assert line.startswith(FAILED)
    assert "(File too large), so each start compiles anew: name a folder of your own" in line
    assert "[SUMMARY]" in outcome.stdout
    refused = run(place, "warmup", patches=FULL_DISK)
    assert refused.status == 2
    assert "are not kept in cache" in refused.errors[0]


def test_a_warning_is_one_line_of_one_rank(tmp_path: Path) -> None:
    (tmp_path / "cache").touch()  # a file where the folder should be
    outcome = run(tmp_path, "info", ranks=2)
    (line,) = outcome.stderr.splitlines()
    assert line.startswith("npnet: warning: compiled kernels cannot be kept in cache")
    refused = run(tmp_path, "warmup")
    assert refused.status == 2
    assert refused.errors == ["there is no place for compiled kernels: name one in NPNET_CACHE"]


# Prints each kernel whose types the rehearsal in NumPy noted otherwise than it was then called.
REHEARSE_TWICE = """
from npnet.kernels import backend
from npnet.model.zoo import configure
from npnet.training.warmup import Rehearsal, calls_of, rehearse

rehearsal = Rehearsal.of(configure("mobilenet_v2", 10))
noted = calls_of(rehearsal)
rehearse(rehearsal)
called = {name: set(getattr(backend("numba"), name).signatures) for name in noted}
print(len(noted), *(name for name in noted if noted[name] != called[name]))
"""


def test_what_is_noted_is_what_is_called(warm: Path) -> None:
    """Else each core compiles what nobody needs, and one alone the rest."""
    ended = subprocess.run(
        [sys.executable, "-c", REHEARSE_TWICE],
        cwd=warm,
        env=os.environ | HERE | {"PYTHONPATH": str(SOURCES)},
        capture_output=True,
        text=True,
        check=True,
    )
    number, *others = ended.stdout.split()
    assert int(number) > 20
    assert others == []
