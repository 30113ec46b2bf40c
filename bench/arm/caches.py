"""A model of a core's data caches, fed with the loads and stores of the kernels themselves.

Each level holds lines of 64 bytes and gives up the one that was used longest ago. A store fetches
its line first, and a changed line is written back when it is given up. A line that a kernel asks
for ahead (`prefetch`) is put into the second level. What the hardware fetches ahead by itself,
which would save time and no bytes, is left out.

Where arrays lie is the system's whim, and which lines share a set depends on it. So the model puts
them one after the other in the order of their first use, each at the start of a line: two runs give
the same numbers. An array that a kernel allocates is put where none was, though the system may hand
it lines that are still in a cache (up to 2 % of a kernel's lines). What is in no array (the stack,
constants) is left out; so are NumPy, instructions, and other processes.
"""

from collections.abc import Iterable
from typing import Any, cast

import numpy as np
from numba import carray, cfunc, njit, types
from numpy.typing import NDArray

from bench.arm.cores import LINE, Level
from bench.arm.cross import loaded

Hierarchies = tuple[tuple[Level, ...], ...]
Lines = NDArray[np.int64]


# The model's state, a row of int64: counters; the arrays of the present call, each with its start,
# its end and how far it is moved; then each level's lines, set by set, the one used last in front.
# A line is its number twice, and one more if it was changed.
LAST, ARRAYS, SCRATCH, COUNTERS, TABLE, LINES = 0, 1, 2, 8, 40, 40 + 3 * 64
PER_HIERARCHY = 8  # counters: lines written back, misses of each level, asked for in memory ahead
SCRATCH_START = 2**40  # where a kernel's own arrays are put
NOTHING, HIT = -1, -2
LOAD, STORE, AHEAD = 0, 1, 2


