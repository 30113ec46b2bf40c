"""The matrix product of all 1x1 convolutions: one register block, looped over a tile.

A block keeps R rows x V vectors of the product in registers. For each k it loads V vectors of b[k]
and adds to row r the product with a[r,k], repeated in all lanes:

    out[i+r, j:j+V*lanes] = sum_k a[i+r, k] * b[k, j:j+V*lanes]       r = 0 .. R-1

Arrays may have any strides for rows and k, so the same block multiplies with a transposed `a`.
Several pairs of factors, in tuples, make one sum: a0 b0 + a1 b1 + ...
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import overload

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
    line,
    opaque,
    prefetch,
    read,
    splat,
    tail_type,
    tail_value,
    write,
)

Factor = Floats | tuple[Floats, ...]


def _register_block(
    out: Floats, a: Factor, b: Factor, i: int, j: int, tail: int | None,
    rows: int, vectors: int, part: int, add: bool,
) -> None:  # fmt: skip
    place = (
        slice(i, i + rows),
        slice(j, j + vectors * (TARGET.vector_bytes // out.itemsize // part)),
    )
    lefts, rights = (a, b) if isinstance(a, tuple) else ((a,), (b,))
    pairs: Any = zip(lefts, rights, strict=True)
    product = sum(left[place[0]] @ right[:, place[1]] for left, right in pairs)
    out[place] = out[place] + product if add else product


@instructions(_register_block)
def register_block(
    typing: Any, out: Any, a: Any, b: Any, i: Any, j: Any, tail: Any,
    rows: Any, vectors: Any, part: Any, add: Any,
) -> Any:  # fmt: skip
    """`rows`, `vectors` and `add` (add to `out`) are literals; `tail` concerns the last vector.

    So is `part`: 2 for vectors of half a register.
    """
    if not all(isinstance(n, types.Literal) for n in (rows, vectors, part, add)):
        return None
    vector = VectorType(out.dtype)
    count = vector.lanes // part.literal_value
    kind = ir.VectorType(vector.ir.element, count)
    high, wide, adds = rows.literal_value, vectors.literal_value, add.literal_value
    places = [(r, v) for r in range(high) for v in range(wide)]
    zero = ir.Constant(kind, [0.0] * count)

    def emit(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        outs, left, right, first_row, first_column, *_ = values
        last = tail_value(signature, values, 5)

        def at(array_type: Any, array: Any, row: Any, column: Any) -> Any:
            return element(context, builder, array_type, array, row, column)

        def cut(v: int) -> Any:
            return last if v == wide - 1 else None

        row = [builder.add(first_row, INT64(r)) for r in range(high)]
        column = [builder.add(first_column, INT64(v * count)) for v in range(wide)]
        sums = dict.fromkeys(places, zero)
        pairs = zip(
            _arrays(builder, signature.args[1], left),
            _arrays(builder, signature.args[2], right),
            strict=True,
        )
        for a_part, b_part in pairs:
            length = context.make_array(a_part[0])(context, builder, a_part[1]).shape
            length = cgutils.unpack_tuple(builder, length)[1]
            pitch = context.make_array(b_part[0])(context, builder, b_part[1]).strides
            pitch = cgutils.unpack_tuple(builder, pitch)[0]
            first = [at(*b_part, INT64(0), column[v]) for v in range(wide)]
            before = builder.block
            loop, after = builder.append_basic_block("k"), builder.append_basic_block("done")
            builder.cbranch(builder.icmp_signed(">", length, INT64(0)), loop, after)

            builder.position_at_end(loop)
            k, down = builder.phi(INT64), builder.phi(INT64)
            running = {place: builder.phi(kind) for place in places}
            loaded = [
                read(builder, kind, cgutils.pointer_add(builder, first[v], down), cut(v))
                for v in range(wide)
            ]
            new, index = {}, opaque(builder, k) if TARGET.hide_index else k
            for r in range(high):
                factor = splat(builder, kind, builder.load(at(*a_part, row[r], index)))
                for v in range(wide):
                    new[r, v] = call(builder, "fma", factor, loaded[v], running[r, v])
            following, further = builder.add(index, INT64(1)), builder.add(down, pitch)
            for number, start, then in ((k, INT64(0), following), (down, INT64(0), further)):
                number.add_incoming(start, before)
                number.add_incoming(then, loop)
            for place in places:
                running[place].add_incoming(sums[place], before)
                running[place].add_incoming(new[place], loop)
            builder.cbranch(builder.icmp_signed("<", following, length), loop, after)

            builder.position_at_end(after)
            totals = {place: builder.phi(kind) for place in places}
            for place in places:
                totals[place].add_incoming(sums[place], before)
                totals[place].add_incoming(new[place], loop)
            sums = totals
        pointers = {(r, v): at(signature.args[0], outs, row[r], column[v]) for r, v in places}
        if adds:  # first all loads: a masked store would block the next row's, if it is near
            for r, v in places:
                before_it = read(builder, kind, pointers[r, v], cut(v))
                sums[r, v] = builder.fadd(sums[r, v], before_it)
        for r, v in places:
            write(builder, sums[r, v], pointers[r, v], cut(v))
        return context.get_dummy_value()

    signature = types.void(
        out, a, b, types.intp, types.intp, tail_type(tail), rows, vectors, part, add
    )
    return signature, emit


def _arrays(builder: Any, factor_type: Any, factor: Any) -> list[tuple[Any, Any]]:
    """A matrix, or several in a tuple, as (type, value)."""
    if hasattr(factor_type, "ndim"):
        return [(factor_type, factor)]
    return list(zip(factor_type, cgutils.unpack_tuple(builder, factor), strict=True))


@cache  # two registers may be the widest: then both are one function of one name, see `inline`
def _panel(rows: int, vectors: int, part: int, add: bool, stream: bool) -> Callable[..., None]:
    """Columns from `j` on of the product, from the first row to the last.

    What is left below the last block is done row by row: tiles have a multiple of 8 pixels.
    """

    def panel(
        out: Floats, a: Factor, b: Factor, j: int, tail: int | None,
        others: tuple[Floats, ...], number: int, panels: int,
    ) -> None:  # fmt: skip
        height = len(out)
        share = (rows - 1) // panels + 1  # of the rows below: with those of all panels, all
        asked = height + number * (height // rows) * share
        i = 0
        while height - i >= rows:
            if stream:
                for r in range(rows):
                    for v in range(vectors):
                        prefetch(out, i + height + r, j + v * lanes(out))
                ask_for_all(others, asked, min(asked + share, 2 * height))
                asked += share
            register_block(out, a, b, i, j, tail, rows, vectors, part, add)
            i += rows
        while i < height:
            register_block(out, a, b, i, j, tail, 1, vectors, part, add)
            i += 1

    panel.__qualname__ = f"panel_{rows}x{vectors}/{part}{'_add' * add}{'_stream' * stream}"
    return inline(panel)


@inline
def ask_for_rows(a: Floats, first: int, stop: int) -> None:
    """Ask memory for some rows, which may lie below the end of `a`."""
    for i in range(first, stop):
        for c in range(0, a.shape[1], line(a)):
            prefetch(a, i, c)


def ask_for_all(others: tuple[Floats, ...], first: int, stop: int) -> None:
    """ask_for_rows of each; they may be of several layouts."""
    for other in others:
        ask_for_rows(other, first, stop)


def _ask_for_one(others: tuple[Floats], first: int, stop: int) -> None:
    ask_for_rows(others[0], first, stop)


def _ask_for_three(others: tuple[Floats, Floats, Floats], first: int, stop: int) -> None:
    ask_for_rows(others[0], first, stop)
    ask_for_rows(others[1], first, stop)
    ask_for_rows(others[2], first, stop)


@overload(ask_for_all, strict=False, jit_options={"forceinline": True})  # type: ignore[untyped-decorator]
def _(others: Any, first: Any, stop: Any) -> Any:
    """A loop over a tuple wants all of one type."""
    return {1: _ask_for_one, 3: _ask_for_three}[len(others)]


def _product(add: bool, stream: bool) -> Callable[..., None]:
    widest = len(TARGET.blocks)
    wide = _panel(TARGET.blocks[-1], widest, 1, add, stream)
    two = _panel(TARGET.blocks[1], 2, 1, add, stream)
    one = _panel(TARGET.blocks[0], 1, 1, add, stream)
    half = _panel(2 * TARGET.blocks[0], 1, 2, add, stream)

    def product(out: Floats, a: Factor, b: Factor, others: tuple[Floats, ...]) -> None:
        columns, step = out.shape[1], lanes(out)
        panels = (columns - 1) // (widest * step) + 1
        j = number = 0
        while columns - j >= widest * step:
            wide(out, a, b, j, None, others, number, panels)
            j += widest * step
            number += 1
        if columns - j >= 2 * step:
            two(out, a, b, j, None, others, number, panels)
            j += 2 * step
        if columns - j >= step:
            one(out, a, b, j, None, others, number, panels)
            j += step
        if columns - j == step // 2:
            half(out, a, b, j, None, others, number, panels)
        elif j < columns:
            one(out, a, b, j, columns - j, others, number, panels)

    product.__qualname__ = f"product{'_add' * add}{'_stream' * stream}"
    return inline(product)


_multiply = _product(add=False, stream=False)
_multiply_accumulate = _product(add=True, stream=False)
# out = a @ b for a tile of a large matrix: asks memory for the rows below it, which come next, and
# for those below `others`, tiles of as many rows.
multiply_stream = _product(add=False, stream=True)


@inline
def multiply(out: Floats, a: Factor, b: Factor) -> None:
    """out = a @ b."""
    _multiply(out, a, b, (out,))


@inline
def multiply_accumulate(out: Floats, a: Factor, b: Factor) -> None:
    """out += a @ b."""
    _multiply_accumulate(out, a, b, (out,))
