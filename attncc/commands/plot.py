"""`attncc plot`: a picture of a mask and its tiles, in the terminal or as a file."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from attncc.commands.arguments import Captures, Heads, Json, KvLen, Params, QLen, Seed, Target
from attncc.commands.explain import Block
from attncc.commands.prepare import prepare
from attncc.commands.terminal import complaints, console, print_json

if TYPE_CHECKING:
    from attncc.report.picture import Picture

Out = Annotated[
    Path | None, typer.Option("--out", "-o", help="A .png or .svg file.", show_default="draw in the terminal")
]
BatchIndex = Annotated[int, typer.Option("--batch", min=0, help="Which batch to draw, where they differ.")]
Width = Annotated[int, typer.Option("--width", min=8, max=512, help="Width in the terminal, in characters.")]


def plot(
    target: Target,
    out: Out = None,
    q_len: QLen = 2048,
    kv_len: KvLen = None,
    heads: Heads = 8,
    batch: BatchIndex = 0,
    block_m: Block = None,
    block_n: Block = None,
    capture: Captures = None,
    param: Params = None,
    width: Width = 64,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """
    Draw the mask of a variant and its tiles; any length, since only what is drawn is evaluated.

    \b
      attncc plot window.attn
      attncc plot window.attn -q 131072 -o window.svg
      attncc plot packed.attn --capture doc_ids=doc_ids.npy -o packed.png
      attncc plot window.attn --json                 (how many boxes are skipped, masked and full)
    """
    lengths = {"q_len": q_len, "kv_len": q_len if kv_len is None else kv_len}
    with complaints().status("looking at tiles"):
        prepared = prepare(target, capture, param, {"batch": batch + 1, "heads": heads, **lengths}, seed)
        chosen = {"heads": heads, "batch": batch, "block_m": block_m, "block_n": block_n}
        picture = prepared.variant.picture(*lengths.values(), **chosen)  # type: ignore[arg-type]  # as named
        invented = list(prepared.invented)
    if not as_json:
        show_picture(picture, out, width)
        return
    if out is not None:
        from attncc.report.plot import save

        save(picture, out)
    print_json({**describe_picture(picture), "out": None if out is None else str(out), "example_data": invented})


def describe_picture(picture: Picture) -> dict[str, object]:
    """A picture for programs: its scale, and how many boxes of each class every group of heads has."""
    from attncc.report.picture import FULL, PARTIAL, SKIP

    kinds = {"full": FULL, "masked": PARTIAL, "skipped": SKIP}
    panels = [
        {"heads": panel.heads, **{word: panel.count(kind) for word, kind in kinds.items()}} for panel in picture.panels
    ]
    return {"name": picture.name, **asdict(picture.canvas), "panels": panels, "groups_left_out": picture.left_out}


def show_picture(picture: Picture, out: Path | None, width: int) -> None:
    """Write a picture to a file, or draw it in the terminal."""
    if out is not None:
        from attncc.report.plot import save

        typer.echo(f"wrote {save(picture, out)}")
        return
    from attncc.report.blocks import draw_blocks

    terminal = console()
    color = terminal.is_terminal and not terminal.no_color
    terminal.print(draw_blocks(picture, max(8, min(width, terminal.width)), color))
