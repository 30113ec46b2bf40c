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
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

LIBRARY = "libllvmlite"
KERNELS_BETWEEN = 8  # are loaded between two times that memory is given back, which takes 10 ms

_loaded = count(1)


def loaded() -> None:
    """To be called for each kernel that was loaded."""
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
    for start, end in unwritten():
        c.madvise(c_void_p(start), c_size_t(end - start), mmap.MADV_DONTNEED)


def unwritten() -> list[tuple[int, int]]:
    """Where parts of the compiler's file lie in memory which this process never wrote.

    Source: proc_pid_smaps(5). Nowhere if that cannot be read.
    """
    found: list[tuple[int, int]] = []
    place, rights, file, written = "", "", "", 0
    try:
        lines = Path("/proc/self/smaps").read_text(errors="surrogateescape").splitlines()
        for name, *words in (line.split(maxsplit=5) for line in lines):
            if not name.endswith(":"):  # a part's first line
                place, rights, file, written = name, words[0], words[-1], 0
            elif name in ("Anonymous:", "Swap:"):
                written += int(words[0])
            elif name == "VmFlags:" and LIBRARY in file and "w" not in rights and not written:
                start, end = place.split("-")  # all of it was told
                found.append((int(start, 16), int(end, 16)))
    except (OSError, ValueError, IndexError):
        return []
    return found
