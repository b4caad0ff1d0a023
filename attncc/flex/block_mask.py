"""`BlockMask`: a mask and, when they are asked for, the lists of its blocks; what torch's class of that name is.

One that `create_block_mask` makes holds the mask itself: attention analyses it as it stands and needs no lists. One
that is made of lists, by hand or by torch, is obeyed: a pair is visible where its block is listed and, unless the block
is listed as full, the mask agrees.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex
from torch.utils import _pytree as pytree

from attncc.errors import InputError
from attncc.flex.classes import classify_blocks, seen_by
from attncc.flex.functions import Function
from attncc.flex.lists import classes_of, listed
from attncc.frontend.signatures import role_of
from attncc.runtime.tiles import FULL, PARTIAL, Sizes
from attncc.variants.define import Mask, Mod

#: The eight lists of a BlockMask: those of rows of queries, those of columns of keys, and in each those of full blocks.
LISTS = tuple(f"{side}_{part}" for side in ("kv", "full_kv", "q", "full_q") for part in ("num_blocks", "indices"))
#: The block size with which torch says that nothing is sparse.
WHOLE = 1 << 30


@dataclass(frozen=True, slots=True, eq=False)
class Pattern:
    """What lists are made of when they are asked for."""

    mask_mod: Function
    sizes: Sizes
    block: tuple[int, int]
    device: torch.device
    exact: bool
    separate_full_blocks: bool

    def lists(self) -> dict[str, Tensor | None]:
        """The eight lists; those of full blocks are None where these are not told apart."""
        classes = classify_blocks(seen_by(self.mask_mod, self.sizes, self.device), self.block, self.exact)
        classes = classes.to(self.device)
        kinds = {"": classes == PARTIAL, "full_": classes == FULL}
        if not self.separate_full_blocks:
            kinds = {"": classes >= PARTIAL}
        made: dict[str, Tensor | None] = dict.fromkeys(LISTS)
        for full, present in kinds.items():
            for side, table in (("kv", present), ("q", present.transpose(-2, -1))):
                made[f"{full}{side}_num_blocks"], made[f"{full}{side}_indices"] = listed(table)
        return made


class BlockMask(torch_flex.BlockMask):
    """Which blocks of pairs attention visits, and the mask in them; a torch BlockMask whose lists may come later."""

    # torch's own __init__ sets the lists one by one, which the properties below keep in `_given`.
    _given: dict[str, Tensor | None]
    _pattern: Pattern | None = None

    def __new__(cls, *args: Any, **kwargs: Any) -> BlockMask:
        """An empty one; torch's `__init__` fills it."""
        made = super().__new__(cls)
        made._given = {}
        return made

    @classmethod
    def _of(cls, pattern: Pattern) -> BlockMask:
        """The block mask of a mask function; nothing is computed."""
        made = cls.__new__(cls)
        made._pattern = pattern
        made.seq_lengths = (pattern.sizes.q_len, pattern.sizes.kv_len)
        made.BLOCK_SIZE = pattern.block
        made.mask_mod = pattern.mask_mod
        for name in (*cls._TENSOR_ATTRS, *cls._CONTEXT_ATTRS):
            if name not in LISTS and name not in vars(made):
                setattr(made, name, None)
        return made

    @classmethod
    def from_torch(cls, block_mask: torch_flex.BlockMask) -> BlockMask:
        """The same lists and the same mask as a block mask of torch's."""
        made = cls.__new__(cls)
        made._given = {name: getattr(block_mask, name) for name in LISTS}
        for name, value in vars(block_mask).items():
            if name not in (*LISTS, "_given", "_pattern"):
                setattr(made, name, value)
        return made

    def to_torch(self) -> torch_flex.BlockMask:
        """The block mask as torch's own class, with its lists made; sizes that the mask asks for are bound."""
        made = torch_flex.BlockMask.__new__(torch_flex.BlockMask)
        lists = {name: getattr(self, name) for name in LISTS}
        rest = {name: value for name, value in vars(self).items() if name not in ("_given", "_pattern")}
        vars(made).update(rest | lists)
        mask_mod = self.mask_mod
        if isinstance(mask_mod, Mod) and mask_mod.sizes:
            sizes = dict(zip(("batch", "heads", "q_len", "kv_len"), self.shape, strict=True))
            made.mask_mod = mask_mod.bind(**{name: sizes[name] for name in mask_mod.sizes})
        return made

    @property
    def is_symbolic(self) -> bool:
        """Whether the mask alone says what is visible: nothing of it was replaced since it was created."""
        pattern = self._pattern
        if pattern is None or self._given or self.mask_mod is not pattern.mask_mod:
            return False
        return self.seq_lengths == (pattern.sizes.q_len, pattern.sizes.kv_len) and pattern.block == self.BLOCK_SIZE

    @property
    def shape(self) -> tuple[int, ...]:
        """(batch, heads, q_len, kv_len), the first two 1 where the mask is the same for all."""
        if self._pattern is None or "kv_indices" in self._given:
            return (*self.kv_indices.shape[:-2], *self.seq_lengths)
        return (self._pattern.sizes.batch, self._pattern.sizes.heads, *self.seq_lengths)

    def __getitem__(self, index: Any) -> BlockMask:
        """The lists at a batch, head and row of blocks; the result has no mask function until one is assigned."""
        return BlockMask.from_torch(super().__getitem__(index))

    def to(self, device: torch.device | str) -> BlockMask:
        """The same block mask with its lists on a device; what the mask function captures stays where it is."""
        if self._pattern is not None and self.is_symbolic:
            return BlockMask._of(replace(self._pattern, device=torch.device(device)))
        return BlockMask.from_torch(super().to(device))

    def contiguous(self) -> BlockMask:
        """Itself: for callers, such as `generate` of transformers, that take a mask for a tensor."""
        return self

    def _adjust(self, new_q_len: int, new_kv_len: int) -> BlockMask:
        """The upper left part of the block mask, or the same function on longer sequences."""
        if self._pattern is not None and self.is_symbolic:
            sizes = replace(self._pattern.sizes, q_len=new_q_len, kv_len=new_kv_len)
            return BlockMask._of(replace(self._pattern, sizes=sizes))
        return BlockMask.from_torch(super()._adjust(new_q_len, new_kv_len))


