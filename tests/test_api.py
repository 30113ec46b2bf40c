"""What `import npnet` offers, as its own words show it."""

import subprocess
import sys
import textwrap
from dataclasses import replace

import pytest

import npnet
from npnet.api import train
from npnet.parallel.communicator import SerialCommunicator
from tests.datasets import MODEL, Toy
from tests.launch import SOURCES, clean_environment, launcher

# So few steps that the statistics could not form.
few_steps = pytest.mark.filterwarnings("ignore:.* of batch norm's running statistics")


def example():
    """The lines that the package's docstring shows."""
    text = npnet.__doc__.split("    import npnet\n", 1)[1]
    return textwrap.dedent("import npnet\n" + textwrap.dedent(text))


@pytest.mark.compiled
def test_the_example_runs_as_written(tmp_path):
    assert len([line for line in example().splitlines() if line.strip()]) <= 10
    environment = clean_environment() | {"PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-c", example()]
    done = subprocess.run(
        line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    trained, evaluated = map(float, done.stdout.split())
    assert trained == pytest.approx(evaluated)  # the same weights, from memory and from the file
    assert (tmp_path / "runs/first/log.csv").exists()


def test_every_name_is_there():
    assert set(npnet.__all__) == set(npnet._PLACES)
    for name in npnet.__all__:
        assert getattr(npnet, name) is not None
        assert name in dir(npnet)
    with pytest.raises(AttributeError, match="nothing_such"):
        npnet.nothing_such  # noqa: B018


def test_importing_it_loads_nothing_heavy():
    code = "import sys, npnet; print({'numpy', 'numba', 'mpi4py'} & set(sys.modules))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"epochs": 0}, "`epochs` 0 is not usable: give 1 or more"),
        ({"max_steps": 0}, "`max_steps` 0 is not usable"),
        ({"seed": -1}, "`seed` -1 is not usable: give 0 or more"),
        ({"bn_eval": "both of them"}, "`bn_eval` both of them is not usable"),
        ({"dtype": "int8"}, "`dtype` int8 is not usable: give float32 or float64"),
    ],
)
def test_settings_that_no_command_line_would_let_pass_are_refused(settings, words):
    with pytest.raises(npnet.NpnetError, match=words):
        train(Toy(24), MODEL, **{"backend": "reference", "comm": SerialCommunicator(), **settings})


@few_steps
def test_a_model_of_other_classes_than_the_dataset_is_refused():
    """The compiled loss would read beyond its logits, and no checkpoint of it could be read."""
    here = {"backend": "reference", "comm": SerialCommunicator()}
    for classes in (2, 4):
        with pytest.raises(npnet.NpnetError, match=f"tells {classes} classes apart, toy has 3"):
            train(Toy(24), replace(MODEL, classes=classes), epochs=1, batch_per_rank=6, **here)
    done = train(Toy(24), MODEL, epochs=1, batch_per_rank=6, **here)
    more = Toy(24)
    more.classes = ("a", "b", "c", "d")
    with pytest.raises(npnet.NpnetError, match="tells 3 classes apart, toy has 4"):
        npnet.evaluate(done.checkpoint, more, **here)


def test_an_unknown_padding_is_refused():
    with pytest.raises(npnet.NpnetError, match="`padding` valid is not usable"):
        npnet.configure("mobilenet_v2", 3, padding="valid")


@few_steps
def test_what_was_trained_can_be_saved_loaded_and_scored(tmp_path):
    here = {"backend": "reference", "comm": SerialCommunicator()}
    done = train(Toy(24), MODEL, epochs=1, batch_per_rank=6, out=None, **here)
    npnet.save(tmp_path / "mine.npz", done.checkpoint)
    saved = npnet.load(tmp_path / "mine.npz")
    assert saved.header.model == MODEL
    score = npnet.evaluate(saved, Toy(24), **here)
    assert score.accuracy == pytest.approx(done.summary.test_acc)
    assert score.loss == pytest.approx(done.summary.test_loss, rel=1e-6)


def test_a_batch_norm_that_sees_one_number_is_warned_of():
    """At 32 pixels the last maps have one pixel; 0.999 to the power of one step is almost all."""
    data, few = Toy(6, 3), {"epochs": 1, "max_steps": 1, "backend": "reference"}
    few["comm"] = SerialCommunicator()
    with pytest.warns(UserWarning, match="sees a single number for each channel"):
        train(data, MODEL, evaluate="never", batch_per_rank=1, **few)
    slow = replace(npnet.MODERN, name="slow", bn_momentum=0.999)
    with pytest.warns(UserWarning, match="99.9 % of batch norm's running statistics will still be"):
        train(data, MODEL, slow, batch_per_rank=2, **few)


STALLED = """
import os, signal, sys
sys.path.insert(0, {sources!r})
from npnet.api import train
from npnet.parallel.communicator import connect
from tests.datasets import MODEL, Toy
comm = connect()
class Stops:
    def __getattr__(self, name):
        return lambda *arguments: None
    def step_finished(self, epoch, step, images):
        if comm.rank == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
settings = {{"epochs": 2, "batch_per_rank": 4, "backend": "reference", "stall_limit": 2}}
train(Toy(64, 8), MODEL, reporter=Stops(), comm=comm, **settings)
"""


@pytest.mark.mpi
def test_a_job_in_which_nothing_moves_is_ended(tmp_path):
    script = tmp_path / "stalled.py"
    script.write_text(STALLED.format(sources=str(SOURCES)))
    result = subprocess.run(
        [*launcher(), "-n", "2", sys.executable, str(script)],
        cwd=tmp_path,
        env=clean_environment() | {"PYTHONPATH": str(SOURCES), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode != 0
    assert "waits for rank 1" in result.stderr
