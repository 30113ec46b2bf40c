"""One block of memory for all activations and gradients of a training step.

Each buffer is needed from one moment of the step to another, and two whose times do not meet may
lie at one place: the gradients of the first, large layers where the last layers' activations were.
A plan is made from shapes alone, so `npnet info` can tell its size before anything is allocated.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import DTypeLike, NDArray

from npnet.kernels.arrays import Floats
from npnet.model.mobilenet_v2 import Architecture, Shape

ALIGNMENT = 64  # bytes: a line of the cache, and the widest register


@dataclass(frozen=True)
class Buffer:
    """An array that is needed from moment `first` to moment `last`, both included."""

    name: str
    shape: Shape
    first: int
    last: int

    def meets(self, other: "Buffer") -> bool:
        """Whether there is a moment at which both are needed."""
        return self.first <= other.last and other.first <= self.last


class MemoryPlan:
    """Where each buffer lies: `offsets` and `nbytes`, in bytes.

    The largest buffers are placed first, each at the lowest place that is free at all its moments
    (greedy by size, Pisarchyk and Lee 2020, section 5.2).
    """

    def __init__(self, buffers: Sequence[Buffer], itemsize: int) -> None:
        self.buffers = {buffer.name: buffer for buffer in buffers}
        self.sizes = {
            buffer.name: -(-prod(buffer.shape) * itemsize // ALIGNMENT) * ALIGNMENT
            for buffer in buffers
        }
        self.offsets: dict[str, int] = {}
        for buffer in sorted(buffers, key=lambda buffer: -self.sizes[buffer.name]):
            self.offsets[buffer.name] = self._lowest_place(buffer)
        self.nbytes = max(offset + self.sizes[name] for name, offset in self.offsets.items())

    def _lowest_place(self, buffer: Buffer) -> int:
        taken = sorted(
            (offset, offset + self.sizes[name])
            for name, offset in self.offsets.items()
            if buffer.meets(self.buffers[name])
        )
        place = 0
        for start, end in taken:
            if start - place >= self.sizes[buffer.name]:
                break
            place = max(place, end)
        return place

    def allocate(self, dtype: DTypeLike) -> dict[str, Floats]:
        """An array for each buffer, all of them views into one block."""
        memory = aligned_bytes(self.nbytes)
        arrays = {}
        for name, offset in self.offsets.items():
            shape = self.buffers[name].shape
            size = prod(shape) * np.dtype(dtype).itemsize
            arrays[name] = memory[offset : offset + size].view(dtype).reshape(shape)
        return arrays


def aligned_bytes(count: int) -> NDArray[np.uint8]:
    """Zeros that start with a line of the cache."""
    memory = np.zeros(count + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + count]


def plan(architecture: Architecture, batch: int, dtype: DTypeLike = np.float32) -> MemoryPlan:
    """The buffers of one training step, forward and backward, for `batch` images.

    Convolution t of T runs forward at moment t and backward at 2T-t; the head runs at T. Names:
    "images"; for each convolution its output "NAME.y" and "NAME.dv", the gradient of what batch
    norm makes of it; "NAME.output", an activation that is stored; "head.maps".
    """
    last, t = len(architecture.convolutions), 0
    buffers = [Buffer("images", architecture.operations[0].input_shape, 0, 2 * last)]
    for block in architecture.blocks:
        operations, start = [each for each in block.operations if each.is_convolution], t
        for operation in operations:
            name, shape, ends = operation.name, operation.output_shape, operation is operations[-1]
            buffers.append(Buffer(f"{name}.y", shape, t, 2 * last - t))
            until = start if ends and block.shortcut else t  # the gradient waits for the shortcut
            buffers.append(Buffer(f"{name}.dv", shape, 2 * last - t - 1, 2 * last - until))
            if ends and architecture.stores_output(block):
                buffers.append(Buffer(f"{name}.output", shape, t, 2 * last - t - 1))
            t += 1
    buffers.append(Buffer("head.maps", architecture.convolutions[-1].output_shape, last, last))
    return MemoryPlan(
        [Buffer(b.name, (batch, *b.shape), b.first, b.last) for b in buffers],
        np.dtype(dtype).itemsize,
    )


def inference_plan(
    architecture: Architecture, batch: int, dtype: DTypeLike = np.float32
) -> MemoryPlan:
    """The buffers of a prediction for `batch` images: "images", "NAME.output" of each block."""
    *blocks, _ = architecture.blocks
    buffers = [Buffer("images", (batch, *blocks[0].operations[0].input_shape), 0, len(blocks))]
    for moment, block in enumerate(blocks):
        shape = (batch, *block.operations[-1].output_shape)
        buffers.append(Buffer(f"{block.name}.output", shape, moment, moment + 1))
    return MemoryPlan(buffers, np.dtype(dtype).itemsize)


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
