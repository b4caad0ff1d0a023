"""The score and the mask of a spec as plain torch functions with FlexAttention's arguments.

Variants from `.attn` text have no Python functions; these stand for them where another implementation is measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from torch import Tensor

from attncc.emit.names import Namer
from attncc.emit.printer import Place, Printer, Text
from attncc.emit.spelling import TORCH
from attncc.ir import SCORE, TRUE, AttentionSpec, Expr, Op

Function = Callable[..., Any]
INPUTS: Final = ("b", "h", "q_idx", "kv_idx")
EVERYTHING: Final = frozenset((*INPUTS, "score"))


def torch_functions(
    spec: AttentionSpec, captures: Mapping[str, Tensor], values: Mapping[str, int]
) -> tuple[Function | None, Function | None]:
    """The score function and the mask function, None where there is nothing to do.

    `values` are the parameters and the sizes batch, heads, q_len and kv_len.
    """
    score = None if spec.score is SCORE else _function(spec, spec.score, ("score", *INPUTS), captures, values)
    mask = None if spec.mask is TRUE else _function(spec, spec.mask, INPUTS, captures, values)
    return score, mask


def _function(
    spec: AttentionSpec, root: Expr, arguments: Sequence[str], captures: Mapping[str, Tensor], values: Mapping[str, int]
) -> Function:
    namer = Namer({*arguments, "torch", "FLOAT", "NEG_INF", "modified"})
    tables = {capture.name: namer.take(capture.name) for capture in spec.captures}
    # Numbers are written as tensors of the positions' kind, which every function of torch takes.
    leaves = {name: name for name in arguments} | {name: f"(q_idx * 0 + {value})" for name, value in values.items()}

    def read(load: Expr, index: Sequence[Text]) -> str:
        parts = [
            str(arg.value) if arg.op is Op.CONST else text.text for arg, text in zip(load.args, index, strict=True)
        ]
        table = tables[str(load.value)]
        return f"{table}[{', '.join(parts)}]" if parts else table

    printer = Printer(replace(TORCH, in_place={}), namer, leaves, read)
    place = Place("body", EVERYTHING)
    text = printer.print((place,), root)[root].text
    lines = [f"    {line.text}" for line in printer.lines["body"]]
    source = "\n".join([f"def modified({', '.join(arguments)}):", *lines, f"    return {text}", ""])
    scope: dict[str, Any] = {"torch": torch, "FLOAT": torch.float32, "NEG_INF": -float("inf")}
    scope |= {tables[name]: tensor for name, tensor in captures.items()}
    exec(compile(source, f"<attncc {spec.name}>", "exec"), scope)
    function: Function = scope["modified"]
    return function
