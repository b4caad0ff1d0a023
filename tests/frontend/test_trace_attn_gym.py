"""The masks and scores of attn-gym trace unchanged; skipped where the package is not installed.

`ATTNCC_TEST_ATTN_GYM` may name a folder that holds it: `pip install --no-deps --target FOLDER attn-gym==0.0.17`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from attncc.errors import AttnccError
from attncc.frontend import fingerprint, trace_functions
from tests.frontend.oracle import agree

LENGTH = 64
SIZES = {"batch": 2, "heads": 4, "q_len": LENGTH, "kv_len": LENGTH}


@pytest.fixture(scope="module", autouse=True)
def attn_gym() -> Iterator[Any]:
    """The package, from where it is installed or from the folder that is named."""
    folder = os.environ.get("ATTNCC_TEST_ATTN_GYM")
    if folder:
        sys.path.insert(0, folder)
    try:
        yield pytest.importorskip("attn_gym", reason="attn-gym is not installed; see ATTNCC_TEST_ATTN_GYM")
    finally:
        if folder:
            sys.path.remove(folder)


def ints(*shape: int, high: int, dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """Random indices, always the same."""
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(1)).to(dtype)


def floats(*shape: int) -> torch.Tensor:
    """Random numbers, always the same."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


OFFSETS = torch.tensor([0, 10, 30, 64], dtype=torch.int32)
MASKS: dict[str, Callable[[Any], Any]] = {
    "causal": lambda m: m.causal_mask,
    "sliding window": lambda m: m.generate_sliding_window(7),
    "dilated": lambda m: m.generate_dilated_sliding_window(9, 3),
    "batchify": lambda m: m.batchify_mask_mod(m.causal_mask, 16),
    "block diffusion": lambda m: m.generate_block_diffusion_mask(32, 4),
    "document": lambda m: m.generate_doc_mask_mod(m.causal_mask, OFFSETS),
    "packed": lambda m: m.generate_packed_causal_doc_mask_mod(OFFSETS),
    "global": lambda m: m.generate_global_sliding_window(3, floats(LENGTH) > 1),
    "tree": lambda m: m.generate_jetspec_tree_causal_mask_mod(4, torch.ones(LENGTH, LENGTH).tril() > 0),
    "training": lambda m: m.generate_jetspec_training_mask_mod(5, 4),
    "natten": lambda m: m.generate_natten(8, 8, 3, 3),
    "tiled natten": lambda m: m.generate_tiled_natten(8, 8, 3, 3, 2, 2),
    "morton natten": lambda m: m.generate_morton_natten(8, 8, 3, 3),
    "prefix": lambda m: m.generate_prefix_lm_mask(5),
    "shared prefix": lambda m: m.generate_shared_prefix_mask_mod(OFFSETS.long(), torch.tensor([0, 0, 2])),
    "tiles 2-D": lambda m: m.generate_sta_mask_mod_2d((8, 8), (4, 4), (2, 2), 3),
    "tiles 3-D": lambda m: m.generate_sta_mask_mod_3d((4, 4, 4), (2, 2, 2), (2, 2, 2)),
    "spatial": lambda m: m.generate_spatial_head_mask_mod(4, 4, 12, 2, True, 8),
    "temporal": lambda m: m.generate_temporal_head_mask_mod(4, 4, 12, 2),
    "selected tiles": lambda m: m.generate_vsa_mask_mod(ints(2, 4, 8, 3, high=8), 8, ints(8, high=8)),
}
SCORES: dict[str, Callable[[Any], Any]] = {
    "alibi": lambda s: s.generate_alibi_bias(8),
    "softcap": lambda s: s.generate_tanh_softcap(30),
    "sandwich": lambda s: s.generate_sandwich_bias(8, LENGTH),
    "gelu": lambda s: s.generate_activation_score_mod(),
    "relu": lambda s: s.generate_activation_score_mod(F.relu, 2.0),
    "silu": lambda s: s.generate_activation_score_mod(F.silu),
    "distances": lambda s: s.generate_graphormer_spatial_bias(floats(4, 10), ints(2, LENGTH, LENGTH, high=10)),
    "edges": lambda s: s.generate_graphormer_edge_bias(
        floats(4, 3, 6), ints(2, LENGTH, LENGTH, 3, high=6), ints(2, LENGTH, LENGTH, high=4)
    ),
    "small rotary": lambda s: s.generate_mla_rope_score_mod(floats(2, 4, LENGTH, 16), floats(2, 1, LENGTH, 16), 4),
}


@pytest.mark.parametrize("name", MASKS)
def test_mask_of_attn_gym_agrees_with_itself(name: str) -> None:
    mask = MASKS[name](importlib.import_module("attn_gym.masks"))
    agree(mask, "mask", sizes=SIZES, count=100)
    assert fingerprint(None, mask) is not None


@pytest.mark.parametrize("name", SCORES)
def test_score_of_attn_gym_agrees_with_itself(name: str) -> None:
    score = SCORES[name](importlib.import_module("attn_gym.mods"))
    agree(score, sizes=SIZES, count=60, tolerance=1e-4, scores=(0.0, 1.0, -1.0))
    assert fingerprint(score, None) is not None


def test_flamingo_mask_of_attn_gym_agrees_with_itself() -> None:
    flamingo = importlib.import_module("attn_gym.masks.flamingo")
    mask = flamingo.generate_vision_cross_attention_mask_mod(torch.tensor([[0, 7], [1, 7], [7, 12]]), 22)
    agree(mask, "mask", sizes=SIZES, count=100)


def test_large_dot_product_and_custom_operator_are_refused_in_a_sentence() -> None:
    mods = importlib.import_module("attn_gym.mods")
    large = mods.generate_mla_rope_score_mod(floats(2, 4, LENGTH, 128), floats(2, 1, LENGTH, 128), 4)
    with pytest.raises(AttnccError, match="this needs 128 elements of `query_rope` for every pair; the limit is 64"):
        trace_functions(large, None)
    with pytest.raises(AttnccError, match="the custom operator `approx::tanh` cannot be compiled"):
        trace_functions(mods.generate_tanh_softcap(30, approx=True), None)
