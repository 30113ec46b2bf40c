"""One vector register as a value inside a kernel: channels side by side, one instruction for all.

    lanes(a), line(a)            how many elements of `a` fill a register, a line of the cache
    v = load(a, i, c, tail)      the lanes a[i, c:c+lanes(a)] of a matrix
    store(a, i, c, v, tail)      and back
    u * v + w,  -v ...           arithmetic; a product and a sum become one fused instruction
    clip(z, low, high)           min(max(z, low), high), a NaN stays a NaN
    inside(z, low, high, g)      g where low < z < high, else 0: the gradient of clip
    get(ring, k), put(ring, k, v)    the k-th vector of a flat array
    prefetch(a, i, c)            ask memory for a[i, c], which is needed soon; i may lie outside
    repeat(v, number)            a vector like v with the number in all lanes
    where_larger(u, v, g, h)     g where u > v, or where u alone is a NaN, else h
    where_equal(u, v, g)         g where u == v, else 0
    load_bytes(a, i, c, v, tail)     as load, from a matrix of bytes into a vector like v
    store_bytes(a, i, c, v, tail)    and back; v holds whole numbers from 0 to 255
    matrix(x)                    the (pixels, C) view of maps (N,H,W,C), or of a slice of channels
    columns(a, c)                a[:, c];  matrix and columns of None are None

`tail` is None where all lanes are there. Behind the last whole vector of a row it is the number of
channels left, and the lanes beyond are neither read nor written.

Below, each operation has two definitions: a Python function that says what it means (and that runs
under NUMBA_DISABLE_JIT=1), and the instructions that it stands for.
"""

import operator
from collections.abc import Callable
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.core.datamodel import models
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic, overload, register_model
from numba.np.arrayobj import populate_array

from npnet.kernels.arrays import Bytes, Floats
from npnet.kernels.jit.options import config
from npnet.kernels.jit.target import TARGET

CONTRACT = ("contract", "nsz")
LINE_BYTES = 64  # what memory sends at once
INT32, INT64 = ir.IntType(32), ir.IntType(64)


class VectorType(types.Type):
    """A register of `lanes` floats of one dtype."""

    def __init__(self, dtype: Any) -> None:
        self.dtype = dtype
        self.lanes = TARGET.vector_bytes * 8 // dtype.bitwidth
        super().__init__(name=f"vector({dtype} x {self.lanes})")

    @property
    def ir(self) -> ir.VectorType:
        return ir.VectorType(
            ir.FloatType() if self.dtype == types.float32 else ir.DoubleType(), self.lanes
        )


@register_model(VectorType)
class VectorModel(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, vector: VectorType) -> None:
        super().__init__(manager, vector, vector.ir)


def instructions(meaning: Callable[..., Any]) -> Callable[[Callable[..., Any]], Any]:
    """Decorate the emitter of an operation; without the compiler its meaning is used instead."""
    return lambda emitter: meaning if config.DISABLE_JIT else intrinsic(emitter)


def element(context: Any, builder: Any, array_type: Any, array: Any, i: Any, c: Any) -> Any:
    """Pointer to array[i, c], for any strides."""
    parts = context.make_array(array_type)(context, builder, array)
    row, column = cgutils.unpack_tuple(builder, parts.strides)
    if array_type.layout == "C":
        column = ir.Constant(INT64, array_type.dtype.bitwidth // 8)
    offset = builder.add(builder.mul(i, row), builder.mul(c, column))
    start = builder.bitcast(parts.data, ir.IntType(8).as_pointer())
    return builder.bitcast(builder.gep(start, [offset]), parts.data.type)


def opaque(builder: Any, index: Any) -> Any:
    """The same number, of which the compiler does not know what it was in the round before.

    So it steps no pointer for each row that is read at `index`, see TARGET. The code is empty.
    """
    return builder.asm(ir.FunctionType(INT64, [INT64]), "", "=r,0", [index], side_effect=False)


def splat(builder: Any, vector: ir.VectorType, scalar: Any) -> Any:
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, INT32(0))
    lanes = ir.Constant(ir.VectorType(INT32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), lanes)


