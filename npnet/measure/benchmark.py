"""Timing of kernels on the shapes that a model really has, of steps, and of what ranks exchange."""

import inspect
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from statistics import median
from types import ModuleType
from typing import Any, NamedTuple, cast

import numpy as np

from npnet.data.batches import Batch, ImageInput, not_augmented
from npnet.kernels import backend as kernels_of
from npnet.kernels import registry
from npnet.kernels.arrays import Floats
from npnet.kernels.registry import COMPILED, Case, Kernel
from npnet.machine.telemetry import peak_rss_bytes
from npnet.model.architecture import Architecture
from npnet.model.inference import Inference
from npnet.model.memory import aligned_bytes
from npnet.model.network import Network
from npnet.model.parameters import Parameters, initialise
from npnet.parallel.communicator import Communicator
from npnet.parallel.timing import exchange_seconds
from npnet.training.optimiser import Optimiser, groups_of
from npnet.training.parts import parts_of
from npnet.training.recipe import MODERN

LR = 0.01  # of a step that is timed

# Arguments are rotated through ROTATION_BYTES, more than the last cache holds: in training, too, an
# array has long left the cache when it is needed again. Very small ones stay in it all the same.
ROTATION_BYTES, ROTATION_COPIES = 64 * 2**20, 256


@dataclass(frozen=True)
class Timing:
    """CPU time of one call: median in ms, spread (quartiles) in percent of it, and rates.

    `uses` is how often a training step runs the kernel on this shape. `flops` and `bytes` are the
    work of a call and what it must read and write.
    """

    kernel: str
    case: str
    uses: int
    flops: int
    bytes: int
    ms_median: float
    spread_percent: float

    @property
    def operation(self) -> str:
        """The kernel's name without its pass: forward and backward are of one operation."""
        return re.split("_(?:forward|backward)", self.kernel)[0]

    @property
    def gflops(self) -> float:
        """GFLOP/s."""
        return self.flops / self.ms_median / 1e6

    @property
    def gbytes(self) -> float:
        """GB/s."""
        return self.bytes / self.ms_median / 1e6

    @property
    def intensity(self) -> float:
        """FLOP/byte."""
        return self.flops / self.bytes


class Use(NamedTuple):
    """A case, and the arguments that this call does without (None)."""

    case: Case
    absent: tuple[str, ...] = ()


def model_uses(architecture: Architecture, batch: int) -> dict[str, Counter[Use]]:
    """For each kernel, its cases in the model, and how often a training step runs them.

    Recorded from a real step, whose kernels note their arguments instead of computing. Those of
    inference have cases and no uses.
    """
    uses: dict[str, Counter[Use]] = {kernel.name: Counter() for kernel in COMPILED}
    for name, use in recorded_calls(architecture, batch):
        uses[name][use] += 1
    for name, use in recorded_calls(architecture, batch, inference=True):
        uses[name].setdefault(use, 0)
    return uses


