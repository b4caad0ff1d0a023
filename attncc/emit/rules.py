"""The function `tiles` of generated code, which makes the `Rules` of a sequence and head by which tables are filled.

These are the statistics of captured tensors, the tests of a tile, bounds of these along the keys where the tests turn
only once, and, where tiles are to be looked into, the mask itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from attncc.analysis.reach import Reach, reach
from attncc.analysis.symbolic import KV_MAX, KV_MIN
from attncc.analysis.tiles import TileTest
from attncc.emit.draft import GROUP, PAIR_AXES, SETUP, SIZE_LEAVES, STATISTICS, WORD, Draft
from attncc.emit.printer import Line, Place
from attncc.emit.templates import fill
from attncc.ir import TRUE, AttentionSpec, Expr, Origin

TEMPLATE = "torch/tiles"
_WORDS = ("least", "most", "nan")
_OWNERS = {"q": "query", "kv": "key"}


def roots_of(test: TileTest) -> tuple[Expr, ...]:
    """Everything that a test evaluates."""
    return (test.visit, test.full, *(statistic.expr for statistic in test.statistics))


def is_whole(test: TileTest) -> bool:
    """Whether every tile is full, so that nothing has to be told apart."""
    return test.visit is TRUE and test.full is TRUE


def imports(lines: Iterable[str]) -> list[str]:
    """The lines that import what the function stands on."""
    text = "\n".join(lines)
    helpers = [name for name in ("gather", "hold") if f"{name}(" in text]
    return [f"from attncc.runtime.steps import {', '.join(helpers)}"] * bool(helpers) + [
        "from attncc.runtime.tables import Rules"
    ]


def tile_function(
    spec: AttentionSpec,
    test: TileTest,
    dtypes: Sequence[str],
    accumulator: str,
    origins: Mapping[Expr, Origin],
    *,
    readable: bool,
    refine: bool,
) -> list[str]:
    """The lines of the function `tiles`. Its captures and parameters are those of the spec, in their order."""
    draft = _TilesDraft(TEMPLATE, spec, test, dtypes, accumulator, origins, readable=readable)
    text = re.sub(
        r"\n+(?=    def )", "\n\n", fill(TEMPLATE, draft.values(refine))
    )  # line statements swallow blank lines
    return [line.rstrip() for line in text.rstrip().split("\n")]


class _TilesDraft(Draft):
    """One function in the making; `names` are what the extremes of each statistic are called."""

    names: list[list[str]]

    def values(self, refine: bool) -> dict[str, object]:
        """What the template is filled with."""
        self.holding = True
        statistics = self.statistics()
        bounds = self.bounds()
        visit, full = self.part("judge", self.test.visit, self.test.full)
        reached = self.part("reach", *(root for each in bounds for root in (each.since, each.until)))
        mask = self.part("visible", self.spec.mask) if refine else [""]
        results = {"judge": [visit, full], "reach": reached, "visible": mask}
        lines = {name: self.said(name, texts) for name, texts in results.items()}
        used = self.mentions([*statistics, *(text for name in lines for text in (*lines[name], *results[name]))])
        read = [name for name in self.captures.values() if name in self.printer.used]
        return {
            "once": self.once(used, f"{read[0]}.device" if read else 'torch.device("cpu")'),
            **lines,
            "visit": visit,
            "full": full,
            "bounded": bool(bounds),
            **dict(zip(("visit_since", "visit_until", "full_since", "full_until"), reached or [""] * 4, strict=True)),
            "refines": refine,
            "mask": mask[0],
            "values": ["values = [", *(f"    {pair}," for pair in statistics), "]"] if statistics else [],
            "rules": rules_text("values" if statistics else "[]", bounds, refine),
        }

    def statistics(self) -> list[str]:
        """Print the values of each statistic; the texts are pairs of its axis and its values."""
        plain, found = self.printer, self.test.statistics
        self.names = [[plain.namer.take(f"{_OWNERS[s.axis]}_{word}") for word in _WORDS] for s in found]
        ends = [str(p.value) for s in found for p in (s.least, s.largest, s.nan)]
        leaves = dict(zip(ends, [name for names in self.names for name in names], strict=True))
        self.printer = replace(plain, leaves={**plain.leaves, "q_idx": "q_all", "kv_idx": "kv_all"})
        texts = self.printer.print((SETUP, GROUP, STATISTICS), *(s.expr for s in found)) if found else {}
        self.printer = replace(plain, leaves={**plain.leaves, **leaves}, origins={})
        return [f'("{s.axis}", {texts[s.expr].text})' for s in found]

    def part(self, name: str, *roots: Expr) -> list[str]:
        """Print what an inner function computes; the texts of its results."""
        texts = self.printer.print((Place(name, PAIR_AXES),), *roots)
        return [texts[root].text for root in roots]

    def bounds(self) -> list[Reach]:
        """The bounds of visited and of full tiles along ascending keys; none where they bound nothing."""
        keys = [s for s in self.test.statistics if s.axis == "kv"]
        rising = {KV_MIN, KV_MAX, *(end for s in keys for end in (s.least, s.largest))}
        found = [reach(root, rising) for root in (self.test.visit, self.test.full)]
        bounded = found[0].since is not TRUE or found[0].until is not TRUE
        return found if bounded or all(each.exact for each in found) else []

    def said(self, name: str, results: Sequence[str]) -> list[Line]:
        """The lines of an inner function, after those that take apart the extremes that it reads."""
        lines = self.printer.lines.get(name, [])
        used = set(WORD.findall("\n".join([*map(str, lines), *results])))
        taken = [[each if each in used else "_" for each in names] for names in self.names]
        return [
            *(Line(f"{', '.join(names)} = extremes[{i}]") for i, names in enumerate(taken) if {*names} != {"_"}),
            *lines,
        ]

    def once(self, used: set[str], device: str) -> list[Line]:
        """The lines before the inner functions."""
        tensors = [Line(f"{name} = torch.tensor({name})") for name in ("b", "h") if name in used]
        own = [line for place in (SETUP, GROUP, STATISTICS) for line in self.printer.lines.get(place.name, [])]
        setup = [*tensors, *self.used_setup(used), Line(f"device = {device}")]
        lines = [*setup, *self.indices(used, "q_all", "kv_all"), *own]
        read = set(WORD.findall("\n".join(map(str, lines))))
        return [Line("batch, heads, q_len, kv_len = sizes"), *lines] if read & {*SIZE_LEAVES} else lines


def rules_text(values: str, bounds: Sequence[Reach], refine: bool) -> str:
    """The arguments of the Rules that the function returns."""
    exact = bool(bounds) and all(each.exact for each in bounds)
    parts = ["device", values, "judge", *(["reach"] if bounds else [])]
    return ", ".join([*parts, *["exact=True"] * exact, *["visible=visible"] * refine])
