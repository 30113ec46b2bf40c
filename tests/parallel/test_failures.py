"""What fails on one rank ends them all, soon, with a message; and npnet without a working MPI."""

import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from npnet.training.checkpoint import load
from tests import launch
from tests.cifar_files import write_cifar
from tests.launch import IN_STEP, TINY, clean_environment, launcher, npnet_run

SECONDS_TO_END = 10

# One rank's loss, in step 2 of epoch 2.
DIVERGE = """
loss = Network.loss
losses = 0
def diverge(self, labels, *args):
    global losses
    losses += len(labels) > 0
    return loss(self, labels, *args) * (float("nan") if rank == 1 and losses == 4 else 1)
Network.loss = diverge
"""

# A number of one rank's gradient, where its loss is finite: in step {step} of epoch 2.
BREAK = """
backward = Network.backward
calls = 0
def break_one(self, *args):
    global calls
    backward(self, *args)
    calls += 1
    if rank == 1 and calls == 2 + {step}:
        self.parameters.gradients[5] = float("nan")
Network.backward = break_one
"""

BROKEN_MPI = {
    "absent": {"__init__.py": "raise ModuleNotFoundError('no module named mpi4py')"},
    "no library": {
        "__init__.py": "class rc: pass",
        "MPI.py": "raise RuntimeError('cannot load MPI library\\nlibmpi.so: not found')",
    },
    "another library": {
        "__init__.py": "class rc: pass",
        "MPI.py": "raise ImportError('undefined symbol: MPI_Init')",
    },
}


def left_in(run: Path) -> set[str]:
    """The files of a run; not its claim and its note, which stay where a rank is ended."""
    return {path.name for path in run.iterdir() if not path.name.startswith(".")}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    write_cifar(tmp_path / "data")
    return tmp_path


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("sync", "rank"), [("gradients", 0), ("gradients", 1), ("weights", 1), ("gather-bcast", 1)]
)
def test_an_exception_on_one_rank_ends_all(place: Path, sync: str, rank: int) -> None:
    outcome = npnet_run(
        *("train", *TINY, "--sync", sync, "--max-steps", 3, "--out", "run"),
        cwd=place,
        ranks=2,
        patches=IN_STEP.format(rank=rank, deed="1 / 0"),
    )
    assert outcome.status != 0
    assert outcome.seconds < SECONDS_TO_END
    assert outcome.stderr.count("ZeroDivisionError: division by zero") == 1
    assert outcome.statuses[1 - rank] is None
    assert "[SUMMARY]" not in outcome.stdout
    assert left_in(place / "run") == {"config.json"}


@pytest.mark.mpi
@pytest.mark.parametrize("rank", [0, 1])
def test_our_message_is_the_last_and_says_how_to_go_on(place: Path, rank: int) -> None:
    """Of Open MPI's mpiexec some lines stand below it; MPICH says nothing at all."""
    outcome = npnet_run(
        *("train", *TINY, "--epochs", 2, "--out", "run"),
        cwd=place,
        ranks=2,
        patches=IN_STEP.format(rank=rank, deed="1 / 0").replace("calls == 2", "calls == 3"),
    )
    above, _, below = outcome.stderr.partition("npnet: 1 of 2 epochs are kept: go on with ")
    assert above.endswith("ZeroDivisionError: division by zero\n")
    advice, *noise = below.splitlines()
    assert advice == "mpiexec -n 2 npnet train --resume run"
    assert len(noise) <= (8 if "--oversubscribe" in launcher() else 0)
    assert npnet_run(*advice.split()[4:], cwd=place, ranks=2).status == 0


def test_an_interrupted_run_says_how_to_go_on(place: Path) -> None:
    fault = IN_STEP.format(rank=0, deed="raise KeyboardInterrupt")
    fault = fault.replace("calls == 2", "calls == 3")
    outcome = npnet_run("train", *TINY, "--epochs", 2, "--out", "run", cwd=place, patches=fault)
    assert outcome.status == 130
    assert outcome.stderr.strip() == (
        "npnet: 1 of 2 epochs are kept: go on with npnet train --resume run"
    )


