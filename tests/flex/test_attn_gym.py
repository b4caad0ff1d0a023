"""Every mask and score mod of attn-gym 0.0.17 runs unchanged and agrees with PyTorch's FlexAttention."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from attncc import flex
from attncc.errors import AttnccError
from tests.flex.oracle import agree, close, dense, tensors, theirs
from tests.flex.test_block_mask import same
from tests.flex.test_lists import visible

pytest.importorskip("attn_gym", reason="attn-gym is not installed")
from attn_gym import masks, mods  # only where it is installed
from attn_gym.masks.causal import create_causal_block_mask_fast

B, H, S = 2, 4, 64
OFFSETS = torch.tensor([0, 10, 30, 64], dtype=torch.int32)
TREE = masks.build_tree_ancestor_matrix([-1, 0, 0, 1, 1, 2, 3, 3, 4, 0], device="cpu")
TOP_TILES = torch.stack([torch.randperm(8, generator=torch.Generator().manual_seed(i))[:3] for i in range(64)])

MASKS = {
    "causal": lambda: masks.causal_mask,
    "sliding window": lambda: masks.generate_sliding_window(7),
    "dilated": lambda: masks.generate_dilated_sliding_window(9, 3),
    "batchify": lambda: masks.batchify_mask_mod(masks.causal_mask, 16),
    "block diffusion": lambda: masks.generate_block_diffusion_mask(32, 4),
    "documents": lambda: masks.generate_doc_mask_mod(masks.causal_mask, OFFSETS),
    "packed documents": lambda: masks.generate_packed_causal_doc_mask_mod(OFFSETS),
    "global window": lambda: masks.generate_global_sliding_window(3, torch.arange(S) % 13 == 0),
    "tree training": lambda: masks.generate_jetspec_training_mask_mod(4, 5),
    "natten": lambda: masks.generate_natten(8, 8, 3, 3),
    "tiled natten": lambda: masks.generate_tiled_natten(8, 8, 3, 3, 2, 2),
    "morton natten": lambda: masks.generate_morton_natten(8, 8, 3, 3),
    "prefix": lambda: masks.generate_prefix_lm_mask(5),
    "shared prefix": lambda: masks.generate_shared_prefix_mask_mod(OFFSETS.long(), torch.tensor([0, 0, 2])),
    "tiles 2-D": lambda: masks.generate_sta_mask_mod_2d((8, 8), (4, 4), (2, 2), 0),
    "tiles 3-D": lambda: masks.generate_sta_mask_mod_3d((4, 4, 4), (2, 2, 2), (2, 2, 2)),
    "spatial": lambda: masks.generate_spatial_head_mask_mod(4, 4, 12, 2, True, 8),
    "temporal": lambda: masks.generate_temporal_head_mask_mod(4, 4, 12, 2),
    "selected tiles": lambda: masks.generate_vsa_mask_mod(TOP_TILES.view(B, H, 8, 3), 8),
    "selected tiles of sizes": lambda: masks.generate_vsa_mask_mod(TOP_TILES.view(B, H, 8, 3), 8, torch.arange(1, 9)),
    "images": lambda: masks.generate_vision_cross_attention_mask_mod(torch.tensor([[0, 20], [20, 50], [50, 64]]), 22),
}


def table(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def ints(*shape, high):
    return torch.randint(0, high, shape)


def scores():
    """Each score mod with the tensors that it learns."""
    distances, edges = table(H, 10), table(H, 3, 6)
    q_rope, k_rope = table(B, H, S, 16).detach(), table(B, 1, S, 16).detach()
    hops, path, lengths = ints(B, S, S, high=10), ints(B, S, S, 3, high=6), ints(B, S, S, high=4)
    return {
        "alibi": (mods.generate_alibi_bias(H), []),
        "soft cap": (mods.generate_tanh_softcap(30), []),
        "sandwich": (mods.generate_sandwich_bias(H, S), []),
        "gelu": (mods.generate_activation_score_mod(), []),
        "relu": (mods.generate_activation_score_mod(F.relu, 2.0), []),
        "silu": (mods.generate_activation_score_mod(F.silu), []),
        "distances": (mods.generate_graphormer_spatial_bias(distances, hops), [distances]),
        "edges": (mods.generate_graphormer_edge_bias(edges, path, lengths), [edges]),
        "latent attention": (mods.generate_mla_rope_score_mod(q_rope, k_rope, H, 0.5), []),
    }


@pytest.mark.parametrize("name", MASKS)
def test_masks(name):
    mask = MASKS[name]()
    agree(None, mask, tensors(B, H, S), batch=B, heads=H, block=16)
    for block in (8, 16, (32, 16), 128):
        sizes = (mask, B, H, S, S, "cpu", block)
        same(flex.create_block_mask(*sizes), theirs.create_block_mask(*sizes))


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # torch's eager path, of the learned edges
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", scores())
def test_scores(name, masked):
    score, captures = scores()[name]
    # sandwich and alibi hold float32 numbers, which PyTorch multiplies with ints in float32
    allowed = 2e-6 if name in ("sandwich", "alibi") else None
    agree(score, masks.causal_mask if masked else None, tensors(B, H, S), captures, tolerance=allowed)


def test_latent_attention_learns_what_torch_cannot():
    """PyTorch's eager path has no gradient of a captured vector; the dense formula has."""
    q, k, v = tensors(B, H, S)
    q_rope, k_rope = table(B, H, S, 16), table(B, 1, S, 16)
    score = mods.generate_mla_rope_score_mod(q_rope, k_rope, H, 0.5)
    found = flex.flex_attention(q, k, v, score)
    wanted = (q @ k.mT / 8**0.5 + 0.5 * (q_rope @ k_rope.mT)).softmax(-1) @ v
    close("out", found, wanted, 1e-11)
    grads = [torch.autograd.grad(out.sin().sum(), (q_rope, k_rope)) for out in (wanted, found)]
    for mine, other in zip(*grads, strict=True):
        close("gradient", other, mine, 1e-11)


