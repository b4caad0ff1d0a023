"""How two variants compare, in words and for programs."""

from __future__ import annotations

from attncc.analysis.algebra import Standing
from attncc.analysis.difference import Difference, Seen
from attncc.ir import AttentionSpec
from attncc.report.claims import spell_numbers


def difference_text(a: str, b: str, specs: tuple[AttentionSpec, AttentionSpec], found: Difference) -> str:
    """The comparison for people; `a` and `b` name the two sides."""
    if found.part is None or found.witness is None or found.seen is None:
        return f"{_equal(found)}{_extent(specs, found)}"
    pair = {name: value for name, value in found.witness.items() if name != "score"}
    rows = [f"different in the {found.part}, at", f"  {spell_numbers(pair)}"]
    if "score" in found.witness:
        rows.append(f"  score before the variant = {found.witness['score']:g}")
    rows += [f"  {name} = {value}" for name, value in (found.reads or {}).items()]
    width = max(len(a), len(b))
    return "\n".join(
        [*rows, *(f"{name:<{width}}  {_seen(seen, found.part)}" for name, seen in zip((a, b), found.seen, strict=True))]
    )


def difference_dict(found: Difference) -> dict[str, object]:
    """The comparison for programs. Floats that JSON lacks are texts."""
    return {
        "equal": found.equal,
        "standing": found.standing.value if found.equal else "refuted",
        "all_parameters": found.general,
        "part": found.part,
        "witness": None if found.witness is None else dict(found.witness),
        "reads": None if found.reads is None else {name: _plain(value) for name, value in found.reads.items()},
        "seen": None
        if found.seen is None
        else [{"visible": seen.visible, "score": _plain(seen.score)} for seen in found.seen],
    }


def _equal(found: Difference) -> str:
    if found.standing is Standing.PROVEN:
        return "equal, proven"
    return "no difference found: tested on random pairs, not proven"


def _extent(specs: tuple[AttentionSpec, AttentionSpec], found: Difference) -> str:
    names = list(dict.fromkeys(p.name for p in specs[0].parameters))
    if found.general:
        return f", for all values of {', '.join(names)}" if names else ""
    values = [", ".join(f"{p.name} = {p.value}" for p in spec.parameters) or "no parameters" for spec in specs]
    return f", with {values[0]}" + ("" if values[0] == values[1] else f" on the one side, {values[1]} on the other")


def _seen(seen: Seen, part: str) -> str:
    if not seen.visible:
        return "hides the pair"
    return "shows the pair" if part == "mask" or seen.score is None else f"shows the pair, with score {seen.score:.9g}"


def _plain(value: object) -> object:
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value
