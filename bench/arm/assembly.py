"""ARM machine code as LLVM prints it, cut into blocks: their loops, arithmetic and spills."""

import re
from dataclasses import dataclass, field

FUNCTION = re.compile(r'"?([\w.$<>:]+)"?:\s+// @')
PLACE = re.compile(r"(?:\.L(BB\d+_\d+):|// %bb\.\d+:)")
NAME = re.compile(r"// %([\w.$-]+)\s*$")
INNERMOST = re.compile(r"This Inner Loop Header")
INSIDE = re.compile(r"in Loop: Header=(BB\d+_\d+)")
SPILL = re.compile(r"-byte (?:Folded )?(?:Spill|Reload)")
LEAVES = re.compile(r"(?:b|br|ret)\b(?!\.)")

FUSED = {"fmla", "fmls", "fmadd", "fmsub", "fnmadd", "fnmsub"}
SINGLE = {"fadd", "fsub", "fmul", "fnmul", "fdiv", "fsqrt", "fabd"} | {
    *("fmax", "fmin", "fmaxnm", "fminnm")
}


@dataclass
class Block:
    """`loop` is the label of the innermost loop around it; None if it contains another loop.

    `name` is that of the block in LLVM's text, `label` where branches go; both may be missing.
    """

    function: str
    name: str
    label: str | None
    loop: str | None = None
    instructions: list[str] = field(default_factory=list)
    spills: int = 0

    @property
    def falls_through(self) -> bool:
        """Whether what follows in memory may be what runs next."""
        return not (self.instructions and LEAVES.match(self.instructions[-1]))


def blocks(assembly: str) -> list[Block]:
    """All blocks, in the order of memory."""
    found: list[Block] = []
    innermost: set[str] = set()
    function, label = "", None
    for line in assembly.splitlines():
        if start := FUNCTION.match(line):
            function = start[1]
        elif line.startswith(".Lfunc_end"):
            function = ""
        if not function:
            continue
        if place := PLACE.match(line):
            name = NAME.search(line)
            label = place[1]
            found.append(Block(function, name[1] if name else "", label))
        if not found:
            continue
        if INNERMOST.search(line) and label:
            innermost.add(label)
            found[-1].loop = label
        elif inside := INSIDE.search(line):
            found[-1].loop = inside[1]
        instruction = re.sub(r"\s+", " ", line.split("//")[0].strip())
        if instruction and instruction[0] != "." and not instruction.endswith(":"):
            found[-1].instructions.append(instruction)
            found[-1].spills += bool(SPILL.search(line))
    for block in found:
        if block.loop not in innermost:
            block.loop = None
    return found


def flops(instruction: str) -> int:
    """Floating-point operations of an instruction; a minimum or a maximum counts as one."""
    mnemonic, _, operands = instruction.partition(" ")
    lanes = int((re.match(r"v\d+\.(\d+)", operands) or [0, 1])[1])
    return lanes * (2 * is_fused(instruction) + (mnemonic in SINGLE))


def is_fused(instruction: str) -> bool:
    """Whether it multiplies and adds."""
    return instruction.partition(" ")[0] in FUSED
