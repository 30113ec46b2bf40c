"""Compile the kernels for an ARM core here, into the folder where Numba looks for them there.

    python -m tests.arm.ahead cortex-a72 FOLDER FEATURES

An emulated core takes eight times as long. FOLDER and FEATURES are what Numba says on that core,
see `emulated.py`, which also has one kernel compiled there and compares the machine code.
"""

import os
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from bench.arm.cores import CORES
from bench.arm.cross import CrossLibrary, retarget
from npnet.model.zoo import configure

TRAINED = "mobilenet_v2"
CHECKED = ("mobilenet_v2", "squeezenet1_1")  # miniatures whose gradients are checked


class ObjectLibrary(CrossLibrary):
    """Keeps the machine code as Numba keeps it on disk: as the linker's input."""

    def _finalize_specific(self):
        self._compiled_object = self._codegen._tm.emit_object(self._final_module)


def main(name, folder, features):
    assert "npnet.kernels.jit.target" not in sys.modules  # where it reads the environment
    os.environ["NPNET_TARGET"] = name
    retarget(CORES[name], features, ObjectLibrary)
    from npnet.kernels.jit.ahead import compile_ahead, compile_kernel

    Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
    calls = needed()
    for kernel in calls:
        redirect(kernel, folder)
    if left := missing(calls):
        compile_ahead(left, lambda: None, lambda done, total: None)
    # Two processes may have saved a kernel that others call, and one of them the other's index.
    for kernel, types in missing(calls).items():
        compile_kernel(kernel, types)
    note_as_warm(Path(folder))


def needed():
    """By kernel: the types it is called with by what runs on the emulated core."""
    from npnet.kernels import registry
    from npnet.kernels.jit.ahead import is_compiled, types_of
    from npnet.training.warmup import calls_of

    found = defaultdict(set, calls_of(trained()))
    for row in filter(lambda row: is_compiled(row.name), registry.COMPILED):
        case = registry.border_cases(row.kind)[0]
        arguments = row.arguments(case, np.random.default_rng(7), np.float32)
        found[row.name].add(types_of(arguments.values()))
    for kernel, types in calls_of_gradients().items():
        found[kernel] |= types
    return dict(found)


def trained():
    """What the run of `emulated.py` calls."""
    from npnet.training.warmup import Rehearsal

    return Rehearsal.of(configure(TRAINED, classes=3))


def calls_of_gradients():
    """What the gradient checks call, in float64: a step of each network, by plain kernels."""
    from npnet.measure.gradcheck import miniatures
    from npnet.model.network import Network
    from npnet.training.warmup import Noting

    noting = Noting()
    for architecture in miniatures():
        if architecture.name in CHECKED and architecture.config.batch_norm:
            network = Network(architecture, 4, noting, np.float64)
            for frozen in (False, True):
                rng = np.random.default_rng(0)
                network.forward(4, training=True, frozen=frozen, dropout=rng)
                network.loss(np.zeros(4, np.int64), smoothing=0.1)
                network.backward(scale=1.0)
    return noting.calls


def redirect(kernel, folder):
    """Machine code is put into `folder`; none is loaded, for it could not be called here."""
    from npnet.kernels import jit
    from npnet.kernels.jit.cache import GuardedCache

    dispatcher = getattr(jit, kernel)
    dispatcher._cache = GuardedCache(dispatcher._cache._cache, folder)
    dispatcher._cache.load_overload = lambda signature, context: None


def missing(calls):
    """Those whose machine code is not in the folder."""
    from npnet.kernels import jit

    left = {}
    for kernel, types in calls.items():
        there = {signature for signature, *_ in getattr(jit, kernel)._cache._own_index()}
        if types - there:
            left[kernel] = types - there
    return left


def note_as_warm(folder):
    """Else training would compile, in a process of its own, what it calls."""
    names = sorted(path.name for path in folder.glob("*.nb[ci]"))
    (folder / trained().name).write_text("\n".join(names))


if __name__ == "__main__":
    main(*sys.argv[1:])
