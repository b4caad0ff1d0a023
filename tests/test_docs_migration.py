"""The pages for people who come from elsewhere: their examples run, and their table says what the analysis finds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from attncc import pipeline
from attncc.analysis.bands import summarize_mask
from attncc.flex.classes import seen_by
from attncc.frontend import trace
from attncc.runtime.tiles import Sizes

DOCS = Path(__file__).resolve().parent.parent / "docs"
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
PAGES = ("coming_from_flexattention", "coming_from_flashattention", "huggingface")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("page", PAGES)
def test_the_examples_run_one_after_the_other(page, tmp_path):
    if page == "huggingface":
        pytest.importorskip("transformers", reason="transformers is not installed")
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    torch.manual_seed(0)
    scope = {"__name__": "example"}
    for i, code in enumerate(BLOCK.findall(text)):
        path = tmp_path / f"example_{i}.py"  # a traced function needs its source
        path.write_text(code, encoding="utf-8")
        exec(compile(code, str(path), "exec"), scope)
    assert "assert" in text


def gym_masks():
    """The masks of attn-gym by the names of what makes them."""
    from attn_gym import masks

    from tests.flex.test_attn_gym import MASKS, TREE

    made = {
        "causal_mask": "causal",
        "generate_sliding_window": "sliding window",
        "generate_dilated_sliding_window": "dilated",
        "batchify_mask_mod": "batchify",
        "generate_block_diffusion_mask": "block diffusion",
        "generate_doc_mask_mod": "documents",
        "generate_packed_causal_doc_mask_mod": "packed documents",
        "generate_shared_prefix_mask_mod": "shared prefix",
        "generate_global_sliding_window": "global window",
        "generate_prefix_lm_mask": "prefix",
        "generate_natten": "natten",
        "generate_tiled_natten": "tiled natten",
        "generate_morton_natten": "morton natten",
        "generate_sta_mask_mod_2d": "tiles 2-D",
        "generate_sta_mask_mod_3d": "tiles 3-D",
        "generate_spatial_head_mask_mod": "spatial",
        "generate_temporal_head_mask_mod": "temporal",
        "generate_vsa_mask_mod": "selected tiles",
        "generate_vision_cross_attention_mask_mod": "images",
        "generate_jetspec_training_mask_mod": "tree training",
    }
    found = {name: MASKS[key]() for name, key in made.items()}
    return {**found, "generate_jetspec_tree_causal_mask_mod": masks.generate_jetspec_tree_causal_mask_mod(54, TREE)}


def hugging_face_masks():
    """The masks of transformers by their names."""
    from transformers import masking_utils as masks

    starts, numbers = torch.zeros(2, dtype=torch.long), torch.zeros(2, 64, dtype=torch.long)
    return {
        "causal_mask_function": masks.causal_mask_function,
        "bidirectional_mask_function": masks.bidirectional_mask_function,
        "sliding_window_causal_mask_function": masks.sliding_window_causal_mask_function(6),
        "sliding_window_bidirectional_mask_function": masks.sliding_window_bidirectional_mask_function(6),
        "chunked_causal_mask_function": masks.chunked_causal_mask_function(8, starts),
        "padding_mask_function": masks.padding_mask_function(numbers == 0),
        "packed_sequence_mask_function": masks.packed_sequence_mask_function(numbers),
        "blockwise_overlay": masks.or_masks(masks.causal_mask_function, masks.blockwise_overlay(numbers)),
        "sliding_window_overlay": masks.sliding_window_overlay(6),
        "sliding_window_bidirectional_overlay": masks.sliding_window_bidirectional_overlay(6),
        "chunked_overlay": masks.chunked_overlay(8, starts),
        "add_offsets_to_mask_function": masks.add_offsets_to_mask_function(masks.causal_mask_function, 3, 2),
        "remap_positions_for_packed_sequence": masks.remap_positions_for_packed_sequence(
            masks.sliding_window_causal_mask_function(6), numbers
        ),
    }


ROUTES = {
    "bands": "limits in closed form",
    "tabulated": "a table, from the least and largest values of tensors in each tile",
    "dense": "every tile",
}


def test_the_table_has_every_mod_with_what_it_reads():
    pytest.importorskip("attn_gym", reason="attn_gym is not installed")
    from tests.flex.test_attn_gym import scores

    named = {
        "alibi": "generate_alibi_bias",
        "soft cap": "generate_tanh_softcap",
        "sandwich": "generate_sandwich_bias",
        "gelu": "generate_activation_score_mod",
        "distances": "generate_graphormer_spatial_bias",
        "edges": "generate_graphormer_edge_bias",
        "latent attention": "generate_mla_rope_score_mod",
    }
    text = (DOCS / "coming_from_flexattention.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `attn_gym` `(\w+)` \| dense \| (each score.*) \|$", text, re.MULTILINE)
    found = {}
    for key, (score, _) in scores().items():
        if key in named:
            spec = trace(score)
            assert type(summarize_mask(pipeline.canonicalize(spec).mask)).__name__ == "Dense"
            found[named[key]] = "each score, with tensors that it reads" if spec.captures else "each score"
    assert dict(rows) == found


@pytest.mark.parametrize(("package", "masks"), [("attn_gym", gym_masks), ("transformers", hugging_face_masks)])
def test_the_table_has_the_class_of_every_mask(package, masks):
    pytest.importorskip(package, reason=f"{package} is not installed")
    text = (DOCS / "coming_from_flexattention.md").read_text(encoding="utf-8")
    rows = re.findall(rf"^\| `{package}` `(\w+)` \| (\w+) \| (.*) \|$", text, re.MULTILINE)
    table = {name: kind for name, kind, route in rows if not route.startswith("each score")}
    assert all(route == ROUTES[kind] for name, kind, route in rows if name in table)
    sizes = Sizes(2, 4, 64, 64)
    found = {name: type(summarize_mask(seen_by(mask, sizes).mask)).__name__.lower() for name, mask in masks().items()}
    assert table == found