def _list_property(name: str) -> property:
    def read(self: BlockMask) -> Tensor | None:
        if name not in self._given:
            if self._pattern is None:
                raise AttributeError(name)
            made = _MADE.get(self)
            if made is None:
                made = _MADE[self] = self._pattern.lists()
            return made[name]
        return self._given[name]

    def write(self: BlockMask, value: Tensor | None) -> None:
        self._given[name] = value

    return property(read, write, doc=f"The list `{name}`, made when it is first asked for.")


#: The lists that were made of a pattern.
_MADE: weakref.WeakKeyDictionary[BlockMask, dict[str, Tensor | None]] = weakref.WeakKeyDictionary()
#: The classes of blocks that lists describe, with the tensors and versions that they were made of.
_TABLES: weakref.WeakKeyDictionary[torch_flex.BlockMask, tuple[Any, Tensor]] = weakref.WeakKeyDictionary()
for _name in LISTS:
    setattr(BlockMask, _name, _list_property(_name))

pytree.register_pytree_node(
    BlockMask,
    cast(Any, torch_flex.BlockMask._flatten),
    cast(Any, BlockMask._unflatten),
    flatten_with_keys_fn=cast(Any, torch_flex.BlockMask._flatten_with_keys),
    serialized_type_name="attncc.flex.BlockMask",
)


def create_block_mask(
    mask_mod: Function,
    B: int | None,
    H: int | None,
    Q_LEN: int,
    KV_LEN: int,
    device: torch.device | str | int | None = None,
    BLOCK_SIZE: int | tuple[int, int] = 128,
    _compile: bool = False,
    separate_full_blocks: bool = True,
    compute_dq_write_order: bool = False,
    dq_kv_order: bool = True,
    *,
    exact: bool = True,
) -> BlockMask:
    """The block mask of a mask function; returns at once, since lists of blocks are made only when they are read.

    The arguments are torch's; None for B or H means that the mask is the same for all. With `exact=False` lists hold
    what the analysis proves: a block listed as partial may turn out to be empty or full, and no pair is ever evaluated.
    """
    if not torch.compiler.is_dynamo_compiling() and role_of(mask_mod) != "mask":
        raise InputError("create_block_mask takes a mask function (b, h, q_idx, kv_idx), but this one takes a score")
    block = (BLOCK_SIZE, BLOCK_SIZE) if isinstance(BLOCK_SIZE, int) else (int(BLOCK_SIZE[0]), int(BLOCK_SIZE[1]))
    sizes = Sizes(1 if B is None else B, 1 if H is None else H, Q_LEN, KV_LEN)
    for name, size in (("B", B), ("H", H), ("Q_LEN", Q_LEN), ("KV_LEN", KV_LEN), *(("BLOCK_SIZE", b) for b in block)):
        if size is not None and size < 1:
            raise InputError(f"`{name}` must be at least 1, but is {size}")
    made = BlockMask._of(Pattern(mask_mod, sizes, block, device_of(device), exact, separate_full_blocks))
    if compute_dq_write_order:
        _order_writes(made, dq_kv_order)
    return made


