"""The checkers themselves: each is shown a planted fault and must see it."""

import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from npnet.kernels import reference, registry
from npnet.kernels.registry import Case
from npnet.measure import gradcheck
from tests.guarded import Guarded
from tests.kernels.test_twins import compare
from tests.launch import SOURCES, npnet_run


def with_fault(name, faulty):
    """The reference kernels, one of them replaced."""
    return SimpleNamespace(**(vars(reference) | {name: faulty}))


def forgets_the_last_tap(dx, dy, w, stride):
    broken = w.copy()
    broken[2, 2] = 0
    reference.depthwise3x3_backward_input(dx, dy, broken, stride)


def ignores_the_upper_kink(dx, dy, x):
    dx[...] = np.where(x > 0, dy, 0)


def forgets_smoothing(dlogits, probabilities, labels, smoothing, scale):
    reference.softmax_cross_entropy_backward(dlogits, probabilities, labels, 0.0, scale)


@pytest.mark.parametrize(
    ("operation", "faulty_name", "faulty"),
    [
        ("depthwise3x3", "depthwise3x3_backward_input", forgets_the_last_tap),
        ("relu6", "relu6_backward", ignores_the_upper_kink),
        ("softmax_cross_entropy", "softmax_cross_entropy_backward", forgets_smoothing),
    ],
)
def test_gradient_check_sees_a_wrong_operation(operation, faulty_name, faulty, monkeypatch):
    monkeypatch.setattr(gradcheck, "kernels_of", lambda _: with_fault(faulty_name, faulty))
    checks = [c for c in gradcheck.check_operations() if c.name.startswith(operation)]
    assert any(not check.passed for check in checks)


def test_gradient_check_sees_a_wrong_batch_norm(monkeypatch):
    """Its input gradient without the mean term: right in every single kernel, wrong as a whole."""

    def forgets_the_mean(dz, dw, dgamma, dbeta, dz_next, y, affine_backward, *inputs):
        without = affine_backward * np.array([[1], [1], [0]])
        gradients = dz, dw, dgamma, dbeta
        reference.activation_pointwise_stats_backward(*gradients, dz_next, y, without, *inputs)

    faulty = with_fault("activation_pointwise_stats_backward", forgets_the_mean)
    monkeypatch.setattr("npnet.model.network.kernels_of", lambda _: faulty)
    architecture = next(gradcheck.miniatures())
    assert any(not check.passed for check in gradcheck.check_network(architecture))
    # Frozen statistics have no such term: there the fault does not show.
    assert all(check.passed for check in gradcheck.check_network(architecture, frozen=True))


def test_gradient_check_sees_a_reader_that_is_forgotten(monkeypatch):
    """A block's input is read twice: without the second gradient its own is half of the truth."""
    faulty = with_fault("residual_backward_accumulate", lambda dshortcut, dy: None)
    monkeypatch.setattr("npnet.model.network.kernels_of", lambda _: faulty)
    for architecture in gradcheck.miniatures():
        assert any(not check.passed for check in gradcheck.check_network(architecture))


def test_a_nan_does_not_pass():
    assert not gradcheck.Check("x", "y", np.nan, 1.0).passed
    assert not gradcheck.Check("x", "y", 1.0, np.nan).passed


ROW, CASE = registry.kernel("relu6_forward"), Case("", 2, 3, 3, 5, 5)


def test_twin_comparison_accepts_the_twin():
    compare(ROW, CASE, reference.relu6_forward, np.float32, ROW.tolerance)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("one element", "error"),
        ("left out", "error nan"),
        ("outside", "wrote outside"),
        ("input", "changed its input"),
    ],
)
def test_twin_comparison_sees(fault, words):
    def faulty(y, x):
        if fault == "left out":
            y.ravel()[1:] = np.clip(x, 0, 6).ravel()[1:]
            return
        reference.relu6_forward(y, x)
        if fault == "one element":
            y.ravel()[-1] += 1e-4
        elif fault == "outside":
            memory = y.base
            memory[64 + y.size] = 0
        elif fault == "input":
            x.ravel()[0] += 1

    with pytest.raises(AssertionError, match=words):
        compare(ROW, CASE, faulty, np.float32, ROW.tolerance)


