"""Every kernel once: arguments, work, tolerance, cases. Tests and benchmarks read this table.

Shapes are functions of a `Case`, and the cases are either the borders where kernels go wrong (maps
of one pixel, odd sizes, odd channel counts) or derived from a model's list of operations.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from npnet.kernels.arrays import (
    HIGH,
    LOW,
    RSTD,
    Floats,
    convolved_size,
    output_size,
    pooled_size,
)

if TYPE_CHECKING:  # this table is read without the compiler
    from npnet.kernels.jit.target import Target

Shape = tuple[int, ...]
Arguments = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """The sizes of one call, in the letters of the legend (see kernels/__init__.py)."""

    label: str
    n: int = 1
    h: int = 1
    w: int = 1
    ci: int = 1
    co: int = 1
    stride: int = 1
    k: int = 3
    padding: int = 1
    stored: int = 32  # pixels across, of the bytes that become maps of h x w

    @property
    def maps(self) -> Shape:
        """(N,H,W,Ci), the input."""
        return self.n, self.h, self.w, self.ci

    @property
    def mixed(self) -> Shape:
        """(N,H,W,Co), the output of a pointwise convolution."""
        return self.n, self.h, self.w, self.co

    @property
    def filtered(self) -> Shape:
        """(N,Ho,Wo,Co), the output of a 3x3 convolution."""
        ho, wo = output_size(self.h, self.stride), output_size(self.w, self.stride)
        return self.n, ho, wo, self.co

    @property
    def convolved(self) -> Shape:
        """(N,Ho,Wo,Co), the output of a k x k convolution."""
        ho = convolved_size(self.h, self.k, self.stride, self.padding)
        return self.n, ho, convolved_size(self.w, self.k, self.stride, self.padding), self.co

    @property
    def pooled(self) -> Shape:
        """(N,Ho,Wo,Ci), the output of a 3x3 pool."""
        return self.n, pooled_size(self.h), pooled_size(self.w), self.ci


Draw = Callable[[np.random.Generator, Shape], Floats]


def _normal(rng: np.random.Generator, shape: Shape) -> Floats:
    return 2 * rng.standard_normal(shape)


class Drawn(tuple[int, ...]):
    """A shape, how its numbers are drawn, and their dtype where it is not the call's own."""

    draw: Draw
    dtype: type[np.generic] | None

    def __new__(
        cls, shape: Iterable[int], draw: Draw = _normal, dtype: type[np.generic] | None = None
    ) -> "Drawn":
        made = super().__new__(cls, shape)
        made.draw, made.dtype = draw, dtype
        return made

    @property
    def itemsize(self) -> int:
        """Bytes of an element of `dtype`."""
        return np.dtype(self.dtype).itemsize


def doubles(*shape: int) -> Drawn:
    """Statistics, which are float64 whatever the call's dtype."""
    return Drawn(shape, dtype=np.float64)


def positive(*shape: int, dtype: type[np.generic] | None = None) -> Drawn:
    """From 0.5 to 2, such as a variance."""
    return Drawn(shape, lambda rng, shape: rng.uniform(0.5, 2, shape), dtype)


def whole(shape: Shape, stop: int, start: int = 0, dtype: type[np.generic] = np.int64) -> Drawn:
    """Whole numbers from `start` to below `stop`."""
    return Drawn(shape, lambda rng, shape: rng.integers(start, stop, shape), dtype)


def bits(*shape: int) -> Drawn:
    """Bytes of 0 and 1."""
    return whole(shape, 2, dtype=np.uint8)


def probabilities(*shape: int) -> Drawn:
    """Rows that add up to 1."""
    return Drawn(shape, lambda rng, shape: rng.dirichlet(np.ones(shape[1]), shape[0]))


def affine_of(channels: int) -> Drawn:
    """(6,C): ReLU6 behind even channels, nothing behind odd ones; as the network has both."""

    def draw(rng: np.random.Generator, shape: Shape) -> Floats:
        affine = _normal(rng, shape)
        affine[RSTD] = rng.uniform(0.5, 2, shape[1])
        affine[LOW, 0::2], affine[HIGH, 0::2] = 0, 6
        affine[LOW, 1::2], affine[HIGH, 1::2] = -np.inf, np.inf
        return affine

    return Drawn((6, channels), draw)


def places(c: Case) -> Drawn:
    """Where in its window, which the map's border may cut, each output of a pool was: bytes."""

    def draw(rng: np.random.Generator, shape: Shape) -> Floats:
        rows = np.minimum(3, c.h - 2 * np.arange(shape[1]))[:, None, None]
        columns = np.minimum(3, c.w - 2 * np.arange(shape[2]))[:, None]
        return 3 * rng.integers(0, rows, shape) + rng.integers(0, columns, shape)

    return Drawn(c.pooled, draw, np.uint8)


def _stored(c: Case) -> dict[str, Shape]:
    """Images as bytes, and which of them are read."""
    pixels = (c.n, c.stored, c.stored, 3)
    return {"pixels": whole(pixels, 256, dtype=np.uint8), "index": whole((c.n,), c.n)}


