"""Each compiled kernel against its NumPy twin, at the borders and at the model's own shapes."""

import inspect

import numpy as np
import pytest

from bench import ladder
from npnet.kernels import jit, reference, registry
from npnet.kernels.jit.target import TARGET
from tests.guarded import Guarded
from tests.kernels.rows import FLOAT64_APART

ROWS = [
    pytest.param(row, case, id=f"{row.name} {case.label}")
    for row in registry.COMPILED
    for case in (*registry.border_cases(row.kind), *registry.edge_cases(row.kind, TARGET))
]
VARIANTS = [
    pytest.param(row, variant, id=f"{row.name} {variant.label}")
    for row in registry.KERNELS
    for variant in row.variants
]
WHOLE = registry.Variant("whole")


def worst(result, expected):
    """The largest error, relative to the largest expected value.

    Arguments are of size 1 to 2: where a sum of them cancels, its rounding is still that of 1.
    """
    finite = np.isfinite(expected)  # a bound of `norm` may be infinite
    if not np.array_equal(result[~finite], expected[~finite]):
        return np.inf
    if not finite.any():
        return 0.0
    scale = max(np.max(np.abs(expected[finite])), 1.0)
    return np.max(np.abs(result[finite] - expected[finite])) / scale


def compare(row, case, candidate, dtype, tolerance, variant=WHOLE):
    """Run `candidate` on `dtype` and the twin on float64; outputs start as NaN between guards."""
    exact = row.arguments(case, np.random.default_rng(7)) | dict.fromkeys(variant.none)
    rounded = row.arguments(case, np.random.default_rng(7), dtype) | dict.fromkeys(variant.none)
    outputs = [name for name in row.output_names(case) if name not in variant.none]
    for name in variant.sliced:
        rounded[name] = Guarded(rounded[name], keep=True, sliced=True).array
    guarded = {}
    for name in outputs:
        if name not in row.updates:
            exact[name] = Guarded(exact[name]).array
        sliced = name in variant.sliced
        guarded[name] = Guarded(rounded[name], name in row.updates, sliced)
        rounded[name] = guarded[name].array
    before = {name: np.copy(value) for name, value in rounded.items() if name not in outputs}

    getattr(reference, row.name)(*exact.values())
    candidate(*rounded.values())

    for name in outputs:
        assert guarded[name].intact, f"{row.name} wrote outside {name}"
        error = worst(rounded[name], exact[name])
        assert error <= tolerance, f"{row.name} {case.label} {name}: error {error:.2e}"
    for name, value in before.items():
        if value.dtype != object:  # not None
            assert np.array_equal(value, rounded[name]), f"{row.name} changed its input {name}"


@pytest.mark.parametrize(("row", "case"), ROWS)
def test_float32_kernel_matches_float64_twin(row, case):
    compare(row, case, getattr(jit, row.name), np.float32, row.tolerance)


@pytest.mark.parametrize(("row", "variant"), VARIANTS)
def test_variant_matches_float64_twin(row, variant):
    for case in (*registry.border_cases(row.kind), *registry.edge_cases(row.kind, TARGET)):
        compare(row, case, getattr(jit, row.name), np.float32, row.tolerance, variant)


@pytest.mark.parametrize(("row", "variant"), VARIANTS)
def test_reference_variant_changes_nothing_else(row, variant):
    """What is computed is what would be computed with all arguments, or with p, q, r = 1, 0, 0."""
    case = registry.border_cases(row.kind)[-1]
    whole = row.arguments(case, np.random.default_rng(7))
    if "affine_backward" in variant.none:
        whole["affine_backward"][:] = [[1], [0], [0]]
    part = {key: np.copy(value) for key, value in whole.items()} | dict.fromkeys(variant.none)
    getattr(reference, row.name)(*whole.values())
    getattr(reference, row.name)(*part.values())
    for name in row.output_names(case):
        assert name in variant.none or np.array_equal(part[name], whole[name])


@pytest.mark.compiled
@pytest.mark.skipif(FLOAT64_APART, reason="compiled by test_twins_of_rows.py")
@pytest.mark.parametrize("row", registry.COMPILED, ids=lambda row: row.name)
def test_float64_kernel_matches_twin_to_rounding(row):
    edges = registry.edge_cases(row.kind, TARGET, itemsize=8)
    for case in (*registry.border_cases(row.kind)[-3:], *edges):
        compare(row, case, getattr(jit, row.name), np.float64, 1e-11)


@pytest.mark.compiled
@pytest.mark.parametrize("name", ladder.__all__)
def test_the_ladder_s_kernel_matches_the_twin(name):
    row = registry.kernel(name)
    for case in registry.border_cases(row.kind):
        compare(row, case, getattr(ladder, name), np.float32, row.tolerance)


def test_what_stands_on_the_ladder_is_no_longer_run():
    assert not set(ladder.__all__) & set(jit.__all__)


@pytest.mark.parametrize("row", registry.KERNELS, ids=lambda row: row.name)
def test_reference_kernel_runs_in_float32(row):
    case = registry.border_cases(row.kind)[-1]
    compare(row, case, getattr(reference, row.name), np.float32, row.tolerance)


def test_backends_and_registry_name_the_same_kernels():
    names = {row.name for row in registry.KERNELS}
    assert len(names) == len(registry.KERNELS)
    assert names == set(reference.__all__)
    assert {row.name for row in registry.COMPILED} == set(jit.__all__)


@pytest.mark.parametrize("row", registry.KERNELS, ids=lambda row: row.name)
def test_signatures_agree(row):
    twin = inspect.signature(getattr(reference, row.name))
    for kernels in (jit, ladder):
        function = getattr(kernels, row.name, None)
        if function is not None:
            assert inspect.signature(getattr(function, "py_func", function)) == twin
    case = registry.border_cases(row.kind)[0]
    assert [*row.shapes(case), *row.scalars(case)] == list(twin.parameters)


def test_every_backward_kernel_is_gradient_checked():
    checked = {name for gradient in registry.GRADIENTS for name in gradient.backward.values()}
    backward = {row.name for row in registry.KERNELS if "backward" in row.name}
    # Batch norm's two halves meet in the network only, so what contains one is checked there.
    halves = {"batchnorm_backward", "batchnorm_fold_backward", "activation_backward"}
    halves |= {name for name in backward if "sums" in name or "stats" in name}
    halves |= {name for name in backward if name.startswith("activation_")}
    assert backward - checked == halves
