"""The part of a Triton variant that torch computes: what tiles are judged by, and where sums of gradients belong.

Both are linear in the length. The text is a module of two functions, `statistics` and `collect`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from attncc.emit.gradients import Derivatives, capture_gradient_lines
from attncc.emit.names import Namer
from attncc.emit.printer import Line, Place, Printer, Text
from attncc.emit.render import KernelSource, tidy
from attncc.emit.spelling import TORCH
from attncc.emit.templates import fill, identifiers
from attncc.emit.triton.expressions import EVERYTHING
from attncc.emit.triton.kernels import Variant
from attncc.ir import Expr, Op, Scalar, const

POSITIONS = (
    "b = torch.arange(batch, device=device)[:, None, None, None]",
    "h = torch.arange(heads, device=device)[:, None, None]",
    "q_idx = torch.arange(q_len, device=device)[:, None]",
    "kv_idx = torch.arange(kv_len, device=device)",
)
_WANTED = {Scalar.INDEX: "int64", Scalar.BOOL: "bool", Scalar.FLOAT: "float32"}


def emit_host(variant: Variant, sums: Sequence[Expr]) -> KernelSource | None:
    """The module for a variant; `sums` are the reads whose gradients kernels sum. None where there is nothing to do."""
    if not variant.test.statistics and not sums:
        return None
    text = _Host(variant).text(sums)
    return KernelSource(f"{variant.spec.name}_host", text, hashlib.sha256(text.encode()).hexdigest())


class _Host:
    """One module in the making."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        spec = variant.spec
        namer = Namer({*identifiers("triton/host"), "b", "h", "q_idx", "kv_idx"})
        self.captures = {c.name: namer.take(c.name) for c in spec.captures}
        parameters = {p.name: namer.take(p.name) for p in spec.parameters}
        self.dtypes = dict(zip((c.name for c in spec.captures), variant.problem.capture_dtypes, strict=True))
        names = ("b", "h", "q_idx", "kv_idx")
        sizes = {name: f"torch.tensor({name})" for name in ("batch", "heads", "q_len", "kv_len")}
        leaves = {**{name: name for name in names}, **sizes, **parameters}
        self.printer = Printer(TORCH, namer, leaves, self.read)
        self.positions = [*POSITIONS, *(f"{name} = captures[{i}]" for i, name in enumerate(self.captures.values()))]
        self.positions += [f"{n} = torch.tensor(parameters[{i}])" for i, n in enumerate(parameters.values())]

    def read(self, load: Expr, index: Sequence[Text]) -> str:
        """A captured value; an index that lies outside reads the nearest end, since no visible pair has it."""
        table = self.captures[str(load.value)]
        texts = []
        for d, (arg, place) in enumerate(zip(load.args, index, strict=True)):
            constant = arg.op is Op.CONST and isinstance(arg.value, int)
            texts.append(str(arg.value) if constant else f"hold({place.text}, {table}, {d})")
        text = f"{table}[{', '.join(texts)}]" if texts else table
        have, wanted = self.dtypes[str(load.value)], _WANTED[load.scalar]
        return text if have == wanted or have == "float64" else f"{text}.to(torch.{wanted})"

    def text(self, sums: Sequence[Expr]) -> str:
        """The module as text."""
        everything = Place("statistics", EVERYTHING)
        roots = [s.expr for s in self.variant.test.statistics]
        found = self.printer.print((everything,), *roots) if roots else {}
        values = ", ".join(found[root].text for root in roots)
        shares = self.shares(sums)
        values_of = {
            "docstring": ['"""What torch computes around the kernels of a variant."""', ""],
            "positions": self.positions,
            "statistics": self.printer.lines.get("statistics", []),
            "values": values,
            **shares,
        }
        return tidy(fill("triton/host", values_of))

    def shares(self, sums: Sequence[Expr]) -> dict[str, object]:
        """The lines that add each sum to the gradient of its capture."""
        given = self.variant.derivatives
        if given is None:
            return {"totals": [], "shares": [], "results": ""}
        place = Place("collect", EVERYTHING)
        derivatives = Derivatives(const(1.0), {load: const(1.0) for load in sums}, given.gradients, given.captures)
        indices = [i for load in sums for i in load.args if i.op is not Op.CONST]
        found = self.printer.print((place,), named=list(dict.fromkeys(indices))) if indices else {}
        texts = {expr: text.text for expr, text in found.items()} | {const(1.0): "1.0"}
        lines: list[Line] = list(self.printer.lines.get("collect", []))
        for i, load in enumerate(sums):
            one = Derivatives(const(1.0), {load: const(1.0)}, given.gradients, given.captures)
            lines.append(Line(f"grad_score = sums[{i}]"))
            lines += capture_gradient_lines(one, texts, self.captures)
        wanted = [name if want else "None" for name, want in zip(self.captures, given.gradients.captures, strict=True)]
        results = [name if name == "None" else f"grad_{self.captures[name]}" for name in wanted]
        return {"totals": derivatives.totals(self.captures), "shares": lines, "results": ", ".join(results)}