def _boxes(c: Case) -> Drawn:
    """Crops of a quarter of the image up to the whole, some mirrored, some partly outside."""

    def draw(rng: np.random.Generator, shape: Shape) -> Floats:
        extent = c.stored * rng.uniform(0.5, 1, (c.n, 2))
        start = (c.stored - extent) * rng.uniform(-0.2, 1.2, (c.n, 2))
        mirrored = rng.random((c.n, 2)) < 0.5
        start, extent = np.where(mirrored, [start + extent, -extent], [start, extent])
        return np.concatenate((start, extent), axis=1)

    return Drawn((c.n, 4), draw, np.float64)


@dataclass(frozen=True)
class Variant:
    """A call of another form: arguments that are `none`, arrays `sliced` from wider ones.

    A slice has all channels from a to b: (N,H,W,C)[..., a:b], or (6,C)[:, a:b].
    """

    label: str
    none: tuple[str, ...] = ()
    sliced: tuple[str, ...] = ()


@dataclass(frozen=True)
class Kernel:
    """One kernel of both backends.

    `shapes`: every array argument, in order, outputs first; `outputs` of them are written.
    `updates`: outputs that are read as well. `scalars`: the arguments after the arrays.
    `flops`: floating-point operations of a call. `tolerance`: the largest error of a float32
    result, relative to the largest value of the float64 twin's. `reference_only`: a plain operation
    whose compiled place a fused one has taken. `variants`: what else it may be called with.
    """

    name: str
    kind: str
    outputs: int
    shapes: Callable[[Case], dict[str, Shape]]
    flops: Callable[[Case], int]
    tolerance: float
    scalars: Callable[[Case], Arguments] = lambda case: {}
    updates: tuple[str, ...] = ()
    kinks: tuple[float, ...] = ()
    reference_only: bool = False
    variants: tuple[Variant, ...] = ()

    def output_names(self, case: Case) -> tuple[str, ...]:
        return tuple(self.shapes(case))[: self.outputs]

    def bytes_moved(self, case: Case, itemsize: int = 4) -> int:
        """Bytes that a call must read and write: each array once, what is updated twice."""
        return sum(
            prod(shape)
            * (shape.itemsize if isinstance(shape, Drawn) and shape.dtype else itemsize)
            * (2 if name in self.updates else 1)
            for name, shape in self.shapes(case).items()
        )

    def arguments(
        self, case: Case, rng: np.random.Generator, dtype: DTypeLike = np.float64
    ) -> Arguments:
        """Random arguments of the right shapes, in the order of the kernel's signature.

        Values keep a distance from the kernel's kinks, where it has no derivative.
        """
        arrays = {}
        for name, shape in self.shapes(case).items():
            drawn = shape if isinstance(shape, Drawn) else Drawn(shape)
            values = drawn.draw(rng, drawn)
            for kink in self.kinks:
                values = np.where(abs(values - kink) < 0.01, kink + 0.05, values)
            arrays[name] = values.astype(drawn.dtype or dtype)
        return arrays | self.scalars(case)


def _elementwise(*names: str) -> Callable[[Case], dict[str, Shape]]:
    return lambda c: dict.fromkeys(names, c.maps)


def _channelwise(
    maps: Iterable[str], channels: Iterable[str]
) -> Callable[[Case], dict[str, Shape]]:
    """Arguments in the order `maps` then `channels`."""
    return lambda c: dict.fromkeys(maps, c.maps) | dict.fromkeys(channels, (c.ci,))


def _statistics(channels: int) -> dict[str, Shape]:
    return {"mean": doubles(channels), "variance": positive(channels, dtype=np.float64)}


def _input_statistics(c: Case) -> dict[str, Shape]:
    """Of what a convolution reads: also how its channels vary together."""
    return {"mean_in": doubles(c.ci), "covariance": doubles(c.ci, c.ci)}


def _mean_and_rstd(c: Case) -> dict[str, Shape]:
    return {"mean": doubles(c.ci), "rstd": positive(c.ci, dtype=np.float64)}


def _stride(case: Case) -> Arguments:
    return {"stride": case.stride}


def _stride_and_padding(case: Case) -> Arguments:
    return {"stride": case.stride, "padding": case.padding}


def _stride_and_shortcut(case: Case) -> Arguments:
    return {"stride": case.stride, "shortcut": case.stride == 1 and case.ci == case.co}


def _flops_block(c: Case, channels: int) -> int:
    """Depthwise filter and projection of so many channels."""
    n, ho, wo, co = c.filtered
    return 2 * n * ho * wo * channels * (9 + co)


def _flops_elementwise(count: int) -> Callable[[Case], int]:
    return lambda c: count * prod(c.maps)


def _flops_3x3(c: Case) -> int:
    return 2 * 9 * prod(c.filtered)


def _flops_stem(c: Case) -> int:
    return 2 * 27 * prod(c.filtered)


