"""Writes docs/gallery.md and its pictures from the gallery itself: `python docs/make_gallery.py`.

A test runs `page` and `pictures` and compares them with the files, so that neither can drift from the code.
"""

from __future__ import annotations

import functools
import inspect
import io
import sys
import textwrap
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.image import imsave
from numpy.typing import NDArray

import attncc
from attncc.frontend.trace import trace_functions
from attncc.ir import print_spec
from attncc.reference import evaluate_dense
from attncc.report.picture import FULL, SKIP, Picture
from attncc.report.plot import SKIPPED_COLOR, colors
from attncc.variants.define import Mod
from attncc.variants.entry import Entry
from attncc.variants.gallery import gallery

DOCS = Path(__file__).resolve().parent
EXAMPLES = DOCS.parent / "examples" / "gallery"
LENGTH, TILE, BATCH, HEADS, DRAWN_BATCH = 128, 8, 2, 4, 1
ZOOM, GAP = 2, 8
LEVELS = 31
Pixels = NDArray[np.float32]  # [height, width, 3]

INTRODUCTION = f"""# The gallery

<!-- Written by docs/make_gallery.py; a test keeps it equal to the code. -->

Every variant here is one plain Python function with FlexAttention's arguments, in `attncc.variants`, and the same
definition as `.attn` text, in `examples/gallery`. Both give the same kernel.

```python
import attncc
from attncc.variants.bias import alibi
from attncc.variants.documents import causal_documents
from attncc.variants.windows import sliding_window

attention = attncc.compile(score_mod=alibi(slopes), mask_mod=causal_documents(doc_ids) & sliding_window(256))
out = attention(q, k, v)
```

Masks compose with `&`, `|` and `~`, scores with `>>`; both stay callables that torch's own `flex_attention` takes. One
that asks for sizes, such as `causal_bottom_right`, is bound for it: `causal_bottom_right.bind(q_len=1, kv_len=4096)`.

In the formulas i is the query's position, j the key's, b the sequence, h the head and s the score. Pictures show a
small example, {LENGTH} queries with tiles of {TILE} × {TILE}: rows are queries, columns keys; dark tiles need no mask,
white ones are never visited, and in the others the visible pairs are blue. Heads that differ stand side by side. A bias
is shown as a map of what a score of 0 becomes, light where it is high, for one head; a change of the score itself as
curves, one for each head.
"""


def settings(entry: Entry) -> dict[str, object]:
    """The example's captures and parameters, by the names that its text has."""
    sizes = entry.sizes(LENGTH, BATCH, HEADS)
    known = {parameter.name for parameter in text(entry).spec.parameters}
    parameters = {name: value for name, value in sizes.parameters.items() if name in known}
    return {**entry.captures(sizes), **parameters}


def text(entry: Entry) -> attncc.Variant:
    """The variant as its `.attn` file defines it."""
    return attncc.load(EXAMPLES / f"{entry.name}.attn")


@functools.cache
def tiles(name: str) -> Picture:
    """The mask of a variant and its tiles at the example."""
    entry = gallery()[name]
    sizes = entry.sizes(LENGTH, BATCH, HEADS)
    shape = {"heads": HEADS, "batch": DRAWN_BATCH, "block_m": TILE, "block_n": TILE}
    return text(entry).picture(sizes.q_len, sizes.kv_len, **shape, **settings(entry))


def picture(entry: Entry) -> bytes:
    """The PNG of a variant: its tiles if it has a mask, then its score if it has one."""
    panels = [colors(tiles(entry.name), panel) for panel in tiles(entry.name).panels[:HEADS]]
    panels = [panel.repeat(ZOOM, axis=0).repeat(ZOOM, axis=1) for panel in panels]
    if entry.score is not None:
        panels = panels[:1] if entry.mask is not None or entry.tiles != "dense" else []
        panels.append(curves(entry) if changes_alone(entry) else bias_map(entry))
    return png(beside(panels))


def changes_alone(entry: Entry) -> bool:
    """Whether the score is changed whatever its position, so that curves say more than a map."""
    return entry.name in ("soft_cap", "head_temperature", "capped_temperature", "windowed_soft_cap")


