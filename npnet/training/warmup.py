"""Compiling ahead: one rank of each node has all its cores compile what training calls.

What that is a rehearsal tells, which trains the smallest model of the kind in plain NumPy and notes
each kernel with the types of its arguments. A second one, with the compiled kernels, shows that
nothing is missing. The other ranks wait, and load what was compiled.
"""

import hashlib
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from types import ModuleType
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

import npnet
from npnet.data.dataset import Images, Split
from npnet.kernels import backend
from npnet.model.config import ModelConfig, Padding
from npnet.model.zoo import configure, entry
from npnet.parallel.communicator import Communicator, SerialCommunicator
from npnet.parallel.launched import environment_of_no_rank
from npnet.training.evaluate import Scores
from npnet.training.recipe import MODERN, Recipe
from npnet.training.results import EpochResult, Summary
from npnet.training.settings import Settings
from npnet.training.trainer import Trainer

DTYPES = ("float32", "float64")
SECONDS_BETWEEN_LOOKS = 1.0

Show = Callable[[int, int | None], None]  # takes how many kernels are done, of how many if known
PROGRESS = "{:7}{:7}\n"  # how the process that compiles tells it

Compiling = Callable[[], AbstractContextManager[Show]]  # around the compilation, on every rank


@dataclass(frozen=True)
class Rehearsal:
    """What decides which machine code a run calls: kernels are compiled for types, not sizes."""

    architecture: str
    batch_norm: bool
    padding: Padding
    freeze: tuple[str, ...]
    train: str
    dtype: str

    @classmethod
    def of(cls, model: ModelConfig, recipe: Recipe = MODERN, dtype: str = "float32") -> "Rehearsal":
        frozen = (recipe.freeze, recipe.train)
        return cls(model.architecture, model.batch_norm, model.padding, *frozen, dtype)

    @property
    def name(self) -> str:
        """Of the list of files that belong to it."""
        digest = hashlib.sha256(repr(self).encode()).hexdigest()[:12]
        return f"complete-{self.architecture}-{self.dtype}-{digest}"


def prepare(comm: Communicator, rehearsal: Rehearsal, compiling: Compiling) -> bool:
    """Have the compiled kernels on every node's disk. Returns whether any had to be compiled.

    Where there is no place for machine code, nothing is done, and each rank compiles what it calls.
    """
    cold = comm.first_of_node and place() is not None and not is_warm(rehearsal)
    if not any(comm.gather(cold)):
        return False
    with compiling() as show:
        if cold:
            comm.clock.task = "compile"
            compile_apart(rehearsal, show)
            comm.clock.task = ""
        comm.barrier()
    return True


def place() -> Path | None:
    """The folder of machine code, if there is one."""
    from npnet.kernels.jit.options import cache_directory

    folder = cache_directory()
    return Path(folder) if folder is not None else None


def is_warm(rehearsal: Rehearsal) -> bool:
    """Whether all that training calls was compiled, and lies there still."""
    folder = place()
    if folder is None:
        return False
    try:
        names = (folder / rehearsal.name).read_text(errors="replace").split("\n")
    except OSError:
        return False
    return all(name and (folder / name).is_file() for name in names)


def compile_apart(rehearsal: Rehearsal, show: Show) -> None:
    """Compile in a process of its own, because the compiler takes 300 MB and does not return them.

    `show` is called about once a second. If that process fails, compile in this one.
    """
    environment = environment_of_no_rank()
    sources = str(Path(npnet.__file__).parents[1])
    others = [environment["PYTHONPATH"]] if environment.get("PYTHONPATH") else []
    environment["PYTHONPATH"] = os.pathsep.join([sources, *others])
    script = f"from npnet.training.warmup import *; end_with_parent(); compile_here({rehearsal!r})"
    reading, writing = os.pipe()  # closed when this process ends, see end_with_parent
    with (
        open(reading, "rb") as alive,
        open(writing, "wb"),
        TemporaryFile() as told,
        subprocess.Popen(
            [sys.executable, "-P", "-c", script],
            env=environment,
            stdin=alive,
            stdout=told,
            stderr=subprocess.PIPE,
            text=True,
        ) as child,
    ):
        while True:
            try:
                _, errors = child.communicate(timeout=SECONDS_BETWEEN_LOOKS)
                break
            except subprocess.TimeoutExpired:
                show(*_last_told(told.fileno()))
            except BaseException:
                child.kill()
                raise
    if child.returncode == 0:
        return
    words = errors.strip().split("\n")[-1] or f"its status is {child.returncode}"
    warnings.warn(f"the process that compiles the kernels failed: {words}", stacklevel=2)
    from npnet.kernels.jit.cache import CacheWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CacheWarning)  # its cause was reported above
        rehearse(rehearsal)


