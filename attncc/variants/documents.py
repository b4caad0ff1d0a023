"""Several texts in one row: packed documents, shared prefixes, padding."""

from __future__ import annotations

from torch import Tensor

from attncc.variants.define import Mask, mask, recipe

PACKING = "Krell et al. 2021, arXiv:2107.02027"


@recipe
def documents(doc_ids: Tensor) -> Mask:
    """Full attention inside each packed document. doc_ids: int [batch, kv_len], one id per token."""

    @mask(formula="d_i = d_j", citation=PACKING, captures={"doc_ids": "int[batch, kv_len]"})
    def documents(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return doc_ids[b, q_idx] == doc_ids[b, kv_idx]

    return documents


@recipe
def causal_documents(doc_ids: Tensor) -> Mask:
    """Causal attention inside each packed document. doc_ids: int [batch, kv_len], one id per token."""

    @mask(
        formula="d_i = d_j ∧ i ≥ j",
        citation=f"{PACKING}; Kundu et al. 2024, arXiv:2407.09105",
        captures={"doc_ids": "int[batch, kv_len]"},
    )
    def causal_documents(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (doc_ids[b, q_idx] == doc_ids[b, kv_idx]) & (q_idx >= kv_idx)

    return causal_documents


@recipe
def document_starts(starts: Tensor) -> Mask:
    """Causal inside documents given by where each token's begins. starts: int [batch, q_len]."""

    @mask(
        formula="start_i ≤ j ≤ i",
        citation="Wang et al. 2024, arXiv:2410.01359",
        captures={"starts": "int[batch, q_len]"},
    )
    def document_starts(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (starts[b, q_idx] <= kv_idx) & (kv_idx <= q_idx)

    return document_starts


@recipe
def shared_prefix(doc_ids: Tensor, parents: Tensor) -> Mask:
    """Causal inside each document, which also sees all of its parent.

    doc_ids: int [batch, kv_len]; parents: int [documents], the id of the document's parent, or −1.
    """

    @mask(
        formula="(d_i = d_j ∧ i ≥ j) ∨ parent(d_i) = d_j",
        citation="Juravsky et al. 2024, arXiv:2402.05099",
        captures={"doc_ids": "int[batch, kv_len]", "parents": "int[_]"},
    )
    def shared_prefix(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        q_doc = doc_ids[b, q_idx]
        kv_doc = doc_ids[b, kv_idx]
        return ((q_doc == kv_doc) & (q_idx >= kv_idx)) | (parents[q_doc] == kv_doc)

    return shared_prefix


@recipe
def padding(lengths: Tensor) -> Mask:
    """Each sequence ends at its length; what follows is not seen. lengths: int [batch]."""

    @mask(formula="j < n_b", citation="Devlin et al. 2018, arXiv:1810.04805", captures={"lengths": "int[batch]"})
    def padding(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return kv_idx < lengths[b]

    return padding


@recipe
def left_padding(starts: Tensor) -> Mask:
    """Causal, with padding before each sequence; rows of the padding see nothing. starts: int [batch]."""

    @mask(formula="start_b ≤ j ≤ i", citation="Wolf et al. 2019, arXiv:1910.03771", captures={"starts": "int[batch]"})
    def left_padding(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (starts[b] <= kv_idx) & (kv_idx <= q_idx)

    return left_padding


@recipe
def foreground_only(foreground: Tensor) -> Mask:
    """Foreground tokens see each other; rows of the background see nothing. foreground: bool [batch, kv_len]."""

    @mask(
        formula="f_i ∧ f_j",
        citation="Aniraj et al. 2025, arXiv:2506.08915 (its pruned form)",
        captures={"foreground": "bool[batch, kv_len]"},
    )
    def foreground_only(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return foreground[b, q_idx] & foreground[b, kv_idx]

    return foreground_only