def read(builder: Any, vector: ir.VectorType, pointer: Any, tail: Any = None) -> Any:
    """Load a vector, or its first `tail` lanes and zeros."""
    pointer = builder.bitcast(pointer, vector.as_pointer())
    align = _bytes(vector)
    if tail is None:
        return builder.load(pointer, align=align)
    mask = _first_lanes(builder, vector, tail)
    kind = ir.FunctionType(vector, [pointer.type, INT32, mask.type, vector])
    function = cgutils.get_or_insert_function(
        builder.module, kind, f"llvm.masked.load.{_suffix(vector)}.p0"
    )
    zeros = ir.Constant(vector, None)
    return builder.call(function, [pointer, INT32(align), mask, zeros])


def write(builder: Any, value: Any, pointer: Any, tail: Any = None) -> None:
    """Store a vector, or its first `tail` lanes."""
    vector = value.type
    pointer = builder.bitcast(pointer, vector.as_pointer())
    align = _bytes(vector)
    if tail is None:
        builder.store(value, pointer, align=align)
        return
    mask = _first_lanes(builder, vector, tail)
    kind = ir.FunctionType(ir.VoidType(), [vector, pointer.type, INT32, mask.type])
    function = cgutils.get_or_insert_function(
        builder.module, kind, f"llvm.masked.store.{_suffix(vector)}.p0"
    )
    builder.call(function, [value, pointer, INT32(align), mask])


def _first_lanes(builder: Any, vector: ir.VectorType, count: Any) -> Any:
    numbers = ir.VectorType(INT64, vector.count)
    return builder.icmp_signed(
        "<", ir.Constant(numbers, list(range(vector.count))), splat(builder, numbers, count)
    )


def _bytes(vector: ir.VectorType) -> int:
    """Of one element."""
    if isinstance(vector.element, ir.IntType):
        return int(vector.element.width) // 8
    return 4 if isinstance(vector.element, ir.FloatType) else 8


def _suffix(vector: ir.VectorType) -> str:
    kind = "i" if isinstance(vector.element, ir.IntType) else "f"
    return f"v{vector.count}{kind}{8 * _bytes(vector)}"


def call(builder: Any, name: str, *values: Any) -> Any:
    """LLVM's function of vectors, such as llvm.fma."""
    vector = values[0].type
    kind = ir.FunctionType(vector, [vector] * len(values))
    name = f"llvm.{name}.{_suffix(vector)}"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)


def tail_value(signature: Any, values: Any, at: int) -> Any:
    return None if signature.args[at] == types.none else values[at]


def _lanes(a: Floats) -> int:
    return TARGET.vector_bytes // a.itemsize


def _line(a: Floats) -> int:
    return LINE_BYTES // a.itemsize


