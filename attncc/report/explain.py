"""What attncc does for one call, and why: the text that `explain` prints, and the same as JSON.

Everything is counted, proved or chosen elsewhere and comes in as values; this module only words it. What it does not
know it leaves out, rather than guess.
"""

from __future__ import annotations

import dataclasses
import json
import textwrap
from dataclasses import dataclass

WIDTH = 100


@dataclass(frozen=True, slots=True)
class Call:
    """The call that is explained: shapes as text, where it runs."""

    q: tuple[int, ...]
    k: tuple[int, ...]
    v: tuple[int, ...]
    dtype: str
    device: str
    scale: float
    backend: str
    parameters: dict[str, int]


@dataclass(frozen=True, slots=True)
class Tiles:
    """Tiles of all `groups`, which are the batches and heads that may differ; those that cannot are counted once.

    The visited tiles are the `full` ones, where no mask is computed, and the `masked` ones.
    """

    tile_q: int
    tile_kv: int
    total: int
    full: int
    masked: int
    skipped: int
    groups: int

    @property
    def visited(self) -> int:
        """The tiles that a pass computes."""
        return self.full + self.masked


@dataclass(frozen=True, slots=True)
class Band:
    """Keys that a tile of queries visits, in closed form: start <= kv_idx < stop, if `when` holds; or the reverse.

    From `full_start` to `full_stop` no mask is needed; both are None where that never happens.
    """

    start: str
    stop: str
    when: str
    full_start: str | None
    full_stop: str | None


@dataclass(frozen=True, slots=True)
class Bands:
    """The solution of a mask: the keys of a tile of queries, and in `q_ranges` the queries of a tile of keys.

    Unless `exact`, what it leaves out is certain and what it holds is looked at again.
    """

    ranges: tuple[Band, ...]
    exact: bool
    reason: str | None
    q_ranges: tuple[Band, ...] = ()


@dataclass(frozen=True, slots=True)
class HeadTiles:
    """The tiles of heads that see alike, in one batch each."""

    heads: tuple[int, ...]
    visited: int
    full: int
    total: int


@dataclass(frozen=True, slots=True)
class Condition:
    """One part of the mask that must hold, where and how the user wrote it, and how many tiles it alone skips."""

    text: str
    place: str | None
    written: str | None
    skips: int


@dataclass(frozen=True, slots=True)
class Statistic:
    """A part of the mask that is evaluated once per position of an axis; its extremes per tile stand in for it."""

    name: str
    text: str
    axis: str


@dataclass(frozen=True, slots=True)
class CaptureUse:
    """A captured tensor: what it is in this call, where it is used, and how its gradient is made."""

    name: str
    declared: str
    shape: tuple[int, ...]
    dtype: str
    uses: str
    gradient: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything that is known about one call; `str` words it, `to_json` is for programs."""

    name: str
    text: str
    call: Call
    visit: str
    full: str
    tiles: Tiles
    bands: Bands | None = None
    statistics: tuple[Statistic, ...] = ()
    table: tuple[str, ...] = ()
    heads: tuple[HeadTiles, ...] = ()
    conditions: tuple[Condition, ...] = ()
    captures: tuple[CaptureUse, ...] = ()
    schedule: tuple[str, ...] = ()
    copies: tuple[str, ...] = ()
    deterministic: str = ""
    watched: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, object]:
        """The explanation as plain values."""
        values = dataclasses.asdict(self)
        values["tiles"]["visited"] = self.tiles.visited
        return values

    def to_json(self) -> str:
        """The explanation as a JSON text."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)

    def __str__(self) -> str:
        sections = (_head(self), _tiles(self), _captures(self), _schedule(self), _memory(self))
        return "\n\n".join("\n".join(section) for section in sections if section)


def _head(e: Explanation) -> list[str]:
    call = e.call
    shapes = "  ".join(f"{name} {list(shape)}" for name, shape in (("q", call.q), ("k", call.k), ("v", call.v)))
    rows = [
        f"{e.name}: {call.backend} back end on {call.device}",
        f"  {shapes}  {call.dtype}, scale {call.scale:.6g}",
    ]
    if call.parameters:
        rows.append("  " + ", ".join(f"{name} = {value}" for name, value in call.parameters.items()))
    return [*rows, "", *(f"  {line}".rstrip() for line in e.text.rstrip("\n").split("\n"))]


