"""Writes the generated parts of tour.md: `python docs/make_tour.py` from the root of the repository.

The prose is in tour.md itself. Between `<!-- generated: NAME -->` and `<!-- end -->` stands what the function NAME of
this file returns; a test compares, so that the page cannot drift from the code.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch

import attncc
from attncc import pipeline
from attncc.analysis import Interval, classify, depends
from attncc.ir import Op, postorder, print_expr
from attncc.passes import derive, simplify
from attncc.report.blocks import draw_blocks
from attncc.schedule import TORCH_CPU, Facts, Gradients, Problem

PAGE = Path(__file__).with_name("tour.md")
PLACE = re.compile(r"(<!-- generated: (\w+) -->\n```\w+\n)(.*?)(```\n<!-- end -->)", re.DOTALL)
TEXT = """\
attention tour(window: int = 256):
  capture slopes: float[heads]
  distance = q_idx - kv_idx
  mask = distance >= 0
  score = where(distance < window, score - slopes[h] * distance, -inf)
"""


def from_python() -> attncc.Variant:
    """The variant of the tour as Python functions."""
    window, slopes = 256, torch.ones(4)

    def causal(b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]  # as users write it
        return q_idx - kv_idx >= 0

    def biased(score, b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]  # as users write it
        distance = q_idx - kv_idx
        return torch.where(distance < window, score - slopes[h] * distance, -torch.inf)

    return attncc.compile(biased, causal, name="tour")


@cache
def variant() -> attncc.Variant:
    """The variant of the tour."""
    return attncc.loads(TEXT)


@cache
def stages() -> dict[str, object]:
    """What each stage of the compiler returns, by name."""
    seen: dict[str, object] = {}
    sizes = {"heads": 4, "kv_heads": 4, "facts": Facts(1, 2048, 2048, ((4,),), (256,))}
    problem = Problem(capture_dtypes=("float32",), gradients=Gradients(captures=(True,)), **sizes)
    seen["lowered"] = pipeline.lower(variant().spec, problem, TORCH_CPU, observe=seen.__setitem__)
    return seen


def text() -> str:
    """What the user writes."""
    return TEXT


def same() -> str:
    """Whether the two front ends agree."""
    ours, theirs = variant().spec, from_python().spec
    return f"same score: {ours.score is theirs.score}\nsame mask: {ours.mask is theirs.mask}"


def nodes() -> str:
    """The score as nodes, arguments first."""
    order = postorder(variant().spec.score)
    number = {expr: i for i, expr in enumerate(order)}
    rows = []
    for expr, i in number.items():
        args = " ".join(f"%{number[arg]}" for arg in expr.args)
        what = f"{expr.op.value} {expr.value if expr.value is not None else ''}".strip()
        rows.append(f"%{i:<2} {expr.scalar!s:<5}  {what:<15} {args}".rstrip())
    return "\n".join(rows)


def lifted() -> str:
    """The spec after lifting and simplification."""
    return attncc.print_spec(_lowered().canonical)


def derivatives() -> str:
    """The derivatives that the backward pass needs."""
    score = _lowered().canonical.score
    (read,) = [expr for expr in postorder(score) if expr.op is Op.LOAD]
    rows = [("score", next(e for e in postorder(score) if e.value == "score")), ("slopes[h]", read)]
    return "\n".join(f"d score / d {name:<9} = {print_expr(simplify(derive(score, wrt)))}" for name, wrt in rows)


def dependence() -> str:
    """What each part depends on."""
    canonical = _lowered().canonical
    parts = [expr for root in (canonical.mask, canonical.score) for expr in postorder(root)]
    wanted = [expr for expr in dict.fromkeys(parts) if expr.op not in (Op.CONST, Op.INPUT, Op.PARAM)]
    rows = {print_expr(expr): ", ".join(sorted(depends(expr))) or "nothing" for expr in wanted}
    width = max(map(len, rows))
    return "\n".join(f"{shown:<{width}}  {names}" for shown, names in rows.items())


def tiles() -> str:
    """The test of a tile, and a few tiles that it is put to."""
    test = _lowered().tile_test
    rows = [f"visit: {print_expr(test.visit)}", f"full:  {print_expr(test.full)}", ""]
    for q_min, kv_min in ((0, 0), (0, 256), (512, 256), (512, 384), (1024, 0)):
        q, kv = Interval(q_min, q_min + 127), Interval(kv_min, kv_min + 127)
        found = classify(_lowered().canonical.mask, q, kv, {"window": 256})
        box = f"q {q.lo}..{q.hi}, kv {kv.lo}..{kv.hi}"
        rows.append(f"{box:<28} {found.name:<8} {found.value}")
    return "\n".join(rows)


def picture() -> str:
    """The mask in a terminal."""
    drawn = variant().picture(1024, 1024, heads=4, block_m=64, block_n=64, slopes=torch.ones(4))
    return "\n".join(line.rstrip() for line in draw_blocks(drawn, width=48, color=False).plain.split("\n"))


def schedule() -> str:
    """The choices and their reasons."""
    return "\n".join(_lowered().schedule.reasons)


def kernel() -> str:
    """The generated forward pass."""
    return _lowered().forward.text


def backward() -> str:
    """The generated backward pass."""
    found = _lowered().backward
    assert found is not None
    return found.text


def result() -> str:
    """A call, beside the reference."""
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 4, 600, 32, requires_grad=True) for _ in range(3))
    slopes = torch.rand(4, requires_grad=True)
    wanted = (q, k, v, slopes)
    ours, theirs = (_out_and_gradients(backend, wanted) for backend in ("torch", "reference"))
    rows = []
    for name, one, other in zip(("out", "grad q", "grad k", "grad v", "grad slopes"), ours, theirs, strict=True):
        close = torch.allclose(one, other, rtol=1e-4, atol=1e-5 * max(1.0, float(other.abs().max())))
        rows.append(f"{name:<12} {list(one.shape)!s:<16} agrees: {close}")
    return "\n".join(rows)


def _out_and_gradients(backend: str, wanted: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
    q, k, v, slopes = wanted
    out = variant()(q, k, v, slopes=slopes, backend=backend)
    return [out.detach(), *torch.autograd.grad(out.square().sum(), wanted)]


def explanation() -> str:
    """What `explain` prints."""
    q = torch.empty(1, 4, 2048, 64, requires_grad=True)
    return str(variant().explain(q, q, q, slopes=torch.ones(4, requires_grad=True)))


def _lowered() -> pipeline.Lowered:
    found = stages()["lowered"]
    assert isinstance(found, pipeline.Lowered)
    return found


PARTS: dict[str, Callable[[], str]] = {
    part.__name__: part
    for part in (
        *(text, same, nodes, lifted, derivatives, dependence, tiles, picture),
        *(schedule, kernel, backward, result, explanation),
    )
}


def render(page: str) -> str:
    """The page with its generated parts as they are now."""
    return PLACE.sub(lambda found: f"{found[1]}{PARTS[found[2]]().rstrip()}\n{found[4]}", page)


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
