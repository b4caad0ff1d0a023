"""Pictures of a variant's mask: the tile test over boxes, the mask itself only at the pixels that are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attncc import pipeline
from attncc.analysis import depends
from attncc.api.options import Options
from attncc.api.program import Reading
from attncc.api.values import check_captures, check_parameters
from attncc.errors import InputError
from attncc.ir import (
    BATCH,
    HEADS,
    KV_IDX,
    KV_LEN,
    Q_IDX,
    Q_LEN,
    AttentionSpec,
    B,
    Expr,
    H,
    Scalar,
    const,
    load,
    substitute,
)
from attncc.reference import evaluate_dense
from attncc.report.picture import Classes, Picture, make_canvas, make_picture
from attncc.runtime import tiles
from attncc.schedule import Problem, Target

DEFAULT_HEADS = 8
#: Names that no captured tensor can have: the positions at which the mask is evaluated.
Q_POSITIONS, KV_POSITIONS = "q_idx at", "kv_idx at"


def picture_of(reading: Reading, lengths: tuple[int, int], heads: int | None, batch: int, options: Options) -> Picture:
    """The picture of a mask for (q_len, kv_len); `batch` is the one to draw, where they differ."""
    spec = reading.program.spec
    sizes = _sizes(spec, reading.captures, lengths, heads, batch)
    tensors = check_captures(spec, reading.captures, sizes)
    captures = {c.name: tensor.detach() for c, tensor in zip(spec.captures, tensors, strict=True)}
    numbers = check_parameters(spec, reading.parameters)
    parameters = {p.name: value for p, value in zip(spec.parameters, numbers, strict=True)}
    dtypes = tuple(str(tensor.dtype).removeprefix("torch.") for tensor in tensors)
    problem = Problem(capture_dtypes=dtypes, tile_q=options.block_m, tile_kv=options.block_n)
    lowered = pipeline.lower(spec, problem, Target("torch", _device(tensors)))
    view = _View(lowered, sizes, parameters, captures, batch)
    canvas = make_canvas(*lengths, lowered.schedule.tile_q, lowered.schedule.tile_kv)
    drawn = range(sizes["heads"]) if "h" in depends(lowered.canonical.mask) else range(1)
    return make_picture(spec.name, canvas, drawn, view.classify, view.visible)


@dataclass(frozen=True, slots=True)
class _View:
    """A mask with all that it reads: what a picture asks for."""

    lowered: pipeline.Lowered
    sizes: Mapping[str, int]
    parameters: Mapping[str, int]
    captures: Mapping[str, Tensor]
    batch: int
    masks: dict[int, Expr] = field(default_factory=dict)

    def classify(self, head: int, box_q: int, box_kv: int) -> Classes:
        """The classes of all boxes of one head."""
        sizes = tiles.Sizes(**self.sizes)
        test, values = self.lowered.tile_test, (self.parameters, self.captures)
        rows = tiles.tile_rows(test, sizes, box_q, box_kv, *values, b=self.batch, h=head)
        classes = [row.classes.cpu().numpy() for row in rows]
        shape = (-(-self.sizes["q_len"] // box_q), -(-self.sizes["kv_len"] // box_kv))
        return np.array(classes, np.uint8).reshape(shape)

    def visible(self, head: int, q: NDArray[np.int64], kv: NDArray[np.int64]) -> NDArray[np.bool_]:
        """The mask at chosen positions of one head: its positions are read from two tensors."""
        if head not in self.masks:
            self.masks[head] = self._at_positions(head)
        device = _device(tuple(self.captures.values()))
        positions = {Q_POSITIONS: torch.from_numpy(q).to(device), KV_POSITIONS: torch.from_numpy(kv).to(device)}
        sizes = {"batch": 1, "heads": 1, "q_len": q.size, "kv_len": kv.size}
        seen = evaluate_dense(self.masks[head], sizes, {**self.captures, **positions}, self.parameters)
        found: NDArray[np.bool_] = seen[0, 0].cpu().numpy()
        return found

    def _at_positions(self, head: int) -> Expr:
        chosen = {
            Q_IDX: load(Q_POSITIONS, Scalar.INDEX, Q_IDX),
            KV_IDX: load(KV_POSITIONS, Scalar.INDEX, KV_IDX),
            B: const(self.batch),
            H: const(head),
        }
        named = {"batch": BATCH, "heads": HEADS, "q_len": Q_LEN, "kv_len": KV_LEN}
        lengths = {expr: const(self.sizes[name]) for name, expr in named.items()}
        return substitute(self.lowered.canonical.mask, {**chosen, **lengths})


def _sizes(
    spec: AttentionSpec, captures: Mapping[str, Tensor], lengths: tuple[object, object], heads: int | None, batch: int
) -> dict[str, int]:
    """The sizes of a call that brings these captured tensors; they say how many batches and heads there are."""
    q_len, kv_len = _length("q_len", lengths[0]), _length("kv_len", lengths[1])
    found: dict[str, int] = {}
    for capture in spec.captures:
        shape = getattr(captures.get(capture.name), "shape", ())
        for dim, size in zip(capture.dims, shape, strict=False):
            if dim in ("batch", "heads"):
                found.setdefault(str(dim), int(size))
    batches = found.get("batch", batch + 1)
    if not 0 <= batch < batches:
        raise InputError(f"there is no batch {batch}: the captured tensors have {batches}", hint="they count from 0")
    counted = heads if heads is not None else found.get("heads", DEFAULT_HEADS)
    return {"batch": batches, "heads": counted, "q_len": q_len, "kv_len": kv_len}


def _length(name: str, length: object) -> int:
    if isinstance(length, bool) or not isinstance(length, int) or length < 0:
        raise InputError(f"`{name}` must be an int of at least 0, but is {length!r}", hint="it counts positions")
    return length


def _device(tensors: tuple[Tensor, ...]) -> str:
    return next((tensor.device.type for tensor in tensors if tensor.device.type != "cpu"), "cpu")
