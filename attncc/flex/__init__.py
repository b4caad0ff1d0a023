"""FlexAttention's face: the names of `torch.nn.attention.flex_attention`, with the same arguments and meanings.

Changing one import is the whole migration. Differences, all of them things that work here and not in torch, are listed
in `docs/coming_from_flexattention.md`.
"""

from torch.nn.attention import flex_attention as _torch_flex
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


def __getattr__(name: str) -> object:
    """Names that torch keeps to itself and that people import all the same, such as `_mask_mod_signature`: torch's."""
    if name.startswith("_") and not name.startswith("__") and hasattr(_torch_flex, name):
        return getattr(_torch_flex, name)
    raise AttributeError(f"module 'attncc.flex' has no attribute {name!r}")
