"""Does npnet compute what PyTorch computes? Run as `python -m bench.peers.parity`.

From equal weights and images, one forward and backward pass in training mode:

    float64   the reference backend (and numba) against PyTorch float64
    float32   numba's error and PyTorch float32's own error, both against PyTorch float64

Rounding in float32 puts a few of the millions of values that enter a ReLU on the other side of 0
or 6. The gradient jumps there: each such flip costs a channel about 1/sqrt(samples), 1000 times the
rounding error, and where flips fall is chance. So float32 errors are given twice: "raw", and
"smooth", against the float64 gradient that takes the same side of every corner as the run under
test. Bounds hold the smooth ones; the raw ones and the number of flips are printed beside them.

Even so the two programs' rounding errors are independent draws, which 52 batch norms over a few
samples amplify by a factor that changes from seed to seed. So each seed gives one ratio, numba's
error over PyTorch's, and the bound asks whether the geometric mean of the ratios is above 1 by more
than two of its standard errors. A network that multiplies no errors, such as SqueezeNet without
batch norm, leaves both programs a few roundings from the truth, where it is the order of sums that
a ratio compares; such errors are small enough, whatever the ratio.

The pixels that max pools take are such sides, too.

Where torchvision is installed, its own definitions of the models, of 1000 classes and with the same
weights, must give the same logits in float64.

`--write-golden` writes tests/golden, from which tests/model/test_parity.py compares without
PyTorch. Exits with 1 where a bound is broken.
"""

import argparse
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.peers.torch_model import (
    TorchModel,
    images_to_torch,
    load_parameters,
    parameter_groups,
    read_gradients,
    read_parameters,
)
from npnet.exchange.layout import to_torch_layout
from npnet.kernels.arrays import Floats, Ints
from npnet.model import zoo
from npnet.model.architecture import Architecture
from npnet.model.network import Network
from npnet.model.operations import Convolution, MaxPool
from npnet.model.operations.convolution import BOUNDS
from npnet.model.operations.pooling import MaxPoolLayer
from npnet.model.parameters import Parameters, initialise
from tests import parity_cases as cases
from tests.parity_cases import Case, Curve, Run, relative_error, tensor_errors

GOLDEN = Path(__file__).parents[2] / "tests" / "golden"
FLOAT64_BOUND = 1e-9
FLOAT32_ROUNDINGS = 1e-6  # 8 times float32's epsilon: an error that is small enough in itself
STANDARD_ERRORS = 2  # by which numba's float32 error may exceed PyTorch's on average over seeds

Hook = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]

# For each operation with a ReLU, where its gradient passes, and for each max pool the pixel of the
# map that it took, NCHW.
Sides = dict[str, Tensor]


class Comparison(NamedTuple):
    name: str
    architecture: Architecture
    batch: int
    seeds: int


COMPARISONS = (
    Comparison("mobilenet_v2", cases.CASES["mobilenet_v2"].architecture, 4, 24),
    Comparison("paper", zoo.build(zoo.configure("mobilenet_v2", 10)), 12, 5),
    *(
        Comparison(name, case.architecture, 8, 12)
        for name, case in cases.CASES.items()
        if name != "mobilenet_v2"
    ),
)


class GivenSideReLU(nn.Module):
    """ReLU whose gradient passes where a mask says, not where its own input lies."""

    def __init__(self, mask: Tensor, high: float) -> None:
        super().__init__()
        self.mask, self.high = mask, high

    def forward(self, x: Tensor) -> Tensor:
        fixed = x.detach()
        return fixed.clamp(0, self.high) + (x - fixed) * self.mask


class GivenPixelMaxPool(nn.Module):
    """Max pool whose gradient goes to the pixels given, not to those that are the largest."""

    def __init__(self, pixels: Tensor) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(self, x: Tensor) -> Tensor:
        fixed, _ = max_pool(x.detach())
        taken = x.flatten(2).gather(2, self.pixels.flatten(2)).view_as(fixed)
        return fixed + (taken - taken.detach())


def max_pool(x: Tensor) -> tuple[Tensor, Tensor]:
    """A max pool's output, and the pixels that it took."""
    y, pixels = functional.max_pool2d(x, 3, 2, ceil_mode=True, return_indices=True)
    return y, pixels


