"""What the twins' cases leave out: arguments that are None, and slices of channels."""

import numpy as np
import pytest

from npnet.kernels import jit, reference, registry
from npnet.kernels.arrays import HIGH, LOW, SCALE, SHIFT
from npnet.kernels.registry import Case
from tests.guarded import Guarded
from tests.kernels.test_twins import compare, worst

BOTH = pytest.mark.parametrize("kernels", [jit, reference], ids=["jit", "reference"])

# SqueezeNet's convolutions at two images: of 1.1, of 1.0, and CIFAR's first.
SQUEEZENET = (
    Case("1.1 conv1", 1, 128, 128, 3, 64, 2, 3, 0),
    Case("1.1 fire2", 2, 31, 31, 16, 64),
    Case("1.1 fire4", 2, 15, 15, 32, 128),
    Case("1.1 fire6", 3, 7, 7, 48, 192),
    Case("1.1 fire8", 3, 7, 7, 64, 256),
    Case("1.0 conv1", 1, 128, 128, 3, 96, 2, 7, 0),
    Case("1.0 fire4", 1, 30, 30, 32, 128),
    Case("cifar stem", 2, 32, 32, 3, 16),
)
# Small, with parts of registers, and of more than one tile of windows.
CONVOLUTIONS = (
    Case("7x7 8->16", 2, 7, 7, 8, 16),
    Case("9x8 s2 p0", 2, 9, 8, 5, 35, 2, 3, 0),
    Case("k7 p3", 2, 8, 9, 3, 17, 2, 7, 3),
    Case("k1", 2, 5, 6, 17, 9, 1, 1, 0),
    Case("20x19", 2, 20, 19, 8, 24),
)
KINDS = ("convolution", "pool", "elementwise")  # may be given slices of the channels of maps
SLICED = [row for row in registry.KERNELS if row.kind in KINDS and "activation" in row.name]


def label(case):
    return case.label


@pytest.mark.compiled
@pytest.mark.parametrize("case", SQUEEZENET, ids=label)
@pytest.mark.parametrize("part", ["forward", "backward"])
def test_squeezenet_s_shapes(part, case):
    row = registry.kernel(f"activation_conv_stats_{part}")
    compare(row, case, getattr(jit, row.name), np.float32, row.tolerance)


@pytest.mark.compiled
@pytest.mark.parametrize("case", [Case("63", 1, 63, 63, 64), Case("30", 2, 30, 31, 20)], ids=label)
@pytest.mark.parametrize("part", ["forward", "backward"])
def test_squeezenet_s_pools(part, case):
    row = registry.kernel(f"activation_max_pool3x3_{part}")
    compare(row, case, getattr(jit, row.name), np.float32, row.tolerance)


# Each with the arguments that are None.
FORWARD = ((), ("mean", "variance"), ("affine",), ("mean", "variance", "affine"))
BACKWARD = (
    ("affine_backward", "y"),
    ("dz", "dgamma", "dbeta"),
    ("dz", "dgamma", "dbeta", "affine"),
    ("dz", "dgamma", "dbeta", "affine", "affine_backward", "y"),
    ("dw",),
    ("dw", "affine_backward"),
    ("dgamma", "dbeta", "affine"),
)


@pytest.mark.parametrize("case", CONVOLUTIONS, ids=label)
@pytest.mark.parametrize(
    ("part", "absent"),
    [("forward", names) for names in FORWARD] + [("backward", names) for names in BACKWARD],
    ids=str,
)
def test_what_is_none_is_left_out(part, absent, case):
    row = registry.kernel(f"activation_conv_stats_{part}")
    check(row, case, absent=absent)


@pytest.mark.parametrize("part", ["forward", "backward"])
def test_a_pool_of_what_is_an_activation(part):
    row = registry.kernel(f"activation_max_pool3x3_{part}")
    absent = ("affine", "dgamma", "dbeta") if part == "backward" else ("affine",)
    check(row, Case("", 2, 6, 7, 17), absent=absent)


@pytest.mark.parametrize("row", SLICED, ids=lambda row: row.name)
@pytest.mark.parametrize("offset", [0, 3, 8])
def test_slices_of_channels(row, offset):
    """A fire module's output is written by halves: both are slices of one array."""
    for case in (Case("20x19", 2, 20, 19, 8, 24), Case("6x7", 2, 6, 7, 17, 19)):
        check(row, case, offset=offset)


@pytest.mark.parametrize("offset", [0, 5])
def test_a_slice_that_is_no_activation(offset):
    absent = ("mean", "variance", "affine")
    row = registry.kernel("activation_conv_stats_forward")
    for padding in (0, 1):
        check(row, Case("", 2, 9, 8, 5, 16, 1, 3, padding), absent=absent, offset=offset)


