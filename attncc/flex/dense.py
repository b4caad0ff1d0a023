"""`create_mask`: a mask, or what a score function hides, as a dense tensor, for looking at small examples."""

from __future__ import annotations

import torch
from torch import Tensor

from attncc.api.program import read_functions
from attncc.api.values import check_captures, check_parameters
from attncc.flex.block_mask import device_of
from attncc.flex.functions import Function
from attncc.frontend.signatures import role_of
from attncc.reference import evaluate_dense


def create_mask(
    mod_fn: Function,
    B: int | None,
    H: int | None,
    Q_LEN: int,
    KV_LEN: int,
    device: torch.device | str | int | None = None,
) -> Tensor:
    """Which pairs are visible, bool [B, H, Q_LEN, KV_LEN]; for a score function those whose score of 0 is not -inf."""
    place = device_of(device)
    is_mask = role_of(mod_fn) == "mask"
    reading = read_functions(None if is_mask else mod_fn, mod_fn if is_mask else None, None, place)
    spec = reading.program.spec
    sizes = {"batch": B or 1, "heads": H or 1, "q_len": Q_LEN, "kv_len": KV_LEN}
    tensors = check_captures(spec, reading.captures, sizes)
    captures = {c.name: tensor.detach() for c, tensor in zip(spec.captures, tensors, strict=True)}
    numbers = check_parameters(spec, reading.parameters)
    parameters = {p.name: number for p, number in zip(spec.parameters, numbers, strict=True)}
    if is_mask:
        return evaluate_dense(spec.mask, sizes, captures, parameters).to(place).contiguous()
    zero = torch.zeros(1, 1, 1, 1, device=place)
    score = evaluate_dense(spec.score, sizes, captures, parameters, score=zero, dtype=torch.float32)
    return (score != -torch.inf).to(place).contiguous()