def _flops_conv(c: Case) -> int:
    return 2 * c.k * c.k * c.ci * prod(c.convolved)


def _flops_matmul(c: Case) -> int:
    return 2 * prod(c.maps) * c.co


def _flops_linear(c: Case) -> int:
    return 2 * c.n * c.ci * c.co


KERNELS: tuple[Kernel, ...] = (
    Kernel(
        "stem3x3_forward", "stem", 1,
        lambda c: {"y": c.filtered, "x": c.maps, "w": (3, 3, c.ci, c.co)},
        _flops_stem, 2e-6,
        reference_only=True,
    ),
    Kernel(
        "stem3x3_backward_weight", "stem", 1,
        lambda c: {"dw": (3, 3, c.ci, c.co), "dy": c.filtered, "x": c.maps},
        _flops_stem, 5e-5,
        reference_only=True,
    ),
    Kernel(
        "pointwise_forward", "pointwise", 1,
        lambda c: {"y": c.mixed, "x": c.maps, "w": (c.ci, c.co)},
        _flops_matmul, 5e-6,
        reference_only=True,
    ),
    Kernel(
        "pointwise_backward_input", "pointwise", 1,
        lambda c: {"dx": c.maps, "dy": c.mixed, "w": (c.ci, c.co)},
        _flops_matmul, 5e-6,
        reference_only=True,
    ),
    Kernel(
        "pointwise_backward_weight", "pointwise", 1,
        lambda c: {"dw": (c.ci, c.co), "dy": c.mixed, "x": c.maps},
        _flops_matmul, 1e-5,
        reference_only=True,
    ),
    Kernel(
        "depthwise3x3_forward", "depthwise", 1,
        lambda c: {"y": c.filtered, "x": c.maps, "w": (3, 3, c.ci)},
        _flops_3x3, 2e-6, _stride,
        reference_only=True,
    ),
    Kernel(
        "depthwise3x3_backward_input", "depthwise", 1,
        lambda c: {"dx": c.maps, "dy": c.filtered, "w": (3, 3, c.ci)},
        _flops_3x3, 2e-6, _stride,
        reference_only=True,
    ),
    Kernel(
        "depthwise3x3_backward_weight", "depthwise", 1,
        lambda c: {"dw": (3, 3, c.ci), "dy": c.filtered, "x": c.maps},
        _flops_3x3, 5e-5, _stride,
        reference_only=True,
    ),
    Kernel(
        "batchnorm_statistics", "batchnorm", 2,
        lambda c: _statistics(c.ci) | {"x": c.maps},
        _flops_elementwise(3), 1e-6,
        reference_only=True,
    ),
    Kernel(
        "batchnorm_track", "batchnorm", 2,
        lambda c: {"running_mean": (c.ci,), "running_variance": positive(c.ci)} | _statistics(c.ci),
        lambda c: 6 * c.ci, 1e-6, lambda c: {"momentum": 0.9, "samples": c.n * c.h * c.w},
        updates=("running_mean", "running_variance"),
    ),
    Kernel(
        "batchnorm_fold", "batchnorm", 1,
        lambda c: {"affine": affine_of(c.ci)}
        | _statistics(c.ci)
        | _channelwise((), ("gamma", "beta"))(c),
        lambda c: 6 * c.ci, 2e-6, lambda c: {"epsilon": 1e-3}, updates=("affine",),
    ),
    Kernel(
        "batchnorm_fold_backward", "batchnorm", 1,
        lambda c: {"affine_backward": (3, c.ci), "affine": affine_of(c.ci), "dgamma": (c.ci,),
                   "dbeta": (c.ci,)},
        lambda c: 7 * c.ci, 5e-6, lambda c: {"samples": 7.0},
    ),
    Kernel(
        "affine_forward", "batchnorm", 1,
        _channelwise(("y", "x"), ("scale", "shift")), _flops_elementwise(2), 2e-6,
        reference_only=True,
    ),
    Kernel(
        "affine_relu6_forward", "batchnorm", 1,
        _channelwise(("y", "x"), ("scale", "shift")), _flops_elementwise(4), 2e-6,
        reference_only=True,
    ),
    Kernel(
        "batchnorm_backward_sums", "batchnorm", 2,
        lambda c: _channelwise((), ("dgamma", "dbeta"))(c)
        | _channelwise(("dy", "x"), ())(c)
        | _mean_and_rstd(c),
        _flops_elementwise(4), 5e-6,
        reference_only=True,
    ),
    Kernel(
        "affine_relu6_backward_sums", "batchnorm", 3,
        lambda c: _channelwise(("dz",), ("dgamma", "dbeta"))(c)
        | _channelwise(("dy", "x"), ())(c)
        | _mean_and_rstd(c)
        | _channelwise((), ("scale", "shift"))(c),
        _flops_elementwise(8), 5e-6,
        reference_only=True,
    ),
    Kernel(
        "batchnorm_backward", "batchnorm", 1,
        _channelwise(("dx", "dy", "x"), ("p", "q", "r")), _flops_elementwise(4), 2e-6,
        reference_only=True,
    ),
    Kernel(
        "activation_forward", "batchnorm", 1,
        lambda c: {"a": c.maps, "x": c.maps, "affine": affine_of(c.ci)},
        _flops_elementwise(4), 2e-6,
    ),
    Kernel(
        "activation_backward", "batchnorm", 3,
        lambda c: {"dz": c.maps, "dgamma": (c.ci,), "dbeta": (c.ci,), "da": c.maps, "x": c.maps,
                   "affine": affine_of(c.ci)},
        _flops_elementwise(8), 5e-6,
    ),
    Kernel(
        "stem3x3_stats_forward", "stem", 3,
        lambda c: {"y": c.filtered} | _statistics(c.co) | {"x": c.maps, "w": (3, 3, c.ci, c.co)},
        _flops_stem, 5e-6,
    ),
    Kernel(
        "stem3x3_stats_backward", "stem", 1,
        lambda c: {"dw": (3, 3, c.ci, c.co), "dz_next": c.filtered, "y": c.filtered,
                   "affine_backward": (3, c.co), "x": c.maps},
        _flops_stem, 1e-5,
    ),
    Kernel(
        "activation_pointwise_stats_forward", "pointwise", 3,
        lambda c: {"y": c.mixed} | _statistics(c.co)
        | {"x": c.maps, "affine": affine_of(c.ci), "w": (c.ci, c.co)},
        _flops_matmul, 5e-6,
        variants=(
            Variant("no statistics", none=("mean", "variance")),
            Variant("slices", sliced=("y", "x", "affine")),
        ),
    ),
    Kernel(
        "activation_pointwise_stats_backward", "pointwise", 4,
        lambda c: {"dz": c.maps, "dw": (c.ci, c.co), "dgamma": (c.ci,), "dbeta": (c.ci,),
                   "dz_next": c.mixed, "y": c.mixed, "affine_backward": (3, c.co), "x": c.maps,
                   "affine": affine_of(c.ci), "w": (c.ci, c.co)},
        lambda c: 2 * _flops_matmul(c), 1e-5,
        variants=(
            Variant("no batch norm", none=("y", "affine_backward")),
            Variant("no batch norm, slices", none=("y", "affine_backward"),
                    sliced=("dz", "dz_next", "x", "affine")),
            Variant("no dz, slices", none=("dz", "dgamma", "dbeta"),
                    sliced=("dz_next", "y", "affine_backward", "x", "affine")),
            Variant("no dw, slices", none=("dw",),
                    sliced=("dz", "dz_next", "y", "affine_backward", "x", "affine")),
        ),
    ),
    Kernel(
        "activation_depthwise3x3_stats_forward", "depthwise", 3,
        lambda c: {"y": c.filtered} | _statistics(c.co)
        | {"x": c.maps, "affine": affine_of(c.ci), "w": (3, 3, c.ci)},
        _flops_3x3, 5e-6, _stride,
    ),
    Kernel(
        "activation_depthwise3x3_stats_backward", "depthwise", 4,
        lambda c: {"dz": c.maps, "dw": (3, 3, c.ci), "dgamma": (c.ci,), "dbeta": (c.ci,),
                   "dz_next": c.filtered, "y": c.filtered, "affine_backward": (3, c.ci),
                   "x": c.maps, "affine": affine_of(c.ci), "w": (3, 3, c.ci)},
        lambda c: 2 * _flops_3x3(c), 1e-5, _stride,
        variants=(
            Variant("no dz", none=("dz", "dgamma", "dbeta")), Variant("no dw", none=("dw",)),
        ),
    ),
    Kernel(
        "expand_stats_forward", "expand", 4,
        lambda c: _statistics(c.co) | _input_statistics(c)
        | {"x": c.maps, "affine": affine_of(c.ci), "w1": (c.ci, c.co)},
        lambda c: 2 * prod(c.maps) * c.ci, 5e-6,
    ),
    Kernel(
        "expand_stats_backward_accumulate", "expand", 4,
        lambda c: {"dz": c.maps, "dw1": (c.ci, c.co), "dgamma": (c.ci,), "dbeta": (c.ci,),
                   "affine_backward": (3, c.co), **_input_statistics(c), "x": c.maps,
                   "affine": affine_of(c.ci), "w1": (c.ci, c.co)},
        lambda c: 2 * prod(c.maps) * c.ci, 1e-5, updates=("dz", "dw1"),
        variants=(
            Variant("no dz", none=("dz", "dgamma", "dbeta")), Variant("no dw1", none=("dw1",)),
        ),
    ),
    Kernel(
        "expand_depthwise3x3_stats_forward", "expand", 3,
        lambda c: {"y": c.filtered} | _statistics(c.co)
        | {"x": c.maps, "affine": affine_of(c.ci), "w1": (c.ci, c.co), "affine1": affine_of(c.co),
           "w2": (3, 3, c.co)},
        lambda c: _flops_matmul(c) + _flops_3x3(c), 5e-6, _stride,
    ),
    Kernel(
        "expand_depthwise3x3_stats_backward", "expand", 5,
        lambda c: {"da": c.maps, "dw1": (c.ci, c.co), "dw2": (3, 3, c.co), "dgamma": (c.co,),
                   "dbeta": (c.co,), "dz_next": c.filtered, "y": c.filtered,
                   "affine_backward": (3, c.co), "x": c.maps, "affine": affine_of(c.ci),
                   "w1": (c.ci, c.co), "affine1": affine_of(c.co), "w2": (3, 3, c.co)},
        lambda c: 3 * _flops_matmul(c) + 2 * _flops_3x3(c), 1e-5, _stride,
        variants=(
            Variant("no da", none=("da",)), Variant("no dw1", none=("dw1",)),
            Variant("no dw2", none=("dw2",)),
            Variant("nothing of the expansion", none=("da", "dw1", "dgamma", "dbeta")),
        ),
    ),
    Kernel(
        "stem3x3_inference", "stem", 1,
        lambda c: {"y": c.filtered, "x": c.maps, "w": (3, 3, c.ci, c.co), "b": (c.co,)},
        _flops_stem, 5e-6,
    ),
    Kernel(
        "separable_inference", "block", 1,
        lambda c: {"y": c.filtered, "x": c.maps, "w2": (3, 3, c.ci), "b2": (c.ci,),
                   "w3": (c.ci, c.co), "b3": (c.co,)},
        lambda c: _flops_block(c, c.ci), 5e-6, _stride_and_shortcut,
    ),
    Kernel(
        "inverted_residual_inference", "block", 1,
        lambda c: {"y": c.filtered, "x": c.maps, "w1": (c.ci, 6 * c.ci), "b1": (6 * c.ci,),
                   "w2": (3, 3, 6 * c.ci), "b2": (6 * c.ci,), "w3": (6 * c.ci, c.co),
                   "b3": (c.co,)},
        lambda c: 2 * prod(c.maps) * 6 * c.ci + _flops_block(c, 6 * c.ci), 5e-6,
        _stride_and_shortcut,
    ),
    Kernel(
        "head_inference", "head", 1,
        lambda c: {"features": (c.n, c.co), "x": c.maps, "w": (c.ci, c.co), "b": (c.co,)},
        lambda c: 2 * prod(c.maps) * c.co, 5e-6,
    ),
    Kernel(
        "relu6_forward", "activation", 1,
        _elementwise("y", "x"), _flops_elementwise(2), 1e-6, kinks=(0, 6),
        reference_only=True,
    ),
    Kernel(
        "relu6_backward", "activation", 1,
        _elementwise("dx", "dy", "x"), _flops_elementwise(3), 1e-6, kinks=(0, 6),
        reference_only=True,
    ),
    Kernel(
        "residual_forward", "activation", 1,
        _elementwise("y", "x", "shortcut"), _flops_elementwise(1), 1e-6,
    ),
    Kernel(
        "residual_backward_accumulate", "activation", 1,
        _elementwise("dshortcut", "dy"), _flops_elementwise(1), 1e-6, updates=("dshortcut",),
    ),
    Kernel(
        "dropout_forward", "head", 1,
        lambda c: dict.fromkeys(("y", "x"), (c.n, c.ci)) | {"keep": bits(c.n, c.ci)},
        lambda c: 2 * c.n * c.ci, 1e-6, lambda c: {"rate": 0.3},
        reference_only=True,
    ),
    Kernel(
        "dropout_backward", "head", 1,
        lambda c: dict.fromkeys(("dx", "dy"), (c.n, c.ci)) | {"keep": bits(c.n, c.ci)},
        lambda c: 2 * c.n * c.ci, 1e-6, lambda c: {"rate": 0.3},
        reference_only=True,
    ),
    Kernel(
        "average_pool_forward", "head", 1,
        lambda c: {"y": (c.n, c.ci), "x": c.maps}, _flops_elementwise(1), 5e-6,
        reference_only=True,
    ),
    Kernel(
        "average_pool_backward", "head", 1,
        lambda c: {"dx": c.maps, "dy": (c.n, c.ci)}, _flops_elementwise(1), 1e-6,
        reference_only=True,
    ),
    Kernel(
        "linear_forward", "head", 1,
        lambda c: {"y": (c.n, c.co), "x": (c.n, c.ci), "w": (c.ci, c.co), "b": (c.co,)},
        _flops_linear, 5e-6,
    ),
    Kernel(
        "linear_backward_input", "head", 1,
        lambda c: {"dx": (c.n, c.ci), "dy": (c.n, c.co), "w": (c.ci, c.co)},
        _flops_linear, 5e-6,
    ),
    Kernel(
        "linear_backward_weight", "head", 2,
        lambda c: {"dw": (c.ci, c.co), "db": (c.co,), "dy": (c.n, c.co), "x": (c.n, c.ci)},
        _flops_linear, 5e-6,
    ),
    Kernel(
        "softmax_cross_entropy_forward", "head", 2,
        lambda c: {"loss": (c.n,), "probabilities": probabilities(c.n, c.co), "logits": (c.n, c.co),
                   "labels": whole((c.n,), c.co)},
        lambda c: 8 * c.n * c.co, 2e-6, lambda c: {"smoothing": 0.1},
    ),
    Kernel(
        "softmax_cross_entropy_backward", "head", 1,
        lambda c: {"dlogits": (c.n, c.co), "probabilities": probabilities(c.n, c.co),
                   "labels": whole((c.n,), c.co)},
        lambda c: 3 * c.n * c.co, 2e-6, lambda c: {"smoothing": 0.1, "scale": 0.25},
    ),
    Kernel(
        "sgd_update", "sgd", 2,
        lambda c: dict.fromkeys(("w", "velocity", "gradient"), (c.ci * c.co,)),
        lambda c: 8 * c.ci * c.co, 1e-6,
        lambda c: {"decayed": c.ci * c.co // 2, "lr": 0.1, "momentum": 0.9,
                   "weight_decay": 0.01, "nesterov": c.stride == 1},
        updates=("w", "velocity"),
    ),
    Kernel(
        "image_forward", "image", 1,
        lambda c: {"y": (c.n, c.h, c.h, 3), **_stored(c), "shift_yx": whole((c.n, 2), 5, start=-4),
                   "flip": bits(c.n), "mean": doubles(3), "rstd": positive(3, dtype=np.float64)},
        lambda c: 11 * 3 * c.n * c.h * c.h, 5e-6,
    ),
    Kernel(
        "image_resized_crop_forward", "image", 1,
        lambda c: {"y": (c.n, c.h, c.h, 3), **_stored(c), "box": _boxes(c),
                   "color": positive(c.n, 3, dtype=np.float64),
                   "mean": doubles(3), "rstd": positive(3, dtype=np.float64)},
        lambda c: 20 * 3 * c.n * c.h * c.h, 5e-6,
    ),
    Kernel(
        "conv_forward", "convolution", 1,
        lambda c: {"y": c.convolved, "x": c.maps, "w": (c.k, c.k, c.ci, c.co)},
        _flops_conv, 5e-6, _stride_and_padding,
    ),
    Kernel(
        "conv_backward_input", "convolution", 1,
        lambda c: {"dx": c.maps, "dy": c.convolved, "w": (c.k, c.k, c.ci, c.co)},
        _flops_conv, 5e-6, _stride_and_padding,
    ),
    Kernel(
        "conv_backward_weight", "convolution", 1,
        lambda c: {"dw": (c.k, c.k, c.ci, c.co), "dy": c.convolved, "x": c.maps},
        _flops_conv, 1e-5, _stride_and_padding,
    ),
    Kernel(
        "activation_conv_stats_forward", "convolution", 3,
        lambda c: {"y": c.convolved} | _statistics(c.co)
        | {"x": c.maps, "affine": affine_of(c.ci), "w": (c.k, c.k, c.ci, c.co)},
        _flops_conv, 5e-6, _stride_and_padding,
    ),
    Kernel(
        "activation_conv_stats_backward", "convolution", 4,
        lambda c: {"dz": c.maps, "dw": (c.k, c.k, c.ci, c.co), "dgamma": (c.ci,),
                   "dbeta": (c.ci,), "dz_next": c.convolved, "y": c.convolved,
                   "affine_backward": (3, c.co), "x": c.maps, "affine": affine_of(c.ci),
                   "w": (c.k, c.k, c.ci, c.co)},
        lambda c: 2 * _flops_conv(c), 1e-5, _stride_and_padding,
    ),
    Kernel(
        "max_pool3x3_forward", "pool", 2,
        lambda c: {"y": c.pooled, "index": places(c), "x": c.maps},
        lambda c: 9 * prod(c.pooled), 1e-6,
    ),
    Kernel(
        "max_pool3x3_backward", "pool", 1,
        lambda c: {"dx": c.maps, "dy": c.pooled, "index": places(c)},
        lambda c: prod(c.pooled), 1e-6,
    ),
    Kernel(
        "activation_max_pool3x3_forward", "pool", 2,
        lambda c: {"y": c.pooled, "index": places(c), "x": c.maps, "affine": affine_of(c.ci)},
        lambda c: 4 * prod(c.maps) + 9 * prod(c.pooled), 2e-6,
    ),
    Kernel(
        "activation_max_pool3x3_backward", "pool", 3,
        lambda c: {"dz": c.maps, "dgamma": (c.ci,), "dbeta": (c.ci,), "dy": c.pooled,
                   "index": places(c), "x": c.maps, "affine": affine_of(c.ci)},
        lambda c: 8 * prod(c.maps) + prod(c.pooled), 5e-6,
    ),
    Kernel(
        "activation_average_pool_forward", "pool", 1,
        lambda c: {"y": (c.n, c.ci), "x": c.maps, "affine": affine_of(c.ci)},
        _flops_elementwise(5), 5e-6,
    ),
    Kernel(
        "activation_average_pool_backward", "pool", 3,
        lambda c: {"dz": c.maps, "dgamma": (c.ci,), "dbeta": (c.ci,), "dy": (c.n, c.ci),
                   "x": c.maps, "affine": affine_of(c.ci)},
        _flops_elementwise(8), 5e-6,
    ),
    Kernel(
        "activation_add_forward", "elementwise", 1,
        lambda c: {"y": c.maps, "x1": c.maps, "affine1": affine_of(c.ci), "x2": c.maps,
                   "affine2": affine_of(c.ci)},
        _flops_elementwise(9), 2e-6,
    ),
    Kernel(
        "activation_dropout_forward", "elementwise", 1,
        lambda c: {"y": c.maps, "x": c.maps, "affine": affine_of(c.ci), "keep": bits(*c.maps)},
        _flops_elementwise(6), 2e-6, lambda c: {"rate": 0.3},
    ),
    Kernel(
        "activation_dropout_backward", "elementwise", 3,
        lambda c: {"dz": c.maps, "dgamma": (c.ci,), "dbeta": (c.ci,), "dy": c.maps,
                   "keep": bits(*c.maps), "x": c.maps, "affine": affine_of(c.ci)},
        _flops_elementwise(10), 5e-6, lambda c: {"rate": 0.3},
    ),
)  # fmt: skip


