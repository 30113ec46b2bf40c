"""A training step of npnet beside PyTorch's, in turn, in one process: `python -m bench.peers.step`.

CPU time of one thread, medians, and the ratio pair by pair, which holds when the machine's speed
drifts. Both make the same step: forward, loss, backward, SGD with Nesterov momentum. Start it with
OMP_NUM_THREADS=1, or one of them may use more cores than the other.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from torch.nn import functional

from bench.peers.torch_mobilenet import TorchMobileNet, load_parameters
from npnet.benchmark import TrainingStep


def torch_step(npnet: TrainingStep, compiled: bool) -> Callable[[], float]:
    """PyTorch's step on the same network and images, channels last."""
    torch.set_num_threads(1)
    model = TorchMobileNet(npnet.network.architecture, dtype=torch.float32, channels_last=True)
    load_parameters(model, npnet.parameters)
    model.train()
    run = torch.compile(model) if compiled else model
    nchw = np.ascontiguousarray(npnet.network.images.transpose(0, 3, 1, 2))
    images = torch.from_numpy(nchw).contiguous(memory_format=torch.channels_last)
    labels = torch.from_numpy(npnet.labels)
    optimiser = torch.optim.SGD(
        model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, nesterov=True
    )

    def step() -> float:
        optimiser.zero_grad(set_to_none=True)
        loss = functional.cross_entropy(run(images), labels)
        loss.backward()
        optimiser.step()
        return loss.item()

    return step


def cpu_ms(step: Callable[[], float]) -> float:
    start = time.process_time()
    step()
    return 1e3 * (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--input-size", type=int, default=128)
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--compile", action="store_true", help="torch.compile instead of eager")
    options = parser.parse_args()
    mine = TrainingStep("numba", options.batch, options.width, options.input_size)
    theirs = torch_step(mine, options.compile)
    for _ in range(3):
        mine()
        theirs()
    pairs = [(cpu_ms(mine), cpu_ms(theirs)) for _ in range(options.steps)]
    a, b = zip(*pairs, strict=True)
    name = "torch.compile" if options.compile else "PyTorch eager"
    ratios = sorted(theirs / mine for mine, theirs in pairs)
    print(f"npnet {median(a):.1f} ms, {name} {torch.__version__} {median(b):.1f} ms CPU time")
    print(f"ratio {median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}), n = {len(pairs)}")


if __name__ == "__main__":
    main()
