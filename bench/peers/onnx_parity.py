"""Does ONNX Runtime compute from npnet's files what npnet computes? And how fast, in int8?

    python -m bench.peers.onnx_parity
    python -m bench.peers.onnx_parity --checkpoint FILE --dataset cifar10 [--data-dir FOLDER]

The first goes through the networks, with batch norm folded and kept: the largest difference of the
logits, relative to the largest logit where that is above 1, and whether the file read again gives
the same weights (kept) or, written again, the same file (folded). Exits with 1 where it is not so,
or above 1e-5.

The second writes one network in float32 and in int8, and compares accuracy (npnet's own, and ONNX
Runtime's on the same images), size and CPU time: medians of one image at a time, by turns.
Of int8 ONNX Runtime is asked twice, see `session` in onnx_steps.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np

from bench.peers.onnx_steps import as_input, session
from bench.peers.task import configure, draw_task
from npnet.data import open_dataset
from npnet.exchange.onnx import read_onnx, write_onnx
from npnet.exchange.quantise import Int8, batches, spread, write_int8
from npnet.kernels.arrays import Floats
from npnet.model.config import ModelConfig
from npnet.model.inference import Inference
from npnet.model.weights import Weights
from npnet.model.zoo import build
from npnet.training.checkpoint import load

BOUND = 1e-5
BATCH = 4
ROUNDS, IMAGES = 30, 20  # of timing: rounds of each file by turns, images in a round


def configs() -> Iterator[ModelConfig]:
    """Every network of the zoo, with both paddings, at an even and an odd input size."""
    mobile = [("mobilenet_v2", width, None) for width in (0.1, 0.5, 1.0, 1.4)]
    mobile += [("mobilenet_v2_cifar", 0.5, None)]
    squeeze = [(f"squeezenet1_{n}", None, norm) for n in (0, 1) for norm in (False, True)]
    for (name, width, norm), padding, size in product(
        mobile + squeeze, ("symmetric", "tf_same"), (64, 97)
    ):
        yield replace(configure(name, width, size, norm), padding=padding)


def npnet_logits(weights: Weights, images: Floats) -> Floats:
    inference = Inference(build(weights.config), weights.parameters(), len(images))
    inference.images[:] = images
    return inference.forward(len(images)).copy()


def parity(folder: Path) -> bool:
    """Print a line a network; whether all is as it should be."""
    print("| network | width | batch norm | padding | input | folded | kept | read again |")
    print("|---|---|---|---|---|---|---|---|")
    good, path = True, folder / "network.onnx"
    for config in configs():
        task = draw_task(True, BATCH, config)
        weights = Weights(config, task.values, task.statistics, None, "a task")
        ours = npnet_logits(weights, task.images)
        images = as_input(task.images, config.padding == "tf_same")
        errors, again = [], []
        for fold in (True, False):
            write_onnx(weights, path, fold)
            data, read = path.read_bytes(), read_onnx(path)
            theirs = session(data).run(None, images)[0]
            errors.append(np.abs(theirs - ours).max() / max(1, np.abs(ours).max()))
            write_onnx(read, path, fold)
            again.append(path.read_bytes() == data)
        again.append(np.array_equal(read.values, weights.values))
        again.append(np.array_equal(read.statistics, weights.statistics))
        good &= all(again) and max(errors) < BOUND
        print(
            f"| {config.architecture} | {config.width:g} | {config.batch_norm} | {config.padding} "
            f"| {config.input_size} | {errors[0]:.1e} | {errors[1]:.1e} "
            f"| {'the same' if all(again) else 'OTHERS'} |"
        )
    return good


def int8(checkpoint: Path, dataset_name: str, data_dir: Path | None, folder: Path) -> None:
    """Print what int8 costs, and what it gains."""
    saved, dataset = load(checkpoint), open_dataset(dataset_name, data_dir)
    model = saved.header.model
    weights = Weights(model, saved.values, saved.statistics, saved.header.classes, "a checkpoint")
    paths = folder / "float32.onnx", folder / "int8.onnx"
    write_onnx(weights, paths[0])
    accuracy = write_int8(weights, dataset, paths[1])
    files = [path.read_bytes() for path in paths]
    sessions = [session(files[0]), session(files[1]), session(files[1], exact=False)]

    rounded = Int8(weights, dataset, backend="numba")
    chosen = spread(dataset.size(accuracy.split), dataset.size(accuracy.split))
    images, hits, same = rounded.network.images, np.zeros(len(sessions)), 0
    turned = model.padding == "tf_same"
    for n, labels in batches(dataset, accuracy.split, chosen, images, rounded.image_input):
        inputs = as_input(images[:n], turned)
        classes = [each.run(None, inputs)[0].argmax(axis=1) for each in sessions]
        hits += [np.count_nonzero(each == labels) for each in classes]
        same += np.count_nonzero(rounded.forward(n).argmax(axis=1) == classes[1])

    one = {name: array[:1] for name, array in inputs.items()}
    times: list[list[float]] = [[] for _ in sessions]
    for _ in range(ROUNDS):
        for each, found in zip(sessions, times, strict=True):
            start = time.process_time()
            for _ in range(IMAGES):
                each.run(None, one)
            found.append(1e3 * (time.process_time() - start) / IMAGES)
    print(
        f"{accuracy.images} images of {accuracy.split}; int8: the same class as npnet's for {same}"
    )
    print("| | accuracy, npnet | accuracy, ONNX Runtime | bytes | CPU ms an image |")
    print("|---|---|---|---|---|")
    rows = (
        ("float32", f"{accuracy.before:.4f}", files[0]),
        ("int8, exact", f"{accuracy.after:.4f}", files[1]),
        ("int8, by default", "", files[1]),
    )
    for (name, ours, file), theirs, found in zip(rows, hits / len(chosen), times, strict=True):
        print(f"| {name} | {ours} | {theirs:.4f} | {len(file):,} | {np.median(found):.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--data-dir", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.checkpoint:
            int8(given.checkpoint, given.dataset, given.data_dir, Path(folder))
        elif not parity(Path(folder)):
            sys.exit(1)


if __name__ == "__main__":
    main()