def run_torch(
    start: Parameters,
    architecture: Architecture,
    images: Floats,
    labels: Ints,
    dtype: torch.dtype,
    sides: Sides | None = None,
) -> tuple[Run, Sides]:
    """One pass of PyTorch, and the sides that it took; `sides` are those to take backward."""
    model = TorchModel(architecture, dtype=dtype)
    load_parameters(model, start)
    model.train()
    taken: Sides = {}
    for operation in architecture:
        name, layer = operation.name, model.layers[operation.name]
        if isinstance(operation, MaxPool):
            layer.register_forward_hook(_note_pixels(taken, name))
            if sides is not None:
                model.layers[name] = GivenPixelMaxPool(sides[name])
        elif isinstance(operation, Convolution) and operation.relu != "none":
            assert isinstance(layer, nn.Sequential)
            _, high = BOUNDS[operation.relu]
            layer.register_forward_hook(_note_side(taken, name, high))
            if sides is not None:
                layer[-1] = GivenSideReLU(sides[name], high)
    logits = model(images_to_torch(images, model))
    losses = functional.cross_entropy(
        logits, torch.from_numpy(labels), reduction="none", label_smoothing=cases.SMOOTHING
    )
    losses.mean().backward()  # type: ignore[no-untyped-call]
    result = Parameters(architecture, np.float64)
    read_gradients(model, result)
    read_parameters(model, result)
    run = Run(logits.detach().numpy(), losses.detach().numpy(), result.gradients, result.statistics)
    return run, taken


