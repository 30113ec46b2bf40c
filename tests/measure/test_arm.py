"""bench/arm: what the kernels cost on an ARM core, found on this machine."""

import json
import os
import subprocess
import sys

import pytest

from bench.arm import assembly, cross, flow, mca, static
from bench.arm.cores import CORES, FLOORS, Floor
from bench.arm.cost import Cost, Loop, stretches
from npnet.errors import NpnetError
from tests.launch import SOURCES

A72 = CORES["cortex-a72"]

# A loop with two ways through it, of which one has no name, as LLVM prints them.
CODE = """
kernel:                                 // @kernel
	.cfi_startproc
// %bb.0:                               // %entry
	mov	x8, xzr
	.p2align	4, , 8
.LBB0_1:                                // %loop
                                        // =>This Inner Loop Header: Depth=1
	ldr	q0, [x1], #16
	fmla	v1.4s, v0.4s, v2.s[0]
	str	q1, [sp, #16]                   // 16-byte Folded Spill
	tbz	w8, #0, .LBB0_3
// %bb.2:                               // %odd
                                        //   in Loop: Header=BB0_1 Depth=1
	fadd	v3.4s, v3.4s, v0.4s
	b	.LBB0_4
.LBB0_3:                                //   in Loop: Header=BB0_1 Depth=1
	fmadd	d4, d5, d6, d4
.LBB0_4:                                // %next
                                        //   in Loop: Header=BB0_1 Depth=1
	cmp	x8, #10
	b.ne	.LBB0_1
// %bb.5:                               // %done
	ret
.Lfunc_end0:
"""
RUNS = {"entry": 1, "loop": 10, "odd": 4, "next": 10, "done": 1}
COUNTS = {("kernel", name): runs for name, runs in RUNS.items()}


def missing():
    """Why nothing can be computed here, in words; empty where it can."""
    try:
        mca.find(A72)
        cross.target(A72)
    except NpnetError as error:
        return str(error)
    return ""


needs_tools = pytest.mark.skipif(bool(missing()), reason=missing())


def test_code_is_cut_into_blocks_and_loops():
    blocks = assembly.blocks(CODE)
    assert [(block.name, block.loop, len(block.instructions)) for block in blocks] == [
        ("entry", None, 1),
        ("loop", "BB0_1", 4),
        ("odd", "BB0_1", 2),
        ("", "BB0_1", 1),
        ("next", "BB0_1", 2),
        ("done", None, 1),
    ]
    assert [block.spills for block in blocks] == [0, 1, 0, 0, 0, 0]
    assert [block.falls_through for block in blocks] == [True, True, False, True, True, False]


@pytest.mark.parametrize(
    ("instruction", "flops", "fused"),
    [
        ("fmla v1.4s, v0.4s, v2.s[0]", 8, True),
        ("fmls v1.2s, v0.2s, v2.2s", 4, True),
        ("fmadd d4, d5, d6, d4", 2, True),
        ("fmax v1.4s, v0.4s, v2.4s", 4, False),
        ("fadd v1.2d, v0.2d, v2.2d", 2, False),
        ("fcmgt v1.4s, v0.4s, #0.0", 0, False),
        ("fmov s0, w1", 0, False),
        ("add x0, x0, #4", 0, False),
        ("ret", 0, False),
    ],
)
def test_arithmetic_is_counted(instruction, flops, fused):
    assert (assembly.flops(instruction), assembly.is_fused(instruction)) == (flops, fused)


def test_a_block_without_a_name_runs_as_often_as_the_flow_says():
    blocks = assembly.blocks(CODE)
    assert flow.successors(blocks) == [{1}, {2, 3}, {4}, {4}, {1, 5}, set()]
    assert flow.runs_of(blocks, COUNTS) == [1, 10, 4, 6, 10, 1]


def test_what_runs_equally_often_is_one_stretch():
    found = list(stretches(assembly.blocks(CODE), COUNTS))
    assert [(part.loop, part.runs, len(part.instructions)) for part in found] == [
        (None, 1, 1), ("BB0_1", 10, 4), ("BB0_1", 4, 2), ("BB0_1", 6, 1), ("BB0_1", 10, 2),
        (None, 1, 1),
    ]  # fmt: skip
    found = list(stretches(assembly.blocks(CODE), COUNTS | {("kernel", "odd"): 0}))
    assert [(part.runs, len(part.instructions)) for part in found] == [(1, 1), (10, 7), (1, 1)]
    found = list(stretches(assembly.blocks(CODE), COUNTS | {("kernel", "odd"): 10}))
    assert [(part.runs, len(part.instructions)) for part in found] == [
        (1, 1), (10, 6), (10, 2), (1, 1)
    ]  # fmt: skip


def loop(cycles, fused=12):
    return Loop("BB0_1", 20, fused, 8.0 * fused, cycles, 0, 10, 100 * fused / cycles)


def test_a_kernel_below_its_floor_is_named(monkeypatch):
    monkeypatch.setitem(
        FLOORS, "cortex-a72", dict.fromkeys(("fast", "hot", "whole"), Floor(90, 50))
    )
    activation = loop(20, fused=2)  # too little of the arithmetic to be hot
    costs = [
        Cost("fast", 1, cycles=450, flops=1900, loops=[loop(12.5), loop(13), activation]),
        Cost("hot", 1, cycles=450, flops=1900, loops=[loop(12.5), loop(17)]),
        Cost("whole", 1, cycles=500, flops=1900, loops=[loop(12.5), loop(13)]),
    ]
    hot, whole = static.below_floor(costs, A72)
    assert hot.startswith("hot on cortex-a72: hot loops 81.4 % of the peak, floor 90; ")
    assert whole.startswith("whole on ")
    assert whole.endswith("kernel 47.5 %, floor 50")


def test_without_llvm_mca_a_sentence_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    mca.find.cache_clear()
    with pytest.raises(NpnetError, match="install LLVM 19 or newer, on Debian the package llvm-19"):
        mca.find(A72)


@needs_tools
def test_llvm_mca_knows_what_a_loop_takes():
    product = ["ldr q0, [x1], #16", *(f"fmla v{r}.4s, v0.4s, v30.s[0]" for r in range(1, 13))]
    chain = ["fadd v0.4s, v0.4s, v1.4s"]  # waits for itself
    assert [round(each) for each in mca.cycles(A72, [product, chain])] == [12, 5]


def check(*options):
    return subprocess.run(
        [sys.executable, "-m", "bench.arm.static", "--check", *options],
        cwd=SOURCES,
        env={name: value for name, value in os.environ.items() if name != "NPNET_TARGET"},
        capture_output=True,
        text=True,
    )


@pytest.mark.compiled
@needs_tools
def test_no_kernel_is_below_its_floor():
    result = check("--json")
    assert result.returncode == 0, result.stderr
    costs = [json.loads(line) for line in result.stdout.splitlines()]
    assert {cost["kernel"] for cost in costs} == set(FLOORS["cortex-a72"])
    for cost in costs:  # what ran is the arithmetic, and a little more
        assert 1 <= cost["executed"] / cost["flops"] < (1.3 if "pointwise" in cost["kernel"] else 2)


@pytest.mark.compiled
@needs_tools
def test_registers_that_do_not_suffice_are_seen():
    """Blocks that were made for 32 registers of 64 bytes: most of their sums lie in memory."""
    result = check("--kernel", "stem3x3_stats_forward", "--row", "avx512")
    assert result.returncode == 1
    assert result.stderr.startswith("stem3x3_stats_forward on cortex-a72: hot loops ")
