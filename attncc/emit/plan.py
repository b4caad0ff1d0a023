"""From a spec and a schedule to everything that a template asks for: a `KernelPlan`.

Which expression is printed where, under which name, with which guards: all questions are answered here, so that a
template only fills holes. A plan is made twice for each kernel, once with the user's names to be read, once with
canonical ones for the digest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from attncc.analysis.shape import depends
from attncc.analysis.tiles import TileTest
from attncc.emit.gradients import Derivatives, capture_gradient_lines, score_gradient_lines
from attncc.emit.names import Namer
from attncc.emit.printer import Line, Place, Printer, Text, score_demand
from attncc.emit.spelling import TORCH
from attncc.emit.templates import identifiers
from attncc.ir import SCORE, TRUE, AttentionSpec, Expr, Op, Scalar, apply
from attncc.schedule import Problem, Schedule, loads_of

PAIR_AXES: Final = frozenset({"b", "h", "q_idx", "kv_idx"})
SETUP = Place("setup", frozenset())
GROUP = Place("group", frozenset({"b", "h"}))
ROW = Place("row", frozenset({"b", "h", "q_idx"}))
TILE = Place("tile", PAIR_AXES | {"score"})
PARTIAL = Place("partial", PAIR_AXES)
STATISTICS = Place("statistics", PAIR_AXES)
TEST = Place("test", PAIR_AXES)
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
TORCH_DTYPES: Final = {Scalar.INDEX: "int64", Scalar.BOOL: "bool"}


@dataclass(frozen=True, slots=True)
class KernelPlan:
    """What one template is filled with. Tuples hold whole lines; texts are pieces of expressions."""

    template: str
    name: str
    docstring: tuple[str, ...]
    accumulator: str
    tile_q: int
    tile_kv: int
    scores_per_step: int
    by_batch: bool
    by_head: bool
    masked: bool  # whether any pair may be hidden
    multiplies: bool  # whether the score is used at all
    guarded: bool  # whether an index of a capture may leave its tensor
    overwrites: bool  # whether the weights may be written over the scores
    wants_q: bool
    wants_k: bool
    wants_v: bool
    of_scores: bool  # whether any gradient goes through the scores
    score: str
    scored: str
    visit: str
    full: str
    hidden: str
    beyond: str
    reads: str
    setup: tuple[Line, ...]
    per_group: tuple[Line, ...]
    per_row: tuple[Line, ...]
    step_indices: tuple[Line, ...]
    per_tile: tuple[Line, ...]
    partial_indices: tuple[Line, ...]
    per_partial: tuple[Line, ...]
    capture_gradients: tuple[Line, ...]
    score_gradient: tuple[Line, ...]
    result: str
    differentiated: str
    helpers: str


def plan(
    spec: AttentionSpec,
    test: TileTest,
    problem: Problem,
    schedule: Schedule,
    derivatives: Derivatives | None = None,
    *,
    docstring: Sequence[str] = (),
    readable: bool = True,
) -> KernelPlan:
    """The plan of the forward kernel, or of the backward kernel where derivatives are given.

    `spec` is lifted and simplified. `readable` keeps the user's names, places and the docstring.
    """
    return _Draft(spec, test, problem, schedule, derivatives, readable).plan(docstring if readable else ())


class _Draft:
    """One plan in the making."""

    def __init__(
        self,
        spec: AttentionSpec,
        test: TileTest,
        problem: Problem,
        schedule: Schedule,
        derivatives: Derivatives | None,
        readable: bool,
    ) -> None:
        self.spec, self.test, self.problem, self.schedule = spec, test, problem, schedule
        self.derivatives = derivatives
        self.template = "torch/forward" if derivatives is None else "torch/backward"
        namer = Namer({*identifiers(self.template), *INDEX_LINES, "visit", "full"})
        self.captures = {c.name: namer.take(c.name if readable else "capture") for c in spec.captures}
        self.parameters = {p.name: namer.take(p.name if readable else "parameter") for p in spec.parameters}
        self.dtypes = dict(zip((c.name for c in spec.captures), problem.capture_dtypes, strict=True))
        numbers = {load: i for i, load in enumerate(loads_of(spec))}
        self.unproven = [load for load, i in numbers.items() if i not in problem.in_bounds]
        leaves = {name: name for name in ("score", "b", "h", "q_idx", "kv_idx", "q_min", "q_max", "kv_min", "kv_max")}
        self.printer = Printer(
            TORCH,
            namer,
            {**leaves, **SIZE_LEAVES, **self.parameters},
            self.read,
            spec.origins if readable else {},
            score_demand(*self.score_roots),
        )

    @property
    def score_roots(self) -> tuple[Expr, ...]:
        """Everything that is printed over a tile of scores."""
        return (self.spec.score, *(self.derivatives.roots if self.derivatives else ()))

    def plan(self, docstring: Sequence[str]) -> KernelPlan:
        """Print everything, then gather it."""
        visit, full = self.tile_test()
        scored, texts, beyond, reads = self.scores()
        hidden = self.hidden()
        gradients = self.problem.gradients if self.derivatives else None
        lines = self.printer.lines
        capture_lines = capture_gradient_lines(self.derivatives, texts, self.captures) if self.derivatives else []
        flow_lines = score_gradient_lines(self.derivatives, texts) if self.derivatives else []
        setup = self.used_setup([*capture_lines, *flow_lines, reads, beyond])
        body = [str(line) for each in lines.values() for line in each] + [str(line) for line in capture_lines]
        return KernelPlan(
            template=self.template,
            name=self.spec.name,
            docstring=tuple(docstring),
            accumulator=f"torch.{self.problem.accumulator}",
            tile_q=self.schedule.tile_q,
            tile_kv=self.schedule.tile_kv,
            scores_per_step=self.schedule.scores_per_step,
            by_batch=self.tiles_differ_by("b"),
            by_head=self.tiles_differ_by("h"),
            masked=self.spec.mask is not TRUE,
            multiplies="score" in depends(self.spec.score) or SCORE in texts,
            guarded=bool(beyond),
            overwrites=self.derivatives is None or self.spec.score not in self.derivatives.roots,
            wants_q=gradients is not None and gradients.q,
            wants_k=gradients is not None and gradients.k,
            wants_v=gradients is not None and gradients.v,
            of_scores=gradients is not None and gradients.of_scores,
            score="score",
            scored=scored,
            visit=visit,
            full=full,
            hidden=hidden,
            beyond=beyond,
            reads=reads,
            setup=tuple(setup + lines.get("setup", [])),
            per_group=tuple(self.indices("b", "h", "kv_min", "kv_max", "q_all", "kv_all") + self.group_lines()),
            per_row=tuple(self.indices("q_idx", "q_min", "q_max") + lines.get("row", []) + lines.get("test", [])),
            step_indices=tuple(self.indices("kv_idx")),
            per_tile=tuple(lines.get("tile", [])),
            partial_indices=tuple(self.indices("kv_cut")),
            per_partial=tuple(lines.get("partial", [])),
            capture_gradients=tuple(capture_lines),
            score_gradient=tuple(flow_lines),
            result=self.result(),
            differentiated=self.differentiated(),
            helpers=_helpers(body + [beyond], self.derivatives is not None, bool(beyond), self.problem),
        )

    def tiles_differ_by(self, axis: str) -> bool:
        """Whether the classes of tiles depend on the sequence (`b`) or the head (`h`)."""
        roots = (self.test.visit, self.test.full, *(s.expr for s in self.test.statistics))
        return any(axis in depends(root) for root in roots)

    def indices(self, *names: str) -> list[Line]:
        """The lines that make those of the named index tensors that are used."""
        return [Line(INDEX_LINES[name]) for name in names if name in self.printer.used]

    def group_lines(self) -> list[Line]:
        """What is known once per group of heads."""
        return self.printer.lines.get("group", []) + self.printer.lines.get("statistics", [])

    def used_setup(self, others: Sequence[object]) -> list[Line]:
        """Captures and parameters by name, and sizes as tensors, where anything reads them."""
        used = self.printer.used
        lines = [Line(f"{name} = captures[{i}]") for i, name in enumerate(self.captures.values()) if name in used]
        lines += [
            Line(f"{name} = torch.tensor(parameters[{i}])")
            for i, name in enumerate(self.parameters.values())
            if name in used
        ]
        if self.derivatives is not None:
            lines += [Line(line) for line in self.derivatives.totals(self.captures)]
        return lines + self.indices("batch_size", "head_count", "query_count", "key_count")

    def read(self, load: Expr, index: Sequence[Text]) -> str:
        """The text that reads a captured tensor; an index that is not proven is held inside."""
        name = str(load.value)
        table = self.captures[name]
        self.printer.used.add(table)
        if self.holding or load in self.unproven:
            texts = [f"hold({t}, {table}, {d})" for d, t in enumerate(self.as_tensors(load, index))]
        else:
            texts = [text.text for text in index]
        text = f"{table}[{', '.join(texts)}]" if texts else table
        wanted = TORCH_DTYPES.get(load.scalar, self.problem.accumulator)
        have = self.dtypes[name]
        keeps = have == wanted or (have == "float64" and load.scalar is Scalar.FLOAT)
        return text if keeps else f"{text}.to(torch.{wanted})"

    def as_tensors(self, load: Expr, index: Sequence[Text]) -> list[str]:
        """The texts of the indices; a constant becomes a tensor."""
        return [
            TORCH.tensor(arg.value) if isinstance(arg.value, int) and arg.op is Op.CONST else text.text
            for arg, text in zip(load.args, index, strict=True)
        ]

    holding = False

    def tile_test(self) -> tuple[str, str]:
        """Print the classification of one row of tiles."""
        self.holding = True
        plain = self.printer
        texts: dict[str, str] = {}
        everywhere = {**plain.leaves, "q_idx": "q_all", "kv_idx": "kv_all"}
        for statistic in self.test.statistics:
            self.printer = replace(plain, leaves=everywhere, demand=None)
            values = self.printer.print((SETUP, GROUP, STATISTICS), statistic.expr)[statistic.expr].text
            names = [plain.namer.take(f"{'query' if statistic.axis == 'q' else 'key'}_{w}") for w in _ENDS]
            tile, length = ("TILE_Q", "q_len") if statistic.axis == "q" else ("TILE_KV", "kv_len")
            plain.say(STATISTICS, f"{', '.join(names)} = block_bounds({values}, {tile}, {length})")
            suffix = "[q0 // TILE_Q]" if statistic.axis == "q" else ""
            parts = (statistic.least, statistic.largest, statistic.nan)
            texts |= {str(p.value): name + suffix for p, name in zip(parts, names, strict=True)}
        self.printer = replace(plain, leaves={**plain.leaves, **texts}, demand=None, origins={})
        found = self.printer.print((TEST,), self.test.visit, self.test.full)
        self.printer, self.holding = plain, False
        roots = {"visit": self.test.visit, "full": self.test.full}
        for name, root in roots.items():
            if root.op is not Op.CONST:
                plain.say(TEST, f"{name} = {found[root].text}")
        visit, full = (str(root.value) if root.op is Op.CONST else name for name, root in roots.items())
        return visit, full

    def scores(self) -> tuple[str, dict[Expr, str], str, str]:
        """Print the modified score, its derivatives, and what guards the reads of captures."""
        indices = [i for load in self.unproven for i in load.args if i.op is not Op.CONST]
        indices = indices if self.derivatives is None else list(self.derivatives.indices)
        found = self.printer.print(TILE_CHAIN, *self.score_roots, named=indices)
        texts = {expr: text.text for expr, text in found.items()}
        scored = self.finished_score(found[self.spec.score])
        if self.derivatives is not None or not self.unproven:
            return scored, texts, "", ""
        beyond, reads = [], []
        for load in self.unproven:
            table = self.captures[str(load.value)]
            self.printer.used.add(table)
            held = self.as_tensors(load, [found.get(i, Text(str(i.value))) for i in load.args])
            beyond += [f"outside({index}, {table}, {d})" for d, index in enumerate(held)]
            reads += [f'("{table}", {index}, {d}, {table})' for d, index in enumerate(held)]
        return scored, texts, " | ".join(dict.fromkeys(beyond)), f"[{', '.join(dict.fromkeys(reads))}]"

    def finished_score(self, root: Text) -> str:
        """The modified score as a tile of its own dtype, whatever it was made of."""
        if "score" not in depends(self.spec.score):
            self.printer.say(TILE, f"score.{'fill_' if root.number else 'copy_'}({root.text})")
            return "score"
        wide = any(dtype == "float64" for dtype in self.dtypes.values()) and self.problem.accumulator != "float64"
        if wide and root.text != "score":
            self.printer.say(TILE, f"{root.text} = {root.text}.to(FLOAT)")
        return root.text

    def hidden(self) -> str:
        """Print the mask; the text says where pairs are hidden."""
        if self.spec.mask is TRUE:
            return ""
        plain = self.printer
        self.printer = replace(plain, leaves={**plain.leaves, "kv_idx": "kv_cut"}, demand=None)
        root = apply(Op.NOT, self.spec.mask)
        text = self.printer.print(PARTIAL_CHAIN, root)[root].text
        self.printer = plain
        return text

    def result(self) -> str:
        """What the backward kernel returns."""
        gradients = self.problem.gradients
        if gradients is None:
            return ""
        parts = ["grad_q" if gradients.q else "None"]
        parts += [
            f"grad_{n}.to({n}.dtype)" if wanted else "None" for n, wanted in (("k", gradients.k), ("v", gradients.v))
        ]
        totals = self.derivatives.results(self.captures, gradients.captures) if self.derivatives else []
        return f"{', '.join(parts)}, [{', '.join(totals)}]"

    def differentiated(self) -> str:
        """The names of what is differentiated."""
        gradients = self.problem.gradients
        if gradients is None:
            return ""
        wanted = [name for name in ("q", "k", "v") if getattr(gradients, name)]
        wanted += [name for name, w in zip(self.captures.values(), gradients.captures, strict=True) if w]
        return ", ".join(wanted)


_ENDS = ("least", "most", "nan")


def _helpers(body: Sequence[str], backward: bool, guarded: bool, problem: Problem) -> str:
    """The names that a kernel imports, in alphabetical order."""
    text = "\n".join(body)
    names = {"head_groups", "steps"}
    if not backward or (problem.gradients is not None and problem.gradients.q):
        names.add("empty_like")
    names |= {name for name in ("add_at", "block_bounds", "hold", "outside") if f"{name}(" in text}
    return ", ".join(sorted(names | ({"refuse_outside"} if guarded else set())))
