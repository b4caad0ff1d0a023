"""Several ideas at once, as models use them: the parts compose."""

from __future__ import annotations

from torch import Tensor

from attncc.variants.bias import alibi
from attncc.variants.define import Mask, Score, recipe
from attncc.variants.documents import causal_documents
from attncc.variants.scaling import head_temperature, soft_cap
from attncc.variants.windows import sliding_window


@recipe
def window_in_documents(doc_ids: Tensor, window: int = 256) -> Mask:
    """A causal window that does not leave its document. doc_ids: int [batch, kv_len]."""
    return causal_documents(doc_ids) & sliding_window(window)


@recipe
def capped_alibi(slopes: Tensor, cap: float = 30.0) -> Score:
    """ALiBi on scores that are capped first. slopes: float [heads]."""
    return soft_cap(cap) >> alibi(slopes)


@recipe
def capped_temperature(temperature: Tensor, cap: float = 30.0) -> Score:
    """A learned temperature for each head, then a cap. temperature: float [heads]."""
    return head_temperature(temperature) >> soft_cap(cap)