def _tiles(e: Explanation) -> list[str]:
    tiles = e.tiles
    rows = [
        f"TILES of {tiles.tile_q} queries x {tiles.tile_kv} keys, {_counted(e)}",
        *_aligned(
            ("visited", _share(tiles.visited, tiles.total), ""),
            ("  full", f"{tiles.full:,}", "every pair is visible: no mask is computed"),
            ("  masked", f"{tiles.masked:,}", "some pairs may be hidden: the mask is computed pair by pair"),
            ("skipped", f"{tiles.skipped:,}", "no pair is visible, by proof"),
        ),
        "",
        "  a tile with queries q_min to q_max and keys kv_min to kv_max, all included, is",
        *_wrapped("visited where  ", e.visit),
        *_wrapped("full where     ", e.full),
    ]
    for statistic in e.statistics:
        rows += _wrapped(f"{statistic.name}  ", f"{statistic.text}, its smallest and largest value in the tile")
    rows += [line for fact in e.table for line in _wrapped("table: ", fact)]
    rows += _bands(e.bands)
    if len(e.heads) > 1:
        rows += ["", "  heads differ (tiles of the first batch):"]
        rows += _aligned(
            *((f"  {_heads(h.heads)}", f"{_share(h.visited, h.total)} visited", f"{h.full:,} full") for h in e.heads)
        )
    return rows + _conditions(e)


def _bands(bands: Bands | None) -> list[str]:
    if bands is None:
        return []
    most = "" if bands.exact else " (at most)"
    rows = ["", f"  the keys that these queries visit, solved{most}:"]
    rows += [line for band in bands.ranges for line in _band(band, "kv_idx")] or ["    none"]
    if bands.q_ranges:
        rows += [f"  the queries that visit these keys{most}:"]
        rows += [line for band in bands.q_ranges for line in _band(band, "q_idx")]
    return rows if bands.reason is None else [*rows, *_wrapped("", f"not exact: {bands.reason}")]


def _band(band: Band, position: str) -> list[str]:
    condition = "" if band.when == "true" else f", if {band.when}"
    rows = _wrapped("", f"{band.start} <= {position} < {band.stop}{condition}")
    if band.full_start is not None:
        rows += _wrapped("  full: ", f"{band.full_start} <= {position} < {band.full_stop}")
    return rows


def _counted(e: Explanation) -> str:
    alike = e.call.q[0] * e.call.q[1] // max(1, e.tiles.groups)
    if alike > 1:
        return f"counted once where batches and heads cannot differ ({alike} alike)"
    return "of all batches and heads"


def _conditions(e: Explanation) -> list[str]:
    if not e.conditions:
        return ["", "  the mask hides no pair: nothing can be skipped"]
    rows = ["", "  tiles that each condition alone skips:"]
    width = max(len(f"{c.skips:,}") for c in e.conditions)
    return rows + _aligned(*((f"  {c.skips:>{width},}", c.text, _place(c)) for c in e.conditions))


def _place(condition: Condition) -> str:
    written = " ".join((condition.written or "").split())
    if condition.place is None or written == condition.text:
        return condition.place or ""
    return f"{condition.place}: {written}"


def _captures(e: Explanation) -> list[str]:
    if not e.captures:
        return []
    rows = ["CAPTURED TENSORS"]
    for capture in e.captures:
        rows.append(f"  {capture.name}: {capture.declared}, here {list(capture.shape)} {capture.dtype}, {capture.uses}")
        rows += _wrapped("gradient: ", capture.gradient)
    return rows


def _schedule(e: Explanation) -> list[str]:
    if not e.schedule:
        return []
    return ["SCHEDULE", *(line for reason in e.schedule for line in _wrapped("", reason, 2))]


def _memory(e: Explanation) -> list[str]:
    rows = [f"  deterministic: {e.deterministic}"] if e.deterministic else []
    rows += [f"  copied: {copy}" for copy in e.copies] or ["  copied: nothing"]
    rows += [f"  traced at each call: {reason}" for reason in e.watched]
    return ["NOTES", *rows, *(f"  {note}" for note in e.notes)]


def _share(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} ({100 * part / whole:.1f} %)" if whole else "0 of 0"


def _heads(heads: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, heads[:8])) + (", …" if len(heads) > 8 else "")
    return f"head {shown}" if len(heads) == 1 else f"heads {shown}"


def _aligned(*rows: tuple[str, str, str]) -> list[str]:
    """Rows of three cells as columns; numbers keep to the right of the first."""
    first = max((len(row[0]) for row in rows), default=0)
    second = max((len(row[1]) for row in rows if row[2]), default=0)
    return [f"  {a:<{first}}  {b:<{second}}  {c}".rstrip() for a, b, c in rows]


def _wrapped(title: str, text: str, indent: int = 4) -> list[str]:
    room = WIDTH - len(title) - indent
    lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False) or [""]
    margin = " " * indent
    return [f"{margin}{title}{lines[0]}", *(f"{margin}{' ' * len(title)}{line}" for line in lines[1:])]
