"""From Triton's words to Gluon's, and what Gluon calls the types of tensors that the TMA loads."""

from __future__ import annotations

import re
from typing import Final

from attncc.emit.triton.expressions import pointer_type

#: What Triton's language has and Gluon's lacks, as functions of a kernel.
MISSING: Final[dict[str, str]] = {
    "sigmoid": """
@triton.jit
def sigmoid(x):
    \"\"\"1 / (1 + exp(-x)).\"\"\"
    return 1.0 / (1.0 + tl.exp(-x))
""",
}
_CONSTANT: Final = re.compile(r"tl\.full\(\[1, 1\], ([^,]+), tl\.\w+\)")


def to_gluon(text: str) -> str:
    """Expressions and functions written for Triton, in Gluon, whose language repeats the names that they use."""
    text = _CONSTANT.sub(r"gl.to_tensor(\1)", text)
    text = re.sub(rf"\btl\.({'|'.join(MISSING)})\(", r"\1(", text)
    text = re.sub(r"\btl\.(?!PropagateNan)", "gl.", text)
    text = text.replace("@triton.jit", "@gluon.jit")
    return (
        text.replace("import triton\n", "import triton\nimport triton.language as tl\n", 1) if "tl." in text else text
    )


def descriptor_type(dtype: str, rows: int, columns: int) -> str:
    """The type of a tensor [B, H, N, D] that the TMA moves in tiles of rows x columns, as Triton writes it."""
    element = pointer_type(dtype).removeprefix("*")
    layout = (
        "NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=16, rank=4, transposed=False, fp4_padded=False, "
        "cga_layout=[])"
    )
    return f"tensordesc<{element}[1, 1, {rows}, {columns}],{layout}>"


def row_type(rows: int) -> str:
    """The type of a tensor [B * H, N] of float32 that the TMA moves in pieces of a row, as Triton writes it."""
    layout = (
        "NVMMASharedLayout(swizzle_byte_width=0, element_bitwidth=32, rank=2, transposed=False, fp4_padded=False, "
        "cga_layout=[])"
    )
    return f"tensordesc<fp32[1, {rows}],{layout}>"


def sum_type(rows: int, columns: int) -> str:
    """The type of a tensor [B * H, N, D] of float32 to which the TMA adds tiles, as Triton writes it."""
    layout = (
        "NVMMASharedLayout(swizzle_byte_width=128, element_bitwidth=32, rank=3, transposed=False, fp4_padded=False, "
        "cga_layout=[])"
    )
    return f"tensordesc<fp32[1, {rows}, {columns}],{layout}>"