def device_of(device: torch.device | str | int | None) -> torch.device:
    """The device asked for, otherwise the accelerator of this machine, otherwise the CPU."""
    if device is not None:
        return torch.device(device)
    return torch.accelerator.current_accelerator() or torch.device("cpu")


def _order_writes(made: BlockMask, order: bool) -> None:
    """The metadata for torch's deterministic FLASH backward, as torch computes it; attncc's own kernels need none."""
    compute = getattr(torch_flex, "_compute_dq_write_order_from_block_mask", None)
    if compute is None:
        raise InputError(f"torch {torch.__version__} has no `compute_dq_write_order`", hint="torch 2.13 has it")
    made.dq_write_order, made.dq_write_order_full = compute(made, dq_kv_order=order)
    made.dq_kv_order, made.dq_kv_order_spt = None, order


def table_of(block_mask: torch_flex.BlockMask, q_len: int, kv_len: int) -> Tensor:
    """The classes of blocks that the lists describe, int8 [B, H, Qb, KVb]; remembered until the lists change."""
    given = [getattr(block_mask, name) for name in LISTS[:4]]
    if torch.compiler.is_dynamo_compiling():  # in a graph they are made anew: torch.compile follows no memory
        return _table(block_mask, given, q_len, kv_len)
    key = (*((id(t), t._version) for t in given if t is not None), q_len, kv_len)
    found = _TABLES.get(block_mask)
    if found is None or found[0] != key:
        found = _TABLES[block_mask] = (key, _table(block_mask, given, q_len, kv_len))
    return found[1]


def _table(block_mask: torch_flex.BlockMask, given: Sequence[Tensor | None], q_len: int, kv_len: int) -> Tensor:
    rows, columns = (-(-n // size) for n, size in zip((q_len, kv_len), block_mask.BLOCK_SIZE, strict=True))
    counts, indices, full_counts, full_indices = (None if t is None else _four(t, i) for i, t in enumerate(given))
    assert counts is not None
    assert indices is not None
    full = None if full_counts is None or full_indices is None else (full_counts, full_indices)
    classes = classes_of((counts, indices), full, columns)
    if classes.shape[2] < rows:
        problem = f"the block mask lists {classes.shape[2]} rows of blocks, but {q_len} queries have {rows}"
        raise InputError(problem, hint=f"its blocks are {block_mask.BLOCK_SIZE}")
    return classes


def _four(tensor: Tensor, place: int) -> Tensor:
    """A list with its batch and head dimensions; counts have one dimension less than columns."""
    while tensor.dim() < 3 + place % 2:
        tensor = tensor.unsqueeze(0)
    return tensor


def obeying(block_mask: torch_flex.BlockMask, q_len: int, kv_len: int) -> Mask:
    """The mask of a block mask that is made of lists: they are read as a captured tensor."""
    blocks = table_of(block_mask, q_len, kv_len)
    mask_mod = block_mask.mask_mod
    q_size, kv_size = block_mask.BLOCK_SIZE
    same_batch, same_head = blocks.shape[0] == 1, blocks.shape[1] == 1

    def listed_blocks(b: Any, h: Any, q_idx: Any, kv_idx: Any, **sizes: Any) -> Any:
        kind = blocks[0 if same_batch else b, 0 if same_head else h, q_idx // q_size, kv_idx // kv_size]
        return (kind == 2) | ((kind == 1) & mask_mod(b, h, q_idx, kv_idx, **sizes))

    return Mask(listed_blocks, name="listed_blocks", sizes=getattr(mask_mod, "sizes", ()))
