"""What `import npnet` offers, as its own words show it."""

import subprocess
import sys
import textwrap

import pytest

import npnet
from npnet.api import train
from npnet.parallel.communicator import SerialCommunicator
from tests.datasets import MODEL, Toy
from tests.launch import SOURCES, clean_environment


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


def test_what_was_trained_can_be_saved_loaded_and_scored(tmp_path):
    here = {"backend": "reference", "comm": SerialCommunicator()}
    done = train(Toy(24), MODEL, epochs=1, batch_per_rank=6, out=None, **here)
    npnet.save(tmp_path / "mine.npz", done.checkpoint)
    saved = npnet.load(tmp_path / "mine.npz")
    assert saved.header.model == MODEL
    score = npnet.evaluate(saved, Toy(24), **here)
    assert score.accuracy == pytest.approx(done.summary.test_acc)
    assert score.loss == pytest.approx(done.summary.test_loss, rel=1e-6)