EDGES = """
import sys
import numpy as np
from npnet.kernels import jit, registry
from npnet.kernels.jit.target import TARGET
from tests.kernels.test_twins import compare
from tests.launch import SOURCES
row = registry.kernel(sys.argv[1])
cases = {"border": registry.border_cases(row.kind), "edge": registry.edge_cases(row.kind, TARGET)}
for kind, some in cases.items():
    for case in some:
        try:
            compare(row, case, getattr(jit, row.name), np.float32, row.tolerance)
        except AssertionError as error:
            sys.exit(f"{kind}: {error}")
"""


@pytest.mark.parametrize(
    ("file", "right", "wrong", "kernel"),
    [
        (
            "block.py",  # the second panel starts a column late
            "            j += widest * step\n",
            "            j += widest * step + 1\n",
            "activation_pointwise_stats_forward",
        ),
        (
            "pointwise.py",  # the first pixel of all tiles but the first is left out
            "        multiply_stream(outputs[tile], a, w, (inputs[tile],))\n",
            "        k = int(start > 0)\n"
            "        multiply_stream(outputs[start + k : stop], a[k:], w, (inputs[tile],))\n",
            "activation_pointwise_stats_forward",
        ),
        (
            "depthwise.py",  # the second group of channels has the first's weights
            "arrays = outputs[:, c], inputs[:, c], affine[:, c], taps[:, c]\n",
            "arrays = outputs[:, c], inputs[:, c], affine[:, c], taps[:, : c.stop - start]\n",
            "activation_depthwise3x3_stats_forward",
        ),
    ],
    ids=["panel", "tile", "group"],
)
def test_edge_cases_see(tmp_path, file, right, wrong, kernel):
    """Faults that no border case sees, in a copy of the sources; not compiled, so it is quick."""
    for package in ("npnet", "kernels", "cli"):
        shutil.copytree(SOURCES / package, tmp_path / package, symlinks=True)
    path = tmp_path / "kernels" / "jit" / file
    text = path.read_text()
    assert text.count(right) == 1
    path.write_text(text.replace(right, wrong))
    result = subprocess.run(
        [sys.executable, "-c", EDGES, kernel],
        cwd=tmp_path,
        env=os.environ
        | {"NUMBA_DISABLE_JIT": "1", "NPNET_TARGET": "avx512", "PYTHONPATH": str(SOURCES)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stderr.startswith(f"edge: {kernel}"), result.stderr


def test_guard_bands_stand_on_both_sides():
    for place in (63, -64):
        guarded = Guarded(np.zeros(10))
        assert guarded.intact
        guarded.array.base[place] = 0
        assert not guarded.intact


@pytest.mark.parametrize(
    ("patches", "status"),
    [
        ("", 0),
        ("print('not a whole line', end='')", 0),
        ("1 / 0", 1),
        ("import sys; sys.exit(7)", 7),
        ("import atexit; atexit.register(print, 'at exit')", 0),
        ("import os; os.kill(os.getpid(), 9)", -9),
    ],
)
def test_a_forked_run_ends_as_one_that_is_started(tmp_path, patches, status):
    command = ("machinefile", "--hosts", "a[1-2],b")
    forked, started = (
        npnet_run(*command, cwd=tmp_path, patches=patches, started=each) for each in (False, True)
    )
    assert (forked.status, forked.stdout) == (started.status, started.stdout)
    assert (forked.status, forked.statuses) == (status, started.statuses)
    assert forked.stderr.splitlines()[-1:] == started.stderr.splitlines()[-1:]


def test_a_forked_run_that_hangs_is_ended(tmp_path):
    hang = "import time; time.sleep(600)"
    with pytest.raises(pytest.fail.Exception, match="still running after"):
        npnet_run("info", cwd=tmp_path, patches=hang, timeout=0.5)
    assert npnet_run("machinefile", "--hosts", "a", cwd=tmp_path).stdout == "a:2\n"
