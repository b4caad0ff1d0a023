"""The class of each block of a mask, by the tile test; where that leaves a block open, by looking into it.

Only blocks that the test calls partial are evaluated, some at a time, so that what this costs follows the edge of the
mask and not the square of the length.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from attncc import pipeline
from attncc.analysis import TileTest, depends
from attncc.analysis.bands import summarize_mask
from attncc.api.program import read_functions
from attncc.api.values import check_captures, check_parameters
from attncc.flex.functions import Function
from attncc.ir import (
    BATCH,
    HEADS,
    KV_IDX,
    KV_LEN,
    Q_IDX,
    Q_LEN,
    B,
    Expr,
    H,
    Op,
    Scalar,
    apply,
    const,
    load,
    substitute,
)
from attncc.reference import evaluate_dense
from attncc.runtime import tiles
from attncc.runtime.tiles import FULL, PARTIAL, SKIP

#: Pairs that are evaluated at a time.
PAIRS = 1 << 20
#: Names that no captured tensor can have: the places of the blocks that are looked into.
PLACES = ("b at", "h at", "q_idx from", "kv_idx from")


@dataclass(frozen=True, slots=True)
class Seen:
    """A mask with its sizes and all that it reads at one moment."""

    mask: Expr
    sizes: tiles.Sizes
    captures: Mapping[str, Tensor]
    parameters: Mapping[str, int]

    @property
    def device(self) -> torch.device:
        """Where its captured tensors are."""
        return next((t.device for t in self.captures.values() if t.device.type != "cpu"), torch.device("cpu"))


def seen_by(mask_mod: Function, sizes: tiles.Sizes, device: torch.device | None = None) -> Seen:
    """A mask function as it is now. Raises LanguageError for what has no meaning, InputError for captures that do not
    fit the sizes."""
    reading = read_functions(None, mask_mod, None, device)
    spec = reading.program.spec
    named = {"batch": sizes.batch, "heads": sizes.heads, "q_len": sizes.q_len, "kv_len": sizes.kv_len}
    tensors = check_captures(spec, reading.captures, named)
    captures = {c.name: tensor.detach() for c, tensor in zip(spec.captures, tensors, strict=True)}
    numbers = check_parameters(spec, reading.parameters)
    parameters = {p.name: value for p, value in zip(spec.parameters, numbers, strict=True)}
    return Seen(pipeline.canonicalize(spec).mask, sizes, captures, parameters)


@functools.lru_cache(maxsize=512)
def block_test(mask: Expr) -> TileTest:
    """The classification of blocks by a mask, as sharp as the analysis has it."""
    return summarize_mask(mask).test


def classify_blocks(seen: Seen, block: tuple[int, int], exact: bool = True) -> Tensor:
    """The class of each block, int8 [B, H, Qb, KVb]. As in torch, one that reaches beyond a sequence is not full."""
    sizes = seen.sizes
    groups = [sizes.batch if "b" in depends(seen.mask) else 1, sizes.heads if "h" in depends(seen.mask) else 1]
    classes = _tested(seen, block).expand(*groups, -1, -1).clone()
    if exact:
        _look_into(seen, classes, block)
    for axis, (length, size) in enumerate(((sizes.q_len, block[0]), (sizes.kv_len, block[1]))):
        if length % size:
            classes.select(2 + axis, -1).clamp_(max=PARTIAL)
    return classes.expand(sizes.batch, sizes.heads, -1, -1)


def _tested(seen: Seen, block: tuple[int, int]) -> Tensor:
    """The classes that the tile test proves, for the batches and heads between which it tells a difference."""
    sizes, test = seen.sizes, block_test(seen.mask)
    batches = sizes.batch if tiles.differs_by(test, "b") else 1
    heads = sizes.heads if tiles.differs_by(test, "h") else 1
    groups = [(b, h) for b in range(batches) for h in range(heads)]
    given = (seen.parameters, seen.captures)
    rows = [row.classes for b, h in groups for row in tiles.tile_rows(test, sizes, *block, *given, b, h)]
    return torch.stack(rows).view(batches, heads, -(-sizes.q_len // block[0]), -(-sizes.kv_len // block[1]))


def _look_into(seen: Seen, classes: Tensor, block: tuple[int, int]) -> None:
    """Replace the class of each partial block by what its pairs say."""
    places = (classes == PARTIAL).nonzero()
    for some in torch.split(places, max(1, PAIRS // (block[0] * block[1]))):
        visible, inside = pairs_of(seen, some, block)
        found = torch.where((visible == inside).flatten(1).all(1), FULL, PARTIAL)
        found = torch.where(visible.flatten(1).any(1), found, SKIP)
        classes[tuple(some.T)] = found.to("cpu", classes.dtype)


def pairs_of(seen: Seen, places: Tensor, block: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Which pairs of some blocks are visible, and which lie inside the sequences. Shapes: places [N, 4], as (b, h, row,
    column) of each block; both results bool [N, block_q, block_kv]."""
    b, h, row, column = places.to(seen.device).unbind(1)
    begins = dict(zip(PLACES, (b, h, row * block[0], column * block[1]), strict=True))
    sizes = {"batch": len(places), "heads": 1, "q_len": block[0], "kv_len": block[1]}
    captures = {**seen.captures, **begins}
    visible, inside = (
        evaluate_dense(expr, sizes, captures, seen.parameters)[:, 0] for expr in _at_places(seen.mask, seen.sizes)
    )
    return visible & inside, inside


@functools.lru_cache(maxsize=512)
def _at_places(mask: Expr, sizes: tiles.Sizes) -> tuple[Expr, Expr]:
    """The mask at the pairs of blocks whose places are captured, and whether these lie inside the sequences."""
    b, h, q_from, kv_from = (load(name, Scalar.INDEX, B) for name in PLACES)
    q, kv = apply(Op.ADD, q_from, Q_IDX), apply(Op.ADD, kv_from, KV_IDX)
    q_len, kv_len = const(sizes.q_len), const(sizes.kv_len)
    inside = apply(Op.AND, apply(Op.LT, q, q_len), apply(Op.LT, kv, kv_len))
    lengths = {BATCH: const(sizes.batch), HEADS: const(sizes.heads), Q_LEN: q_len, KV_LEN: kv_len}
    last_q, last_kv = (apply(Op.SUB, length, const(1)) for length in (q_len, kv_len))
    positions = {Q_IDX: apply(Op.MIN, q, last_q), KV_IDX: apply(Op.MIN, kv, last_kv), B: b, H: h}
    return substitute(mask, {**lengths, **positions}), inside