def _note_side(taken: Sides, name: str, high: float) -> Hook:
    """What to run after operation `name`, which ends with a ReLU: it writes its side down."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        taken[name] = inside(output.detach(), high)

    return hook


def _note_pixels(taken: Sides, name: str) -> Hook:
    """What to run after max pool `name`: it writes down the pixels that it took."""

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        _, taken[name] = max_pool(inputs[0].detach())

    return hook


def inside(value: Tensor, high: float) -> Tensor:
    """Where the gradient of a ReLU passes, told from its output or its input."""
    return (value > 0) & (value < high)


def npnet_sides(network: Network) -> Sides:
    """As the kernels compute them; to be asked between forward and backward."""
    sides = {}
    inputs = dict(network.relu_inputs())
    for layer in network.layers:
        operation = layer.operation
        if operation.name in inputs:
            assert isinstance(operation, Convolution)
            _, high = BOUNDS[operation.relu]
            z = torch.from_numpy(inputs[operation.name])
            sides[operation.name] = inside(z, high).permute(0, 3, 1, 2)
        elif isinstance(layer, MaxPoolLayer):
            # Bytes 3k+l, of the pixel at (k,l) of a window whose first is at (2i,2j).
            index = layer.index.astype(np.int64)
            i, j = np.indices(index.shape[1:3])[..., None]
            pixels = (2 * i + index // 3) * operation.input_shape[1] + 2 * j + index % 3
            sides[operation.name] = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    return sides


def run_numba(
    start: Parameters, architecture: Architecture, images: Floats, labels: Ints
) -> tuple[Run, Sides]:
    """One pass of numba in float32, and the sides that it took."""
    sides: Sides = {}

    def note(network: Network) -> None:
        sides.update(npnet_sides(network))

    return cases.run(start, architecture, images, labels, "numba", np.float32, note), sides


def flips(sides: Sides, true: Sides) -> int:
    return sum(int((sides[name] != true[name]).sum()) for name in true)


def draw_initial(architecture: Architecture, seed: int) -> Parameters:
    """The parameters that training starts from."""
    parameters = Parameters(architecture, np.float32)
    initialise(parameters, "glorot_uniform", seed)
    return parameters


STARTS = {"drawn": cases.draw_start, "initial": draw_initial}


class Float64(NamedTuple):
    """Errors of one float64 run against PyTorch float64."""

    logits: float
    losses: float
    statistics: float
    overall: float
    tensor: float  # the worst
    name: str  # of that tensor


def float64_errors(
    run: Run, true: Run, parameters: Parameters, architecture: Architecture
) -> Float64:
    errors = tensor_errors(run.gradients, true.gradients, parameters)
    return Float64(
        relative_error(run.logits, true.logits),
        relative_error(run.losses, true.losses),
        relative_error(run.statistics, true.statistics) if architecture.normalised else 0.0,
        relative_error(run.gradients, true.gradients),
        float(errors.max()),
        parameters.specs[int(errors.argmax())].name,
    )


class Float32(NamedTuple):
    """Errors of one float32 run against PyTorch float64."""

    logits: float
    losses: float
    raw: float
    smooth: float
    flips: int
    tensors: Floats  # smooth, one for each tensor

    @property
    def tensor_median(self) -> float:
        return float(np.median(self.tensors))


def float32_errors(
    run: Run,
    sides: Sides,
    true: Run,
    true_sides: Sides,
    start: Parameters,
    architecture: Architecture,
    images: Floats,
    labels: Ints,
) -> Float32:
    smooth, _ = run_torch(start, architecture, images, labels, torch.float64, sides)
    return Float32(
        relative_error(run.logits, true.logits),
        relative_error(run.losses, true.losses),
        relative_error(run.gradients, true.gradients),
        relative_error(run.gradients, smooth.gradients),
        flips(sides, true_sides),
        tensor_errors(run.gradients, smooth.gradients, start),
    )


def compare(case: Comparison, start_name: str) -> bool:
    """Print a case's table; whether all of its bounds hold."""
    architecture, n = case.architecture, case.batch
    print(
        f"\n{case.name}: width {architecture.config.width}, {architecture.input_size}x"
        f"{architecture.input_size}, batch {n}, {start_name} parameters, {case.seeds} seeds"
    )
    float64: dict[str, list[Float64]] = {"reference": [], "numba": []}
    float32: dict[str, list[Float32]] = {"PyTorch": [], "numba": []}
    for seed in range(case.seeds):
        start = STARTS[start_name](architecture, seed)
        inputs = start, architecture, *cases.draw_batch(architecture, seed, n)
        true, true_sides = run_torch(*inputs, torch.float64)
        for backend, runs in float64.items():
            run = cases.run(*inputs, backend, np.float64)
            runs.append(float64_errors(run, true, start, architecture))
        run, sides = run_torch(*inputs, torch.float32)
        float32["PyTorch"].append(float32_errors(run, sides, true, true_sides, *inputs))
        run, sides = run_numba(*inputs)
        float32["numba"].append(float32_errors(run, sides, true, true_sides, *inputs))

    print(f"  {'float64':18}", *(f"{field:>13}" for field in Float64._fields[:-1]))
    for backend, runs in float64.items():
        worst = (f"{max(column):13.1e}" for column in list(zip(*runs, strict=True))[:-1])
        print(f"  {backend + ' (worst)':18}", *worst, max(runs, key=lambda run: run.tensor).name)
    exact = all(max(run[:-1]) <= FLOAT64_BOUND for runs in float64.values() for run in runs)
    return _compare_float32(float32["numba"], float32["PyTorch"], start) and exact


def _compare_float32(numba: list[Float32], peer: list[Float32], parameters: Parameters) -> bool:
    """Print medians, ratios and the tensors that stand out; whether numba is no further off."""
    fields = ("logits", "losses", "raw", "smooth", "tensor_median")
    mine, theirs = (
        np.array([[getattr(run, field) for field in fields] for run in runs])
        for runs in (numba, peer)
    )
    print(f"  {'float32':18}", *(f"{field:>13}" for field in fields), f"{'flips':>6}")
    for name, errors, runs in (("PyTorch", theirs, peer), ("numba", mine, numba)):
        figures = (f"{median:13.2e}" for median in np.median(errors, axis=0))
        print(f"  {name + ' (median)':18}", *figures, f"{sum(run.flips for run in runs):6}")
    logarithms = np.log(mine / theirs)
    ratios = np.exp(logarithms.mean(axis=0))
    error = logarithms.std(axis=0, ddof=1) / np.sqrt(len(logarithms))
    spreads = np.exp(STANDARD_ERRORS * error)
    print(f"  {'mean ratio':18}", *(f"{ratio:13.2f}" for ratio in ratios))
    print(f"  {'within a factor of':18}", *(f"{spread:13.2f}" for spread in spreads))

    further = np.mean([np.log(a.tensors / b.tensors) for a, b in zip(numba, peer, strict=True)], 0)
    medians = np.median([run.tensors for run in numba], axis=0)
    most = np.argsort(further)[::-1][:3]
    print(
        f"  numba is further off in {np.sum(further > 0)} of {len(further)} tensors, most in",
        ", ".join(
            f"{parameters.specs[i].name} x{np.exp(further[i]):.2f} ({medians[i]:.1e})" for i in most
        ),
    )
    bounded = [fields.index("smooth"), fields.index("tensor_median")]
    small = np.median(mine, axis=0) <= FLOAT32_ROUNDINGS
    return bool(np.all((small | (ratios <= spreads))[bounded]))