class Recorder:
    """A set of kernels that note their calls: the name, and the arguments by name."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def __getattr__(self, name: str) -> Callable[..., None]:
        signature = inspect.signature(getattr(kernels_of("reference"), name))

        def note(*arguments: Any) -> None:
            self.calls.append((name, signature.bind(*arguments).arguments))

        return note


def recorded_calls(
    architecture: Architecture, batch: int, inference: bool = False
) -> Iterator[tuple[str, Use]]:
    """Each kernel call of one training step, from the images' bytes to the update; or of a
    prediction, from photographs that are a quarter larger than the network's input.
    """
    recorder = Recorder()
    kernels = cast(ModuleType, recorder)
    if inference:
        engine = Inference(architecture, Parameters(architecture), batch, kernels)
        image_input = ImageInput(architecture.config, kernels)
        recorder.calls.clear()
        image_input.fill(engine.images, _drawn(batch, architecture.input_size * 5 // 4))
        engine.forward(batch)
    else:
        step = step_from_bytes(kernels, batch, architecture)
        recorder.calls.clear()
        step()
    for name, arguments in recorder.calls:
        yield name, use_of(registry.kernel(name), arguments)


def step_from_bytes(
    kernels: ModuleType, batch: int, architecture: Architecture
) -> Callable[[], float]:
    """A training step that begins with the stored bytes of random images; it returns the loss."""
    step = TrainingStep(kernels, batch, architecture)
    image_input = ImageInput(architecture.config, kernels)
    images = _drawn(batch, architecture.config.stored_size)

    def whole() -> float:
        image_input.fill(step.network.images, images)
        return step()

    return whole


def _drawn(count: int, side: int) -> Batch:
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    return not_augmented(pixels, np.zeros(count, np.int64))


def use_of(kernel: Kernel, arguments: Mapping[str, Any]) -> Use:
    """The case that stands for these arguments; an AssertionError where the registry's row would
    draw other shapes.
    """
    shapes = {name: np.shape(value) for name, value in arguments.items() if np.ndim(value)}
    scalars = {name: value for name, value in arguments.items() if np.ndim(value) == 0}
    absent = tuple(name for name, value in scalars.items() if value is None)
    whole = next(iter(shapes.values()))
    source = next((shapes[name] for name in _INPUTS if name in shapes), whole)
    result = next((shapes[name] for name in _OUTPUTS if name in shapes), source)
    n, h, w, ci = source if len(source) == 4 else (source[0], 1, 1, source[-1])
    weight = shapes.get("w", shapes.get("dw", ()))
    k = weight[0] if len(weight) == 4 else 3
    strides = {name: scalars[name] for name in ("stride", "padding") if name in scalars}
    if kernel.kind == "stem":
        strides = {"stride": 2}
    co = result[-1]
    if kernel.kind == "expand":  # whose first two kernels have no such array
        co = shapes["w1"][-1]
        result = (*result[:-1], co)
    label = "x".join(map(str, source[1:] if len(source) == 4 else source))
    if result != source:
        label += "->" + "x".join(map(str, result[1:]))
    if kernel.kind == "sgd":
        case = Case(f"{source[0]:,} parameters", ci=1, co=source[0])
    elif len(source) == 1:
        case = Case(f"{source[0]} channels", ci=source[0], co=source[0])
    elif kernel.kind == "image":
        stored = shapes["pixels"][1]
        case = Case(f"{stored}x{stored}->{h}x{w}", n, h, w, 3, 3, stored=stored)
    else:
        case = Case(label, n, h, w, ci, co, k=k, **strides)
    drawn = kernel.shapes(case)
    assert all(drawn[name] == shapes[name] for name in shapes), (
        f"{kernel.name} was called with {shapes}, its row in the registry draws {drawn}"
    )
    return Use(case, absent)


# Where a kernel's input and output shapes are read off, the first of these that it has.
_INPUTS = ("x", "x1", "dx", "dshortcut", "probabilities", "logits")
_OUTPUTS = ("y", "dz_next", "logits", "probabilities", "dy", "features")


def measure_kernels(
    backend: str,
    name: str,
    architecture: Architecture,
    batch: int,
    repeats: int,
    only_used: bool = False,
) -> Iterator[Timing]:
    """Time every kernel with `name` in its name on every shape that a training step gives it.

    With `only_used`, not those of inference.
    """
    uses = model_uses(architecture, batch)
    kernels = kernels_of(backend)
    for kernel in COMPILED:
        if name in kernel.name:
            for use, count in uses[kernel.name].items():
                if count or not only_used:
                    yield _measure(kernels, kernel, use, count, repeats)


def _measure(kernels: Any, kernel: Kernel, use: Use, uses: int, repeats: int) -> Timing:
    function = getattr(kernels, kernel.name)
    drawn = kernel.arguments(use.case, np.random.default_rng(0), np.float32)
    left_out = sum(drawn[name].nbytes for name in use.absent)
    moved = kernel.bytes_moved(use.case) - left_out
    arguments = [None if name in use.absent else value for name, value in drawn.items()]
    copies = max(2, min(ROTATION_COPIES, ROTATION_BYTES // max(moved, 1)))
    calls = [[_copy(argument) for argument in arguments] for _ in range(copies)]
    function(*calls[0])  # compile
    rounds = max(1, round(2e-3 / _seconds(function, calls[1:2]) / copies))
    samples = sorted(_seconds(function, calls * rounds) for _ in range(repeats))
    middle = median(samples)
    quarter = len(samples) // 4
    products = {"dz", "dw"} & set(drawn)
    part = len(products - set(use.absent)) / len(products) if products else 1
    return Timing(
        kernel=kernel.name,
        case=use.case.label,
        uses=uses,
        flops=round(part * kernel.flops(use.case)),
        bytes=moved,
        ms_median=1e3 * middle,
        spread_percent=100 * (samples[-1 - quarter] - samples[quarter]) / middle,
    )


def _copy(argument: Any) -> Any:
    """An array as the network's lie, at the start of a cache line; a number as it is."""
    if not isinstance(argument, np.ndarray):
        return argument
    array = aligned_bytes(argument.nbytes).view(argument.dtype).reshape(argument.shape)
    array[...] = argument
    return array


def _seconds(function: Any, calls: list[list[Any]]) -> float:
    """Mean CPU time of a call, seconds."""
    start = time.process_time()
    for arguments in calls:
        function(*arguments)
    return max(time.process_time() - start, 1e-9) / len(calls)


