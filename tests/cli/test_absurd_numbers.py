"""Absurd numbers for each option that takes one: refused in a line, or taken; never much memory."""

import json
import subprocess
import sys

import pytest

from tests.cifar_files import write_cifar
from tests.launch import SOURCES, clean_environment

ABSURD = ("1000000000", str(10**18), "1e300")
MOST_BYTES = 300 * 2**20  # beside what Python and NumPy take
SECONDS = 1.0  # after which a command that has not refused its options is at work
TINY = ("--width", "0.1", "--input-size", "32")
QUICK = ("--backend", "reference")
COMMANDS = {
    "train": (*TINY, *QUICK, "--max-steps", "1", "--epochs", "1", "--no-progress"),
    "evaluate": ("state.npz", "--dataset", "cifar10", *QUICK),
    "predict": ("state.npz", "picture.npy", *QUICK),
    "warmup": TINY,
    "info": TINY,
    "bench kernels": (*TINY, *QUICK, "--op", "batchnorm_fold", "--batch", "1"),
    "bench step": (*TINY, *QUICK, "--batch", "1"),
    "bench sync": (*TINY, "--repeats", "3"),
    "study sweep": ("--dataset", "shapes", "--out", "sweep"),
    "study scale": ("--dataset", "shapes", "--out", "scale"),
    "study collapse": ("--dataset", "shapes", "--out", "collapse"),
    "study forecast": ("--out", "forecast"),
}

# In one process, as each start would take a second.
SCRIPT = """
import contextlib, io, json, os, resource, signal, sys
from importlib import import_module
import npnet.cli.main as entry, npnet.cli.options, npnet.machine.threads
import numpy as np
import npnet.kernels.jit, npnet.measure.host  # that no alarm leaves half imported
from npnet.model.config import ModelConfig
from npnet.model.parameters import Parameters
from npnet.machine.telemetry import peak_rss_bytes
from npnet.measure import roofline
from npnet.study import cases
from npnet.training import checkpoint, recipe, warmup

entry.limit_threads = npnet.cli.options.limit_threads = lambda threads=None: 1  # NumPy is loaded
warmup.prepare, warmup.is_warm = (lambda *arguments: False), (lambda rehearsal: True)
roofline.measure_roof = lambda: roofline.Roof(1.0, 1.0)
forecast = import_module("npnet.cli.study.forecast")
commands, absurd, seconds = json.loads(sys.argv[1])
config = ModelConfig("mobilenet_v2", 10, width=0.1, input_size=32)
names = tuple("abcdefghij")
parameters = Parameters(__import__("npnet").build(config))
header = checkpoint.Header(3, "0", config, names, "cifar10", recipe.MODERN, 1, 1, 1, 1)
vectors = (parameters.values, parameters.statistics, parameters.values)
checkpoint.save("state.npz", checkpoint.Checkpoint(header, *vectors))
np.save("picture.npy", np.zeros((32, 32, 3), np.uint8))
resource.setrlimit(resource.RLIMIT_AS, (6 * 2**30, 6 * 2**30))  # if all else fails

class AtWork(BaseException): pass
def at_work(*_, **__): raise AtWork
cases.Study.run = cases.Study.make_folder = forecast.timed = at_work  # which start processes
signal.signal(signal.SIGALRM, at_work)

def attempt(words):
    before = peak_rss_bytes()
    said, status = io.StringIO(), "at work"
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            entry.main(words)
    except SystemExit as leaving:
        status = leaving.code
    except AtWork:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return [status, said.getvalue(), peak_rss_bytes() - before]

for name, given in commands.items():
    command = entry.cli
    for part in name.split():
        command = command.commands[part]
    found = [["as it is", *attempt([*name.split(), *given])]]
    for option in command.params:
        if option.type.name in ("integer", "integer range", "float", "float range", "sizes"):
            for number in absurd:
                words = [*name.split(), *given, option.opts[0], number]
                found.append([" ".join(words[len(given):]), *attempt(words)])
    print(json.dumps(found), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list]:
    folder = tmp_path_factory.mktemp("absurd")
    write_cifar(folder / "data")
    command = [sys.executable, "-c", SCRIPT, json.dumps([COMMANDS, ABSURD, SECONDS])]
    environment = {**clean_environment(), "PYTHONPATH": str(SOURCES), "NPNET_CACHE": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return dict(zip(COMMANDS, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("command", COMMANDS)
def test_absurd_numbers(outcomes: dict[str, list], command: str) -> None:
    (_, status, said, _), *found = outcomes[command]
    assert status in (0, None, "at work"), said  # as it is
    assert len(found) >= len(ABSURD)
    for words, status, said, grown in found:
        assert status in (0, None, 2, "at work"), (words, status, said)
        errors = [line for line in said.splitlines() if line.startswith("npnet: error: ")]
        assert len(errors) == (status == 2), (words, status, said)
        assert all(len(line) < 1300 for line in errors), words
        assert "Traceback" not in said, said
        assert grown < MOST_BYTES, (words, grown)
