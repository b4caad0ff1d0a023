"""FlexAttention's face: the names of `torch.nn.attention.flex_attention`, with the same arguments and meanings.

Changing one import is the whole migration. Differences, all of them things that work here and not in torch, are listed
in `docs/coming_from_flexattention.md`.
"""

from torch.nn.attention.flex_attention import AuxOutput, AuxRequest, FlexKernelOptions

from attncc.flex.attention import flex_attention
from attncc.flex.block_mask import BlockMask, create_block_mask
from attncc.flex.dense import create_mask
from attncc.flex.functions import and_masks, noop_mask, or_masks

__all__ = [
    "AuxOutput",
    "AuxRequest",
    "BlockMask",
    "FlexKernelOptions",
    "and_masks",
    "create_block_mask",
    "create_mask",
    "flex_attention",
    "noop_mask",
    "or_masks",
]