# What the compiler is asked for: all but the plain operations that no run calls.
COMPILED = tuple(row for row in KERNELS if not row.reference_only)


@dataclass(frozen=True)
class Gradient:
    """An operation whose backward kernels are checked against finite differences of its forward.

    `backward` names, for each input, the kernel that yields the input's gradient. Arguments meet
    by name: the kernel's `dy` is the gradient of the forward's `y`, everything else is passed on.
    """

    name: str
    forward: str
    backward: Mapping[str, str] = field(default_factory=dict)


GRADIENTS: tuple[Gradient, ...] = (
    Gradient("stem3x3", "stem3x3_forward", {"w": "stem3x3_backward_weight"}),
    Gradient(
        "pointwise",
        "pointwise_forward",
        {"x": "pointwise_backward_input", "w": "pointwise_backward_weight"},
    ),
    Gradient(
        "depthwise3x3",
        "depthwise3x3_forward",
        {"x": "depthwise3x3_backward_input", "w": "depthwise3x3_backward_weight"},
    ),
    Gradient("relu6", "relu6_forward", {"x": "relu6_backward"}),
    Gradient("residual", "residual_forward", {"shortcut": "residual_backward_accumulate"}),
    Gradient("dropout", "dropout_forward", {"x": "dropout_backward"}),
    Gradient("average_pool", "average_pool_forward", {"x": "average_pool_backward"}),
    Gradient(
        "linear",
        "linear_forward",
        {
            "x": "linear_backward_input",
            "w": "linear_backward_weight",
            "b": "linear_backward_weight",
        },
    ),
    Gradient(
        "softmax_cross_entropy",
        "softmax_cross_entropy_forward",
        {"logits": "softmax_cross_entropy_backward"},
    ),
    Gradient("conv", "conv_forward", {"x": "conv_backward_input", "w": "conv_backward_weight"}),
    Gradient("max_pool3x3", "max_pool3x3_forward", {"x": "max_pool3x3_backward"}),
)


