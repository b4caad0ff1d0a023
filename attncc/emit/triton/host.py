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
from attncc.emit.triton.kernels import DISTANCE, Variant, along_diagonal
from attncc.emit.triton.layout import wrap
from attncc.ir import Q_IDX, Expr, Op, Scalar, const, node, substitute
from attncc.schedule.guards import size_name

POSITIONS = (
    "b = torch.arange(batch, device=device)[:, None, None, None]",
    "h = torch.arange(heads, device=device)[:, None, None]",
    "q_idx = torch.arange(q_len, device=device)[:, None]",
    "kv_idx = torch.arange(kv_len, device=device)",
)
_WANTED = {Scalar.INDEX: "int64", Scalar.BOOL: "bool", Scalar.FLOAT: "float32"}


def emit_host(variant: Variant) -> KernelSource | None:
    """The module for a variant; None where there is nothing to do."""
    if not variant.test.statistics and not variant.loads:
        return None
    text = _Host(variant).text()
    return KernelSource(f"{variant.spec.name}_host", text, hashlib.sha256(text.encode()).hexdigest())


class _Host:
    """One module in the making."""

    def __init__(self, variant: Variant) -> None:
        self.variant = variant
        spec = variant.spec
        self.namer = Namer({*identifiers("triton/host"), "b", "h", "q_idx", "kv_idx"})
        self.captures = {c.name: self.namer.take(c.name) for c in spec.captures}
        parameters = {p.name: self.namer.take(p.name) for p in spec.parameters}
        self.dtypes = dict(zip((c.name for c in spec.captures), variant.problem.capture_dtypes, strict=True))
        names = {name: name for name in ("b", "h", "q_idx", "kv_idx")}
        sizes = {name: f"torch.tensor({name})" for name in ("batch", "heads", "q_len", "kv_len")}
        shapes = {
            size_name(c.name, d): f"torch.tensor({self.captures[c.name]}.shape[{d}])"
            for c in spec.captures
            for d in range(c.rank)
        }
        self.leaves = {**names, **sizes, **shapes, **parameters}
        self.positions = [*POSITIONS, *(f"{name} = captures[{i}]" for i, name in enumerate(self.captures.values()))]
        self.positions += [f"{n} = torch.tensor(parameters[{i}])" for i, n in enumerate(parameters.values())]

    def printed(self, *roots: Expr, named: bool, along: str = "q_idx") -> tuple[list[Line], dict[Expr, str]]:
        """The lines and texts of expressions over whole positions; `along` is what stands for q_idx."""
        printer = Printer(TORCH, self.namer, {**self.leaves, "q_idx": along}, self.read)
        place = Place("everywhere", EVERYTHING)
        roots = tuple(dict.fromkeys(roots))
        if not roots:
            return [], {}
        found = printer.print((place,), named=roots) if named else printer.print((place,), *roots)
        return printer.lines[place.name], {expr: text.text for expr, text in found.items()}

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

    def text(self) -> str:
        """The module as text."""
        roots = [s.expr for s in self.variant.test.statistics]
        lines, texts = self.printed(*roots, named=False)
        values = {
            "docstring": ['"""What torch computes around the kernels of a variant."""', ""],
            "positions": self.positions,
            "statistics": lines,
            "values": ", ".join(texts[root] for root in roots),
        }
        text = tidy(fill("triton/host", values | self.gradients()))
        return "\n".join(row for line in text.split("\n") for row in wrap(line))

    def gradients(self) -> dict[str, object]:
        """The lines that add each sum to the gradient of its capture."""
        variant, given = self.variant, self.variant.derivatives
        if given is None:
            return {"totals": [], "shares": [], "pair_shares": [], "results": "totals", "unpacked": []}
        along = [node(load.op, _along(load), load.value, load.scalar) for load in variant.diagonal_sums]
        sides = [*variant.row_sums, *variant.column_sums]
        shares = self.shares(sides, "sums", 0) + self.shares(along, "sums", len(sides), "distance")
        rows = zip(given.captures, given.gradients.captures, strict=True)
        results = [f"grad_{self.captures[name]}" if want else f"no_{i}" for i, (name, want) in enumerate(rows)]
        nothing = [f"{name} = None" for name in results if name.startswith("no_")]
        names = ", ".join(results) + ("," if len(results) == 1 else "")
        return {
            "totals": [*given.totals(self.captures), *nothing],
            "shares": shares,
            "pair_shares": self.shares(variant.pair_sums, "pairs", 0),
            "results": names,
            "unpacked": [f"{names} = totals"] if results else [],
        }

    def shares(self, loads: Sequence[Expr], source: str, first: int, along: str = "q_idx") -> list[Line]:
        """The lines that add sums, from number `first`, at the indices of these reads."""
        given = self.variant.derivatives
        assert given is not None
        lines, texts = self.printed(
            *(i for e in loads for i in e.args if i.op is not Op.CONST), named=True, along=along
        )
        texts |= {const(1.0): "1.0"}
        for i, load in enumerate(loads):
            one = Derivatives(const(1.0), {load: const(1.0)}, given.gradients, given.captures)
            lines.append(Line(f"grad_score = {source}[{first + i}]"))
            lines += capture_gradient_lines(one, texts, self.captures)
        return lines


def _along(load: Expr) -> tuple[Expr, ...]:
    """The indices of a read along diagonals, with q_idx in the place of the distance."""
    indices = along_diagonal(load)
    assert indices is not None
    return tuple(substitute(index, {DISTANCE: Q_IDX}) for index in indices)
