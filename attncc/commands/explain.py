"""`attncc explain`: what is skipped, which schedule runs and how gradients are made, each with its reason."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from attncc.commands.arguments import Captures, Heads, Json, KvLen, Params, QLen, Seed, Target
from attncc.commands.prepare import prepare
from attncc.commands.terminal import print_json
from attncc.errors import InputError

DTYPES = ("float32", "float64", "bfloat16", "float16")

Batch = Annotated[int, typer.Option("--batch", min=0, help="Batch size.")]
KvHeads = Annotated[
    int | None, typer.Option("--kv-heads", min=1, help="Key heads.", show_default="as many as query heads")
]
HeadDim = Annotated[int, typer.Option("--head-dim", min=1, help="Head size.")]
Dtype = Annotated[str, typer.Option("--dtype", help=", ".join(DTYPES) + ".")]
Device = Annotated[str, typer.Option("--device", help="cpu, cuda, …")]
Backend = Annotated[str, typer.Option("--backend", help="auto, torch, triton or reference; no GPU is needed.")]
Block = Annotated[int | None, typer.Option(min=1, show_default="chosen", help="Size of a tile, in positions.")]
Refine = Annotated[bool, typer.Option("--refine", help="Look inside the tiles that stay open, pair by pair.")]


def explain(
    target: Target,
    q_len: QLen = 4096,
    kv_len: KvLen = None,
    batch: Batch = 1,
    heads: Heads = 8,
    kv_heads: KvHeads = None,
    head_dim: HeadDim = 64,
    dtype: Dtype = "float32",
    device: Device = "cpu",
    backend: Backend = "auto",
    block_m: Block = None,
    block_n: Block = None,
    refine: Refine = False,
    capture: Captures = None,
    param: Params = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """
    Explain one call of a variant: the tiles it skips and why, its schedule, its gradients, what it copies.

    \b
      attncc explain window.attn -q 8192
      attncc explain packed.attn --capture doc_ids=doc_ids.npy --param window=512
      attncc explain mymodel.masks:window --heads 32 --kv-heads 8 --json
    """
    lengths = {"q_len": q_len, "kv_len": q_len if kv_len is None else kv_len}
    prepared = prepare(target, capture, param, {"batch": batch, "heads": heads, **lengths}, seed, device)
    q = _empty((batch, heads, q_len, head_dim), dtype, device)
    k = _empty((batch, kv_heads or heads, lengths["kv_len"], head_dim), dtype, device)
    options: dict[str, Any] = {"backend": backend, "block_m": block_m, "block_n": block_n, "refine": refine}
    explanation = prepared.variant.explain(q, k, k, **options)
    if as_json:
        print_json({**explanation.to_dict(), "example_data": list(prepared.invented)})
    else:
        typer.echo(str(explanation))


def _empty(shape: tuple[int, ...], dtype: str, device: str) -> Any:
    """A tensor of that shape whose values nobody reads, so its memory is never touched; gradients are wanted."""
    import torch

    if dtype not in DTYPES:
        raise typer.BadParameter(f"{dtype!r} is not one of {', '.join(DTYPES)}", param_hint="--dtype")
    try:
        return torch.empty(shape, dtype=getattr(torch, dtype), device=device, requires_grad=True)
    except (RuntimeError, AssertionError) as error:  # no such device, or no memory on it
        raise InputError(f"{device} cannot hold a tensor {list(shape)}: {str(error).splitlines()[0]}") from None
