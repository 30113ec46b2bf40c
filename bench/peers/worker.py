"""One contestant in a process of its own: `python -m bench.peers.worker NAME TASK`.

Libraries disagree about the NumPy they need, so each contestant may run under another interpreter.
It talks with bench.peers.step over pipes, one JSON object a line:

    worker  {"version": ..., "results": [...], "second_loss": ...}    once, when warmed up
    parent  {"steps": k}
    worker  {"cpu_ms": [... k ...], "peak_rss_bytes": ...}

until its standard input ends. `results` is the loss of the first step, or the logits. The second
step's loss (null in inference) tells whether gradients and update were right.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bench.peers.task import Task
from npnet.kernels.arrays import Floats
from npnet.machine.telemetry import peak_rss_bytes

WARM_UP = 3  # steps before the first that may be timed


class Contestant(NamedTuple):
    """`step` makes one step and returns its loss, or its logits."""

    version: str
    step: Callable[[], float | Floats]


# Where the function lies that makes a Contestant of a Task.
TRAINING = {
    "npnet": "npnet_steps.training",
    "reference": "npnet_steps.reference_training",
    "torch": "torch_steps.training",
    "compile": "torch_steps.compiled_training",
    "tensorflow": "tensorflow_steps.training",
}
INFERENCE = {
    "npnet": "npnet_steps.inference",
    "reference": "npnet_steps.reference_inference",
    "torch": "torch_steps.inference",
    "traced": "torch_steps.traced_inference",
    "onnxruntime": "onnx_steps.inference",
}


def contestant(name: str, task: Task) -> Contestant:
    """The contestant of that name, ready for its first step."""
    module, function = (INFERENCE if task.inference else TRAINING)[name].split(".")
    made: Contestant = getattr(import_module(f"bench.peers.{module}"), function)(task)
    return made


def cpu_ms(step: Callable[[], object]) -> float:
    """CPU time of all threads of this process."""
    start = time.process_time()
    step()
    return 1e3 * (time.process_time() - start)


def main() -> None:
    name, path = sys.argv[1:]
    # Libraries may print what they like: only JSON goes through the pipe.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as pipe:
        os.dup2(2, 1)

        def say(message: dict[str, Any]) -> None:
            print(json.dumps(message), file=pipe, flush=True)

        task = Task.load(Path(path))
        version, step = contestant(name, task)
        results = np.ravel(step()).tolist()
        second_loss = None if task.inference else step()
        for _ in range(WARM_UP):
            step()
        say({"version": version, "results": results, "second_loss": second_loss})
        for line in sys.stdin:
            times = [cpu_ms(step) for _ in range(json.loads(line)["steps"])]
            say({"cpu_ms": times, "peak_rss_bytes": peak_rss_bytes()})


if __name__ == "__main__":
    main()
