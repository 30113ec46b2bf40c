"""Steps of npnet and of other programs, in turn.

    python -m bench.peers.step --peer torch=PYTHON --peer compile=PYTHON --peer tensorflow=PYTHON
    python -m bench.peers.step --inference --peer traced=PYTHON --peer onnxruntime=PYTHON
    python -m bench.peers.step --model squeezenet1_1 --peer torch=PYTHON
    python -m bench.peers.step --train head --width 1 --peer torch=PYTHON

Every contestant is a process of its own (bench.peers.worker) with one thread, under the PYTHON
named behind it, and starts from the same weights and images. What it computes must agree with
npnet's results, or nothing is timed. Then they take turns, a few steps each; the first of a turn is
not counted, because the others' arrays are in the cache. Printed are medians of CPU time over all
counted steps, the ratio to npnet round by round, which holds when the machine's speed drifts
(median, least to most), and the peak resident set of each process, libraries and compiler included:
so run it twice, because npnet compiles its kernels once and keeps them.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from bench.peers.task import Task, configure, draw_task
from bench.peers.worker import INFERENCE, TRAINING
from npnet.machine.threads import VARIABLES
from npnet.model.zoo import models

TOLERANCE = 1e-4  # of the first loss or the logits, relative to npnet's largest

# Of the fall from the first loss to the second, relative to npnet's. Rounding, which puts values on
# the other side of ReLU6's corners, moves it by 2 % (by far more where batch norm has fewer than 16
# samples); momentum without Nesterov's look-ahead, by 25 % and more. Too coarse for the share of
# biases or weight decay: those are bench.peers.parity's matter.
FALL_TOLERANCE = 0.15
ROOT = Path(__file__).parents[2]
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "PYTHONWARNINGS": "ignore"}
ONE_THREAD = {**dict.fromkeys(VARIABLES, "1"), "TORCHINDUCTOR_COMPILE_THREADS": "1"}


class Peer(NamedTuple):
    """A contestant's name in bench.peers.worker, and the Python that runs it."""

    name: str
    python: str

    @classmethod
    def parse(cls, text: str) -> "Peer":
        name, _, python = text.partition("=")
        return cls(name, python or sys.executable)


