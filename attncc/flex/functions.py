"""Functions of positions as FlexAttention has them: what joins masks, and the mask that hides nothing."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable
from typing import Any

import torch

from attncc.api.inputs import kind_of
from attncc.errors import InputError
from attncc.variants.define import Mask, Mod

#: What a mask or score function is: called on 0-d tensors by torch, on traced values by attncc.
Function = Callable[..., Any]


def noop_mask(batch: Any, head: Any, token_q: Any, token_kv: Any) -> Any:
    """The mask under which every query sees every key."""
    return batch.new_ones((), dtype=torch.bool)


def _nothing_mask(batch: Any, head: Any, token_q: Any, token_kv: Any) -> Any:
    """The mask under which nothing is seen."""
    return batch.new_zeros((), dtype=torch.bool)


def and_masks(*mask_mods: Function) -> Function:
    """The mask of what all the masks show; of none, everything."""
    return _joined(operator.and_, mask_mods, noop_mask)


def or_masks(*mask_mods: Function) -> Function:
    """The mask of what any of the masks shows; of none, nothing."""
    return _joined(operator.or_, mask_mods, _nothing_mask)


def _joined(join: Callable[[Any, Any], Any], mask_mods: tuple[Function, ...], of_none: Function) -> Function:
    for mask_mod in mask_mods:
        if not callable(mask_mod):
            raise NotCallableError(f"masks are functions of (b, h, q_idx, kv_idx), but one is {kind_of(mask_mod)}")
    if not mask_mods:
        return of_none
    if any(isinstance(mask_mod, Mod) for mask_mod in mask_mods):
        joined: Function = functools.reduce(join, (Mask.of(mask_mod) for mask_mod in mask_mods))
        return joined

    def joined_mask(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        seen = mask_mods[0](b, h, q_idx, kv_idx)
        for mask_mod in mask_mods[1:]:
            seen = join(seen, mask_mod(b, h, q_idx, kv_idx))
        return seen

    return joined_mask


class NotCallableError(InputError, RuntimeError):
    """What is joined is not a function; also a RuntimeError, as in torch."""