class Caches:
    """Hierarchies of caches that see the same accesses; as many levels each, the nearest first."""

    def __init__(self, hierarchies: Hierarchies) -> None:
        self.hierarchies, self.depth = len(hierarchies), len(hierarchies[0])
        self.state = np.full(starts_of(hierarchies)[-1], NOTHING, np.int64)
        self.state[:LINES] = 0
        touch, allocated = functions(hierarchies)
        self._engines: list[Any] = []
        self.touch, self.allocated = map(self._loaded, (touch, allocated))
        self.memory = pointer(self.state.ctypes.data)
        self._moved: dict[int, tuple[int, Any]] = {}  # by owner: how far; the owner, so it stays
        self._end = 0

    def _loaded(self, function: Any) -> str:
        """A function that was compiled as the kernels are, for the other processor."""
        engine = loaded(function._library.text)
        self._engines.append(engine)
        return pointer(engine.get_function_address(function.native_name))

    def begin_call(self, arguments: Iterable[Any]) -> None:
        """From now on only these arrays, and those that are then allocated, are in memory."""
        arrays = [each for each in arguments if isinstance(each, np.ndarray)]
        self.state[[LAST, ARRAYS, SCRATCH]] = 0, len(arrays), SCRATCH_START
        for number, array in enumerate(arrays):
            start, place = array.ctypes.data, TABLE + 3 * number
            end = start + sum(
                (size - 1) * step for size, step in zip(array.shape, array.strides, strict=True)
            )
            self.state[place : place + 3] = start, end + array.itemsize, self._move(array)

    def _move(self, array: Any) -> int:
        owner = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        if id(owner) not in self._moved:
            offset = (array.ctypes.data - owner.ctypes.data) // LINE * LINE
            self._moved[id(owner)] = self._end + offset - array.ctypes.data, owner
            self._end += LINE * (owner.nbytes // LINE + 2)
        return self._moved[id(owner)][0]

    def lines(self) -> Lines:
        """Of each hierarchy up to now: lines written back to memory, misses of each level, and how
        many of the last level's were asked for ahead.
        """
        counters = self.state[COUNTERS : COUNTERS + PER_HIERARCHY * self.hierarchies]
        return counters.reshape(-1, PER_HIERARCHY)[:, : 2 + self.depth].copy()


def pointer(address: int) -> str:
    """As LLVM's text has it."""
    return f"inttoptr (i64 {address} to ptr)"


def starts_of(hierarchies: Hierarchies) -> list[int]:
    """Where each level's lines begin in the state, and where the last one's end."""
    sizes = [level.bytes // LINE for levels in hierarchies for level in levels]
    return cast(list[int], np.cumsum([LINES, *sizes]).tolist())


def functions(hierarchies: Hierarchies) -> tuple[Any, Any]:
    """What a kernel calls: when it loads, stores or asks ahead, and has allocated an array."""
    starts = starts_of(hierarchies)
    levels = [level for levels in hierarchies for level in levels]
    ways, sets = np.array([level.ways for level in levels]), np.array([x.sets for x in levels])
    firsts, end = np.array(starts[:-1]), starts[-1]
    count, depths = len(hierarchies), len(hierarchies[0])

    @njit
    def enter(state: Any, level: int, line: int, changed: int) -> int:
        """Put a line in front of its set: HIT, or the changed line that had to go, or NOTHING."""
        first = firsts[level] + line % sets[level] * ways[level]
        moved = state[first]
        if moved >> 1 == line:
            state[first] |= changed
            return HIT
        for way in range(first + 1, first + ways[level]):
            moved, state[way] = state[way], moved
            if moved >> 1 == line:
                state[first] = moved | changed
                return HIT
        state[first] = line << 1 | changed
        return moved >> 1 if moved >= 0 and moved & 1 else NOTHING

    @njit
    def holds(state: Any, level: int, line: int) -> bool:
        first = firsts[level] + line % sets[level] * ways[level]
        return bool((state[first : first + ways[level]] >> 1 == line).any())

    @njit
    def use(state: Any, line: int, kind: int) -> None:
        for hierarchy in range(count):
            counters, nearest = COUNTERS + PER_HIERARCHY * hierarchy, depths * hierarchy
            if kind == AHEAD and holds(state, nearest, line):
                continue
            for depth in range(kind == AHEAD, depths):
                gone = enter(state, nearest + depth, line, depth == 0 and kind == STORE)
                if gone == HIT:
                    break
                state[counters + 1 + depth] += 1
                for behind in range(depth + 1, depths):
                    if gone >= 0:
                        gone = enter(state, nearest + behind, gone, 1)
                state[counters] += gone >= 0
            else:
                state[counters + 1 + depths] += kind == AHEAD

    @cfunc(types.void(types.CPointer(types.int64), types.int64, types.int64, types.int64))
    def touch(memory: Any, address: int, size: int, kind: int) -> None:
        state = carray(memory, (end,))
        place = state[LAST]
        if not state[TABLE + 3 * place] <= address < state[TABLE + 3 * place + 1]:
            place = 0
            while not state[TABLE + 3 * place] <= address < state[TABLE + 3 * place + 1]:
                place += 1
                if place >= state[ARRAYS]:
                    return
            state[LAST] = place
        moved = address + state[TABLE + 3 * place + 2]
        for line in range(moved // LINE, (moved + size - 1) // LINE + 1):
            use(state, line, kind)

    @cfunc(types.void(types.CPointer(types.int64), types.int64, types.int64))
    def allocated(memory: Any, start: int, size: int) -> None:
        """Of an array; where one lay that is freed by now, the new one takes its place."""
        state = carray(memory, (end,))
        place = 0
        while place < state[ARRAYS] and not (
            state[TABLE + 3 * place] < start + size and start < state[TABLE + 3 * place + 1]
        ):
            place += 1
        state[ARRAYS] = max(state[ARRAYS], place + 1)
        state[TABLE + 3 * place] = start
        state[TABLE + 3 * place + 1] = start + size
        state[TABLE + 3 * place + 2] = state[SCRATCH] - start
        state[SCRATCH] += (size // LINE + 1) * LINE

    return touch, allocated
