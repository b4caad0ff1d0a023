"""Small Triton kernels for the tests of building, keeping and launching, written by hand."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from attncc.emit.kernel import Argument, TritonKernel

HEAD = '"""A kernel of the tests."""\n\nimport triton\nimport triton.language as tl\n\n'

ADD = """
@triton.jit
def add(x, y, out, n, scale, TILE: tl.constexpr):
    at = tl.program_id(0) * TILE + tl.arange(0, TILE)
    tl.store(out + at, tl.load(x + at, mask=at < n) + tl.load(y + at, mask=at < n) * scale, mask=at < n)
"""

#: Every type of argument that a launch passes, at odd places of the parameter space.
MIXED = """
@triton.jit
def mixed(out, small, wide, flag, ratio, middle, exact, last):
    tl.store(out + 0, small.to(tl.float64))
    tl.store(out + 1, wide.to(tl.float64))
    tl.store(out + 2, flag.to(tl.float64))
    tl.store(out + 3, ratio.to(tl.float64))
    tl.store(out + 4, middle.to(tl.float64))
    tl.store(out + 5, exact)
    tl.store(out + 6, tl.load(last).to(tl.float64))
"""

#: Softmax attention over one tile of keys at a time; D and the tiles are powers of two.
ATTEND = """
LOG2E: tl.constexpr = tl.constexpr(1.4426950408889634)


@triton.jit
def step(state, kv_idx, rows, kv_len, MASKED: tl.constexpr):
    s, best, total = state
    if MASKED:
        s = tl.where((rows[:, None] >= kv_idx[None, :]) & (kv_idx < kv_len)[None, :], s, float("-inf"))
    top = tl.maximum(best, tl.max(s, 1))
    p = tl.math.exp2(s - top[:, None])
    shrink = tl.math.exp2(best - top)
    return p, top, total * shrink + tl.sum(p, 1), shrink


@triton.jit
def attend(q, k, v, out, scale, q_len, kv_len, row, TQ: tl.constexpr, TK: tl.constexpr, D: tl.constexpr):
    rows = tl.program_id(0) * TQ + tl.arange(0, TQ)
    d = tl.arange(0, D)
    place = tl.program_id(1).to(tl.int64) * row
    query = tl.load(q + place + rows[:, None] * D + d[None, :], mask=rows[:, None] < q_len, other=0.0)
    best = tl.full([TQ], -1e30, tl.float32)
    total = tl.zeros([TQ], tl.float32)
    acc = tl.zeros([TQ, D], tl.float32)
    for start in tl.range(0, tl.minimum(kv_len, (tl.program_id(0) + 1) * TQ), TK):
        kv_idx = start + tl.arange(0, TK)
        key = tl.load(k + place + kv_idx[:, None] * D + d[None, :], mask=kv_idx[:, None] < kv_len, other=0.0)
        value = tl.load(v + place + kv_idx[:, None] * D + d[None, :], mask=kv_idx[:, None] < kv_len, other=0.0)
        s = tl.dot(query, key.T) * (scale * LOG2E)
        p, best, total, shrink = step((s, best, total), kv_idx, rows, kv_len, True)
        acc = tl.dot(p.to(value.dtype), value, acc * shrink[:, None])
    tl.store(out + place + rows[:, None] * D + d[None, :], (acc / total[:, None]).to(out.dtype.element_ty),
             mask=rows[:, None] < q_len)
"""


@dataclass(frozen=True)
class Text:
    """What the emitter's KernelSource will be: a name, a text, and a digest of the program."""

    name: str
    text: str

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()


def pointers(names: str, scalar: str) -> tuple[Argument, ...]:
    return tuple(Argument(name, f"*{scalar}", divisible=True) for name in names.split())


def add_kernel(tile: int = 1024, name: str = "add", comment: str = "") -> TritonKernel:
    arguments = (*pointers("x y out", "fp32"), Argument("n", "i32"), Argument("scale", "fp32"))
    return TritonKernel(
        Text(name, HEAD + comment + ADD), "add", (*arguments, Argument("TILE", "constexpr", value=tile)), num_warps=4
    )


def mixed_kernel() -> TritonKernel:
    types = ["small:i32", "wide:i64", "flag:i1", "ratio:fp32", "middle:i32", "exact:fp64", "last:*i64"]
    arguments = [Argument(*pair.split(":")) for pair in types]
    return TritonKernel(Text("mixed", HEAD + MIXED), "mixed", (*pointers("out", "fp64"), *arguments), num_warps=1)


def attend_kernel(
    scalar: str = "bf16", d: int = 64, tq: int = 64, tk: int = 64, warps: int = 4, stages: int = 2
) -> TritonKernel:
    arguments = (
        *pointers("q k v out", scalar),
        Argument("scale", "fp32"),
        Argument("q_len", "i32"),
        Argument("kv_len", "i32"),
        Argument("row", "i64", divisible=True),
        *(Argument(name, "constexpr", value=value) for name, value in (("TQ", tq), ("TK", tk), ("D", d))),
    )
    return TritonKernel(Text("attend", HEAD + ATTEND), "attend", arguments, warps, stages)


def broken_kernel(line: str = "    x = tl.nothing(n)") -> TritonKernel:
    body = (
        f"@triton.jit\ndef broken(out, n):\n    # a comment, so that lines are counted\n{line}\n    tl.store(out, x)\n"
    )
    text = f"{HEAD}\n{body}"
    return TritonKernel(Text("broken", text), "broken", (*pointers("out", "i32"), Argument("n", "i32")))
