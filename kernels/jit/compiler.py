"""What the compiler leaves in memory, and how that is given back.

A run whose kernels lie on disk calls LLVM to load them, and no more. Yet 70 MB of it are touched
meanwhile, and it unfolds what it could compile once more. A Raspberry Pi has several ranks.
"""

import ctypes
import mmap
from contextlib import suppress
from ctypes import c_size_t, c_void_p
from functools import partial
from itertools import count
from typing import Any

import llvmlite.binding as llvm
import psutil

LIBRARY = "libllvmlite"
KERNELS_BETWEEN = 8  # are loaded between two times that memory is given back, which takes 5 ms

_loaded = count(1)


def loaded(library: Any) -> None:
    """To be called for each kernel that was loaded, with Numba's library of it."""
    put_away(library)
    if next(_loaded) % KERNELS_BETWEEN == 0:
        give_back()


def put_away(library: Any) -> None:
    """Keep of a loaded kernel's text in LLVM's language its bytes, until somebody asks for it.

    Numba unfolds it for functions that would make the kernel a part of theirs. Here no kernel calls
    another, and unfolded it takes ten times the memory of the machine code.
    """
    text = library._shared_module.as_bitcode()
    library._shared_module.close()
    library._get_module_for_linking = partial(llvm.parse_bitcode, text)


def give_back() -> None:
    """Return to the system memory that was freed, and the compiler's code.

    What of that is called again is read again, from memory in which the system has the file.
    """
    c = ctypes.CDLL(None)
    with suppress(AttributeError):  # glibc has it
        c.malloc_trim(0)
    with suppress(psutil.Error, OSError):
        for each in psutil.Process().memory_maps(grouped=False):
            if LIBRARY in each.path and is_as_in_file(each):
                start, end = (int(place, 16) for place in each.addr.split("-"))
                c.madvise(c_void_p(start), c_size_t(end - start), mmap.MADV_DONTNEED)


def is_as_in_file(part: Any) -> bool:
    """Whether a part of memory, of psutil.Process.memory_maps, was never written."""
    return "w" not in part.perms and part.anonymous == part.swap == 0