@pytest.mark.mpi
@pytest.mark.parametrize("rank", [0, 1])
def test_bad_input_of_one_rank_is_the_last_line(place: Path, rank: int) -> None:
    """As of a disk that only one rank looks at: it ends the others, who wait for it."""
    fault = IN_STEP.format(
        rank=rank,
        deed="from npnet.errors import NpnetError; raise NpnetError('a full disk: free it')",
    )
    outcome = npnet_run("train", *TINY, "--out", "run", cwd=place, ranks=2, patches=fault)
    assert re.fullmatch(rf"rank {rank} \(\S+\): a full disk: free it", outcome.error)
    noise = outcome.stderr.partition("a full disk: free it\n")[2].splitlines()
    assert len(noise) <= (8 if "--oversubscribe" in launcher() else 0)


@pytest.mark.mpi
def test_an_exception_while_reading_the_data(place: Path) -> None:
    """Of a kind that nobody foresaw, where the other rank waits to hear of bad input."""
    fault = """
from npnet.data.cifar import Cifar
read = Cifar.read
def fail(self, *args):
    if rank == 1:
        1 / 0
    return read(self, *args)
Cifar.read = fail
"""
    outcome = npnet_run("train", *TINY, "--out", "run", cwd=place, ranks=2, patches=fault)
    assert outcome.status != 0
    assert outcome.seconds < SECONDS_TO_END
    assert outcome.stderr.count("ZeroDivisionError") == 1
    assert not (place / "run").exists()


@pytest.mark.mpi
def test_a_rank_that_is_interrupted(place: Path) -> None:
    """Ctrl-C on one rank: it must not wait in MPI's own good-bye for the others."""
    fault = IN_STEP.format(rank=1, deed="raise KeyboardInterrupt")
    outcome = npnet_run("train", *TINY, "--out", "run", cwd=place, ranks=2, patches=fault)
    assert outcome.status != 0
    assert outcome.seconds < SECONDS_TO_END
    assert "Traceback" not in outcome.stderr


@pytest.mark.mpi
@pytest.mark.parametrize("sync", ["gradients", "gather-bcast"])
def test_the_loss_of_one_rank_is_not_finite(place: Path, sync: str) -> None:
    outcome = npnet_run(
        *("train", *TINY, "--sync", sync, "--epochs", 3, "--eval-at-end", "--out", "run"),
        cwd=place,
        ranks=2,
        patches=DIVERGE,
    )
    assert "the loss is nan on rank 1, epoch 2, step 2" in outcome.error
    assert "epoch 1 are kept in run/epoch-001.npz" in outcome.error
    assert outcome.seconds < SECONDS_TO_END
    assert left_in(place / "run") == {"config.json", "log.csv", "epoch-001.npz"}
    assert load(place / "run" / "epoch-001.npz").header.epoch == 1


@pytest.mark.mpi
@pytest.mark.parametrize(
    ("step", "words"),
    [
        (1, "the loss is nan on rank 0, epoch 2, step 2"),
        (2, "the weights or statistics after epoch 2 are not finite"),
    ],
)
def test_a_gradient_of_one_rank_is_not_finite(place: Path, step: int, words: str) -> None:
    """It reaches the weights of all, but no checkpoint."""
    outcome = npnet_run(
        *("train", *TINY, "--epochs", 3, "--eval-at-end", "--out", "run"),
        cwd=place,
        ranks=2,
        patches=BREAK.format(step=step),
    )
    assert words in outcome.error
    assert "epoch 1 are kept in run/epoch-001.npz" in outcome.error
    assert left_in(place / "run") == {"config.json", "log.csv", "epoch-001.npz"}


