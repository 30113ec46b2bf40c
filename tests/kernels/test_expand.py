"""The expansion that is not stored: what comes out is what would come out if it were."""

import numpy as np
import pytest

from npnet.kernels import backend as kernels_of
from npnet.kernels import reference
from npnet.kernels.arrays import HIGH, LOW, SCALE
from npnet.kernels.registry import Case, affine_of, kernel


def drawn(ci, co, n=3, h=7, w=6, stride=1, mean=0.0):
    """Arguments of the four kernels by name, float64; ReLU6 behind the expansion."""
    case, rng = Case("", n, h, w, ci, co, stride), np.random.default_rng(0)
    found = kernel("expand_stats_backward_accumulate").arguments(case, rng)
    found |= kernel("expand_depthwise3x3_stats_backward").arguments(case, rng)
    found["x"] += mean
    found["affine"] = affine_of(ci).draw(rng, (6, ci))
    found["affine1"][LOW], found["affine1"][HIGH] = 0, 6
    return found


def statistics_of(kernels, x, affine, w1):
    ci, co = w1.shape
    mean, variance = np.full((2, co), np.nan)
    mean_in, covariance = np.full(ci, np.nan), np.full((ci, ci), np.nan)
    kernels.expand_stats_forward(mean, variance, mean_in, covariance, x, affine, w1)
    return mean, variance, mean_in, covariance


@pytest.mark.parametrize("stride", [1, 2])
def test_forward_and_backward_are_those_of_stored_maps(stride):
    """Pointwise, then depthwise convolution, y1 and dz1 between them."""
    a = drawn(5, 30, stride=stride)
    x, affine, w1, affine1, w2 = (a[key] for key in ("x", "affine", "w1", "affine1", "w2"))
    samples, co = x[..., 0].size, 30

    y1, mean, variance = np.empty((*x.shape[:3], co)), np.empty(co), np.empty(co)
    reference.activation_pointwise_stats_forward(y1, mean, variance, x, affine, w1)
    found = statistics_of(reference, x, affine, w1)
    assert np.allclose(found[0], mean, rtol=1e-12)
    assert np.allclose(found[1], variance, rtol=1e-12)
    reference.batchnorm_fold(affine1, mean, variance, a["dgamma"], a["dbeta"], 1e-3)

    stored, again = np.empty_like(a["y"]), np.empty_like(a["y"])
    unused = np.empty((2, co))
    reference.activation_depthwise3x3_stats_forward(stored, *unused, y1, affine1, w2, stride)
    arguments = (x, affine, w1, affine1, w2, stride)
    reference.expand_depthwise3x3_stats_forward(again, *unused, *arguments)
    assert np.allclose(again, stored, rtol=1e-12)

    from_output = (a["dz_next"], stored, a["affine_backward"])
    dz1, dw2, dgamma, dbeta = np.empty_like(y1), np.empty_like(w2), np.empty(co), np.empty(co)
    reference.activation_depthwise3x3_stats_backward(
        dz1, dw2, dgamma, dbeta, *from_output, y1, affine1, w2, stride
    )
    back = np.empty((3, co))
    reference.batchnorm_fold_backward(back, affine1, dgamma, dbeta, samples)
    expected = np.empty_like(x), np.empty_like(w1), np.empty(5), np.empty(5)
    reference.activation_pointwise_stats_backward(*expected, dz1, y1, back, x, affine, w1)

    dz, dw1, dgamma_in, dbeta_in = (np.empty_like(each) for each in expected)
    sums = np.empty(co), np.empty(co)
    reference.expand_depthwise3x3_stats_backward(
        dz, dw1, np.empty_like(w2), *sums, *from_output, *arguments
    )
    reference.expand_stats_backward_accumulate(
        dz, dw1, dgamma_in, dbeta_in, back, *found[2:], x, affine, w1
    )
    assert np.allclose(sums, (dgamma, dbeta), rtol=1e-12)
    for one, other in zip((dz, dw1, dgamma_in, dbeta_in), expected, strict=True):
        assert np.allclose(one, other, rtol=1e-9, atol=1e-9 * np.abs(other).max())


