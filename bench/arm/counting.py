"""What a kernel does when it runs: how often each block ran, and which memory was used.

A kernel's optimised LLVM text for the other processor is nearly neutral: vectors of four floats,
multiply-adds. So this processor can run it, too. Each block gets a counter, and each load, store
and prefetch a call that tells a model of the caches.
"""

import ctypes
import re
from typing import Any

import numpy as np
from numba import _dynfunc
from numpy.typing import NDArray

from bench.arm.caches import AHEAD, LOAD, STORE, Caches
from bench.arm.cross import Compiled, compile_for, loaded
from npnet.kernels.jit.ahead import Types, types_of

Block = tuple[str, str]  # function, name of the block

DEFINITION = re.compile(r'define .*?@"?([\w.$<>:]+)"?\(')
LABEL = re.compile(r'"?([^\s":]+)"?:')
LOADS = re.compile(r" = load (?P<type>.+?), ptr (?P<place>.+?), align")
STORES = re.compile(r"^\s+store (?P<type><.+?>|{.+?}|\S+) .*, ptr (?P<place>.+?), align")
FILL = re.compile(r"call void @llvm\.memset.*?(?P<place>%[^ ,]+), i8 .*?, i64 (?P<size>[^ ,]+), i1")
PREFETCH = re.compile(r"call void @llvm\.prefetch\.p0\(ptr .*?(?P<place>%[^ ,]+), i32 0, i32 2,")
ALLOCATION = re.compile(
    r"\s+(?P<record>%\S+) = .*call ptr @NRT_MemInfo_alloc_aligned\(i64 (?P<size>[^ ,]+), i32 32\)"
)
COPY = re.compile(r"call void @llvm\.mem(cpy|move)")
KINDS = {LOADS: LOAD, STORES: STORE, FILL: STORE, PREFETCH: AHEAD}


class CountedKernel:
    """A kernel that can be called here and is counted, compiled for each types of arguments.

    `code`: by these types. `lines`: what went through `caches` in all `calls`.
    """

    def __init__(self, dispatcher: Any, caches: Caches | None = None) -> None:
        self.dispatcher, self.caches = dispatcher, caches
        self.code: dict[Types, Counted] = {}
        self.calls = 0
        self.lines: NDArray[np.int64] = np.zeros_like(caches.lines() if caches else 0)

    def __call__(self, *arguments: Any) -> None:
        types = types_of(arguments)
        if types not in self.code:
            self.code[types] = Counted(compile_for(self.dispatcher, types), self.caches)
        self.calls += 1
        if self.caches is None:
            self.code[types](*arguments)
            return
        self.caches.begin_call(arguments)
        before = self.caches.lines()
        self.code[types](*arguments)
        self.lines += self.caches.lines() - before


class Counted:
    """Machine code of a kernel that counts its blocks and tells `caches` what it uses."""

    def __init__(self, compiled: Compiled, caches: Caches | None) -> None:
        self.compiled = compiled
        text, self._blocks = with_counters(compiled, caches)
        engine = loaded(text)
        record, described = compiled.record, compiled.record.fndesc
        environment = engine.get_global_value_address(record.target_context.get_env_name(described))
        ctypes.c_void_p.from_address(environment).value = id(record.environment)
        start = engine.get_function_address(described.llvm_cpython_wrapper_name)
        self._call = _dynfunc.make_function(
            described.lookup_module(), "counted", "", start, record.environment, (engine, record)
        )
        numbers = ctypes.c_int64 * len(self._blocks)
        self._counts = numbers.from_address(engine.get_global_value_address("counts"))

    def __call__(self, *arguments: Any) -> None:
        self._call(*arguments)

    def counts(self) -> dict[Block, int]:
        """How often each block has run."""
        return dict(zip(self._blocks, self._counts, strict=True))


def with_counters(compiled: Compiled, caches: Caches | None) -> tuple[str, list[Block]]:
    """LLVM's text with `counts[i] += 1` in each block, and the blocks in the order of counts."""
    lines: list[str] = []
    blocks: list[Block] = []
    function, waiting = "", None
    for line in compiled.text.splitlines():
        if definition := DEFINITION.match(line):
            function = definition[1]
        elif line == "}":
            function = ""
        elif function and (label := LABEL.match(line)):
            waiting = label[1]
        elif waiting and " = phi " not in line:
            lines += add_one(len(blocks))
            blocks.append((function, waiting))
            waiting = None
        if caches is None or function != compiled.function:
            lines.append(line)
        elif allocation := ALLOCATION.match(line):
            lines += [line.replace("i32 32", "i32 64"), *tell_array(caches, allocation, len(lines))]
        else:
            lines += [*tell_access(caches, line, len(lines)), line]
    lines.append(f"@counts = global [{len(blocks)} x i64] zeroinitializer")
    return "\n".join(lines), blocks


def add_one(number: int) -> list[str]:
    place = f"getelementptr (i64, ptr @counts, i64 {number})"
    return [
        f"  %count.{number} = load i64, ptr {place}",
        f"  %more.{number} = add i64 %count.{number}, 1",
        f"  store i64 %more.{number}, ptr {place}",
    ]


def tell_array(caches: Caches, allocation: re.Match[str], number: int) -> list[str]:
    """A call that tells where a new array lies, which is what the fourth word in its record says.

    It is put at the start of a line by then, so that its place in the caches is no accident.
    """
    return [
        f"  %record.{number} = getelementptr i64, ptr {allocation['record']}, i64 3",
        f"  %start.{number} = load i64, ptr %record.{number}",
        f"  call void {caches.allocated}(ptr {caches.memory}, "
        f"i64 %start.{number}, i64 {allocation['size']})",
    ]


def tell_access(caches: Caches, line: str, number: int) -> list[str]:
    """A call that tells what a line of LLVM's text is about to load, to store or to ask for."""
    assert not COPY.search(line), f"a copy is not counted: {line}"
    for pattern, kind in KINDS.items():
        if used := pattern.search(line):
            found = used.groupdict()
            size = found.get("size") or bytes_of(found.get("type", "i8"))
            return [
                f"  %place.{number} = ptrtoint ptr {found['place']} to i64",
                f"  call void {caches.touch}(ptr {caches.memory}, "
                f"i64 %place.{number}, i64 {size}, i64 {kind})",
            ]
    return []


def bytes_of(type_name: str) -> int:
    """Of a type as LLVM writes it, such as <4 x float>, i64 and { ptr, i32 }."""
    if vector := re.fullmatch(r"[<[](\d+) x (.+)[>\]]", type_name):
        return int(vector[1]) * bytes_of(vector[2])
    if type_name[0] == "{":
        return sum(map(bytes_of, type_name[1:-1].strip().split(", ")))
    if type_name[0] == "i":
        return -(-int(type_name[1:]) // 8)
    return {"float": 4, "double": 8, "ptr": 8}[type_name]
