"""The plan of a step's memory: nothing overlaps while it is needed, and little is wasted."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npnet.model.memory import ALIGNMENT, Buffer, MemoryPlan, plan
from npnet.model.zoo.mobilenet_v2 import mobilenet_v2


def overlap(memory, a, b):
    """Whether two buffers share a byte."""
    start, other = memory.offsets[a], memory.offsets[b]
    return start < other + memory.sizes[b] and other < start + memory.sizes[a]


def check(memory):
    for a, b in itertools.combinations(memory.buffers.values(), 2):
        assert not (a.coexists_with(b) and overlap(memory, a.name, b.name)), (a, b)
    ends = [offset + memory.sizes[name] for name, offset in memory.offsets.items()]
    assert memory.nbytes == max(ends)
    assert all(offset % ALIGNMENT == 0 for offset in memory.offsets.values())


@given(
    st.lists(st.tuples(st.integers(1, 2000), st.integers(0, 20), st.integers(0, 20)), min_size=1)
)
def test_buffers_that_meet_lie_apart(drawn):
    buffers = [
        Buffer(str(i), (size,), min(a, b), max(a, b)) for i, (size, a, b) in enumerate(drawn)
    ]
    memory = MemoryPlan(buffers, itemsize=4)
    check(memory)
    for moment in range(21):  # no plan is smaller than what is needed at one moment
        needed = [memory.sizes[b.name] for b in buffers if b.first <= moment <= b.last]
        assert memory.nbytes >= sum(needed)


@pytest.mark.parametrize(("width", "size"), [(0.25, 32), (0.5, 128), (1.0, 75), (1.4, 64)])
def test_a_step_s_buffers_lie_apart_and_share_memory(width, size):
    memory = plan(mobilenet_v2(width, size, 10), batch=3)
    check(memory)
    gradients = sum(memory.sizes[name] for name in memory.sizes if name.endswith(".dz"))
    everything = sum(memory.sizes.values())
    assert memory.nbytes < everything - 0.9 * gradients  # gradients lie where activations were


def test_the_paper_s_network_stays_below_four_megabytes_an_image():
    one, many = (plan(mobilenet_v2(0.5, 128, 10), batch).nbytes for batch in (1, 33))
    assert (many - one) / 32 < 4e6


def test_arrays_are_aligned_views_of_one_block():
    memory = plan(mobilenet_v2(0.35, 33, 7), batch=2)
    arrays = memory.allocate(np.float32)
    addresses = {name: arrays[name].ctypes.data for name in memory.buffers}
    assert all(address % ALIGNMENT == 0 for address in addresses.values())
    first = min(addresses.values())
    assert {name: at - first for name, at in addresses.items()} == memory.offsets
    for name, buffer in memory.buffers.items():
        assert arrays[name].shape == buffer.shape
        assert arrays[name].flags.c_contiguous
    for name, (whole, channels) in memory.aliases.items():
        assert np.shares_memory(arrays[name], arrays[whole][..., channels])
