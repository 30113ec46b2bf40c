"""How often each block of a kernel runs: exact, by running it.

A kernel's optimised LLVM text for the other processor is nearly neutral: vectors of four floats,
multiply-adds. So this processor can run it, too. Each block gets a counter.
"""

import ctypes
import re
from typing import Any

import llvmlite.binding as llvm
from numba import _dynfunc

from bench.arm.cross import Compiled

Block = tuple[str, str]  # function, name of the block

DEFINITION = re.compile(r'define .*?@"?([\w.$<>:]+)"?\(')
LABEL = re.compile(r'"?([^\s":]+)"?:')
OF_TARGET = ("target triple", "target datalayout", "declare i64 @llvm.aarch64.ldxr",
             "declare i32 @llvm.aarch64.stxr")  # fmt: skip
# Numba counts references to arrays by a pair of ARM's instructions: alone, a load and a store do.
LOAD_AND_STORE = """
define i64 @ldxr(ptr %place) {
  %value = load i64, ptr %place
  ret i64 %value
}
define i32 @stxr(i64 %value, ptr %place) {
  store i64 %value, ptr %place
  ret i32 0
}
"""


class Counted:
    """A kernel that can be called here and counts its blocks."""

    def __init__(self, compiled: Compiled) -> None:
        text, self._blocks = with_counters(compiled.text)
        module = llvm.parse_assembly(text)
        module.triple = llvm.get_process_triple()
        host = llvm.Target.from_triple(module.triple).create_target_machine(
            cpu=llvm.get_host_cpu_name(),
            features=llvm.get_host_cpu_features().flatten(),
            opt=1,
            reloc="static",
            codemodel="jitdefault",
            jit=True,
        )
        engine = llvm.create_mcjit_compiler(module, host)
        engine.finalize_object()
        record, described = compiled.record, compiled.record.fndesc
        environment = engine.get_global_value_address(record.target_context.get_env_name(described))
        ctypes.c_void_p.from_address(environment).value = id(record.environment)
        start = engine.get_function_address(described.llvm_cpython_wrapper_name)
        self._call = _dynfunc.make_function(
            described.lookup_module(), "counted", "", start, record.environment, (engine, record)
        )
        numbers = ctypes.c_int64 * len(self._blocks)
        self._counts = numbers.from_address(engine.get_global_value_address("counts"))

    def __call__(self, arguments: list[Any]) -> dict[Block, int]:
        """How often each block ran in a call."""
        self._counts[:] = [0] * len(self._blocks)
        self._call(*arguments)
        return dict(zip(self._blocks, self._counts, strict=True))


def with_counters(text: str) -> tuple[str, list[Block]]:
    """LLVM's text with `counts[i] += 1` in each block, and the blocks in the order of counts."""
    lines: list[str] = []
    blocks: list[Block] = []
    function, waiting = "", None
    for line in text.splitlines():
        if line.startswith(OF_TARGET):
            continue
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
        line = line.replace("@llvm.aarch64.ldxr.p0", "@ldxr").replace("elementtype(i64) ", "")
        lines.append(line.replace("@llvm.aarch64.stxr.p0", "@stxr"))
    lines.append(f"@counts = global [{len(blocks)} x i64] zeroinitializer")
    return "\n".join(lines) + LOAD_AND_STORE, blocks


def add_one(number: int) -> list[str]:
    place = f"getelementptr (i64, ptr @counts, i64 {number})"
    return [
        f"  %count.{number} = load i64, ptr {place}",
        f"  %more.{number} = add i64 %count.{number}, 1",
        f"  store i64 %more.{number}, ptr {place}",
    ]