def score_at(entry: Entry, value: float) -> NDArray[np.float64]:
    """The new score of every pair where the old one is `value`. Shape [batch, heads, q_len, kv_len]."""
    sizes = entry.sizes(LENGTH, BATCH, HEADS)
    spec = text(entry).spec
    named = {"batch": BATCH, "heads": HEADS, "q_len": sizes.q_len, "kv_len": sizes.kv_len}
    given = settings(entry)
    captures = {c.name: torch.as_tensor(given[c.name]) for c in spec.captures}
    parameters = {p.name: int(str(given.get(p.name, p.value))) for p in spec.parameters}
    old = torch.full((BATCH, HEADS, sizes.q_len, sizes.kv_len), value, dtype=torch.float64)
    seen = evaluate_dense(spec.mask, named, captures, parameters)
    return torch.where(seen, evaluate_dense(spec.score, named, captures, parameters, score=old), -torch.inf).numpy()


def bias_map(entry: Entry) -> Pixels:
    """What is added to a score, for the second head of the drawn sequence; masked pairs as skipped tiles."""
    base = 1.0 if entry.family == "scaling" and entry.name != "adaptive_span" else 0.0
    added = score_at(entry, base)[DRAWN_BATCH, 1]
    visible = np.isfinite(added)
    low, high = added[visible].min(), added[visible].max()
    level = (np.where(visible, added, low) - low) / max(high - low, 1e-9)
    level = np.round(level * LEVELS) / LEVELS  # few colours make a small file
    dark, light = np.array(to_rgb("#14405f")), np.array(to_rgb("#f6c98a"))
    image = dark + (light - dark) * level[..., None]
    image[~visible] = to_rgb(SKIPPED_COLOR)
    return image.astype(np.float32).repeat(ZOOM, axis=0).repeat(ZOOM, axis=1)