def kernel(name: str) -> Kernel:
    """The table's row called `name`."""
    return next(row for row in KERNELS if row.name == name)


_MAPS = ((1, 1), (2, 2), (1, 3), (3, 2), (5, 5), (6, 7), (8, 8))
_CHANNELS = (1, 3, 8, 17)
# Kernel, stride and padding, each with maps that are as small as they may be, odd and even; the
# last needs several tiles. Channels are whole registers and parts of one.
_KERNELS = ((1, 1, 0), (1, 2, 0), (3, 1, 1), (3, 2, 0), (3, 1, 0), (7, 2, 0), (7, 1, 3), (7, 2, 2))


def border_cases(kind: str) -> tuple[Case, ...]:
    """Small cases around the places where a kernel's loops begin and end."""
    if kind == "image":
        shapes = ((32, 32), (32, 33), (32, 64), (32, 128), (48, 20), (33, 5))
        return tuple(Case(f"n3 {f}->{s}", 3, s, s, 3, 3, stored=f) for f, s in shapes)
    if kind == "stem":
        return tuple(Case(f"{h}x{w}", 2, h, w, 3, co, 2) for h, w in _MAPS for co in (1, 8, 17))
    if kind in ("head", "sgd"):
        return tuple(
            Case(f"n{n} {ci}->{co}", n, 3, 2, ci, co)
            for n in (1, 2, 5)
            for ci, co in ((1, 2), (7, 3), (40, 10))
        )
    if kind == "block":  # with and without a shortcut
        return tuple(
            Case(f"{h}x{w} {ci}->{co} s{stride}", 2, h, w, ci, co, stride)
            for h, w in _MAPS
            for ci, co in ((1, 1), (3, 3), (3, 8), (8, 17))
            for stride in (1, 2)
        )
    if kind == "expand":
        return tuple(
            Case(f"{h}x{w} {ci}->{co} s{stride}", 2, h, w, ci, co, stride)
            for h, w in _MAPS
            for ci, co in ((1, 1), (3, 18), (8, 17))
            for stride in (1, 2)
        )
    if kind == "convolution":
        small = tuple(
            Case(f"{h}x{w} {ci}->{co} k{k} s{s} p{p}", 2, h, w, ci, co, s, k, p)
            for k, s, p in _KERNELS
            for h, w in ((max(k - 2 * p, 1), max(k - 2 * p, 1)), (max(k - 2 * p, 1) + 1, 8), (9, 7))
            for ci, co in ((3, 16), (8, 17), (17, 3))
        )
        return (*small, Case("19x20 5->33 k3 s1 p1", 2, 19, 20, 5, 33))
    strides = (1, 2) if kind == "depthwise" else (1,)
    return tuple(
        Case(f"{h}x{w} c{c} s{stride}", 2, h, w, c, c if kind == "depthwise" else c + 2, stride)
        for h, w in _MAPS
        for c in _CHANNELS
        for stride in strides
    )


