"""How often each block of machine code runs, from how often the blocks of LLVM's text ran.

Most have the same name in both. LLVM makes some blocks at the very end, without a name or as
another part of a named one. Their numbers follow from those around them: what runs into a block
runs out of it.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from bench.arm.assembly import Block

TARGET = re.compile(r"\.L(BB\d+_\d+)$")


def runs_of(blocks: Sequence[Block], counts: Mapping[tuple[str, str], int]) -> list[int]:
    """Runs of each block of one function.

    Where they cannot be told, which are a few short ones, those of the block in LLVM's text that it
    is a part of: as often as that or less.
    """
    names = Counter(block.name for block in blocks)
    whole = [counts.get((block.function, block.name)) for block in blocks]
    runs = [
        count if names[block.name] == 1 else None
        for block, count in zip(blocks, whole, strict=True)
    ]
    follow = successors(blocks)
    edges: dict[tuple[int, int], int] = {}
    before: list[list[tuple[int, int]]] = [[] for _ in blocks]
    after = [[(block, then) for then in sorted(follow[block])] for block in range(len(blocks))]
    for edge in (edge for outwards in after for edge in outwards):
        before[edge[1]].append(edge)
    changed = True
    while changed:
        changed = False
        for block in range(len(blocks)):
            for side in (after[block], before[block] if block else []):  # the first is called
                unknown = [edge for edge in side if edge not in edges]
                there = sum(edges.get(edge, 0) for edge in side)
                here = runs[block]
                if here is None and side and not unknown:
                    runs[block], changed = there, True
                elif here is not None and len(unknown) == 1:
                    edges[unknown[0]], changed = max(here - there, 0), True
    return [(count or 0) if told is None else told for told, count in zip(runs, whole, strict=True)]


def successors(blocks: Sequence[Block]) -> list[set[int]]:
    """Where each block may go on, as indices."""
    places = {block.label: index for index, block in enumerate(blocks) if block.label}
    found: list[set[int]] = []
    for index, block in enumerate(blocks):
        jumps = (TARGET.search(instruction) for instruction in block.instructions)
        then = {places[jump[1]] for jump in jumps if jump and jump[1] in places}
        if block.falls_through and index + 1 < len(blocks):
            then.add(index + 1)
        found.append(then)
    return found