def curves(entry: Entry) -> Pixels:
    """Old scores against new ones, a curve for each head."""
    scores = np.linspace(-60, 60, 49)
    found = np.stack([score_at(entry, float(value))[DRAWN_BATCH, :, 0, 0] for value in scores])
    inches = LENGTH * ZOOM / 100
    figure = Figure(figsize=(inches, inches), dpi=100, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axis = figure.subplots()
    for head, color in enumerate(("#14405f", "#3c8dbc", "#c98a2b", "#7a7a76")):
        axis.plot(scores, found[:, head], linewidth=1.2, color=color, antialiased=False)
    axis.set_xlabel("score", fontsize=8)
    axis.set_ylabel("new score", fontsize=8)
    axis.tick_params(labelsize=7)
    canvas.draw()
    drawn: Pixels = np.asarray(canvas.buffer_rgba())[..., :3].astype(np.float32) / 255
    return drawn


def beside(panels: list[Pixels]) -> Pixels:
    """Panels from left to right with a white gap between."""
    gap = np.ones((panels[0].shape[0], GAP, 3), dtype=np.float32)
    return np.concatenate([part for panel in panels for part in (gap, panel)][1:], axis=1)


def png(image: Pixels) -> bytes:
    """An image as a PNG file, without a date."""
    data = io.BytesIO()
    imsave(data, np.clip(image, 0, 1), format="png", metadata={"Software": None})
    return data.getvalue()


def counts(entry: Entry) -> str:
    """How many tiles of the example are visited, and how many of them need no mask."""
    drawn = tiles(entry.name)
    total = sum(panel.classes.size for panel in drawn.panels)
    visited = total - sum(panel.count(SKIP) for panel in drawn.panels)
    full = sum(panel.count(FULL) for panel in drawn.panels)
    return f"{100 * visited / total:.0f} % visited, {100 * full / total:.0f} % need no mask"


def code(part: object) -> str:
    """The plain function of a score or mask, the helpers that it calls before it; a composition as it is written."""
    factory = inspect.unwrap(part.function if isinstance(part, Mod) else part)  # type: ignore[arg-type]
    lines = textwrap.dedent(inspect.getsource(factory)).splitlines()
    inner = next((n for n, line in enumerate(lines) if line.startswith("    def ")), None)
    if inner is None:
        start = next(n for n, line in enumerate(lines) if line.startswith("def "))
        return "\n".join([*helpers(factory), *(line for line in lines[start:] if '"""' not in line)])
    setup = [
        line for line in lines[: next(n for n, line in enumerate(lines) if line.startswith("    @"))] if " = " in line
    ]
    setup = [line for line in setup if line.startswith("    ") and not line.startswith("    #")]
    return "\n".join([*helpers(factory), textwrap.dedent("\n".join([*setup, *lines[inner:-1]])).rstrip()])


def helpers(factory: object) -> list[str]:
    """The source of functions of the same module that the definition calls."""
    nested = [const for const in factory.__code__.co_consts if inspect.iscode(const)]  # type: ignore[attr-defined]
    names = dict.fromkeys(name for each in nested for name in each.co_names)
    found = [factory.__globals__.get(name) for name in names]  # type: ignore[attr-defined]
    own = [each for each in found if inspect.isfunction(each) and each.__module__ == factory.__module__]
    return [inspect.getsource(each) + "\n" for each in own]


def section(entry: Entry) -> str:
    """One variant: what it does, its picture, formula, citation and code."""
    parts = [part for part in (entry.score, entry.mask) if part is not None]
    summaries = [str(inspect.getdoc(part)).split("\n\n")[0].replace("\n", " ") for part in parts]
    rows = [
        f"### {entry.name}",
        " ".join(summaries),
        f"![{entry.name}](gallery/{entry.name}.png)",
        f"- Formula: `{entry.formula}`",
        f"- From: {entry.citation}",
        f"- Tiles of the example: {counts(entry)}",
        f"- As text: [{entry.name}.attn](../examples/gallery/{entry.name}.attn)",
        "```python\n" + "\n\n\n".join(code(part) for part in parts) + "\n```",
    ]
    return f"{rows[0]}\n\n{rows[1]}\n\n{rows[2]}\n\n" + "\n".join(rows[3:7]) + f"\n\n{rows[7]}\n"


def table() -> str:
    """Every variant in one row."""
    rows = ["| variant | formula | from | tiles |", "|---|---|---|---|"]
    for entry in gallery().values():
        formula = entry.formula.replace("|", "\\|")
        rows.append(f"| [{entry.name}](#{entry.name}) | `{formula}` | {entry.citation} | {counts(entry)} |")
    return "\n".join(rows) + "\n"


def page() -> str:
    """The whole of docs/gallery.md."""
    parts = [INTRODUCTION, table()]
    families = dict.fromkeys(entry.family for entry in gallery().values())
    for family in families:
        module = sys.modules[f"attncc.variants.{family}"]
        parts.append(f"## {family}\n\n{str(module.__doc__).strip()}\n")
        parts += [section(entry) for entry in gallery().values() if entry.family == family]
    return "\n".join(parts)


def draft(entry: Entry) -> str:
    """The variant as text, for one that has none yet: to be made as pleasant to read as the others."""
    sizes = entry.sizes(LENGTH, BATCH, HEADS, entry.defaults)
    traced = trace_functions(*entry.at(sizes), name=entry.name)
    header, body = print_spec(traced.spec, names="user").split("\n", 1)
    summary = str(inspect.getdoc(entry.score or entry.mask)).split("\n")[0]
    return f"{header}\n# {summary}\n# {entry.formula}\n# {entry.citation}\n{body}"


def main() -> None:
    """Write the page and every picture, and a draft of each text that is missing."""
    (DOCS / "gallery").mkdir(exist_ok=True)
    for entry in gallery().values():
        if not (EXAMPLES / f"{entry.name}.attn").exists():
            (EXAMPLES / f"{entry.name}.attn").write_text(draft(entry), encoding="utf-8")
        (DOCS / "gallery" / f"{entry.name}.png").write_bytes(picture(entry))
    (DOCS / "gallery.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