def edge_cases(kind: str, row: "Target", itemsize: int = 4) -> tuple[Case, ...]:
    """Cases around what the compiled kernels do at a time on a processor, a row of jit/target.py.

    Channels around half a register, one, a panel of the product; pixels around a tile, and around
    one that is as large as the weights; channels past what the ring of a depthwise filter holds;
    rows past a band of inference.
    """
    lanes = row.vector_bytes // itemsize
    panel = lanes * len(row.blocks)
    half = lanes // 2
    sizes = tuple(
        dict.fromkeys(  # each once: two registers may be a panel
            (half, lanes - 1, lanes, lanes + 1, 2 * lanes, 2 * lanes + 1, panel, panel + 1)
        )
    )
    sizes = (*sizes, panel + half, 2 * panel + lanes + 1)
    if kind == "stem":
        return tuple(Case(f"->{co}", 2, 5, 5, 3, co, 2) for co in sizes)
    if kind == "head":
        return tuple(Case(f"{co + 1}->{co}", 2, 3, 3, co + 1, co) for co in sizes)
    if kind == "block":
        wide = row.tile_rows // 2  # two rows of the map are a band
        return (
            *(Case(f"{co}->{co}", 2, 3, 3, co, co) for co in sizes),
            *(Case(f"5x{wide} s{s}", 2, 5, wide, 3, lanes + 1, s) for s in (1, 2)),
        )
    line = max(64 // itemsize, lanes)
    span = row.ring_bytes // (3 * line * itemsize)  # pixels, with which the ring holds one line
    if kind == "expand":
        bands = row.tile_rows // 2, row.tile_rows - 1, row.tile_rows + 1  # of two rows, and of one
        return (
            *(
                Case(f"{ci}->{co} s{s}", 1, 4, 5, ci, co, s)
                for ci, co in zip((*sizes[3:], *sizes[:3]), sizes, strict=True)
                for s in (1, 2)
            ),
            *(Case(f"5x{w} s{s}", 2, 5, w, 3, lanes + 1, s) for w in bands for s in (1, 2)),
            *(
                Case(f"4x{s * (span - 2)} s{s}", 1, 4, s * (span - 2), 3, line + 1, s)
                for s in (1, 2)
            ),
        )
    if kind == "depthwise":
        return (
            *(Case(f"c{c} s{s}", 2, 4, 5, c, c, s) for c in sizes for s in (1, 2)),
            *(
                Case(f"4x{s * (span - 2)} c{c} s{s}", 1, 4, s * (span - 2), c, c, s)
                for c in (line + 1, 2 * line + lanes)
                for s in (1, 2)
            ),
        )
    if kind not in ("pointwise", "batchnorm"):
        return ()
    pairs = zip(sizes, (*sizes[3:], *sizes[:3]), strict=True)
    many = row.tile_bytes // (row.tile_rows * itemsize)  # channels of a tile that is full
    return (
        *(Case(f"9 pixels {ci}->{co}", 1, 3, 3, ci, co) for ci, co in pairs),
        *(Case(f"{p} pixels 3->5", 1, 1, p, 3, 5) for p in around(row.tile_rows)),
        *(
            Case(f"{p} pixels {c}->{c}", 1, 1, p, c, c)
            for c in (many, 2 * many)
            for p in around(min(row.tile_rows, max(row.tile_rows * many // (2 * c), c // 2)))
        ),
    )


def around(tile: int) -> tuple[int, ...]:
    """Pixels: just less than a tile, one, a pixel in the second; a third that is no whole one."""
    return tile - 1, tile, tile + 1, 2 * tile + 9