def load_torchvision() -> ModuleType | None:
    """torchvision, if it is there; its models alone are wanted."""
    if find_spec("torchvision") is None:
        return None
    try:
        return import_module("torchvision")
    except RuntimeError:  # beside a PyTorch for CPUs its operators are missing: name those it asks
        for name in [each for each in sys.modules if each.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        return import_module("torchvision")


def compare_torchvision(torchvision: ModuleType) -> bool:
    """Print the errors of each model's logits in evaluation; whether the bound holds."""
    print(f"\ntorchvision {torchvision.__version__}: errors of the logits, float64, 1000 classes")
    errors = []
    for name in ("mobilenet_v2", "squeezenet1_0", "squeezenet1_1"):
        width = {"width": 1.0} if name == "mobilenet_v2" else {}
        config = zoo.configure(name, 1000, input_size=104, dropout=0.0, **width)
        architecture = zoo.build(config)
        start, rng = cases.draw_start(architecture, 0), np.random.default_rng(5)
        start.running_means[:] = rng.normal(0, 1, start.running_means.shape)
        start.running_variances[:] = rng.uniform(1, 9, start.running_means.shape)
        images, _ = cases.draw_batch(architecture, 0, 4)
        model = getattr(torchvision.models, name)(dropout=0.0).to(torch.float64).eval()
        load_in_order(model, start, architecture)
        with torch.no_grad():
            true = model(torch.from_numpy(images).double().permute(0, 3, 1, 2)).numpy()
        for backend in ("reference", "numba"):
            network = Network(architecture, len(images), backend, np.float64)
            network.parameters.values[:] = start.values
            network.parameters.statistics[:] = start.statistics
            network.images[:] = images
            errors.append(relative_error(network.forward(len(images)), true))
            print(f"  {name:18} {backend:10} {errors[-1]:13.1e}")
    return max(errors) <= FLOAT64_BOUND


def load_in_order(model: nn.Module, parameters: Parameters, architecture: Architecture) -> None:
    """Fill a model that lists its parameters as npnet's table lists operations."""
    specs = [spec for operation in architecture for spec in operation.parameters]
    with torch.no_grad():
        for target, spec in zip(model.parameters(), specs, strict=True):
            value = to_torch_layout(parameters.value(spec.name), target.ndim)
            assert value.shape == target.shape, spec.name
            target.copy_(torch.from_numpy(np.ascontiguousarray(value)))
        norms = [each for each in model.modules() if isinstance(each, nn.BatchNorm2d)]
        for norm, operation in zip(norms, architecture.normalised, strict=True):
            mean, variance = map(torch.from_numpy, parameters.running(operation.name))
            norm.load_state_dict({"running_mean": mean, "running_var": variance}, strict=False)


def write(path: Path, arrays: dict[str, Floats]) -> None:
    np.savez_compressed(path, allow_pickle=False, **arrays)
    print(f"{path.relative_to(GOLDEN)}: {path.stat().st_size} bytes")


def write_gradients(path: Path, case: Case) -> None:
    """PyTorch's float64 results, the gradients shortened to norms and projections."""
    architecture = case.architecture
    arrays: dict[str, list[object]] = {}
    for seed in case.seeds:
        start = cases.draw_start(architecture, seed)
        images, labels = cases.draw_batch(architecture, seed, cases.GRADIENT_BATCH)
        true, _ = run_torch(start, architecture, images, labels, torch.float64)
        tensors = cases.split_tensors(true.gradients, start)
        row = {
            "checksum": cases.checksum(start.values, images, labels),
            "logits": true.logits,
            "losses": true.losses,
            "norms": cases.norms(tensors),
            "projections": cases.projections(tensors),
            **shortened_statistics(true.statistics, architecture),
        }
        for spec, tensor in zip(start.specs, tensors, strict=True):
            if spec.name in case.copies:
                row[spec.name] = tensor.reshape(spec.shape)
        for key, value in row.items():
            arrays.setdefault(key, []).append(value)
    write(path, {key: np.array(values) for key, values in arrays.items()})


def shortened_statistics(flat: Floats, architecture: Architecture) -> dict[str, Floats]:
    """Norms and projections; nothing without batch norm."""
    if not architecture.normalised:
        return {}
    pieces = cases.split_statistics(flat, architecture)
    return {
        "statistics_norms": cases.norms(pieces),
        "statistics_projections": cases.projections(pieces),
    }


def write_float32(path: Path, case: Case) -> None:
    """PyTorch's own float32 errors."""
    architecture = case.architecture
    errors = []
    for seed in cases.FLOAT32_SEEDS:
        start = cases.draw_start(architecture, seed)
        inputs = start, architecture, *cases.draw_batch(architecture, seed, cases.GRADIENT_BATCH)
        true, single = (run_torch(*inputs, dtype)[0] for dtype in (torch.float64, torch.float32))
        errors.append(cases.float32_figures(single, true, start))
    columns = (np.array(column) for column in zip(*errors, strict=True))
    write(path, dict(zip(cases.FLOAT32_FIGURES, columns, strict=True)))


def train_torch(case: Case) -> Curve:
    """Ten steps of PyTorch in float64."""
    architecture = case.architecture
    start = cases.draw_start(architecture, cases.CURVE_SEED)
    pool, labels = cases.draw_batch(architecture, cases.CURVE_SEED, cases.CURVE_POOL)
    model = TorchModel(architecture, dtype=torch.float64)
    load_parameters(model, start)
    optimiser = torch.optim.SGD(
        parameter_groups(model, start, cases.WEIGHT_DECAY),
        lr=case.learning_rate,
        momentum=cases.MOMENTUM,
        nesterov=True,
    )

    def loss_of(index: Ints | slice) -> Tensor:
        return functional.cross_entropy(
            model(images_to_torch(pool[index], model)),
            torch.from_numpy(labels[index]),
            label_smoothing=cases.SMOOTHING,
        )

    losses = []
    for index in cases.draw_steps():
        optimiser.zero_grad()
        loss = loss_of(index)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        losses.append(loss.item())
    model.eval()
    with torch.no_grad():
        evaluation = loss_of(slice(cases.CURVE_BATCH)).item()
    result = Parameters(architecture, np.float64)
    read_parameters(model, result)
    return Curve(np.array(losses), np.array(evaluation), result.values, result.statistics)


def write_curve(path: Path, case: Case) -> None:
    architecture = case.architecture
    start = cases.draw_start(architecture, cases.CURVE_SEED)
    pool = cases.draw_batch(architecture, cases.CURVE_SEED, cases.CURVE_POOL)
    curve = train_torch(case)
    tensors = cases.split_tensors(curve.values, start)
    arrays = {
        "checksum": np.array(cases.checksum(start.values, *pool, cases.draw_steps())),
        "losses": curve.losses,
        "evaluation": curve.evaluation,
        "norms": cases.norms(tensors),
        "projections": cases.projections(tensors),
        **shortened_statistics(curve.statistics, architecture),
    }
    write(path, arrays)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--case", choices=[case.name for case in COMPARISONS], help="only this one")
    parser.add_argument("--write-golden", action="store_true", help="write tests/golden and stop")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"PyTorch {torch.__version__}, NumPy {np.__version__}")
    if options.write_golden:
        for name, recorded in cases.CASES.items():
            if options.case not in (None, name):
                continue
            folder = GOLDEN / recorded.folder
            folder.mkdir(parents=True, exist_ok=True)
            write_gradients(folder / "gradients.npz", recorded)
            write_curve(folder / "curve.npz", recorded)
            if name == "mobilenet_v2":
                write_float32(folder / "float32.npz", recorded)
        return 0
    passed = [
        compare(case, start)
        for case in COMPARISONS
        if options.case in (None, case.name)
        for start in STARTS
    ]
    torchvision = load_torchvision()
    if torchvision is not None and options.case is None:
        passed.append(compare_torchvision(torchvision))
    print("\nall bounds hold" if all(passed) else "\na bound is broken")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
