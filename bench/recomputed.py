"""Steps that store the expansions of up to so many channels, or compute them again, in turn.

    python -m bench.recomputed --width 0.5 --channels 0,8,16,24,32

Blocks of an inverted residual network expand a few channels to six times as many. Up to which
number it pays not to store those (FEW_CHANNELS of npnet/model/fusion.py) depends on how fast the
processor's arithmetic is beside its memory. Printed are, for each bound, the expansions that are
computed again, the medians of CPU time, and the ratio to the first bound (0 stores all), round by
round, which holds when the machine's speed drifts (median, least to most); and the memory of a
step's activations.
"""

import argparse
import time
from statistics import median

from npnet.measure.benchmark import TrainingStep
from npnet.model import fusion
from npnet.model.memory import plan
from npnet.model.operations import Expansion
from npnet.model.zoo import build, configure


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="mobilenet_v2")
    parser.add_argument("--width", type=float, default=0.5)
    parser.add_argument("--input-size", type=int)
    parser.add_argument("--batch", type=int, default=12)
    parser.add_argument("--channels", default="0,8,16,24,32", help="the first: to compare with")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=3, help="in each round")
    options = parser.parse_args()
    config = configure(options.model, 10, width=options.width, input_size=options.input_size)
    architecture = build(config)
    bounds = [int(bound) for bound in options.channels.split(",")]
    steps, again, nbytes = [], [], []
    for bound in bounds:
        fusion.FEW_CHANNELS = bound
        operations = fusion.for_training(architecture.operations)
        again.append(sum(isinstance(each, Expansion) for each in operations))
        nbytes.append(plan(architecture, options.batch).nbytes)
        steps.append(TrainingStep("numba", options.batch, architecture))
    times: list[list[float]] = [[] for _ in bounds]
    for step in steps:
        step()
    for _ in range(options.rounds):
        for step, found in zip(steps, times, strict=True):
            step()  # the others' arrays are in the cache
            start = time.process_time()
            for _ in range(options.steps):
                step()
            found.append((time.process_time() - start) / options.steps * 1e3)
    print("channels  again      ms   ratio   least to most  activations")
    for bound, count, found, size in zip(bounds, again, times, nbytes, strict=True):
        ratios = [one / first for one, first in zip(found, times[0], strict=True)]
        print(
            f"{bound:8}  {count:5}  {median(found):6.2f}  {median(ratios):6.3f}  "
            f"{min(ratios):6.3f} to {max(ratios):.3f}  {size / 1e6:8.1f} MB"
        )


if __name__ == "__main__":
    main()
