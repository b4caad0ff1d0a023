"""From a spec and a schedule to everything that a template asks for: a `KernelPlan`.

Which expression is printed where, under which name, with which guards: all questions are answered here, so that a
template only fills holes. A plan is made twice for each kernel, once with the user's names to be read, once with
canonical ones for the digest.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Any

from attncc.analysis.shape import depends
from attncc.analysis.tiles import TileTest
from attncc.emit.draft import PARTIAL_CHAIN, TILE, TILE_CHAIN, WORD, Draft
from attncc.emit.gradients import Derivatives, capture_gradient_lines, score_gradient_lines
from attncc.emit.printer import Line, Text, score_demand
from attncc.emit.rules import is_whole, roots_of, tile_function
from attncc.ir import FALSE, SCORE, TRUE, Expr, Op, apply, postorder
from attncc.schedule import Guarded, Problem, Schedule


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
    plain: bool  # whether the scores stay as they are, so that the queries can bring them into base 2
    rescales_k: bool  # whether the gradient of k is still in base 2 at the end
    wants_q: bool
    wants_k: bool
    wants_v: bool
    of_scores: bool  # whether any gradient goes through the scores
    shapes_flow: bool  # whether the gradient of the scores is read by head
    shapes_weights: bool  # whether the weights are
    query_factor: str
    below_top: str  # the scores less the largest of their row, in place unless they are needed again
    scored: str
    tiles: tuple[str, ...]  # the function that tells tiles, where any can be told apart
    visited: str  # what lists the tiles to visit
    of_group: str  # the sequence and head of a group whose tiles these are
    hidden: str
    beyond: str
    reads: str
    setup: tuple[Line, ...]
    totals: tuple[Line, ...]
    per_group: tuple[Line, ...]
    per_row: tuple[Line, ...]
    step_indices: tuple[Line, ...]
    per_tile: tuple[Line, ...]
    partial_indices: tuple[Line, ...]
    per_partial: tuple[Line, ...]
    capture_gradients: tuple[Line, ...]
    score_gradient: tuple[Line, ...]
    run_result: tuple[str, ...]
    run_shares: tuple[str, ...]
    result: str
    differentiated: str
    imports: tuple[str, ...]


def plan(
    guarded: Guarded,
    test: TileTest,
    problem: Problem,
    schedule: Schedule,
    derivatives: Derivatives | None = None,
    *,
    docstring: Sequence[str] = (),
    readable: bool = True,
) -> KernelPlan:
    """The plan of the forward kernel, or of the backward kernel where derivatives are given.

    The spec is lifted, simplified and guarded. `readable` keeps the user's names, places and the docstring.
    """
    return _KernelDraft(guarded, test, problem, schedule, derivatives, readable).plan(docstring if readable else ())


class _KernelDraft(Draft):
    """One plan in the making."""

    def __init__(
        self,
        guarded: Guarded,
        test: TileTest,
        problem: Problem,
        schedule: Schedule,
        derivatives: Derivatives | None,
        readable: bool,
    ) -> None:
        self.problem, self.schedule, self.readable = problem, schedule, readable
        self.derivatives = derivatives
        self.template = "torch/forward" if derivatives is None else "torch/backward"
        spec, self.beyond = guarded.spec, guarded.beyond
        roots = (spec.score, *(derivatives.roots if derivatives else (self.beyond,)))
        super().__init__(
            self.template,
            spec,
            test,
            problem.capture_dtypes,
            problem.accumulator,
            spec.origins,
            readable=readable,
            demand=score_demand(*roots),
        )
        self.unproven = guarded.unproven

    @property
    def score_roots(self) -> tuple[Expr, ...]:
        """Everything that is printed over a tile of scores."""
        return (self.spec.score, *(self.derivatives.roots if self.derivatives else ()))

    def plan(self, docstring: Sequence[str]) -> KernelPlan:
        """Print everything, then gather it."""
        scored, texts, beyond, reads = self.scores()
        hidden = self.hidden()
        own = self.derivatives
        shares = capture_gradient_lines(own, texts, self.captures, self.slices) if own else []
        flow = score_gradient_lines(own, texts) if own else []
        totals = [Line(line) for line in own.totals(self.captures)] if own else []
        used = self.mentions([*shares, *flow, *totals, reads, beyond, hidden, scored])
        needed_again = own is not None and self.spec.score in own.roots
        tiles = self.tile_function()
        return KernelPlan(
            docstring=tuple(docstring),
            multiplies="score" in depends(self.spec.score) or SCORE in texts,
            guarded=bool(beyond),
            shapes_flow="grad_score" in used,
            shapes_weights="pairs" in used or self.spec.mask is not TRUE,
            below_top=f"{scored}.reshape(tile_shape).{'sub' if needed_again else 'sub_'}(top)",
            scored=scored,
            tiles=tuple(tiles),
            visited=self.visited(),
            hidden=hidden,
            beyond=beyond,
            reads=reads,
            totals=tuple(totals),
            capture_gradients=tuple(shares),
            score_gradient=tuple(flow),
            imports=_imports(used, own is not None, bool(beyond), self.problem, tiles),
            **self.switches(),
            **self.blocks(used),
        )

    def switches(self) -> dict[str, Any]:
        """What is known before anything is printed: names, sizes, and which parts the kernel has."""
        gradients = self.problem.gradients if self.derivatives else None
        plain = self.spec.score is SCORE
        return {
            "template": self.template,
            "name": self.spec.name,
            "accumulator": f"torch.{self.problem.accumulator}",
            "tile_q": self.schedule.tile_q,
            "tile_kv": self.schedule.tile_kv,
            "scores_per_step": self.schedule.scores_per_step,
            "by_batch": self.tiles_differ_by("b"),
            "by_head": self.tiles_differ_by("h"),
            "of_group": ", ".join(f"{a}_range.start" if self.tiles_differ_by(a) else "0" for a in "bh"),
            "masked": self.spec.mask is not TRUE,
            "plain": plain,
            "query_factor": "(scale * LOG2E)" if plain else "scale",
            "rescales_k": plain and gradients is not None and gradients.k,
            "wants_q": gradients is not None and gradients.q,
            "wants_k": gradients is not None and gradients.k,
            "wants_v": gradients is not None and gradients.v,
            "of_scores": gradients is not None and gradients.of_scores,
            "run_result": self.run_result(),
            "run_shares": self.run_shares(),
            "result": self.result(),
            "differentiated": self.differentiated(),
        }

    def blocks(self, used: Container[str]) -> dict[str, Any]:
        """The lines of each place, after those that make the indices used there."""
        lines = self.printer.lines
        return {
            "setup": tuple(self.used_setup(used) + lines.get("setup", [])),
            "per_group": tuple(self.indices(used, "b", "h") + self.group_lines()),
            "per_row": tuple(self.indices(used, "q_idx") + lines.get("row", [])),
            "step_indices": tuple(self.indices(used, "kv_idx")),
            "per_tile": tuple(lines.get("tile", [])),
            "partial_indices": tuple(self.indices(used, "kv_cut")),
            "per_partial": tuple(lines.get("partial", [])),
        }

    def tile_function(self) -> list[str]:
        """The function that tells the tiles of a sequence and head; none where all tiles are full."""
        if is_whole(self.test):
            return []
        dtypes = [self.dtypes[capture.name] for capture in self.spec.captures]
        given = (self.spec, self.test, dtypes, self.problem.accumulator, self.printer.origins)
        return tile_function(*given, readable=self.readable, refine=self.problem.refine)

    def visited(self) -> str:
        """What lists the tiles that a kernel visits."""
        if is_whole(self.test):
            return "AllTiles((batch, heads, q_len, kv_len), TILE_Q, TILE_KV)"
        roots = (*roots_of(self.test), *([self.spec.mask] if self.problem.refine else []))
        read = {str(e.value) for e in postorder(*roots) if e.op is Op.LOAD}
        reads = [str(i) for i, capture in enumerate(self.spec.captures) if capture.name in read]
        options = [f"reads=({', '.join(reads)},)"] * bool(reads) + ["refine=True"] * self.problem.refine
        given = ["tiles", "(batch, heads, q_len, kv_len)", "TILE_Q", "TILE_KV", "captures", "parameters", *options]
        return f"Tiles({', '.join(given)})"

    def scores(self) -> tuple[str, dict[Expr, str], str, str]:
        """Print the modified score, its derivatives, and where pairs depend on what cannot be read."""
        backward = self.derivatives is not None
        reads = sorted(self.unproven, key=postorder(self.spec.score, self.spec.mask).index) if not backward else []
        named = [i for load in reads for i in load.args if i.op is not Op.CONST]
        named = (
            named
            if self.derivatives is None
            else [i for load in self.derivatives.by_load if not self.slices(load) for i in load.args]
        )
        beyond = () if backward or self.beyond is FALSE else (self.beyond,)
        found = self.printer.print(TILE_CHAIN, *self.score_roots, *beyond, named=named)
        texts = {expr: text.text for expr, text in found.items()}
        scored = self.finished_score(found[self.spec.score])
        if not beyond:
            return scored, texts, "", ""
        rows: list[str] = []
        for load in reads:
            table = self.captures[str(load.value)]
            self.printer.used.add(table)
            held = self.as_tensors(load, [found.get(i, Text(str(i.value))) for i in load.args])
            # The name that errors say is the user's, also in the text that the digest is of: it is no comment.
            rows += [f'("{load.value}", {index}, {d}, {table})' for d, index in enumerate(held)]
        return scored, texts, texts[self.beyond], f"[{', '.join(dict.fromkeys(rows))}]"

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

    def totals(self) -> list[str]:
        """The gradients of captures, which each share of the heads sums up for itself."""
        return [f"grad_{self.captures[name]}" for name in self.derivatives.wanted()] if self.derivatives else []

    def run_result(self) -> tuple[str, ...]:
        """The line that hands over the sums of a share, where there are any."""
        return (f"return [{', '.join(self.totals())}]",) if self.totals() else ()

    def run_shares(self) -> tuple[str, ...]:
        """The line that runs all shares and adds up their sums."""
        if self.derivatives is None or not self.totals():
            return ("in_parallel(run, groups)",)
        places = [self.derivatives.captures.index(name) for name in self.derivatives.wanted()]
        copied = " + ".join(f"captures[{i}].numel()" for i in places)
        return (f"[{', '.join(self.totals())}] = in_parallel(run, groups, copied={copied})",)

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


def _imports(
    used: Container[str], backward: bool, guarded: bool, problem: Problem, tiles: Sequence[str]
) -> tuple[str, ...]:
    """The lines that import what a kernel stands on, in alphabetical order."""
    names = {"head_groups", "in_parallel", "steps"}
    if not backward or (problem.gradients is not None and problem.gradients.q):
        names.add("empty_like")
    of_tiles = set(WORD.findall("\n".join(tiles)))
    names |= {name for name in ("add_at", "gather", "hold") if name in used or name in of_tiles}
    names |= {"refuse_outside"} if guarded else set()
    rules = ["from attncc.runtime.tables import Rules"] if tiles else []
    visited = f"from attncc.runtime.visited import {'Tiles' if tiles else 'AllTiles'}"
    return (f"from attncc.runtime.steps import {', '.join(sorted(names))}", *rules, visited)