def _load(a: Floats, i: int, c: int, tail: int | None) -> Floats:
    v = np.zeros(TARGET.vector_bytes // a.itemsize, a.dtype)
    count = len(v) if tail is None else tail
    v[:count] = a[i, c : c + count]
    return v


def _store(a: Floats, i: int, c: int, v: Floats, tail: int | None) -> None:
    count = len(v) if tail is None else tail
    a[i, c : c + count] = v[:count]


def _get(ring: Floats, k: int) -> Floats:
    step = TARGET.vector_bytes // ring.itemsize
    return ring[k * step : (k + 1) * step].copy()


def _put(ring: Floats, k: int, v: Floats) -> None:
    step = TARGET.vector_bytes // ring.itemsize
    ring[k * step : (k + 1) * step] = v


def _zeros_like(v: Floats) -> Floats:
    return np.zeros_like(v)


def _clip(z: Floats, low: Floats, high: Floats) -> Floats:
    return np.clip(z, low, high)


def _inside(z: Floats, low: Floats, high: Floats, g: Floats) -> Floats:
    return np.where((z > low) & (z < high), g, z.dtype.type(0))


def _prefetch(a: Floats, i: int, c: int) -> None:
    pass


def _repeat(v: Floats, number: float) -> Floats:
    return np.full_like(v, number)


def _where_larger(u: Floats, v: Floats, g: Floats, h: Floats) -> Floats:
    return np.where(~(u <= v) & (v == v), g, h)


def _where_equal(u: Floats, v: Floats, g: Floats) -> Floats:
    return np.where(u == v, g, g.dtype.type(0))


def _load_bytes(a: Bytes, i: int, c: int, like: Floats, tail: int | None) -> Floats:
    v = np.zeros_like(like)
    count = len(v) if tail is None else tail
    v[:count] = a[i, c : c + count]
    return v


def _store_bytes(a: Bytes, i: int, c: int, v: Floats, tail: int | None) -> None:
    _store(a, i, c, v, tail)


def _matrix(x: Floats | None) -> Floats | None:
    return None if x is None else x.reshape(-1, x.shape[-1])


@instructions(_lanes)
def lanes(typing: Any, a: Any) -> Any:
    return types.intp(a), lambda *_: INT64(VectorType(a.dtype).lanes)


@instructions(_line)
def line(typing: Any, a: Any) -> Any:
    return types.intp(a), lambda *_: INT64(LINE_BYTES * 8 // a.dtype.bitwidth)


@instructions(_load)
def load(typing: Any, a: Any, i: Any, c: Any, tail: Any) -> Any:
    vector = VectorType(a.dtype)

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = element(context, builder, signature.args[0], *values[:3])
        return read(builder, vector.ir, pointer, tail_value(signature, values, 3))

    return vector(a, types.intp, types.intp, tail_type(tail)), emit


@instructions(_store)
def store(typing: Any, a: Any, i: Any, c: Any, v: Any, tail: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = element(context, builder, signature.args[0], *values[:3])
        write(builder, values[3], pointer, tail_value(signature, values, 4))
        return context.get_dummy_value()

    return types.void(a, types.intp, types.intp, v, tail_type(tail)), emit


def in_ring(context: Any, builder: Any, ring_type: Any, ring: Any, k: Any) -> Any:
    """Pointer to a vector: a constant apart from the next, so the processor adds no index."""
    parts = context.make_array(ring_type)(context, builder, ring)
    kind = VectorType(ring_type.dtype).ir
    return builder.gep(builder.bitcast(parts.data, kind.as_pointer()), [k])


@instructions(_get)
def get(typing: Any, ring: Any, k: Any) -> Any:
    vector = VectorType(ring.dtype)

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = in_ring(context, builder, signature.args[0], *values)
        return read(builder, vector.ir, pointer)

    return vector(ring, types.intp), emit


@instructions(_put)
def put(typing: Any, ring: Any, k: Any, v: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = in_ring(context, builder, signature.args[0], *values[:2])
        write(builder, values[2], pointer)
        return context.get_dummy_value()

    return types.void(ring, types.intp, v), emit


def tail_type(tail: Any) -> Any:
    return tail if tail == types.none else types.intp


@instructions(_prefetch)
def prefetch(typing: Any, a: Any, i: Any, c: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = element(context, builder, signature.args[0], *values)
        pointer = builder.bitcast(pointer, ir.IntType(8).as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [pointer.type] + [INT32] * 3)
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        # To read; keep in the second level; data. What comes ahead of its time, a tile or some
        # rows, is as large as the first level and would drive out what is in use there.
        builder.call(function, [pointer, INT32(0), INT32(2), INT32(1)])
        return context.get_dummy_value()

    return types.void(a, types.intp, types.intp), emit


@instructions(_zeros_like)
def zeros_like(typing: Any, v: Any) -> Any:
    return v(v), lambda context, builder, signature, values: ir.Constant(v.ir, [0.0] * v.lanes)


@instructions(_clip)
def clip(typing: Any, z: Any, low: Any, high: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v, least, most = values
        if TARGET.nan_comes_through:
            return call(builder, "minimum", call(builder, "maximum", v, least), most)
        v = builder.select(builder.fcmp_ordered("<", v, least), least, v)  # in this order of
        return builder.select(builder.fcmp_ordered(">", v, most), most, v)  # comparing, a NaN does

    return z(z, z, z), emit


@instructions(_inside)
def inside(typing: Any, z: Any, low: Any, high: Any, g: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        v, least, most, gradient = values
        above, below = builder.fcmp_ordered(">", v, least), builder.fcmp_ordered("<", v, most)
        zero = ir.Constant(v.type, [0.0] * v.type.count)
        return builder.select(builder.and_(above, below), gradient, zero)

    return z(z, z, z, z), emit


@instructions(_repeat)
def repeat(typing: Any, v: Any, number: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return splat(builder, v.ir, values[1])

    return v(v, v.dtype), emit


@instructions(_where_larger)
def where_larger(typing: Any, u: Any, v: Any, g: Any, h: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        left, right, new, old = values
        larger = builder.fcmp_unordered(">", left, right)  # or one of them is a NaN
        larger = builder.and_(larger, builder.fcmp_ordered("==", right, right))
        return builder.select(larger, new, old)

    return u(u, u, u, u), emit


@instructions(_where_equal)
def where_equal(typing: Any, u: Any, v: Any, g: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        left, right, value = values
        zero = ir.Constant(value.type, [0.0] * value.type.count)
        return builder.select(builder.fcmp_ordered("==", left, right), value, zero)

    return u(u, u, u), emit


@instructions(_load_bytes)
def load_bytes(typing: Any, a: Any, i: Any, c: Any, like: Any, tail: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = element(context, builder, signature.args[0], *values[:3])
        numbers = read(builder, bytes_like(like.ir), pointer, tail_value(signature, values, 4))
        return builder.uitofp(numbers, like.ir)

    return like(a, types.intp, types.intp, like, tail_type(tail)), emit


@instructions(_store_bytes)
def store_bytes(typing: Any, a: Any, i: Any, c: Any, v: Any, tail: Any) -> Any:
    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        pointer = element(context, builder, signature.args[0], *values[:3])
        numbers = builder.fptoui(values[3], bytes_like(v.ir))
        write(builder, numbers, pointer, tail_value(signature, values, 4))
        return context.get_dummy_value()

    return types.void(a, types.intp, types.intp, v, tail_type(tail)), emit


def bytes_like(vector: ir.VectorType) -> ir.VectorType:
    return ir.VectorType(ir.IntType(8), vector.count)


@instructions(_matrix)
def matrix(typing: Any, x: Any) -> Any:
    """Layout C stays C, so the compiler still knows that pixels lie side by side.

    All other layouts are slices of channels: from pixel to pixel it is the same distance.
    """
    if x == types.none:
        return x(x), lambda context, *_: context.get_dummy_value()
    view = x.copy(ndim=2, layout="C" if x.layout == "C" else "A")

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        maps = context.make_array(x)(context, builder, values[0])
        *lengths, channels = cgutils.unpack_tuple(builder, maps.shape)
        *steps, step = cgutils.unpack_tuple(builder, maps.strides)
        pixels, distance = lengths[-1], steps[-1]
        if x.layout == "C":
            distance = builder.mul(channels, maps.itemsize)
        wrong = builder.icmp_signed("!=", step, maps.itemsize)
        for length, between in zip(reversed(lengths[:-1]), reversed(steps[:-1]), strict=True):
            differs = builder.icmp_signed("!=", between, builder.mul(pixels, distance))
            several = builder.icmp_signed(">", length, INT64(1))
            wrong = builder.or_(wrong, builder.and_(several, differs))
            pixels = builder.mul(pixels, length)
        if x.layout != "C":
            with builder.if_then(wrong, likely=False):
                words = ("maps must be whole, or a slice of channels",)
                context.call_conv.return_user_exc(builder, ValueError, words)
        made = context.make_array(view)(context, builder)
        populate_array(
            made,
            data=maps.data,
            shape=[pixels, channels],
            strides=[distance, step],
            itemsize=maps.itemsize,
            meminfo=maps.meminfo,
            parent=maps.parent,
        )
        return impl_ret_borrowed(context, builder, view, made._getvalue())

    return view(x), emit


def columns(a: Floats | None, c: slice) -> Floats | None:
    return None if a is None else a[:, c]


def _columns_of_none(a: None, c: slice) -> None:
    return None


def _columns_of_some(a: Floats, c: slice) -> Floats:
    return a[:, c]


@overload(columns, strict=False, jit_options={"forceinline": True})  # type: ignore[untyped-decorator]
def _(a: Any, c: Any) -> Any:
    """Two functions: in one, the compiler would type the way that None takes with the other."""
    return _columns_of_none if a == types.none else _columns_of_some


def _arithmetic(operation: Any, instruction: str) -> None:
    """Give vectors the operators + - *."""

    def emitter(typing: Any, a: Any, b: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return getattr(builder, instruction)(*values, flags=CONTRACT)

        return a(a, b), emit

    compute = intrinsic(emitter)

    @overload(operation, strict=False)  # type: ignore[untyped-decorator]
    def _(a: Any, b: Any) -> Any:
        def operate(a: Any, b: Any) -> Any:
            return compute(a, b)

        operate.__qualname__ = f"vector_{instruction}"  # see `inline`
        return operate if isinstance(a, VectorType) and isinstance(b, VectorType) else None


for _operation, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
):
    _arithmetic(_operation, _instruction)
