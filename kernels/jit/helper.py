"""How Numba compiles a helper that becomes a part of kernels: as far as they need it, no further.

Numba makes of every function a library that stands alone: optimised, turned into machine code, and
callable from Python. A helper is forced into its callers, which are optimised as a whole, so all of
that would be thrown away; and done again at each level of helpers that call helpers. Leaving it out
halves the time that compiling takes.
"""

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.types.misc import unliteral


class HelperLibrary(JITCodeLibrary):  # type: ignore[misc]
    """LLVM's text of one helper, to be linked into its callers; there is no machine code of it."""

    def _optimize_final_module(self) -> None: ...

    def _finalize_final_module(self) -> None:
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """Numba wraps it for Python and needs it to be distinct; it is never called."""
        return id(self)

    @property
    def codegen(self) -> Any:
        """Numba tells this object where a function's globals are, once there is machine code."""
        return self

    def set_env(self, name: str, globals_: object) -> None: ...


class HelperCompiler(Compiler):  # type: ignore[misc]
    """Numba's compiler, filling a `HelperLibrary`."""

    def __init__(self, typing: Any, target: Any, library: Any, *rest: Any) -> None:
        part = HelperLibrary(target.codegen(), "helper")
        part.enable_object_caching()
        super().__init__(typing, target, part, *rest)


def without_constants(dispatcher: Any) -> Any:
    """Compile a helper once for all whole numbers, not for each constant that it is called with.

    A constant is one again where the helper has become a part of its caller.
    """
    template = dispatcher.get_call_template

    def get_call_template(args: Any, kws: Any) -> Any:
        plain = {name: unliteral(kind) for name, kind in kws.items()}
        return template(tuple(map(unliteral, args)), plain)

    dispatcher.get_call_template = get_call_template
    return dispatcher
