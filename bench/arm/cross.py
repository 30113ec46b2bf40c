"""Numba compiling for another processor than this one: its own pipeline with LLVM's other target.

What Numba would do on a Raspberry Pi happens here up to the machine code, which is kept as text. It
uses Numba's insides (numba.core.codegen), in a process that compiles nothing for itself: what it
compiled cannot be called.
"""

import ctypes
from types import ModuleType
from typing import Any, NamedTuple

import llvmlite.binding as llvm
import numba
from numba.core import codegen
from numba.core.caching import NullCache
from numba.core.dispatcher import Dispatcher
from numba.core.registry import cpu_target

from bench.arm.cores import Core
from npnet.errors import NpnetError

TRIPLE = "aarch64-unknown-linux-gnu"
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
ABORT = ctypes.cast(ctypes.CDLL(None).abort, ctypes.c_void_p).value


class Compiled(NamedTuple):
    """A kernel's machine code, the LLVM text it was made from, and Numba's own record of it."""

    assembly: str
    text: str
    record: Any

    @property
    def function(self) -> str:
        """The name of the kernel itself in both; Python's wrapper stands beside it."""
        return str(self.record.fndesc.llvm_func_name)


class NoEngine:
    """Where Numba would load machine code."""

    def is_symbol_defined(self, name: str) -> bool:
        return True

    def add_global_mapping(self, variable: Any, address: int) -> None: ...

    def get_function_address(self, name: str) -> int:
        return ABORT

    def add_module(self, module: Any) -> None: ...


class CrossLibrary(codegen.JITCodeLibrary):
    """Keeps the text before and after the machine code is made, which is done once: making it
    changes the text, so a second time would give other code than Numba runs.
    """

    def _finalize_specific(self) -> None:
        self.assembly = self._codegen._tm.emit_assembly(self._final_module)
        self.text = str(self._final_module)

    def get_pointer_to_function(self, name: str) -> int:
        self._ensure_finalized()
        return ABORT


def retarget(core: Core, features: str = "", library: type[Any] = CrossLibrary) -> None:
    """From now on Numba compiles for `core`. Before the first compilation of a process.

    `features` are instructions that its system has or lacks, as LLVM writes them; without, the
    core's own. `library` keeps the machine code.
    """

    class CrossCodegen(codegen.JITCPUCodegen):
        _library_class = library

        def _init(self, llvm_module: Any) -> None:
            self._tm_features = features
            self._tm = target(core, features)
            self._tm.set_asm_verbosity(True)  # names of blocks, loops, spills
            self._engine = NoEngine()
            self._target_data = self._tm.target_data
            self._data_layout = str(self._target_data)
            self._loopvect, self._opt_level = False, 0  # as JITCPUCodegen, for the first passes

        def _create_empty_module(self, name: str) -> Any:
            module = super()._create_empty_module(name)
            module.triple = TRIPLE
            return module

        def _get_host_cpu_name(self) -> str:
            return core.name

        def set_env(self, env_name: str, env: object) -> None: ...

    if "_toplevel_target_context" in vars(cpu_target):
        raise RuntimeError("Numba compiles for this processor already")
    codegen.JITCPUCodegen = CrossCodegen


def keep_nothing(kernels: ModuleType) -> None:
    """Neither load the kernels' machine code from the disk nor keep it there: it is this host's."""
    for kernel in vars(kernels).values():
        if isinstance(kernel, Dispatcher):
            kernel._cache = NullCache()


def target(core: Core, features: str = "") -> Any:
    """LLVM's target machine. Raises NpnetError where llvmlite was built without ARM."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        processor = llvm.Target.from_triple(TRIPLE)
    except RuntimeError as error:
        raise NpnetError(f"this llvmlite cannot compile for {TRIPLE}: {error}") from None
    return processor.create_target_machine(
        cpu=core.name,
        features=features,
        opt=numba.config.OPT,
        reloc="default",
        codemodel="jitdefault",
        jit=True,
    )


def loaded(text: str) -> Any:
    """What runs LLVM's text here, as machine code of this processor."""
    lines = [line for line in text.splitlines() if not line.startswith(OF_TARGET)]
    neutral = "\n".join(lines).replace("elementtype(i64) ", "")
    for name in ("ldxr", "stxr"):
        neutral = neutral.replace(f"@llvm.aarch64.{name}.p0", f"@{name}")
    module = llvm.parse_assembly(neutral + LOAD_AND_STORE)
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
    return engine


def compile_for(dispatcher: Any, types: tuple[Any, ...]) -> Compiled:
    """Compile a jitted function for these types of arguments."""
    dispatcher.compile(types)
    record = dispatcher.overloads[types]
    code: CrossLibrary = record.library
    return Compiled(code.assembly, code.text, record)
