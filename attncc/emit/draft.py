"""What the plans of torch kernels share: names, reads of captures, and the classification of tiles.

A `Draft` is one kernel in the making: it owns the printer, knows how each input and captured tensor is written, and
prints the tile test of the mask.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from typing import Final

from attncc.analysis.shape import depends, side
from attncc.analysis.tiles import TileTest
from attncc.emit.names import Namer
from attncc.emit.printer import Line, Place, Printer, Text
from attncc.emit.spelling import TORCH
from attncc.emit.templates import identifiers
from attncc.ir import AttentionSpec, Expr, Op, Origin, Scalar
from attncc.schedule import size_name

PAIR_AXES: Final = frozenset({"b", "h", "q_idx", "kv_idx"})
SETUP = Place("setup", frozenset())
GROUP = Place("group", frozenset({"b", "h"}))
ROW = Place("row", frozenset({"b", "h", "q_idx"}))
TILE = Place("tile", PAIR_AXES | {"score"})
PARTIAL = Place("partial", PAIR_AXES)
STATISTICS = Place("statistics", PAIR_AXES)
TILE_CHAIN = (SETUP, GROUP, ROW, TILE)
PARTIAL_CHAIN = (SETUP, GROUP, ROW, PARTIAL)

#: How inputs are called, and the line that makes each where it is used.
INDEX_LINES: Final = {
    "b": "b = torch.arange(b_range.start, b_range.stop, device=device)[:, None, None, None]",
    "h": "h = torch.arange(h_range.start, h_range.stop, device=device)[:, None, None]",
    "q_idx": "q_idx = torch.arange(q0, q1, device=device)[:, None]",
    "kv_idx": "kv_idx = torch.arange(kv0, kv1, device=device)",
    "kv_cut": "kv_cut = torch.arange(kv_from, kv_to, device=device)",
    "q_all": "q_all = torch.arange(q_len, device=device)",
    "kv_all": "kv_all = torch.arange(kv_len, device=device)",
    "q_min": "q_min = torch.tensor(q0)",
    "q_max": "q_max = torch.tensor(q1 - 1)",
    "kv_min": "kv_min = torch.arange(0, kv_len, TILE_KV, device=device)",
    "kv_max": "kv_max = (torch.arange(0, kv_len, TILE_KV, device=device) + (TILE_KV - 1)).clamp(max=kv_len - 1)",
    "batch_size": "batch_size = torch.tensor(batch)",
    "head_count": "head_count = torch.tensor(heads)",
    "query_count": "query_count = torch.tensor(q_len)",
    "key_count": "key_count = torch.tensor(kv_len)",
}
SIZE_LEAVES: Final = {"batch": "batch_size", "heads": "head_count", "q_len": "query_count", "kv_len": "key_count"}
#: The part of a captured tensor that a tile reads, where it has an axis for each of these inputs.
PAIR_SLICES: Final = {"b": "b_range", "h": "h_range", "q_idx": "q0:q1", "kv_idx": "kv0:kv1"}
TORCH_DTYPES: Final = {Scalar.INDEX: "int64", Scalar.BOOL: "bool"}


WORD: Final = re.compile(r"\w+")
#: What generated code imports, beside what its template names.
HELPERS: Final = ("add_at", "gather", "hold", "refuse_outside", "AllTiles", "Rules", "Tiles", "FLOAT", "NEG_INF")


class Draft:
    """One kernel in the making. `holding` says that every index of a capture is held inside, proven or not."""

    def __init__(
        self,
        template: str,
        spec: AttentionSpec,
        test: TileTest,
        dtypes: Sequence[str],
        accumulator: str,
        origins: Mapping[Expr, Origin],
        *,
        readable: bool,
        demand: Counter[Expr] | None = None,
    ) -> None:
        self.spec, self.test, self.accumulator = spec, test, accumulator
        namer = Namer({*identifiers(template), *INDEX_LINES, *HELPERS})
        self.captures = {c.name: namer.take(c.name if readable else "capture") for c in spec.captures}
        self.parameters = {p.name: namer.take(p.name if readable else "parameter") for p in spec.parameters}
        self.dtypes = dict(zip((c.name for c in spec.captures), dtypes, strict=True))
        self.unproven: Collection[Expr] = ()
        self.holding = False
        leaves = {name: name for name in ("score", "b", "h", "q_idx", "kv_idx", "q_min", "q_max", "kv_min", "kv_max")}
        leaves |= {**SIZE_LEAVES, **self.parameters}
        self.extents = {
            size_name(c.name, dim): namer.take(f"{self.captures[c.name]}_size_{dim}")
            for c in spec.captures
            for dim in range(c.rank)
        }
        leaves |= self.extents
        self.printer = Printer(TORCH, namer, leaves, self.read, origins if readable else {}, demand, self.captures)

    def tiles_differ_by(self, axis: str) -> bool:
        """Whether the classes of tiles depend on the sequence (`b`) or the head (`h`)."""
        roots = (self.test.visit, self.test.full, *(s.expr for s in self.test.statistics))
        return any(axis in depends(root) for root in roots)

    def read(self, load: Expr, index: Sequence[Text]) -> str:
        """The text that reads a captured tensor; an index that is not proven is held inside."""
        name = str(load.value)
        table = self.captures[name]
        self.printer.used.add(table)
        if self.holding or load in self.unproven:
            texts = [f"hold({t}, {table}, {d})" for d, t in enumerate(self.as_tensors(load, index))]
        else:
            texts = self.as_tensors(load, index)
        text = f"{table}[{', '.join(texts)}]" if texts else table
        if self.slices(load):
            text = f"{table}[{self.slices(load)}]"
        elif texts and side(load) == "pair":
            text = f"gather({table}, {', '.join(texts)})"
        wanted = TORCH_DTYPES.get(load.scalar, self.accumulator)
        have = self.dtypes[name]
        keeps = have == wanted or (have == "float64" and load.scalar is Scalar.FLOAT)
        return text if keeps else f"{text}.to(torch.{wanted})"

    def slices(self, load: Expr) -> str:
        """The slices that hold what a tile reads, where a captured tensor has an element for each pair; else empty."""
        if self.holding or load in self.unproven or side(load) != "pair":
            return ""
        names = [str(arg.value) if arg.op is Op.INPUT else "" for arg in load.args]
        if names != [axis for axis in PAIR_SLICES if axis in names]:
            return ""
        cut = self.printer.leaves["kv_idx"] == "kv_cut"
        own = {**PAIR_SLICES, "kv_idx": "kv_from:kv_to"} if cut else PAIR_SLICES
        return ", ".join(text if axis in names else "None" for axis, text in own.items())

    def as_tensors(self, load: Expr, index: Sequence[Text]) -> list[str]:
        """The texts of the indices; a constant becomes a tensor."""
        return [
            TORCH.tensor(arg.value) if isinstance(arg.value, int) and arg.op is Op.CONST else text.text
            for arg, text in zip(load.args, index, strict=True)
        ]

    def mentions(self, body: Iterable[object]) -> set[str]:
        """The words of what has been printed."""
        blocks = [str(line) for lines in self.printer.lines.values() for line in lines]
        return set(WORD.findall("\n".join([*blocks, *map(str, body)])))

    def indices(self, used: Container[str], *names: str) -> list[Line]:
        """The lines that make those of the named index tensors that are used."""
        return [Line(INDEX_LINES[name]) for name in names if name in used]

    def used_setup(self, used: Container[str]) -> list[Line]:
        """Captures and parameters by name, and sizes as tensors, where anything reads them."""
        sizes = [(c.name, dim) for c in self.spec.captures for dim in range(c.rank)]
        extents = [(self.extents[size_name(*size)], *size) for size in sizes]
        sized = {self.captures[name] for text, name, _ in extents if text in used}  # also where nothing else is read
        tables = [
            Line(f"{name} = captures[{i}]")
            for i, name in enumerate(self.captures.values())
            if name in used or name in sized
        ]
        lines = [
            Line(f"{name} = torch.tensor(parameters[{i}])")
            for i, name in enumerate(self.parameters.values())
            if name in used
        ]
        lines += [
            Line(f"{text} = torch.tensor({self.captures[name]}.shape[{dim}])")
            for text, name, dim in extents
            if text in used
        ]
        return tables + lines + self.indices(used, "batch_size", "head_count", "query_count", "key_count")

    def group_lines(self) -> list[Line]:
        """What is known once per group of heads."""
        return self.printer.lines.get("group", [])
