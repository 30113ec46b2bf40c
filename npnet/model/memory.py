"""One block of memory for all arrays of a training step, or of a prediction.

Each buffer has a lifetime, from one moment to another. Two whose lifetimes do not overlap may lie
at one place: the gradients of the first, large layers where the last layers' activations were. A
plan derives from the list of operations alone, so its size is known before anything is allocated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from npnet.kernels.arrays import Floats
from npnet.machine.memory import check_bytes
from npnet.model.architecture import Architecture
from npnet.model.fusion import for_inference, for_training
from npnet.model.operations import Concat
from npnet.model.operations.base import IMAGES, Operation, consumers
from npnet.model.parameters import Shape

ALIGNMENT = 64  # bytes: a line of the cache, and the widest register


@dataclass(frozen=True)
class Buffer:
    """An array that is needed from moment `first` to moment `last`, both included.

    `itemsize`: bytes of an element that is no float of the network, None for those that are.
    """

    name: str
    shape: Shape
    first: int
    last: int
    itemsize: int | None = None

    def coexists_with(self, other: "Buffer") -> bool:
        """Whether their lifetimes overlap: both are needed at some moment."""
        return self.first <= other.last and other.first <= self.last

    def with_lifetime_of(self, other: "Buffer") -> "Buffer":
        """Needed from the earlier first moment of the two to the later last one."""
        return replace(self, first=min(self.first, other.first), last=max(self.last, other.last))


class MemoryPlan:
    """Where each buffer lies: `offsets` and `nbytes`, in bytes.

    The largest buffers are placed first, each at the lowest place that is free at all its moments
    (greedy by size, Pisarchyk and Lee 2020, section 5.2). `aliases` are further names of buffers:
    the whole of one, or some of its channels.
    """

    def __init__(
        self,
        buffers: Sequence[Buffer],
        itemsize: int,
        aliases: Mapping[str, tuple[str, slice]] | None = None,
    ) -> None:
        self.buffers, self.aliases = {buffer.name: buffer for buffer in buffers}, aliases or {}
        self.sizes = {
            each.name: -(-prod(each.shape) * (each.itemsize or itemsize) // ALIGNMENT) * ALIGNMENT
            for each in buffers
        }
        self.offsets: dict[str, int] = {}
        for buffer in sorted(buffers, key=lambda buffer: -self.sizes[buffer.name]):
            self.offsets[buffer.name] = self._lowest_place(buffer)
        self.nbytes = max(offset + self.sizes[name] for name, offset in self.offsets.items())

    def _lowest_place(self, buffer: Buffer) -> int:
        taken = sorted(
            (offset, offset + self.sizes[name])
            for name, offset in self.offsets.items()
            if buffer.coexists_with(self.buffers[name])
        )
        place = 0
        for start, end in taken:
            if start - place >= self.sizes[buffer.name]:
                break
            place = max(place, end)
        return place

    def allocate(self, dtype: DTypeLike) -> dict[str, NDArray[Any]]:
        """An array for each buffer and alias, all of them views into one block."""
        memory = aligned_bytes(self.nbytes)
        arrays = {}
        for name, offset in self.offsets.items():
            buffer = self.buffers[name]
            kind = np.dtype(np.uint8 if buffer.itemsize == 1 else dtype)
            size = prod(buffer.shape) * kind.itemsize
            arrays[name] = memory[offset : offset + size].view(kind).reshape(buffer.shape)
        for name, (whole, channels) in self.aliases.items():
            arrays[name] = arrays[whole][..., channels]
        return arrays


def aligned_bytes(count: int) -> NDArray[np.uint8]:
    """Zeros that start with a line of the cache. Raises MemoryError if there are not as many."""
    check_bytes(count)
    memory = np.zeros(count + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + count]


def plan(
    architecture: Architecture,
    batch: int,
    dtype: DTypeLike = np.float32,
    store_all: bool = False,
) -> MemoryPlan:
    """The buffers of one training step, forward and backward, for `batch` images.

    Operation t of T runs forward at moment t and backward at 2T-t, the loss at T. Names: "images";
    for each operation its output "NAME.y", and "NAME.dz", the gradient of the pre-activation that
    its affine map makes of y; "NAME.more", what a further reader adds to that gradient; bytes that
    forward keeps for backward, such as "NAME.index". What `for_training` does not store has none,
    unless `store_all`.
    """
    operations = for_training(architecture.operations, store_all)
    return _Planner(operations, training=True).plan(architecture, batch, dtype)


def inference_plan(
    architecture: Architecture, batch: int, dtype: DTypeLike = np.float32
) -> MemoryPlan:
    """The buffers of a prediction for `batch` images: "images", and "NAME.y" of each operation
    of the list as `for_inference` rewrites it.
    """
    operations = for_inference(architecture.operations)
    return _Planner(operations, training=False).plan(architecture, batch, dtype)


class _Planner:
    """Liveness over the inputs of a list of operations."""

    def __init__(self, operations: Sequence[Operation], training: bool) -> None:
        self.operations, self.training = operations, training
        self.readers = consumers(operations)
        self.last = len(operations)
        self.numbered = {each.name: (t, each) for t, each in enumerate(operations)}
        self.buffers: dict[str, Buffer] = {}
        self.aliases: dict[str, tuple[str, slice]] = {}
        self.lying_at: dict[str, list[str]] = {}  # of each output, whose gradients its own holds

    def plan(self, architecture: Architecture, batch: int, dtype: DTypeLike) -> MemoryPlan:
        size = architecture.input_size
        until = max(self.last, *map(self._end, self.readers[IMAGES]))  # they are not overwritten
        self._put(IMAGES, (size, size, 3), 0, until)
        for t, operation in enumerate(self.operations):
            self._outputs(t, operation)
        for operation in self.operations:
            if isinstance(operation, Concat):
                self._concatenate(operation)
        if self.training:
            for t, operation in enumerate(self.operations):
                self._gradients(t, operation)
        buffers = [replace(each, shape=(batch, *each.shape)) for each in self.buffers.values()]
        return MemoryPlan(buffers, np.dtype(dtype).itemsize, self.aliases)

    def _put(
        self, name: str, shape: Shape, first: int, last: int, itemsize: int | None = None
    ) -> None:
        self.buffers[name] = Buffer(name, shape, first, last, itemsize)

    def _backward(self, t: int) -> int:
        return 2 * self.last - t

    def _sends(self, t: int) -> int:
        """When operation t's input begins to get its gradient: through one that is not stored, from
        what reads that.
        """
        operation = self.operations[t]
        if operation.is_stored:
            return self._backward(t)
        return min(map(self._backward, self.readers[operation.name]))

    def _end(self, t: int) -> int:
        """The last moment at which operation t needs its inputs."""
        return self._backward(t) if self.training else t

    def _outputs(self, t: int, operation: Operation) -> None:
        name, readers = operation.name, self.readers[operation.name]
        if not operation.is_stored:
            return
        until = max(map(self._end, readers), default=2 * self.last)  # logits outlast the step
        if self.training and operation.keeps_output:
            until = self._backward(t)
        self._put(f"{name}.y", operation.output_shape, t, until)
        for extra in operation.extras:
            self._put(f"{name}.{extra.name}", extra.shape, t, self._end(t), itemsize=1)

    def _concatenate(self, operation: Concat) -> None:
        """The inputs' outputs are channel slices of the concatenation's."""
        whole = self.buffers[f"{operation.name}.y"]
        for name, channels in operation.slices.items():
            whole = whole.with_lifetime_of(self.buffers.pop(f"{name}.y"))
            self.aliases[f"{name}.y"] = (whole.name, channels)
        self.buffers[whole.name] = whole

    def _gradients(self, t: int, operation: Operation) -> None:
        """Needed from the first reader's backward to the operation's own."""
        name, readers = operation.name, self.readers[operation.name]
        if not operation.is_stored:
            return
        first = min(map(self._sends, readers), default=self.last)
        self._put(f"{name}.dz", operation.output_shape, first, self._backward(t))
        for reader in readers[:-1]:  # backward runs the last reader first
            moments = self._sends(reader), self._backward(reader)
            more = Buffer(f"{name}.more", operation.output_shape, *moments)
            known = self.buffers.get(more.name)
            self.buffers[more.name] = more.with_lifetime_of(known) if known else more
        inside: list[str] = []  # whose gradients lie where this one does
        if isinstance(operation, Concat):
            inside = list(operation.inputs)
            self._share_gradient(operation.slices, f"{name}.dz")
        elif operation.sends_raw_gradient:
            shared = []
            for each in operation.inputs:
                if each == IMAGES:  # which get no gradient
                    continue
                if self.readers[each][-1] == t and self._may_lie_together(each, inside):
                    shared.append(each)
                    inside += self.lying_at[each]
            self._share_gradient(dict.fromkeys(shared, slice(None)), f"{name}.dz")
        self.lying_at[name] = [name, *inside]

    def _may_lie_together(self, name: str, others: Sequence[str]) -> bool:
        """Whether a sum's gradient may serve `name`, and all that lies there, and `others` at once.

        Each of them may only be written once the rest have been read.
        """
        pairs = [(one, other) for one in self.lying_at[name] for other in others]
        return all(
            self._changes(one) >= self._backward(self.numbered[other][0])
            for pair in pairs
            for one, other in (pair, pair[::-1])
        )

    def _changes(self, name: str) -> int:
        """When a gradient is first written after its last reader, the first to send, has made it:
        a further one adds to it, or the ReLU behind the output masks it.
        """
        readers = self.readers[name]
        if len(readers) > 1:
            return self._backward(readers[-2])
        raw = any(self.operations[reader].sends_raw_gradient for reader in readers)
        return self._backward(readers[0]) if raw and not self._is_linear(name) else 2 * self.last

    def _is_linear(self, name: str) -> bool:
        """Whether no ReLU stands behind an output, or behind a part of it."""
        operation = self.numbered[name][1]
        parts = operation.inputs if isinstance(operation, Concat) else ()
        return operation.is_linear and all(map(self._is_linear, parts))

    def _share_gradient(self, parts: Mapping[str, slice], name: str) -> None:
        """The inputs' dz lie in the operation's own."""
        whole, channels = self.aliases.get(name, (name, slice(None)))
        for each, part in parts.items():
            other, _ = self.aliases.get(f"{each}.dz", (f"{each}.dz", None))
            self.buffers[whole] = self.buffers[whole].with_lifetime_of(self.buffers.pop(other))
            for alias, (target, of) in list(self.aliases.items()):
                if target == other:
                    self.aliases[alias] = (whole, of)
            self.aliases[other] = (whole, part if channels == slice(None) else channels)


def training_bytes(
    architecture: Architecture, batch: int, dtype: DTypeLike = np.float32
) -> dict[str, int]:
    """What a training rank allocates before its first step, beside its images, in bytes."""
    vectors = 3 * architecture.parameter_count * np.dtype(dtype).itemsize
    return {
        "activations and their gradients": plan(architecture, batch, dtype).nbytes,
        "parameters, gradients, momentum": vectors,
        "maps for testing": inference_plan(architecture, batch, dtype).nbytes,
    }


def affine_of_concatenations(
    operations: Sequence[Operation], dtype: DTypeLike
) -> dict[str, Floats]:
    """ "NAME.affine" (6,C) of each concatenation, and the channels of it that its inputs fill."""
    arrays: dict[str, Floats] = {}
    for operation in operations:
        if isinstance(operation, Concat):
            whole: Floats = np.empty((6, operation.output_shape[-1]), dtype)
            arrays[f"{operation.name}.affine"] = whole
            for name, channels in operation.slices.items():
                arrays[f"{name}.affine"] = whole[:, channels]
    return arrays
