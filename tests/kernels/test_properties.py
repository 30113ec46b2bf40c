"""Properties that hold for any shape, found by random search; and the values at the edges."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npnet.kernels import jit, reference, registry
from npnet.kernels.arrays import HIGH, IDENTITY, LOW
from npnet.kernels.jit.target import TARGET
from npnet.kernels.registry import Case
from tests.kernels.test_twins import compare

sizes = st.integers(1, 9)
PANEL = TARGET.vector_bytes // 4 * len(TARGET.blocks)
channels = st.integers(1, PANEL + 20)
shapes = st.builds(
    Case,
    label=st.just("any"),
    n=st.integers(1, 3),
    h=sizes,
    w=sizes,
    ci=channels,
    co=st.integers(2, PANEL + 20),
    stride=st.sampled_from([1, 2]),
)


@pytest.mark.parametrize("row", registry.COMPILED, ids=lambda row: row.name)
@given(case=shapes)
@settings(max_examples=15)
def test_any_shape_matches_the_twin(row, case):
    if row.kind == "depthwise":
        case = Case("any", case.n, case.h, case.w, case.ci, case.ci, case.stride)
    if row.kind in ("stem", "image"):
        case = Case("any", case.n, case.h, case.w, 3, case.co, 2)
    compare(row, case, getattr(jit, row.name), np.float32, row.tolerance)


def pixels(*values):
    """Maps (1,1,W,1) of these values."""
    return np.array(values, np.float32).reshape(1, 1, -1, 1)


def relu6(channels):
    """The map (6,C) of ReLU6 alone."""
    affine = np.tile(np.array(IDENTITY, np.float32)[:, None], channels)
    affine[LOW], affine[HIGH] = 0, 6
    return affine


def statistics(kernels, x):
    """Mean and variance of x, as they leave a convolution that changes nothing."""
    channels = x.shape[-1]
    affine = np.tile(np.array(IDENTITY, x.dtype)[:, None], channels)
    mean, variance = np.empty((2, channels))
    kernels.activation_pointwise_stats_forward(
        np.empty_like(x), mean, variance, x, affine, np.eye(channels, dtype=x.dtype)
    )
    return mean, variance


BACKENDS = pytest.mark.parametrize("kernels", [jit, reference], ids=["jit", "reference"])


@BACKENDS
class TestSpecialValues:
    def test_relu6_keeps_nan_and_clips_infinity(self, kernels):
        x = pixels(np.nan, -np.inf, np.inf, -0.5, 0, 6, 7)
        a = np.empty_like(x)
        kernels.activation_forward(a, x, relu6(1))
        assert np.array_equal(a.ravel(), [np.nan, 0, 6, 0, 0, 6, 6], equal_nan=True)

    def test_relu6_has_no_gradient_at_its_kinks(self, kernels):
        x = pixels(-1, 0, 1e-3, 3, 5.999, 6, 9)
        dz, (dgamma, dbeta) = np.empty_like(x), np.empty((2, 1), np.float32)
        kernels.activation_backward(dz, dgamma, dbeta, np.ones_like(x), x, relu6(1))
        assert dz.ravel().tolist() == [0, 0, 1, 1, 1, 0, 0]
        assert dbeta.tolist() == [3]

    def test_cross_entropy_of_huge_logits(self, kernels):
        logits = np.array([[1e4, 0, -1e4], [-1e4, -1e4, 1e4]], np.float32)
        loss, p = np.empty(2, np.float32), np.empty((2, 3), np.float32)
        kernels.softmax_cross_entropy_forward(loss, p, logits, np.array([1, 2]), 0.0)
        assert loss.tolist() == [1e4, 0]
        assert p.tolist() == [[1, 0, 0], [0, 0, 1]]

    def test_cross_entropy_of_a_nan_is_nan(self, kernels):
        logits = np.array([[np.nan, 0.0]], np.float32)
        loss, p = np.empty(1, np.float32), np.empty((1, 2), np.float32)
        kernels.softmax_cross_entropy_forward(loss, p, logits, np.array([1]), 0.1)
        assert np.isnan(loss[0])

    def test_uniform_logits_cost_the_logarithm_of_the_class_count(self, kernels):
        loss, p = np.empty(1), np.empty((1, 10))
        kernels.softmax_cross_entropy_forward(loss, p, np.zeros((1, 10)), np.array([3]), 0.3)
        assert loss[0] == pytest.approx(np.log(10))

    def test_variance_survives_a_large_mean(self, kernels):
        """Where mean >> standard deviation, E[x^2] - E[x]^2 would lose all digits."""
        x = np.random.default_rng(0).standard_normal((4, 8, 8, 3)) + 1e6
        mean, variance = statistics(kernels, x)
        assert np.allclose(mean, x.mean(axis=(0, 1, 2)), rtol=1e-14)
        assert np.allclose(variance, x.var(axis=(0, 1, 2)), rtol=1e-9)

    def test_one_pixel_has_no_variance(self, kernels):
        mean, variance = statistics(kernels, np.full((1, 1, 1, 2), 3.0))
        assert (mean.tolist(), variance.tolist()) == ([3, 3], [0, 0])

    @pytest.mark.parametrize("size", [32, 64])
    def test_image_of_one_colour_stays_so_under_resize_and_flip(self, kernels, size):
        pixels = np.full((1, 32, 32, 3), 77, np.uint8)
        y = np.empty((1, size, size, 3))
        kernels.image_forward(
            y, pixels, np.zeros(1, np.int64), np.zeros((1, 2), np.int64), np.ones(1, np.uint8),
            np.zeros(3), np.ones(3),
        )  # fmt: skip
        assert np.allclose(y, 77)

    def test_image_crop_and_flip_move_pixels_as_named(self, kernels):
        pixels = np.zeros((1, 32, 32, 3), np.uint8)
        pixels[0, 10, 5] = 255  # row 10, column 5
        y = np.empty((1, 32, 32, 3))

        def lit(shift, flip):
            kernels.image_forward(
                y, pixels, np.zeros(1, np.int64), np.array([shift]), np.array([flip], np.uint8),
                np.zeros(3), np.ones(3),
            )  # fmt: skip
            return [tuple(map(int, place)) for place in np.argwhere(y[0, :, :, 0] > 100)]

        assert lit((0, 0), 0) == [(10, 5)]
        assert lit((2, 1), 0) == [(8, 4)]  # the window moved down and right
        assert lit((2, 1), 1) == [(8, 27)]
        assert lit((0, 6), 0) == []  # cropped away, and what came in is black
        assert not y[0, :, 26:].any()

    def test_bilinear_resize_has_half_pixel_centres(self, kernels):
        """Doubling columns a, b gives a, (3a+b)/4, (a+3b)/4, b, as in PyTorch and TensorFlow."""
        pixels = np.zeros((1, 2, 2, 3), np.uint8)
        pixels[0, :, 1] = 200
        y = np.empty((1, 4, 4, 3))
        kernels.image_forward(
            y, pixels, np.zeros(1, np.int64), np.zeros((1, 2), np.int64), np.zeros(1, np.uint8),
            np.zeros(3), np.ones(3),
        )  # fmt: skip
        assert np.allclose(y[0, :, :, 0], [0, 50, 150, 200])


@pytest.mark.compiled
def test_maps_that_are_no_slice_of_channels_are_refused():
    """Pixels of another distance: read as if they had one, they would be the wrong ones."""
    x = np.zeros((2, 4, 6, 5), np.float32)
    for cut in (x[:, :, :5, 1:4], x[:, :3, :, 1:4], x[..., ::2]):
        with pytest.raises(ValueError, match="slice of channels"):
            jit.activation_forward(np.empty_like(cut), cut, relu6(3))


class TestSgd:
    def run(self, kernels, steps=3, **options):
        settings_ = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.5, "nesterov": False} | options
        w, velocity = np.array([1.0, 1.0]), np.zeros(2)
        for _ in range(steps):
            kernels.sgd_update(w, velocity, np.array([1.0, 1.0]), 1, *settings_.values())
        return w, velocity

    @pytest.mark.parametrize("kernels", [jit, reference], ids=["jit", "reference"])
    def test_three_steps_by_hand(self, kernels):
        w, velocity = self.run(kernels)
        # Not decayed: v = 1, 1.9, 2.71; w = 1 - 0.1*(1 + 1.9 + 2.71).
        assert velocity[1] == pytest.approx(2.71)
        assert w[1] == pytest.approx(0.439)
        # Decayed by 0.5*w: g = 1.5, 1.425, 1.28625; v = 1.5, 2.775, 3.78375.
        assert velocity[0] == pytest.approx(3.78375)
        assert w[0] == pytest.approx(1 - 0.1 * (1.5 + 2.775 + 3.78375))

    @pytest.mark.parametrize("kernels", [jit, reference], ids=["jit", "reference"])
    def test_nesterov_looks_ahead(self, kernels):
        w, _ = self.run(kernels, steps=1, nesterov=True)
        assert w[1] == pytest.approx(1 - 0.1 * 1.9)


@pytest.mark.compiled
class TestLongSums:
    """65,536 pixels: sums that ran in float32 would lose three digits more than these bounds."""

    x = (0.1 + 0.01 * np.random.default_rng(0).standard_normal((16, 64, 64, 2))).astype(np.float32)

    def test_statistics(self):
        mean, variance = statistics(jit, self.x)
        exact = self.x.astype(np.float64)
        assert np.allclose(mean, exact.mean(axis=(0, 1, 2)), rtol=1e-9)
        assert np.allclose(variance, exact.var(axis=(0, 1, 2)), rtol=1e-8)

    def test_gradients_of_gamma_and_beta(self):
        dgamma, dbeta = np.empty((2, 2), np.float32)
        affine = np.tile(np.array(IDENTITY, np.float32)[:, None], 2)
        jit.activation_backward(np.empty_like(self.x), dgamma, dbeta, self.x, self.x, affine)
        exact = self.x.astype(np.float64)
        assert np.allclose(dbeta, exact.sum(axis=(0, 1, 2)), rtol=2e-7)
        assert np.allclose(dgamma, (exact**2).sum(axis=(0, 1, 2)), rtol=2e-7)