@pytest.mark.mpi
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_drifts_from_the_others(place: Path, rank: int) -> None:
    """One bit of one weight, as faulty memory would leave it, in the second epoch."""
    fault = f"""
train_epoch = Trainer.train_epoch
def drift(self, epoch):
    results = train_epoch(self, epoch)
    if rank == {rank} and epoch == 1:
        self.parameters.values.view("u4")[7] ^= 1
    return results
Trainer.train_epoch = drift
"""
    outcome = npnet_run(
        *("train", *TINY, "--epochs", 3, "--out", "run"), cwd=place, ranks=2, patches=fault
    )
    assert "drifted from" in outcome.error
    assert "in epoch 2" in outcome.error
    assert "epoch 1 are kept in run/epoch-001.npz" in outcome.error
    if rank == 1:  # of two, rank 0's weights are taken for the right ones
        assert "the weights of rank 1 (" in outcome.error
    assert outcome.statuses == (2, 2)


@pytest.mark.mpi
def test_a_rank_with_other_code(place: Path) -> None:
    fault = """
import npnet.machine.telemetry
npnet.machine.telemetry.source_digest = lambda: f"code of rank {rank}"
"""
    outcome = npnet_run("train", *TINY, "--out", "run", cwd=place, ranks=2, patches=fault)
    assert "rank 1 (" in outcome.error
    assert "has code = code of rank 1, rank 0 has code of rank 0" in outcome.error
    assert not (place / "run").exists()


def test_the_last_good_epoch_trains_on(place: Path) -> None:
    """The run goes on, into the same folder, from the checkpoint that the message names."""
    fault = DIVERGE.replace("rank == 1", "rank == 0")
    options = ("train", *TINY, "--epochs", 2, "--eval-at-end", "--out", "run")
    outcome = npnet_run(*options, cwd=place, patches=fault)
    assert "the loss is nan on rank 0, epoch 2, step 2" in outcome.error
    kept = outcome.error.split()[-1]
    outcome = npnet_run(*options, "--resume", kept, cwd=place)
    assert outcome.status == 0, outcome.stderr
    assert load(place / "run" / "final.npz").header.epoch == 2


@pytest.mark.mpi
def test_ranks_that_cannot_find_each_other(place: Path) -> None:
    """As when mpiexec is of another MPI than the library: each rank is told that it is one of 2.

    Without MPI they cannot agree on who speaks, so both do.
    """
    lone = "import os; [os.environ.pop(k) for k in list(os.environ) if k[:3] in ('PMI', 'PRT')]"
    told = {"OMPI_COMM_WORLD_SIZE": "2", "SLURM_NTASKS": "2"}
    outcome = npnet_run(
        *("train", *TINY, "--out", "run"), cwd=place, ranks=2, environment=told, patches=lone
    )
    assert outcome.status != 0
    assert outcome.seconds < SECONDS_TO_END
    assert outcome.errors
    for line in outcome.errors:
        assert line.startswith("mpiexec started 2 processes, but each sees a world of 1")
    assert "Traceback" not in outcome.stderr
    assert not (place / "run").exists()


# The marks of the launcher, made those of the other MPI's.
OTHER_MARKS = """
import os
if os.environ.pop("HYDI_CONTROL_FD", None):
    os.environ |= {"OMPI_COMM_WORLD_SIZE": "2", "PMIX_NAMESPACE": "prterun-1"}
else:
    os.environ["HYDI_CONTROL_FD"] = "7"
    del os.environ["PMIX_NAMESPACE"]
"""


@pytest.mark.mpi
@pytest.mark.parametrize("slow", ["", "import time; time.sleep(rank == 0)\n"])
def test_the_launcher_of_another_mpi(place: Path, slow: str) -> None:
    """It is found out before MPI starts, which might end the process; and a slow root speaks."""
    outcome = npnet_run("train", *TINY, cwd=place, ranks=2, patches=slow + OTHER_MARKS)
    assert outcome.error.startswith("mpiexec started 2 processes, but it is not of the MPI of")
    assert "start with the mpiexec of that library" in outcome.error
    assert not (place / "runs").exists()


@pytest.mark.mpi
def test_one_rank_of_another_mpi_s_launcher_needs_no_mpi(place: Path) -> None:
    patches = OTHER_MARKS.replace('"2"', '"1"')
    outcome = npnet_run("train", *TINY, "--out", "run", cwd=place, ranks=1, patches=patches)
    assert outcome.status == 0, outcome.stderr
    assert "world=1" in outcome.stdout