def test_a_tree_of_drafts():
    mask = masks.generate_jetspec_tree_causal_mask_mod(6, TREE)
    agree(None, mask, tensors(q_len=10, kv_len=16), block=8)


def test_block_lists_of_causal():
    q, k, v = tensors(B, H, 100)
    made = create_causal_block_mask_fast(None, None, 100, 100, torch.device("cpu"), 16)
    found = flex.flex_attention(q, k, v, block_mask=made)
    close("out", found, dense(None, masks.causal_mask, q, k, v)[0], 1e-11)


@pytest.mark.parametrize("sizes", [None, torch.arange(1, 9)])
def test_block_lists_of_selected_tiles(sizes):
    leaves = [t.requires_grad_() for t in tensors(B, H, S)]
    made = masks.create_vsa_block_mask(TOP_TILES.view(B, H, 8, 3), 8, 8, sizes)
    shown = visible(made, S, S)
    wanted = dense(None, lambda b, h, q, kv: shown[b, h, q, kv], *leaves)[0]
    found = flex.flex_attention(*leaves, block_mask=made)
    close("out", found, wanted, 1e-11)
    grads = [torch.autograd.grad(out.sin().sum(), leaves) for out in (wanted, found)]
    for mine, other in zip(*grads, strict=True):
        close("gradient", other, mine, 1e-11)


def test_the_softmax_undone():
    q, k, v = tensors(B, H, S)
    score = mods.generate_activation_score_mod(F.relu, 2.0)
    out, aux = flex.flex_attention(q, k, v, score, return_aux=flex.AuxRequest(lse=True))
    found = mods.undo_softmax(out, aux.lse, v.sum(-2, keepdim=True), 2.0)
    close("out", found, F.relu(q @ k.mT / 8**0.5) @ v, 1e-10)


def test_what_is_refused_says_so_in_a_sentence():
    q, k, v = tensors(B, H, S)
    large = mods.generate_mla_rope_score_mod(torch.randn(B, H, S, 128), torch.randn(B, 1, S, 128), H)
    with pytest.raises(AttnccError, match="this needs 128 elements of `query_rope` for every pair; the limit is 64"):
        flex.flex_attention(q, k, v, large)
    with pytest.raises(AttnccError, match="the custom operator `approx::tanh` cannot be compiled"):
        flex.flex_attention(q, k, v, mods.generate_tanh_softcap(30, approx=True))


def test_nothing_of_the_package_is_left_out():
    known = {
        *("causal_mask", "generate_sliding_window", "generate_dilated_sliding_window", "batchify_mask_mod"),
        *("generate_block_diffusion_mask", "generate_doc_mask_mod", "generate_packed_causal_doc_mask_mod"),
        *("generate_global_sliding_window", "generate_jetspec_training_mask_mod", "generate_natten"),
        *("generate_jetspec_tree_causal_mask_mod", "generate_tiled_natten", "generate_morton_natten"),
        *("generate_prefix_lm_mask", "generate_shared_prefix_mask_mod", "generate_sta_mask_mod_2d"),
        *("generate_sta_mask_mod_3d", "generate_spatial_head_mask_mod", "generate_temporal_head_mask_mod"),
        *("generate_vsa_mask_mod", "generate_vision_cross_attention_mask_mod", "create_vsa_block_mask"),
        *("generate_alibi_bias", "generate_tanh_softcap", "generate_sandwich_bias", "generate_activation_score_mod"),
        *("generate_graphormer_spatial_bias", "generate_graphormer_edge_bias", "generate_mla_rope_score_mod"),
        "create_vsa_flash_block_mask",  # lists for the FLASH engine, of the same kind as those of create_vsa_block_mask
    }
    ends = ("mask", "mod", "bias", "softcap")
    names = [(room, name) for room in (masks, mods) for name in dir(room) if not name.startswith("_")]
    found = {
        name
        for room, name in names
        if callable(getattr(room, name)) and (name.endswith(ends) or name.startswith("generate_"))
    }
    assert found <= known
