"""Timing of kernels on the shapes that a model really has, of steps, and of what ranks exchange."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np

from npnet.kernels import backend as kernels_of
from npnet.kernels.arrays import Floats
from npnet.kernels.registry import KERNELS, Case, Kernel
from npnet.machine.telemetry import peak_rss_bytes
from npnet.model.inference import Inference
from npnet.model.memory import aligned_bytes
from npnet.model.mobilenet_v2 import Architecture, Block, Operation, mobilenet_v2
from npnet.model.network import Network
from npnet.model.parameters import Parameters, initialise
from npnet.parallel.communicator import Communicator, together
from npnet.training.recipe import MODERN

# Arguments are rotated through so many bytes, more than the last cache holds: in training, too, an
# array has long left the cache when it is needed again. Very small ones stay in it all the same.
ROTATION_BYTES, ROTATION_COPIES = 64 * 2**20, 256

# The kernels that a training step runs: for a convolution with its batch norm, where a block
# stores its activation, and in the head.
UNITS = {
    "stem": ("stem3x3_stats_forward", "stem3x3_stats_backward"),
    "pointwise": ("activation_pointwise_stats_forward", "activation_pointwise_stats_backward"),
    "depthwise": (
        "activation_depthwise3x3_stats_forward",
        "activation_depthwise3x3_stats_backward",
    ),
}
ACTIVATION = ("activation_forward", "activation_backward")
SHORTCUT = ("residual_forward", "residual_backward_accumulate")
# The same operations one by one, as `reference` computes them: what fusing gains.
PLAIN = {
    kind: tuple(kernel.name for kernel in KERNELS if kernel.kind == kind)
    for kind in ("stem", "pointwise", "depthwise", "batchnorm")
}
HEAD = tuple(
    f"{operation}_{part}"
    for operation, parts in {
        "average_pool": ("forward", "backward"),
        "linear": ("forward", "backward_input", "backward_weight"),
        "softmax_cross_entropy": ("forward", "backward"),
    }.items()
    for part in parts
)


@dataclass(frozen=True)
class Timing:
    """CPU time of one call: median in ms, spread (quartiles) in percent of it, and rates.

    `uses` is how often a training step runs the kernel on this shape. `flops` and `bytes` are the
    work of a call and what it must read and write.
    """

    kernel: str
    kind: str
    case: str
    uses: int
    flops: int
    bytes: int
    ms_median: float
    spread_percent: float

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


def model_cases(architecture: Architecture, batch: int) -> dict[str, Counter[Case]]:
    """For each kernel, its cases in the model, and how often a training step runs them.

    The plain kernels of an operation, which the fused ones replace, and those of inference have
    cases and no uses.
    """
    cases: dict[str, Counter[Case]] = {kernel.name: Counter() for kernel in KERNELS}

    def count(case: Case, *names: str, uses: int = 1) -> None:
        for name in names:
            cases[name][case] += uses

    for block in architecture.blocks:
        for operation in block.operations:
            if operation.is_convolution:
                (h, w, ci), (ho, wo, co) = operation.input_shape, operation.output_shape
                label = f"{h}x{w}x{ci}->{ho}x{wo}x{co}"
                case = Case(label, batch, h, w, ci, co, operation.stride)
                output = Case(f"{ho}x{wo}x{co}", batch, ho, wo, co, co)
                count(case, *UNITS[operation.kind])
                count(case, *PLAIN[operation.kind], uses=0)
                count(output, *PLAIN["batchnorm"], uses=0)
                if not operation.relu6 or operation.name == "head":
                    count(output, *ACTIVATION)
        if block.shortcut:
            count(output, *SHORTCUT)
        count(*_inference(block, batch), uses=0)
    features, classes = architecture.operations[-1].input_shape[-1], architecture.classes
    count(Case(f"{ho}x{wo}x{features}->{classes}", batch, ho, wo, features, classes), *HEAD)
    parameters, size = architecture.parameter_count, architecture.input_size
    count(Case(f"{parameters:,} parameters", ci=1, co=parameters), "sgd_update")
    count(Case(f"32x32->{size}x{size}", batch, size, size, 3, 3), "image_forward")
    return cases


def _inference(block: Block, batch: int) -> tuple[Case, str]:
    """The case and name of the kernel that runs a whole block in inference."""
    convolutions = [operation for operation in block.operations if operation.is_convolution]
    expands = "inverted_residual" if len(convolutions) == 3 else "separable"
    name = {"stem": "stem3x3", "head": "head"}.get(block.name, expands)
    return _block_case(convolutions, batch), f"{name}_inference"


def _block_case(convolutions: Sequence[Operation], batch: int) -> Case:
    """Several convolutions in a row as one case: from the first's input to the last's output."""
    (h, w, ci), (ho, wo, co) = convolutions[0].input_shape, convolutions[-1].output_shape
    stride = max(operation.stride for operation in convolutions)
    return Case(f"{h}x{w}x{ci}->{ho}x{wo}x{co}", batch, h, w, ci, co, stride)


def measure_kernels(
    backend: str,
    name: str,
    batch: int,
    width: float,
    input_size: int,
    repeats: int,
    only_used: bool = False,
) -> Iterator[Timing]:
    """Time every kernel with `name` in its name on every shape that a training step gives it.

    With `only_used`, not the plain kernels, whose place the fused ones have taken, nor inference's.
    """
    cases = model_cases(mobilenet_v2(width, input_size, 10), batch)
    kernels = kernels_of(backend)
    for kernel in KERNELS:
        if name in kernel.name:
            for case, uses in cases[kernel.name].items():
                if uses or not only_used:
                    yield _measure(kernels, kernel, case, uses, repeats)


def _measure(kernels: Any, kernel: Kernel, case: Case, uses: int, repeats: int) -> Timing:
    function, moved = getattr(kernels, kernel.name), kernel.bytes_moved(case)
    copies = max(2, min(ROTATION_COPIES, ROTATION_BYTES // max(moved, 1)))
    drawn = list(kernel.arguments(case, np.random.default_rng(0), np.float32).values())
    calls = [[_copy(argument) for argument in drawn] for _ in range(copies)]
    function(*calls[0])  # compile
    rounds = max(1, round(2e-3 / _seconds(function, calls[1:2]) / copies))
    samples = sorted(_seconds(function, calls * rounds) for _ in range(repeats))
    middle = median(samples)
    quarter = len(samples) // 4
    return Timing(
        kernel=kernel.name,
        kind=kernel.kind,
        case=case.label,
        uses=uses,
        flops=kernel.flops(case),
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
    """A whole step: medians in ms, images/s of wall time, peak resident set in bytes."""

    backend: str
    inference: bool
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

    Forward with batch statistics, loss, backward, and the update of all parameters.
    """

    def __init__(self, backend: str, batch: int, width: float, input_size: int) -> None:
        self.network = Network(mobilenet_v2(width, input_size, 10), batch, backend)
        self.parameters, self.kernels = self.network.parameters, kernels_of(backend)
        initialise(self.parameters, MODERN.initialiser, seed=0)
        rng = np.random.default_rng(0)
        self.network.images[:] = rng.standard_normal(self.network.images.shape)
        self.labels = rng.integers(0, 10, batch)
        self.velocity = np.zeros_like(self.parameters.values)

    def __call__(self) -> float:
        """Make the step and return its mean loss."""
        n, parameters = len(self.labels), self.parameters
        self.network.forward(n, training=True)
        loss = float(self.network.loss(self.labels).mean())
        self.network.backward(1 / n)
        vectors = (parameters.values, self.velocity, parameters.gradients)
        self.kernels.sgd_update(*vectors, parameters.decayed, 0.01, 0.9, 5e-4, True)
        return loss


