"""What the demo leaves: numbers for programs, pictures and generated code for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from attncc.api import Variant, compile
from attncc.commands.demo.data import batches, library_files
from attncc.report.curves import save_curves

if TYPE_CHECKING:
    from attncc.commands.demo.model import Shape
    from attncc.commands.demo.training import Run


def summarize(shape: Shape, device: torch.device, seed: int, runs: Mapping[str, Run], tolerated: int) -> dict[str, Any]:
    """The two runs as numbers; `largest_difference` is over the first `tolerated` steps."""
    ours, dense = runs.values()
    pairs = list(zip(ours.losses, dense.losses, strict=True))[:tolerated]
    return {
        "device": torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads",
        "steps": len(ours.losses),
        "seed": seed,
        "shape": {name: getattr(shape, name) for name in shape.__slots__},
        "source_files": len(library_files()),
        "runs": {
            label: {"losses": list(run.losses), "step_seconds": run.step_time, "total_seconds": sum(run.seconds)}
            for label, run in runs.items()
        },
        "largest_difference": max(abs(a - b) for a, b in pairs),
        "speedup": dense.step_time / ours.step_time,
    }


def variant_of(shape: Shape, documents: Tensor, slopes: Tensor) -> Variant:
    """The attention of the demo as one variant, over the documents of one batch."""
    window = shape.window

    def nearby(b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]  # as users write it
        causal_window = (q_idx >= kv_idx) & (q_idx - kv_idx < window)
        return causal_window & (documents[b, q_idx] == documents[b, kv_idx])

    def alibi(score, b, h, q_idx, kv_idx):  # type: ignore[no-untyped-def]  # as users write it
        return score - slopes[h] * (q_idx - kv_idx)

    return compile(alibi, nearby, name="demo")


def leave(out: Path, shape: Shape, device: torch.device, seed: int, runs: Mapping[str, Run]) -> dict[str, Any]:
    """Write the files; returns what each is, by name, and under `tiles` the tiles of the first batch."""
    ours = next(iter(runs.values()))
    documents = next(batches(shape.batch, shape.length, seed)).documents.to(device)
    slopes = ours.model.blocks[0].attention.slopes.detach().requires_grad_()  # type: ignore[union-attr, operator]  # a Block
    variant = variant_of(shape, documents, slopes)
    size = (shape.batch, shape.heads, shape.length, shape.width // shape.heads)
    q = torch.zeros(size, device=device, requires_grad=True)
    explanation = variant.explain(q, q, q)
    variant.plot(shape.length, shape.length, out / "mask.png")
    losses = {label: run.losses for label, run in runs.items()}
    save_curves(losses, "Training on Python's standard library", "loss, nats per byte", out / "loss.png")
    texts = {
        "kernel.py": (str(variant.source(q, q, q)), "the generated code, forward and backward"),
        "explain.txt": (f"{explanation}\n", "which tiles are skipped, and why"),
        "variant.attn": (variant.text, "the attention as text"),
    }
    for name, (text, _) in texts.items():
        (out / name).write_text(text, encoding="utf-8")
    pictures = {"mask.png": "the mask of the first sequence, and its tiles", "loss.png": "both losses, step by step"}
    counted = explanation.to_dict()["tiles"]
    return {**pictures, **{name: meaning for name, (_, meaning) in texts.items()}, "tiles": counted}