@pytest.mark.mpi
def test_the_real_launcher_of_another_mpi(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = Path(sys.prefix)
    names = {".venv": ".venv-openmpi", ".venv-openmpi": ".venv"}
    other = here.with_name(names.get(here.name, "none")) / "bin" / "mpiexec"
    if not other.exists():
        pytest.skip("no environment with the other MPI lies beside this one")
    monkeypatch.setattr(launch, "launcher", lambda: (str(other),))
    outcome = npnet_run("train", *TINY, cwd=place, ranks=2)
    assert outcome.error.startswith("mpiexec started 2 processes, but it is not of the MPI of")
    assert "suspicious" not in outcome.stderr  # mpi4py's own words
    assert len(outcome.stderr.splitlines()) < 10


@pytest.mark.parametrize("variable", ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"])
def test_a_lone_process_that_is_told_of_others(place: Path, variable: str) -> None:
    command = [sys.executable, "-c", "import mpi4py.MPI"]
    if subprocess.run(command, capture_output=True, env=clean_environment()).returncode:
        pytest.skip("no MPI is installed")
    outcome = npnet_run("train", *TINY, "--out", "run", cwd=place, environment={variable: "2"})
    assert outcome.status == 2
    (line,) = outcome.errors  # mpi4py may warn too
    assert "mpiexec started 2 processes, but each sees a world of 1" in line
    assert "start with the mpiexec of that library" in line
    assert "Traceback" not in outcome.stderr
    assert not (place / "run").exists()


def break_mpi(place: Path, how: str) -> str:
    """Write another mpi4py; returns the Python by which it is found before the real one."""
    for name, text in BROKEN_MPI[how].items():
        file = place / "broken" / "mpi4py" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return f"import sys; sys.path.insert(0, {str(place / 'broken')!r})"


@pytest.mark.parametrize("how", BROKEN_MPI)
def test_one_process_needs_no_mpi(place: Path, how: str) -> None:
    outcome = npnet_run("train", *TINY, "--out", "run", cwd=place, patches=break_mpi(place, how))
    assert outcome.status == 0, outcome.stderr
    assert outcome.stderr == ""
    assert load(place / "run" / "final.npz").header.world == 1


@pytest.mark.mpi
def test_one_rank_needs_no_mpi(place: Path) -> None:
    patches = break_mpi(place, "no library")
    outcome = npnet_run("train", *TINY, "--out", "run", cwd=place, ranks=1, patches=patches)
    assert outcome.status == 0, outcome.stderr
    assert "world=1" in outcome.stdout


@pytest.mark.mpi
@pytest.mark.parametrize("how", BROKEN_MPI)
def test_several_ranks_need_mpi(place: Path, how: str) -> None:
    patches = break_mpi(place, how)
    outcome = npnet_run("train", *TINY, "--out", "run", cwd=place, ranks=2, patches=patches)
    assert outcome.status != 0
    assert outcome.seconds < SECONDS_TO_END
    assert outcome.errors
    for line in outcome.errors:
        assert line.startswith("mpiexec started 2 processes, but mpi4py finds no MPI library (")
        assert "pip install 'npnet[mpi]'" in line
    assert "Traceback" not in outcome.stderr
    assert not (place / "run").exists()


@pytest.mark.mpi
def test_an_oversubscribed_launch_says_so(place: Path) -> None:
    cores = psutil.cpu_count(logical=True)
    options = ("train", *TINY, "--batch-per-rank", 2, "--out", "run")
    outcome = npnet_run(*options, "--threads", cores, cwd=place, ranks=2)
    assert outcome.status == 0, outcome.stderr
    warning = f"[WARNING] oversubscribed: 2 ranks x {cores} threads on {cores} cores"
    assert outcome.stdout.count(warning) == 1


def test_a_launch_that_fits_does_not_warn(place: Path) -> None:
    formed = ("--bn-momentum", 0)  # statistics that two steps can form
    outcome = npnet_run("train", *TINY, *formed, "--out", "run", cwd=place)
    assert outcome.status == 0, outcome.stderr
    assert "[WARNING]" not in outcome.stdout