class InferenceStep:
    """Logits of random images with batch norm folded into the convolutions."""

    def __init__(self, backend: str, batch: int, width: float, input_size: int) -> None:
        architecture = mobilenet_v2(width, input_size, 10)
        parameters = Parameters(architecture)
        initialise(parameters, MODERN.initialiser, seed=0)
        self.batch, self.engine = batch, Inference(architecture, parameters, batch, backend)
        images = self.engine.images
        images[:] = np.random.default_rng(0).standard_normal(images.shape)

    def __call__(self) -> Floats:
        """The logits, (batch, 10)."""
        return self.engine.forward(self.batch)


def measure_step(
    backend: str, batch: int, width: float, input_size: int, steps: int, inference: bool = False
) -> StepTiming:
    """Time `steps` steps of training, or of inference, after three that are not counted."""
    kind: Callable[[str, int, float, int], Callable[[], object]]
    kind = InferenceStep if inference else TrainingStep
    step = kind(backend, batch, width, input_size)
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
        batch=batch,
        input_size=input_size,
        width=width,
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


def measure_exchanges(comm: Communicator, width: float, repeats: int) -> list[Exchange]:
    """Time what each strategy does between ranks, on vectors of a model's size."""
    with together(comm):
        architecture = mobilenet_v2(width, 128, 10)
    parameters = Parameters(architecture)
    vector, mean = parameters.gradients_and_loss, np.empty_like(parameters.gradients_and_loss)
    rows = vector[None]
    exchanges: dict[str, Callable[[], object]] = {
        "gradients, weights: Allreduce": lambda: comm.sum(vector),
        "the same, --deterministic": lambda: comm.sum_in_order(rows),
        "gather-bcast": lambda: comm.mean_by_root(rows, mean),
    }
    timings = []
    for name, exchange in exchanges.items():
        times = []
        for _ in range(repeats + 1):
            comm.barrier()
            start = time.perf_counter()
            exchange()
            times.append(1e3 * (time.perf_counter() - start))
        slowest = np.max(comm.gather(times[1:]), axis=0)
        low, middle, high = np.percentile(slowest, (25, 50, 75)).tolist()
        timings.append(Exchange(name, vector.nbytes, middle, high - low))
    return timings
