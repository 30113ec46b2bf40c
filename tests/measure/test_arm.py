"""bench/arm: what the kernels cost on an ARM core, found on this machine."""

import json
import os
import shutil
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from bench.arm import assembly, caches, counting, counts, cross, flow, mca, predict, static
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


def arm(program, *options, folder=SOURCES, stdout=subprocess.PIPE, **variables):
    """What a program of bench/arm does where no row is chosen."""
    own = {name: value for name, value in os.environ.items() if name != "NPNET_TARGET"}
    return subprocess.run(
        [sys.executable, "-m", f"bench.arm.{program}", *options],
        cwd=folder,
        env=own | variables,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )


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
    product, chain = mca.cycles(A72, [product, chain])
    assert (round(product.taken), product.least) == (12, 12)
    assert (round(chain.taken), chain.least) == (5, 1)


class PlainCaches:
    """The same model in plain Python: what each set holds, the line that was used last behind."""

    def __init__(self, levels):
        self.levels = levels
        self.sets = [[{} for _ in range(level.sets)] for level in levels]  # a line: is it changed?
        self.lines = [0] * (2 + len(levels))

    def ask(self, line):
        if line not in self.sets[0][line % len(self.sets[0])]:
            before = self.lines[-2]
            self.use(line, False, first=1)
            self.lines[-1] += self.lines[-2] - before

    def use(self, line, stored, first=0, fetched=True):
        for depth in range(first, len(self.levels)):
            lines = self.sets[depth][line % len(self.sets[depth])]
            changed = stored and depth == first
            hit = line in lines
            lines[line] = lines.pop(line, False) or changed
            if hit:
                return
            self.lines[1 + depth] += fetched
            if len(lines) > self.levels[depth].ways:
                gone = next(iter(lines))
                if lines.pop(gone):
                    self.use(gone, True, depth + 1, fetched=False)
            if not fetched:
                return
        self.lines[0] += not fetched