class Worker:
    """The parent's end of a contestant; used in `with`, which ends the process."""

    def __init__(self, peer: Peer, task: Path) -> None:
        self.name = peer.name
        self.process = subprocess.Popen(
            [peer.python, "-m", "bench.peers.worker", peer.name, str(task)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | ONE_THREAD | QUIET,
        )
        ready = self._hear()
        self.version: str = ready["version"]
        self.results = np.array(ready["results"])
        self.second_loss: float | None = ready["second_loss"]
        self.peak_rss_bytes = 0

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        with self.process:  # its end closes the pipes, which ends the worker, and waits for it
            pass

    def turn(self, steps: int) -> list[float]:
        """CPU time of each of so many steps, ms; one more is made before them."""
        assert self.process.stdin is not None
        print(json.dumps({"steps": steps + 1}), file=self.process.stdin, flush=True)
        answer = self._hear()
        self.peak_rss_bytes = answer["peak_rss_bytes"]
        times: list[float] = answer["cpu_ms"]
        return times[1:]

    def _hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.__exit__()
            raise SystemExit(f"{self.name} ended with status {self.process.returncode}: see above")
        message: dict[str, Any] = json.loads(line)
        return message


class Row(NamedTuple):
    """One contestant's result. Ratios are its time over npnet's; for `apart` see `distance`."""

    name: str
    version: str
    cpu_ms_median: float
    ratio_median: float
    ratio_least: float
    ratio_most: float
    peak_rss_bytes: int
    apart: float
    steps: int


def distance(results: np.ndarray, true: np.ndarray) -> float:
    """The largest difference, relative to the largest true value; a NaN if there is one."""
    if results.shape != true.shape:
        return float("inf")
    return float(abs(results - true).max() / abs(true).max())


def check_agreement(workers: Sequence[Worker]) -> None:
    """Exit, naming the contestant, unless all computed what npnet, the first one, did."""
    true = workers[0]
    for worker in workers[1:]:
        _refuse(worker, distance(worker.results, true.results), TOLERANCE, "first results")
        if true.second_loss is not None:
            apart = distance(_fall(worker), _fall(true))
            _refuse(worker, apart, FALL_TOLERANCE, "fall of the loss after one update")


def _fall(worker: Worker) -> np.ndarray:
    assert worker.second_loss is not None
    return worker.results - worker.second_loss


def _refuse(worker: Worker, apart: float, tolerance: float, what: str) -> None:
    if not apart <= tolerance:  # so that a NaN is refused too
        raise SystemExit(
            f"{worker.name} does not compute what npnet does: {what} {apart:.1e} apart, "
            f"{tolerance} is allowed"
        )


def compete(workers: Sequence[Worker], rounds: int, steps: int) -> list[Row]:
    """Take turns; a row for each worker. Ratios are to the first."""
    turns = [[worker.turn(steps) for worker in workers] for _ in range(rounds)]
    rows = []
    for number, worker in enumerate(workers):
        times = [ms for turn in turns for ms in turn[number]]
        ratios = [median(turn[number]) / median(turn[0]) for turn in turns]
        rows.append(
            Row(
                name=worker.name,
                version=worker.version,
                cpu_ms_median=median(times),
                ratio_median=median(ratios),
                ratio_least=min(ratios),
                ratio_most=max(ratios),
                peak_rss_bytes=worker.peak_rss_bytes,
                apart=distance(worker.results, workers[0].results),
                steps=len(times),
            )
        )
    return rows


def measure(task: Task, peers: Sequence[Peer], rounds: int, steps: int) -> list[Row]:
    """Start npnet and its peers on the same task, compare what they compute, and time them."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        path = Path(folder, "task.npz")
        task.save(path)
        everybody = [Peer("npnet", sys.executable), *peers]
        workers = [stack.enter_context(Worker(peer, path)) for peer in everybody]
        check_agreement(workers)
        return compete(workers, rounds, steps)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--peer",
        type=Peer.parse,
        action="append",
        default=[],
        metavar="NAME[=PYTHON]",
        help=f"once for each; training: {', '.join(TRAINING)}; inference: {', '.join(INFERENCE)}",
    )
    parser.add_argument("--inference", action="store_true", help="logits instead of training")
    parser.add_argument(
        "--train", default="all", metavar="PART", help="head, last:N, norm: fine-tuning (PyTorch)"
    )
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--model", choices=sorted(models()), default="mobilenet_v2")
    for option, kind in (("--width", float), ("--input-size", int)):
        parser.add_argument(option, type=kind, help="the model's own unless given")
    parser.add_argument("--batch-norm", action=argparse.BooleanOptionalAction)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--steps", type=int, default=3, help="counted steps of a turn")
    parser.add_argument("--json", action="store_true", help="one JSON object a contestant")
    options = parser.parse_args()
    known = INFERENCE if options.inference else TRAINING
    for peer in options.peer:
        if peer.name not in known:
            parser.error(f"no contestant {peer.name!r}: choose from {', '.join(known)}")

    sizes = options.width, options.input_size, options.batch_norm
    config = configure(options.model, *sizes)
    task = draw_task(options.inference, options.batch, config, options.train)
    rows = measure(task, options.peer, options.rounds, options.steps)
    if options.json:
        for row in rows:
            print(json.dumps(row._asdict()))
        return
    what = "logits" if options.inference else "first losses"
    print(f"CPU time of a step, n = {rows[0].steps}, {options.rounds} rounds; the {what} agree")
    print(f"{'':42} {'ms':>8} {'ratio':>7} {'least to most':>15} {'peak RSS':>9} {'apart':>8}")
    for row in rows:
        spread = f"{row.ratio_least:.2f} to {row.ratio_most:.2f}"
        print(
            f"{row.version:42} {row.cpu_ms_median:8.2f} {row.ratio_median:7.2f} {spread:>15} "
            f"{row.peak_rss_bytes / 1e6:6.0f} MB {row.apart:8.0e}"
        )


if __name__ == "__main__":
    main()