@dataclass(frozen=True)
class StepTiming:
    """A whole step: medians in ms, images/s of wall time, peak resident set in bytes.

    `train`: what is trained; None in inference.
    """

    backend: str
    inference: bool
    train: str | None
    model: str
    batch: int
    input_size: int
    width: float
    steps: int
    cpu_ms_median: float
    cpu_ms_spread: float  # between the quartiles
    wall_ms_median: float
    images_per_second: float
    peak_rss_bytes: int


class TrainingStep:
    """One training step on random images: what `measure_step` and comparisons with others time.

    Forward with batch statistics, loss, backward, and the update of what `train` names (see
    training/parts.py): all, or some, where the rest normalises with running statistics.
    """

    def __init__(
        self,
        backend: str | ModuleType,
        batch: int,
        architecture: Architecture,
        train: str = "all",
    ) -> None:
        recipe = replace(MODERN, momentum=0.9, classifier_gradient=1.0, train=train)
        parts = parts_of(architecture, recipe)
        self.network = Network(architecture, batch, backend)
        parts.set_in(self.network)
        self.parameters = self.network.parameters
        initialise(self.parameters, MODERN.initialiser, seed=0)
        rng = np.random.default_rng(0)
        self.network.images[:] = rng.standard_normal(self.network.images.shape)
        self.labels = rng.integers(0, architecture.classes, batch)
        groups = groups_of(self.parameters, recipe)
        self.optimiser = Optimiser(self.parameters, groups, recipe, lambda time: LR, backend)

    def __call__(self) -> float:
        """Make the step and return its mean loss."""
        n = len(self.labels)
        self.network.forward(n, training=True)
        loss = float(self.network.loss(self.labels).mean())
        self.network.backward(1 / n)
        self.optimiser.update()
        return loss


class InferenceStep:
    """Logits of random images with batch norm folded into the convolutions."""

    def __init__(self, backend: str | ModuleType, batch: int, architecture: Architecture) -> None:
        parameters = Parameters(architecture)
        initialise(parameters, MODERN.initialiser, seed=0)
        self.batch, self.engine = batch, Inference(architecture, parameters, batch, backend)
        images = self.engine.images
        images[:] = np.random.default_rng(0).standard_normal(images.shape)

    def __call__(self) -> Floats:
        """The logits, (batch, 10)."""
        return self.engine.forward(self.batch)


def measure_step(
    backend: str,
    batch: int,
    architecture: Architecture,
    steps: int,
    inference: bool = False,
    train: str = "all",
) -> StepTiming:
    """Time `steps` steps of training, or of inference, after three that are not counted."""
    step: Callable[[], object]
    if inference:
        step = InferenceStep(backend, batch, architecture)
    else:
        step = TrainingStep(backend, batch, architecture, train)
    for _ in range(3):
        step()
    cpu, wall = [], []
    for _ in range(steps):
        cpu_start, wall_start = time.process_time(), time.perf_counter()
        step()
        cpu.append(1e3 * (time.process_time() - cpu_start))
        wall.append(1e3 * (time.perf_counter() - wall_start))
    quarter, ordered = steps // 4, sorted(cpu)
    return StepTiming(
        backend=backend,
        inference=inference,
        train=None if inference else train,
        model=architecture.name,
        batch=batch,
        input_size=architecture.input_size,
        width=architecture.config.width,
        steps=steps,
        cpu_ms_median=median(cpu),
        cpu_ms_spread=ordered[-1 - quarter] - ordered[quarter],
        wall_ms_median=median(wall),
        images_per_second=1e3 * batch / median(wall),
        peak_rss_bytes=peak_rss_bytes(),
    )


@dataclass(frozen=True)
class Exchange:
    """Wall time of one exchange between ranks, ms: median over repeats of the slowest rank's."""

    name: str
    bytes: int  # that each rank contributes
    ms_median: float
    ms_spread: float  # between the quartiles


def measure_exchanges(comm: Communicator, size: int, repeats: int) -> list[Exchange]:
    """Time what each strategy does between ranks, on vectors of `size` bytes, a multiple of 4."""
    vector = np.zeros(size // 4, np.float32)
    rounded = comm.exchange(len(vector), vector.dtype, half_width=True)
    mean, rows = np.empty_like(vector), vector[None]
    exchanges: dict[str, Callable[[], object]] = {
        "gradients, weights": lambda: comm.sum(vector),
        "gradients as bfloat16": lambda: rounded.sum(vector),
        "the same, deterministic": lambda: comm.sum_in_order(rows),
        "the same by MPI's Allreduce": lambda: comm.allreduce(vector),
        "gather-bcast": lambda: comm.mean_by_root(rows, mean),
    }
    timings = []
    for name, exchange in exchanges.items():
        milliseconds = 1e3 * exchange_seconds(comm, exchange, repeats)
        low, middle, high = np.percentile(milliseconds, (25, 50, 75)).tolist()
        timings.append(Exchange(name, vector.nbytes, middle, high - low))
    return timings
