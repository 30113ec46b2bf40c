"""The matrix product of all 1x1 convolutions: one register block, looped over a tile.

A block keeps R rows x V vectors of the product in registers. For each k it loads V vectors of b[k]
and adds to row r the product with a[r,k], repeated in all lanes:

    out[i+r, j:j+V*lanes] = sum_k a[i+r, k] * b[k, j:j+V*lanes]       r = 0 .. R-1

Arrays may have any strides for rows and k, so the same block multiplies with a transposed `a`.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types

from npnet.kernels.arrays import Floats
from npnet.kernels.jit.options import inline
from npnet.kernels.jit.target import TARGET
from npnet.kernels.jit.vector import (
    INT64,
    VectorType,
    call,
    element,
    instructions,
    lanes,
    prefetch,
    read,
    splat,
    tail_type,
    tail_value,
    write,
)


def _register_block(
    out: Floats, a: Floats, b: Floats, i: int, j: int, tail: int | None,
    rows: int, vectors: int, add: bool,
) -> None:  # fmt: skip
    place = slice(i, i + rows), slice(j, j + vectors * (TARGET.vector_bytes // out.itemsize))
    product = a[place[0]] @ b[:, place[1]]
    out[place] = out[place] + product if add else product


@instructions(_register_block)
def register_block(
    typing: Any, out: Any, a: Any, b: Any, i: Any, j: Any, tail: Any,
    rows: Any, vectors: Any, add: Any,
) -> Any:  # fmt: skip
    """`rows`, `vectors` and `add` (add to `out`) are literals; `tail` concerns the last vector."""
    if not all(isinstance(n, types.Literal) for n in (rows, vectors, add)):
        return None
    kind, count = VectorType(out.dtype).ir, VectorType(out.dtype).lanes
    high, wide, adds = rows.literal_value, vectors.literal_value, add.literal_value

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        arrays = list(zip(signature.args[:3], values[:3], strict=True))
        first_row, first_column, left = values[3], values[4], tail_value(signature, values, 5)

        def at(which: int, row: Any, column: Any) -> Any:
            return element(context, builder, *arrays[which], row, column)

        def column(v: int) -> Any:
            return builder.add(first_column, INT64(v * count))

        def cut(v: int) -> Any:
            return left if v == wide - 1 else None

        places = [(r, v) for r in range(high) for v in range(wide)]
        row_number = [builder.add(first_row, INT64(r)) for r in range(high)]
        zero = ir.Constant(kind, [0.0] * count)
        length = context.make_array(arrays[1][0])(context, builder, arrays[1][1]).shape
        length = cgutils.unpack_tuple(builder, length)[1]

        before, loop, after = (
            builder.block,
            builder.append_basic_block("k"),
            builder.append_basic_block("done"),
        )
        builder.cbranch(builder.icmp_signed(">", length, INT64(0)), loop, after)
        builder.position_at_end(loop)
        k = builder.phi(INT64)
        k.add_incoming(INT64(0), before)
        sums = {place: builder.phi(kind) for place in places}
        loaded = [read(builder, kind, at(2, k, column(v)), cut(v)) for v in range(wide)]
        new = {}
        for r in range(high):
            factor = splat(builder, kind, builder.load(at(1, row_number[r], k)))
            for v in range(wide):
                new[r, v] = call(builder, "fma", factor, loaded[v], sums[r, v])
        following = builder.add(k, INT64(1))
        k.add_incoming(following, loop)
        for place in places:
            sums[place].add_incoming(zero, before)
            sums[place].add_incoming(new[place], loop)
        builder.cbranch(builder.icmp_signed("<", following, length), loop, after)

        builder.position_at_end(after)
        totals = {place: builder.phi(kind) for place in places}
        for r, v in places:
            totals[r, v].add_incoming(zero, before)
            totals[r, v].add_incoming(new[r, v], loop)
        pointers = {(r, v): at(0, row_number[r], column(v)) for r, v in places}
        if adds:  # first all loads: a masked store would block the next row's, if it is near
            for r, v in places:
                before_it = read(builder, kind, pointers[r, v], cut(v))
                totals[r, v] = builder.fadd(totals[r, v], before_it)
        for r, v in places:
            write(builder, totals[r, v], pointers[r, v], cut(v))
        return context.get_dummy_value()

    signature = types.void(out, a, b, types.intp, types.intp, tail_type(tail), rows, vectors, add)
    return signature, emit


def _panel(rows: int, vectors: int, add: bool, stream: bool) -> Callable[..., None]:
    """Columns j .. j+vectors*lanes of the product, from the first row to the last.

    What is left below the last block is done row by row: tiles have a multiple of 8 pixels.
    """

    def panel(out: Floats, a: Floats, b: Floats, j: int, tail: int | None) -> None:
        height = len(out)
        i = 0
        while height - i >= rows:
            if stream:
                for r in range(rows):
                    for v in range(vectors):
                        prefetch(out, i + height + r, j + v * lanes(out))
            register_block(out, a, b, i, j, tail, rows, vectors, add)
            i += rows
        while i < height:
            register_block(out, a, b, i, j, tail, 1, vectors, add)
            i += 1

    panel.__qualname__ = f"panel_{rows}x{vectors}{'_add' * add}{'_stream' * stream}"
    return inline(panel)


def _product(add: bool, stream: bool) -> Callable[[Floats, Floats, Floats], None]:
    widest = len(TARGET.blocks)
    wide = _panel(TARGET.blocks[-1], widest, add, stream)
    two = _panel(TARGET.blocks[1], 2, add, stream)
    one = _panel(TARGET.blocks[0], 1, add, stream)

    def product(out: Floats, a: Floats, b: Floats) -> None:
        columns, step = out.shape[1], lanes(out)
        j = 0
        while columns - j >= widest * step:
            wide(out, a, b, j, None)
            j += widest * step
        if columns - j >= 2 * step:
            two(out, a, b, j, None)
            j += 2 * step
        if columns - j >= step:
            one(out, a, b, j, None)
            j += step
        if j < columns:
            one(out, a, b, j, columns - j)

    product.__qualname__ = f"product{'_add' * add}{'_stream' * stream}"
    return inline(product)


multiply = _product(add=False, stream=False)  # out = a @ b
multiply_accumulate = _product(add=True, stream=False)  # out += a @ b
# out = a @ b for a tile of a large matrix: asks memory for the rows below, which come next.
multiply_stream = _product(add=False, stream=True)