def check(row, case, absent=(), offset=None):
    """Compare with the twin; with an `offset`, maps and affines are slices of wider arrays."""
    rng = np.random.default_rng(3)
    exact = row.arguments(case, rng) | dict.fromkeys(absent)
    given, guards = {}, {}
    outputs = [name for name in row.output_names(case) if name not in absent]
    for name, value in exact.items():
        given[name] = value
        if isinstance(value, np.ndarray):
            rounded = value.astype(np.float32) if name not in EXACT else value.copy()
            given[name] = rounded
            if offset is not None and (value.ndim == 4 and name != "w" and name != "dw"):
                given[name], guards[name] = sliced(rounded, offset, name in outputs)
            elif offset is not None and name.startswith("affine"):
                given[name], _ = sliced(rounded, offset, False)
            elif name in outputs:
                guards[name] = Guarded(rounded)
                given[name] = guards[name].array
    getattr(reference, row.name)(*exact.values())
    getattr(jit, row.name)(*given.values())
    for name in outputs:
        error = worst(given[name], exact[name])
        assert error <= row.tolerance, f"{name}: {error:.2e}"
    for name, guard in guards.items():
        assert guard.intact, f"wrote beside {name}"


EXACT = ("mean", "variance", "index", "keep")


class Beside:
    """The channels of a wider array on both sides of a slice."""

    def __init__(self, wide, columns):
        self.wide, self.columns, self.before = wide, columns, wide.copy()

    @property
    def intact(self):
        wide, before = self.wide.copy(), self.before.copy()
        wide[..., self.columns] = before[..., self.columns] = 0
        return np.array_equal(wide, before)


def sliced(values, offset, empty):
    """`values`, or NaN, as a slice from channel `offset` on of a wider array."""
    channels = values.shape[-1]
    columns = slice(offset, offset + channels)
    wide = np.full((*values.shape[:-1], offset + channels + 5), 77, values.dtype)
    if not (empty and values.dtype == np.float32):
        wide[..., columns] = values
    else:
        wide[..., columns] = np.nan
    return wide[..., columns], Beside(wide, columns)


@BOTH
class TestSpecialValues:
    def test_a_nan_in_the_window_comes_through(self, kernels):
        for place in range(9):
            x = np.zeros((1, 3, 3, 9), np.float32)
            x[0, place // 3, place % 3, 1] = np.nan
            y, index = np.empty((1, 1, 1, 9), np.float32), np.empty((1, 1, 1, 9), np.uint8)
            kernels.max_pool3x3_forward(y, index, x)
            assert np.isnan(y[..., 1])
            assert index[0, 0, 0, 1] == place
            assert np.array_equal(np.delete(y, 1, -1), np.zeros((1, 1, 1, 8)))

    def test_the_first_of_equals_is_remembered(self, kernels):
        x = np.array([1, 2, 2, 2, 0, 0, 0, 0, 2], np.float32).reshape(1, 3, 3, 1)
        y, index = np.empty((1, 1, 1, 1), np.float32), np.empty((1, 1, 1, 1), np.uint8)
        kernels.max_pool3x3_forward(y, index, x)
        assert (y.item(), index.item()) == (2, 1)

    def test_a_pool_of_negative_infinity(self, kernels):
        x = np.full((1, 3, 3, 1), -np.inf, np.float32)
        y, index = np.empty((1, 1, 1, 1), np.float32), np.empty((1, 1, 1, 1), np.uint8)
        kernels.max_pool3x3_forward(y, index, x)
        assert (y.item(), index.item()) == (-np.inf, 0)

    def test_zeros_surround_the_activation_not_its_input(self, kernels):
        """A shift of 1 would make ones of the border, were it filled before the map."""
        x, w = np.zeros((1, 1, 1, 1), np.float32), np.ones((3, 3, 1, 1), np.float32)
        affine, y = np.zeros((6, 1), np.float32), np.empty((1, 1, 1, 1), np.float32)
        affine[SCALE], affine[SHIFT], affine[LOW], affine[HIGH] = 1, 1, 0, np.inf
        kernels.activation_conv_stats_forward(y, None, None, x, affine, w, 1, 1)
        assert y.item() == 1

    def test_a_nan_spreads_no_further_than_its_windows(self, kernels):
        x, w = np.zeros((1, 7, 7, 3), np.float32), np.ones((3, 3, 3, 5), np.float32)
        x[0, 0, 0, 0] = np.nan
        y = np.empty((1, 7, 7, 5), np.float32)
        kernels.conv_forward(y, x, w, 1, 1)
        assert np.isnan(y[0, :2, :2]).all()
        assert np.isfinite(y[0, 2:]).all()
        assert np.isfinite(y[0, :, 2:]).all()
