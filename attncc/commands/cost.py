"""`attncc cost`: tiles, work, bytes and a roofline's time of one call, before it runs and without its GPU."""

from __future__ import annotations

from typing import Annotated

import typer

from attncc.commands.arguments import Captures, Heads, Json, KvLen, Params, QLen, Seed, Target
from attncc.commands.explain import Batch, Block, HeadDim, KvHeads
from attncc.commands.prepare import prepare
from attncc.commands.terminal import print_json

On = Annotated[str, typer.Option("--target", help="A100, H100, H200, B200 or MI300X.")]
Dtype = Annotated[str, typer.Option("--dtype", help="bfloat16, float16 or float32.")]


def cost(
    target: Target,
    q_len: QLen = 8192,
    kv_len: KvLen = None,
    batch: Batch = 1,
    heads: Heads = 16,
    kv_heads: KvHeads = None,
    head_dim: HeadDim = 128,
    dtype: Dtype = "bfloat16",
    machine: On = "H100",
    block_m: Block = None,
    block_n: Block = None,
    capture: Captures = None,
    param: Params = None,
    seed: Seed = 0,
    as_json: Json = False,
) -> None:
    """
    Say what a forward pass costs before it runs: exact tiles, work, bytes, and the time of a roofline.

    \b
      attncc cost window.attn -q 131072 --target H200
      attncc cost packed.attn --capture doc_ids=doc_ids.npy --heads 32 --kv-heads 8
      attncc cost mymodel.masks:window -q 1048576 --json
    """
    from attncc.report.cost import BYTES, Shape, cost_dict, cost_text, machine_of

    if dtype not in BYTES:
        raise typer.BadParameter(f"{dtype!r} is not one of {', '.join(BYTES)}", param_hint="--dtype")
    on = machine_of(machine)
    shape = Shape(batch, heads, kv_heads or heads, q_len, q_len if kv_len is None else kv_len, head_dim, dtype)
    sizes = {"batch": batch, "heads": heads, "q_len": shape.q_len, "kv_len": shape.kv_len}
    prepared = prepare(target, capture, param, sizes, seed)
    found = prepared.variant.cost(shape, on, block_m=block_m, block_n=block_n)
    if as_json:
        print_json({**cost_dict(found), "example_data": list(prepared.invented)})
    else:
        typer.echo(cost_text(found))