def _tell(done: int, total: int) -> None:
    with suppress(OSError):  # on a full disk there is no progress to be seen
        os.write(1, PROGRESS.format(done, total).encode())


def _last_told(file: int) -> tuple[int, int | None]:
    length = len(PROGRESS.format(0, 0))
    words = os.pread(file, length, max(0, os.fstat(file).st_size - length)).split()
    return (int(words[0]), int(words[1])) if len(words) == 2 else (0, None)


def end_with_parent() -> None:
    """End this process when the other end of its standard input closes, however that happens.

    A run that is killed would leave its compiler behind, for minutes on a small machine.
    """

    def wait() -> None:
        os.read(0, 1)  # not sys.stdin, whose lock this thread would hold at the end of Python
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def compile_here(rehearsal: Rehearsal) -> None:
    """Compile on all cores and, when all of it is on disk, leave a list of the files there.

    Standard output is told how many kernels are done, of how many. Raises CacheWarning if some code
    cannot be kept.
    """
    from npnet.kernels.jit.ahead import compile_ahead
    from npnet.kernels.jit.cache import CacheWarning

    with warnings.catch_warnings():
        warnings.simplefilter("error", CacheWarning)
        calls = calls_of(rehearsal)
        compile_ahead(
            calls,
            begin_process=end_with_parent,
            show=_tell,
        )
        rehearse(rehearsal)
    folder = place()
    if folder is not None:
        names = sorted(path.name for path in folder.glob("*.nb[ci]"))
        (folder / rehearsal.name).write_text("\n".join(names))


class Noting:
    """The plain kernels, which note for each compiled one the types it is called with."""

    def __init__(self) -> None:
        self.calls: dict[str, set[Any]] = {}

    def __getattr__(self, name: str) -> Callable[..., None]:
        from npnet.kernels.jit.ahead import is_compiled, types_of

        plain = cast(Callable[..., None], getattr(backend("reference"), name))
        if not is_compiled(name):
            return plain
        types = self.calls.setdefault(name, set())

        def run(*arguments: object) -> None:
            types.add(types_of(arguments))
            plain(*arguments)

        return run


def calls_of(rehearsal: Rehearsal) -> dict[str, set[Any]]:
    """The types of all kernels that training calls."""
    noting = Noting()
    rehearse(rehearsal, cast(ModuleType, noting))
    return noting.calls


def rehearse(rehearsal: Rehearsal, kernels: ModuleType | None = None) -> None:
    """Train and test the smallest model of its kind on two grey images."""
    small = {"width": 0.1} if "width" in entry(rehearsal.architecture).options else {}
    model = configure(
        rehearsal.architecture,
        classes=2,
        input_size=entry(rehearsal.architecture).smallest_input,
        batch_norm=rehearsal.batch_norm,
        padding=rehearsal.padding,
        dropout=0.5,
        **small,
    )
    trained = replace(MODERN, freeze=rehearsal.freeze, train=rehearsal.train)
    for freeze_bn, crop_scale in ((False, 1.0), (True, 0.5)):  # all kernels, one way or the other
        recipe = replace(trained, crop_scale=crop_scale)
        settings = Settings(
            epochs=1,
            batch_per_rank=2,
            seed=0,
            ranks_per_node=1,
            dtype=rehearsal.dtype,
            freeze_bn=freeze_bn,
        )
        alone, silence = SerialCommunicator(), Silence()
        Trainer(Grey(), model, recipe, settings, alone, silence, kernels=kernels).run()


class Grey:
    """Two grey images for each split, no larger than any network's input."""

    name, location, image_size, resident = "grey", "in memory", 8, True
    classes = ("one", "two")

    def size(self, split: Split) -> int:
        return 0 if split == "val" else 2

    def digest(self) -> str:
        return self.name

    def read(self, split: Split, indices: NDArray[np.int64]) -> Images:
        n = len(indices)
        return Images(np.full((n, 8, 8, 3), 127, np.uint8), np.zeros(n, np.int64))


class Silence:
    """A reporter that ignores every event."""

    def started(self, trainer: Trainer) -> None: ...

    def step_finished(self, epoch: int, step: int, images: int) -> None: ...

    def epoch_finished(self, results: list[EpochResult], scores: Scores | None) -> None: ...

    def finished(self, summary: Summary) -> None: ...