def test_what_comes_through_the_statistics_is_their_gradient():
    """By finite differences: of <g, mean> + <h, variance> with respect to x and w1."""
    a, rng = drawn(4, 9), np.random.default_rng(1)
    x, affine, w1 = a["x"], a["affine"], a["w1"]
    affine[LOW], affine[HIGH] = -np.inf, np.inf
    g, h = rng.standard_normal((2, 9))

    def value():
        mean, variance, *_ = statistics_of(reference, x, affine, w1)
        return g @ mean + h @ variance

    mean, _, mean_in, covariance = statistics_of(reference, x, affine, w1)
    samples = x[..., 0].size
    q = 2 * h / samples  # d variance / d y1 = 2 (y1 - mean) / M, d mean / d y1 = 1 / M
    back = np.stack([np.zeros(9), q, g / samples - q * mean])
    dz, dw1, sums = np.zeros_like(x), np.zeros_like(w1), np.empty((2, 4))
    reference.expand_stats_backward_accumulate(
        dz, dw1, *sums, back, mean_in, covariance, x, affine, w1
    )
    for array, gradient in ((x, dz * affine[SCALE]), (w1, dw1)):
        direction, start = rng.standard_normal(array.shape), array.copy()
        array[...] = start + 1e-5 * direction
        above = value()
        array[...] = start - 1e-5 * direction
        numeric = (above - value()) / 2e-5
        array[...] = start
        assert numeric == pytest.approx(np.sum(gradient * direction), rel=1e-7)


def test_a_variance_far_below_what_the_channels_share_costs_few_digits():
    """w1 takes differences of channels that are all but the same."""
    rng = np.random.default_rng(3)
    shared = rng.standard_normal((4, 32, 32, 1))
    x = (shared + 0.003 * rng.standard_normal((4, 32, 32, 8))).astype(np.float32)
    affine = np.zeros((6, 8), np.float32)
    affine[SCALE], affine[LOW], affine[HIGH] = 1, -np.inf, np.inf
    w1 = rng.integers(-8, 8, (8, 48)).astype(np.float32)
    w1[7] = -w1[:7].sum(axis=0)
    exact = statistics_of(reference, *(each.astype(np.float64) for each in (x, affine, w1)))
    found = statistics_of(kernels_of("numba"), x, affine, w1)
    assert np.median(exact[1]) < 0.01
    assert np.allclose(found[1], exact[1], rtol=1e-6)


@pytest.mark.parametrize("mean", [30.0, 1000.0])
def test_a_mean_far_above_the_deviation_costs_no_digits(mean):
    """In float32 the square of 1000 ends where a variance of 1 begins."""
    a = drawn(8, 48, n=4, h=32, w=32)
    rng = np.random.default_rng(2)
    x = (rng.standard_normal(a["x"].shape) + mean).astype(np.float32)
    affine = np.zeros((6, 8), np.float32)
    affine[SCALE], affine[LOW], affine[HIGH] = 1, -np.inf, np.inf
    w1 = rng.standard_normal((8, 48)).astype(np.float32)
    exact = statistics_of(reference, *(each.astype(np.float64) for each in (x, affine, w1)))
    found = statistics_of(kernels_of("numba"), x, affine, w1)
    assert np.allclose(found[1], exact[1], rtol=2e-6)
    assert np.allclose(found[3], exact[3], rtol=2e-6, atol=2e-6)

    back = np.zeros((3, 48), np.float32)
    back[1] = rng.standard_normal(48)
    back[2] = -back[1] * exact[0]  # q*y1 + r = q*(y1 - mean), which float32 has to the last digit
    for kernels, dtype in ((kernels_of("numba"), np.float32), (reference, np.float64)):
        dz, dw1 = np.zeros(x.shape, dtype), np.zeros((8, 48), dtype)
        arrays = (each.astype(dtype) for each in (x, affine, w1))
        sums = np.empty((2, 8), dtype)
        kernels.expand_stats_backward_accumulate(
            dz, dw1, *sums, back.astype(dtype), *exact[2:], *arrays
        )
        if dtype == np.float32:
            rounded = dz
    assert np.abs(rounded - dz).max() < 1e-5 * np.abs(dz).max()
