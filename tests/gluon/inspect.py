"""What ptxas makes of a kernel for Hopper, without a GPU: registers, spills, products, waits and warnings.

`inspect_ptx` assembles PTX as Triton does and reads the messages of ptxas and the disassembly, both from the tools that
Triton's wheel brings; `inspect_kernel` compiles first.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from attncc.emit.kernel import TritonKernel
from attncc.runtime import triton_build

USAGE: Final = re.compile(r"Used (\d+) registers")
SPILLS: Final = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
#: Messages about products: C7510 and its neighbours say that they run one by one, C7517 that a wait was put in.
PRODUCT_MESSAGE: Final = re.compile(r"\(C75\d\d\) .*")
INSTRUCTION: Final = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+\S", re.MULTILINE)
WAIT: Final = re.compile(r"WARPGROUP\.DEPBAR\.LE gsb0, 0x([0-9a-f]+)")
PRODUCT: Final = re.compile(r"HGMMA\.\S+ R\d+, (gdesc|R\d+)")
REGISTER_CHANGE: Final = re.compile(r"USETMAXREG\.(?:DEALLOC|TRY_ALLOC)\.\S+ (?:UP\d, )?0x([0-9a-f]+)")


@dataclass(frozen=True)
class Wait:
    """A wait until at most `outstanding` groups of products run, with the exponentials since the wait before it."""

    outstanding: int
    exponentials: int


@dataclass(frozen=True)
class Instructions:
    """What counts in the machine code of a kernel: how many instructions it has, products by where their left operand
    lies."""

    length: int
    products_of_shared: int
    products_of_registers: int
    waits: tuple[Wait, ...]
    register_changes: tuple[int, ...]
    loads: int
    stores: int
    reductions: int
    local_accesses: int
    barriers: int

    @property
    def overlapped_exponentials(self) -> tuple[int, ...]:
        """For each wait for all products that follows one for all but the last: exponentials between the two."""
        pairs = zip(self.waits, self.waits[1:], strict=False)
        return tuple(wait.exponentials for before, wait in pairs if (before.outstanding, wait.outstanding) == (1, 0))


@dataclass(frozen=True)
class Inspection:
    """Registers at launch, bytes spilled, bytes of shared memory, messages about products, and the instructions."""

    registers: int
    spill_stores: int
    spill_loads: int
    shared: int
    messages: tuple[str, ...]
    instructions: Instructions

    @property
    def serialized(self) -> bool:
        """Whether ptxas gave up on running products beside anything else."""
        return bool(self.messages)


def inspect_kernel(kernel: TritonKernel, target: str = "sm_90") -> Inspection:
    """Compile a kernel as the runtime does and read what came of it."""
    made, metadata = triton_build._compile(kernel, target)
    return inspect_ptx(str(made["ptx"]), int(metadata["shared"]))


def inspect_ptx(ptx: str, shared: int, target: str = "sm_90a") -> Inspection:
    """Assemble PTX and read what came of it; `shared` is what Triton's metadata says of shared memory."""
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(ptx, encoding="utf-8")
        command = [_tool("ptxas"), "-lineinfo", "-v", f"--gpu-name={target}", str(source), "-o", str(binary)]
        messages = _run(command).stderr
        code = _run([_tool("nvdisasm"), "-c", str(binary)]).stdout
    usage, spills = USAGE.search(messages), SPILLS.search(messages)
    if usage is None or spills is None:
        raise ValueError(f"ptxas says nothing of registers:\n{messages}")
    found = tuple(dict.fromkeys(PRODUCT_MESSAGE.findall(messages)))
    stores, loads = (int(size) for size in spills.groups())
    return Inspection(int(usage[1]), stores, loads, shared, found, read_code(code))


def _tool(name: str) -> str:
    from triton import knobs  # late: only what compiles needs Triton

    tool = {"ptxas": knobs.nvidia.ptxas, "nvdisasm": knobs.nvidia.nvdisasm}[name]
    return str(tool.path)


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise ValueError(f"{Path(command[0]).name} failed:\n{result.stdout}{result.stderr}")
    return result


def read_code(code: str) -> Instructions:
    """What counts in a disassembly."""
    left = PRODUCT.findall(code)
    counts = {
        name: len(re.findall(rf"\b{pattern}", code))
        for name, pattern in {
            "loads": "UTMALDG",
            "stores": "UTMASTG",
            "reductions": "UTMAREDG",
            "local_accesses": r"(?:STL|LDL)\b",
            "barriers": r"BAR\.(?:SYNC|ARV)",
        }.items()
    }
    return Instructions(
        length=len(INSTRUCTION.findall(code)),
        products_of_shared=left.count("gdesc"),
        products_of_registers=len(left) - left.count("gdesc"),
        waits=tuple(_waits(code)),
        register_changes=tuple(int(count, 16) for count in REGISTER_CHANGE.findall(code)),
        **counts,
    )


def _waits(code: str) -> list[Wait]:
    waits, start = [], 0
    for wait in WAIT.finditer(code):
        waits.append(Wait(int(wait[1], 16), code.count("MUFU.EX2", start, wait.start())))
        start = wait.end()
    return waits