def test_the_caches_do_what_a_plain_model_does():
    """Random accesses near each other, in two arrays and outside of them."""
    hierarchies = (
        (caches.Level(1024, 2), caches.Level(4096, 4), caches.Level(8192, 4)),
        (caches.Level(1024, 2), caches.Level(2048, 4), caches.Level(4096, 4)),
    )
    state = np.full(caches.starts_of(hierarchies)[-1], caches.NOTHING, np.int64)
    state[: caches.LINES] = 0
    state[caches.ARRAYS] = 1
    state[caches.TABLE : caches.TABLE + 3] = 2**20, 2**20 + 2**14, -(2**20)
    touch, allocated = (each.ctypes for each in caches.functions(hierarchies))
    memory = state.ctypes.data_as(touch.argtypes[0])
    state[caches.SCRATCH] = 2**15
    allocated(memory, 2**21, 5000)
    allocated(memory, 2**21 + 64, 6000)  # in place of the first, which is freed
    starts = {2**20: 0, 2**21 + 64: 2**15 + 79 * 64}
    plain = [PlainCaches(levels) for levels in hierarchies]
    rng = np.random.default_rng(0)
    place = 0
    for _ in range(20000):
        start = [*starts, 2**22][rng.integers(3)]
        place = (place + int(rng.integers(-400, 401))) % 5900
        size, kind = int(rng.choice([4, 16, 200])), int(rng.integers(3))
        touch(memory, start + place, min(size, 5990 - place), kind)
        if start in starts:
            first = starts[start] + place
            for line in range(first // 64, (first + min(size, 5990 - place) - 1) // 64 + 1):
                for model in plain:
                    if kind == caches.AHEAD:
                        model.ask(line)
                    else:
                        model.use(line, kind == caches.STORE)
    for number, model in enumerate(plain):
        first = caches.COUNTERS + caches.PER_HIERARCHY * number
        assert state[first : first + 5].tolist() == model.lines
        assert min(model.lines) > 100


@pytest.mark.parametrize(
    ("instruction", "size", "kind"),
    [
        ("  %1 = load <4 x float>, ptr %.5, align 4, !noalias !1", "16", caches.LOAD),
        ("  store double %.3, ptr getelementptr (i8, ptr %p, i64 8), align 8", "8", caches.STORE),
        ("  store { ptr, i32 } %.3, ptr %p, align 8", "12", caches.STORE),
        ("  call void @llvm.memset.p0.i64(ptr %p, i8 0, i64 %n, i1 false)", "%n", caches.STORE),
        ("  call void @llvm.prefetch.p0(ptr nonnull %p, i32 0, i32 2, i32 1)", "1", caches.AHEAD),
    ],
)
def test_what_is_loaded_stored_and_asked_for_is_told(instruction, size, kind):
    model = SimpleNamespace(touch="@touch", memory="@memory")
    place, call = counting.tell_access(model, instruction, 7)
    assert place.startswith("  %place.7 = ptrtoint ptr ")
    assert call == f"  call void @touch(ptr @memory, i64 %place.7, i64 {size}, i64 {kind})"
    assert counting.tell_access(model, "  %3 = fadd float %1, %2", 8) == []
    with pytest.raises(AssertionError, match="not counted"):
        counting.tell_access(model, "  call void @llvm.memcpy.p0.p0.i64(ptr %a, ptr %b, i64 8)", 9)


KEPT = {
    "compiled_by": "one",
    "kernels": {"k": {"calls": 2, "misses": {"L1": 1000}}, "gone": {"calls": 1}},
}


def test_counts_that_change_are_told():
    now = {"compiled_by": "one", "kernels": {"k": {"calls": 2, "misses": {"L1": 1001}}}}
    assert list(counts.differences(now, KEPT, A72)) == [
        "k on cortex-a72: misses L1 1,000 -> 1,001",
        "gone on cortex-a72: calls 1 -> 0",
    ]
    assert not list(counts.differences(KEPT, KEPT, A72))
    other = {"compiled_by": "another", "kernels": {"k": {"calls": 2, "misses": {"L1": 1020}}}}
    assert not list(counts.differences(other, KEPT, A72))
    assert counts.is_worse("asked ahead", 1000, 979)
    assert not counts.is_worse("asked ahead", 1000, 981)
    other["kernels"]["k"]["misses"]["L1"] = 1021
    assert list(counts.differences(other, KEPT, A72)) == [
        "k on cortex-a72: misses L1 1,000 -> 1,021"
    ]


def test_a_kernel_alone_is_compared_with_what_is_kept_of_it():
    alone = {"compiled_by": "one", "kernels": {"k": {"calls": 2}}}
    assert not list(counts.differences(alone, counts.part_of(KEPT, alone), A72))
    for name, number in ("k", 3), ("unknown", 1):
        other = {"compiled_by": "one", "kernels": {name: {"calls": number}}}
        (line,) = counts.differences(other, counts.part_of(KEPT, other), A72)
        assert line.startswith(f"{name} on cortex-a72: calls ")


def test_a_board_is_predicted_between_two_bounds():
    """24 images: 0.2 s of arithmetic, then 0.3 s of memory for each rank."""
    kernel = {"cycles": 2e8, "memory_bytes": {"1": 3e8, "2": 3e8, "4": 3e8}}
    board = predict.Board("", A72, clock=1e9, bandwidth=1e9)
    assert predict.images_per_second(board, [kernel] * 2, 1) == pytest.approx((12, 20))
    assert predict.images_per_second(board, [kernel] * 2, 2) == pytest.approx((15, 20))


@pytest.mark.slow
@pytest.mark.compiled
@needs_tools
def test_sizes_are_compared_by_a_step_of_their_own():
    """A tile that fills the first cache alone takes more lines from the second."""
    result = arm("tiles", "--sizes", "96,48,16,2", "--sizes", "192,96,16,2")
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    head, _, *rows = ([cell.strip() for cell in line.split("|")] for line in lines)
    small, large = (dict(zip(head, row, strict=True)) for row in rows)
    assert (small["sizes"], large["sizes"]) == ("96,48,16,2", "192,96,16,2")
    assert float(small["M lines, L1"]) < float(large["M lines, L1"])
    assert float(small["Mcycles"]) > float(large["Mcycles"])
    kept = counts.load(A72)["kernels"].values()
    assert small["Mcycles"] == f"{sum(kernel['cycles'] for kernel in kept) / 1e6:.1f}"


def test_the_readme_has_the_predictions():
    readme = (SOURCES / "README.md").read_text(encoding="utf-8")
    for rows in (predict.kernel_rows(), predict.board_rows()):
        assert "\n".join(map(predict.row, rows)) in readme


@pytest.mark.parametrize("program", ["static", "blocks", "tiles"])
def test_without_llvm_mca_one_line_says_so(program, tmp_path):
    result = arm(program, PATH=str(tmp_path))
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.startswith("bench.arm: no llvm-mca here knows the pipeline of cortex-a72")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("text", [None, "{", "[]", '{"kernels": {}}'])
def test_a_record_that_is_damaged_is_told(text, tmp_path, monkeypatch):
    monkeypatch.setattr(counts, "file_of", lambda core: tmp_path / f"{core.name}.json")
    if text is not None:
        (tmp_path / "cortex-a72.json").write_text(text)
    with pytest.raises(NpnetError, match="is missing or damaged: get it back from git, or count"):
        counts.load(A72)
    counts.save(KEPT, A72)
    assert counts.load(A72) == KEPT
    assert [path.name for path in tmp_path.iterdir()] == ["cortex-a72.json"]


def test_only_whole_counts_are_kept():
    for part in ("--kernel", "sgd"), ("--row", "cortex-a72"):
        result = arm("static", "--write", *part)
        assert result.returncode == 2
        assert "leave --kernel and --row out" in result.stderr


def test_who_reads_may_stop_reading():
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as closed:
        result = arm("predict", stdout=closed)
    assert (result.returncode, result.stderr) == (1, "")


def told(result):
    """What is wrong; before it stands what was counted."""
    known = ("counting ", "all floors hold")
    return [line for line in result.stderr.splitlines() if not line.startswith(known)]


@pytest.mark.slow
@pytest.mark.compiled
@needs_tools
@pytest.mark.parametrize("core", CORES)
def test_a_step_costs_what_is_kept(core):
    result = arm("static", "--check", "--json", "--target", core)
    assert result.returncode == 0, result.stderr
    costs = [json.loads(line) for line in result.stdout.splitlines()]
    assert {cost["kernel"] for cost in costs} >= set(FLOORS[core])
    for cost in costs:  # what ran is the arithmetic, and a little more
        if cost["kernel"] in FLOORS[core]:
            most = 1.3 if "pointwise" in cost["kernel"] else 2
            assert 1 <= cost["executed"] / cost["flops"] < most


@pytest.mark.compiled
@needs_tools
def test_registers_that_do_not_suffice_are_seen():
    """Blocks that were made for 32 registers of 64 bytes: most of their sums lie in memory."""
    result = arm("static", "--check", "--kernel", "stem3x3_stats_forward", "--row", "avx512")
    assert result.returncode == 1
    line, counted = told(result)
    assert line.startswith("stem3x3_stats_forward on cortex-a72: hot loops ")
    assert counted.startswith("stem3x3_stats_forward on cortex-a72: instructions ")


MASK = "        return builder.select(builder.and_(above, below), gradient, zero)\n"
ONE_BY_ONE = """
        masked = zero
        for lane in range(v.type.count):
            number, none = INT32(lane), ir.Constant(v.type.element, 0.0)
            one, low, high, here = (builder.extract_element(each, number) for each in values)
            here = builder.select(builder.fcmp_ordered(">", one, low), here, none)
            here = builder.select(builder.fcmp_ordered("<", one, high), here, none)
            masked = builder.insert_element(masked, here, number)
        return masked
"""


@pytest.mark.slow
@pytest.mark.compiled
@needs_tools
def test_a_mask_that_is_no_vector_is_seen(tmp_path):
    for package in ("npnet", "kernels", "cli", "bench"):
        shutil.copytree(SOURCES / package, tmp_path / package, symlinks=True)
    path = tmp_path / "kernels" / "jit" / "vector.py"
    text = path.read_text()
    assert text.count(MASK) == 1
    path.write_text(text.replace(MASK, ONE_BY_ONE))
    kernel = ("--kernel", "activation_depthwise3x3_stats_backward")
    result = arm("static", "--check", *kernel, folder=tmp_path)
    assert result.returncode == 1
    line, counted = told(result)
    assert line.startswith("activation_depthwise3x3_stats_backward on cortex-a72: hot loops ")
    assert counted.startswith("activation_depthwise3x3_stats_backward on cortex-a72: instructions ")
