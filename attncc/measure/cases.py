"""The variants that `attncc bench` measures unless others are named: one for each way in which a mask or a score costs.

They are plain functions with FlexAttention's arguments, as users write them, over seeded data.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import torch

Function = Callable[..., Any]
Functions = tuple[Function | None, Function | None]

WINDOW: Final = 1024
PREFIX: Final = 1024
DOCUMENTS: Final = 12
CAP: Final = 30.0
SEED: Final = 1


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a problem: q [batch, heads, q_len, head_dim], k and v [batch, kv_heads, kv_len, head_dim]."""

    batch: int
    heads: int
    kv_heads: int
    q_len: int
    kv_len: int
    head_dim: int


def causal(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
    """A query sees itself and what lies before it."""
    return q_idx >= kv_idx


def _full(shape: Shape, device: str) -> Functions:
    return None, None


def _causal(shape: Shape, device: str) -> Functions:
    return None, causal


def _window(shape: Shape, device: str) -> Functions:
    width = min(WINDOW, max(1, shape.kv_len // 8))

    def window(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return (q_idx >= kv_idx) & (q_idx - kv_idx <= width)

    return None, window


def _documents(shape: Shape, device: str) -> Functions:
    length = max(shape.q_len, shape.kv_len)
    numbers = torch.Generator().manual_seed(SEED)
    cuts = torch.randperm(max(length - 1, 1), generator=numbers)[: DOCUMENTS - 1] + 1
    starts = torch.zeros(length + 1, dtype=torch.int32)
    starts[cuts] = 1
    ids = starts[:length].cumsum(0, dtype=torch.int32).to(device)

    def documents(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return (q_idx >= kv_idx) & (ids[q_idx] == ids[kv_idx])

    return None, documents


def _prefix(shape: Shape, device: str) -> Functions:
    length = min(PREFIX, max(1, shape.kv_len // 8))

    def prefix(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return (q_idx >= kv_idx) | (kv_idx < length)

    return None, prefix


def _alibi(shape: Shape, device: str) -> Functions:
    slopes = torch.exp2(-8 * torch.arange(1, shape.heads + 1, device=device) / shape.heads)

    def alibi(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return score - slopes[h] * (q_idx - kv_idx)

    return alibi, causal


def _soft_cap(shape: Shape, device: str) -> Functions:
    def soft_cap(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return CAP * torch.tanh(score / CAP)

    return soft_cap, causal


def _relative_bias(shape: Shape, device: str) -> Functions:
    numbers = torch.Generator().manual_seed(SEED)
    last = shape.kv_len - 1
    table = (torch.randn(shape.heads, shape.q_len + shape.kv_len, generator=numbers) * 0.1).to(device)
    table.requires_grad_()

    def relative_bias(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return score + table[h, q_idx - kv_idx + last]

    return relative_bias, causal


#: What each case is called in tables, and what makes its score and mask function for a shape.
CASES: Final[dict[str, tuple[str, Callable[[Shape, str], Functions]]]] = {
    "full": ("full", _full),
    "causal": ("causal", _causal),
    "window": ("causal window of 1,024", _window),
    "documents": ("12 documents, causal", _documents),
    "prefix": ("prefix of 1,024, causal behind it", _prefix),
    "alibi": ("ALiBi, causal", _alibi),
    "soft_cap": ("soft cap 30, causal", _soft_cap),
    "relative_bias": ("learned relative bias, causal", _relative_bias),
}


def visible_pairs(mask_mod: Function | None, shape: Shape, device: str) -> float:
    """How many pairs a mask shows, of all sequences and heads, counted a few rows at a time."""
    every = shape.batch * shape.heads * shape.q_len * shape.kv_len
    if mask_mod is None:
        return float(every)
    rows = max(1, (1 << 24) // max(1, shape.kv_len))
    kv_idx = torch.arange(shape.kv_len, device=device)
    seen = 0
    for b in range(shape.batch):
        for h in range(shape.heads):
            before = seen
            for start in range(0, shape.q_len, rows):
                q_idx = torch.arange(start, min(start + rows, shape.q_len), device=device)[:, None]
                at = (torch.tensor(b, device=device), torch.tensor(h, device=device))
                shown = torch.as_tensor(mask_mod(*at, q_idx, kv_idx))
                seen += int(shown.expand(q_idx.shape[0], shape.kv_len).sum())
            if not _differs(mask_mod, b, h):
                return float((seen - before) * shape.batch * shape.heads)
    return float(seen)


def _differs(mask_mod: Function, b: int, h: int) -> bool:
    """Whether another sequence or head may see other pairs, told by what the mask depends on."""
    from attncc.analysis import depends  # late: it brings the analysis
    from attncc.frontend import trace  # late, as above

    return bool(depends(trace(mask_mod).mask) & {"b", "h"})
