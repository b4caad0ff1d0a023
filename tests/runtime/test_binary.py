"""What a binary says of itself is what NVIDIA's and AMD's own tools say."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from attncc.errors import InternalError
from attncc.runtime.binary import Parameter, read_amdgcn, read_cubin
from attncc.runtime.triton_build import compile_entry, layout
from tests.runtime.kernels import attend_kernel, mixed_kernel

triton = pytest.importorskip("triton")
TOOL = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"

KERNELS = {
    "mixed": mixed_kernel(),
    "attend": attend_kernel(),
    "spilling": attend_kernel(d=128, tq=128, tk=64, warps=2, stages=1),
}


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize("name", KERNELS)
def test_a_cubin_says_what_cuobjdump_says(name, target, tmp_path):
    entry = compile_entry(KERNELS[name], target)
    symbol = entry.facts["name"]
    facts = read_cubin(entry.files["kernel.cubin"], symbol)
    file = tmp_path / "kernel.cubin"
    file.write_bytes(entry.files["kernel.cubin"])
    said = subprocess.run([TOOL, "-res-usage", "-elf", file], capture_output=True, text=True, check=True).stdout
    usage = re.search(rf"Function {symbol}:\s+REG:(\d+) STACK:(\d+) SHARED:(\d+)", said)
    assert usage is not None
    assert (facts.registers, facts.local, facts.shared) == tuple(map(int, usage.groups()))
    places = re.findall(r"Ordinal : 0x(\w+)\s+Offset  : 0x(\w+)\s+Size    : 0x(\w+)", said)
    shown = {int(ordinal, 16): Parameter(int(offset, 16), int(size, 16)) for ordinal, offset, size in places}
    assert facts.parameters == tuple(shown[ordinal] for ordinal in sorted(shown))
    assert (facts.local > 0) == (name == "spilling")


def test_amd_assembly_says_what_its_metadata_says():
    text = """
    .vgpr_count: 7
	.amdgpu_metadata
amdhsa.kernels:
  - .agpr_count:     32
    .args:
      - .address_space:  global
        .offset:         0
        .size:           8
      - .offset:         8
        .size:           4
    .group_segment_fixed_size: 16
    .private_segment_fixed_size: 12
    .sgpr_spill_count: 5
    .vgpr_count:     208
    .vgpr_spill_count: 3
"""
    facts = read_amdgcn(text, "kernel")
    assert (facts.registers, facts.local, facts.shared) == (208, 12, 16)
    assert facts.parameters == (Parameter(0, 8), Parameter(8, 4))
    with pytest.raises(InternalError, match="does not state its"):
        read_amdgcn("", "kernel")


@pytest.mark.parametrize("data", [b"", b"\x7fELF", b"\x7fELF\x02\x01" + bytes(100)])
def test_what_is_no_cubin_is_an_error_of_ours(data):
    with pytest.raises(InternalError, match="cannot be read"):
        read_cubin(data, "kernel")


def test_arguments_lie_at_multiples_of_their_size():
    places = layout(("i1", "i64", "i16", "*bf16", "fp32"))
    assert [place.offset for place in places] == [0, 8, 16, 24, 32, 40, 48]
