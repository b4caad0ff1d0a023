"""The Gluon kernels of gallery variants as they are rendered for Hopper, with arguments for the simulator."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from attncc import pipeline
from attncc.emit import differentiable
from attncc.emit.triton.program import OWN_KEYS, Emitted
from attncc.frontend import parse
from attncc.ir import AttentionSpec
from attncc.reference import reference, reference_scores
from attncc.runtime import op
from attncc.runtime.triton_build import is_descriptor
from attncc.runtime.triton_values import call_values, key_of
from attncc.schedule import Gradients, Target
from attncc.schedule.gluon import ONE_PASS, GluonSchedule
from attncc.variants.gallery import gallery
from tests.gluon.simulator import Descriptor

GALLERY: Final = Path(__file__).parents[2] / "examples" / "gallery"
HOPPER: Final = Target("triton", "cuda", "sm_90", gluon=True, fast_math=True)
BATCH, HEADS, KV_HEADS = 1, 2, 1
LOG2E: Final = math.log2(math.e)


@dataclass(frozen=True)
class Call:
    """A gallery variant called with tensors of bfloat16 values: its kernels, their arguments, what they should give."""

    name: str
    q_len: int
    head_dim: int = 64

    @cached_property
    def written(self) -> AttentionSpec:
        return parse((GALLERY / f"{self.name}.attn").read_text(encoding="utf-8"))

    @cached_property
    def spec(self) -> AttentionSpec:
        return pipeline.canonicalize(self.written)

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        """q, k, v, and the gradients of out and lse."""
        random = torch.Generator().manual_seed(self.q_len)
        sizes = self.sizes
        shapes = [(HEADS, sizes.q_len), (KV_HEADS, sizes.kv_len), (KV_HEADS, sizes.kv_len), (HEADS, sizes.q_len)]
        made = [torch.randn(BATCH, *shape, self.head_dim, generator=random).bfloat16() for shape in shapes]
        return (*made, torch.randn(BATCH, HEADS, sizes.q_len, generator=random))

    @cached_property
    def sizes(self) -> Any:
        return gallery()[self.name].sizes(self.q_len, BATCH, HEADS)

    @cached_property
    def captures(self) -> tuple[Tensor, ...]:
        made = gallery()[self.name].captures(self.sizes)
        return tuple(made[capture.name] for capture in self.spec.captures)

    @cached_property
    def parameters(self) -> tuple[int, ...]:
        return tuple(self.sizes.parameters.get(p.name, p.value) for p in self.spec.parameters)

    @cached_property
    def scale(self) -> float:
        return float(self.head_dim**-0.5)

    def emitted(self, kernel: str, schedule: GluonSchedule | None = None) -> Emitted:
        """A kernel of the variant, under its first schedule or this one; backward in one pass only by its own name."""
        of_captures = tuple(
            can and c.is_floating_point() for can, c in zip(differentiable(self.spec), self.captures, strict=True)
        )
        gradients = None if kernel == "forward" else Gradients(True, True, True, of_captures)
        q, k, v, *_ = self.tensors
        problem = op.problem_of((q, k, v, *self.captures), self.parameters, gradients, 0, 0)
        problem = replace(problem, deterministic=kernel != ONE_PASS)
        lowered = pipeline.lower(self.written, problem, HOPPER)
        programs = lowered.triton_forward if gradients is None else lowered.triton_backward
        assert programs is not None
        program = programs(True, False)
        if schedule is not None:
            chosen: Any = {kernel: (schedule,) if kernel == ONE_PASS else schedule}
            program = program.rescheduled(replace(program.schedules, **chosen))
        return program.passes[kernel]

    @cached_property
    def wanted(self) -> dict[str, np.ndarray[Any, Any]]:
        """out, lse, and all gradients, in float64."""
        q, k, v, do, grad_lse = self.tensors
        wide = [t.double().requires_grad_() for t in (q, k, v)]
        held = [c.double().requires_grad_() if c.is_floating_point() else c for c in self.captures]
        out, lse = reference(self.spec, *wide, held, self.named, scale=self.scale, return_lse=True)
        seen = lse.isfinite()
        loss = (out * do.double()).sum() + torch.where(seen, lse * grad_lse, 0.0).sum()
        grads = torch.autograd.grad(loss, wide)
        made = dict(zip(("out", "lse", "dq", "dk", "dv"), (out, lse, *grads), strict=True))
        return {name: tensor.detach().numpy() for name, tensor in made.items()}

    @cached_property
    def named(self) -> dict[str, int]:
        return dict(zip((p.name for p in self.spec.parameters), self.parameters, strict=True))

    @cached_property
    def visible(self) -> np.ndarray[Any, Any]:
        q, k, *_ = self.tensors
        return (reference_scores(self.spec, q, k, self.captures, self.named) != -math.inf).numpy()

    def arguments(self, emitted: Emitted) -> dict[str, Any]:
        """What the kernel takes, by name; results are filled with NaN."""
        q, k, v, do, grad_lse = self.tensors
        rows = self.wanted["lse"].astype(np.float32)
        delta = (self.wanted["out"] * do.double().numpy()).sum(-1) - np.where(np.isfinite(rows), grad_lse.numpy(), 0.0)
        lse2 = np.where(np.isneginf(rows), np.inf, rows * LOG2E).astype(np.float32)
        tensors = {"q": q, "k": k, "v": v, "do": do, "dq": q, "dk": k, "dv": v, "out": do}
        values = call_values(q, k, v, self.captures, self.parameters, self.scale)
        values |= {f"{name}_ptr": np.full(rows.shape, np.nan, np.float32) for name in ("lse", "largest", "sums")}
        values |= {"lse2_ptr": lse2, "delta_ptr": delta.astype(np.float32)}
        given: dict[str, Any] = {}
        for argument, role in zip(emitted.kernel.run_time, emitted.roles, strict=True):
            key = key_of(role)
            if key == "dq_sum_desc":
                sums = np.zeros((BATCH * HEADS, self.sizes.q_len, self.head_dim), np.float32)
                given[argument.name] = Descriptor(sums, [1, emitted.schedule.tile_q, 64], "fp32")
            elif is_descriptor(argument.type):
                box = [int(size) for size in argument.type.split("[")[1].split("]")[0].split(",")]
                name = key.removesuffix("_desc")
                base = (
                    values[f"{name}_ptr"].reshape(BATCH * HEADS, -1) if len(box) == 2 else tensors[name].float().numpy()
                )
                results = np.full_like(base, np.nan) if name in ("out", "dq", "dk", "dv") else base.copy()
                given[argument.name] = Descriptor(results, box, "fp32" if len(box) == 2 else "bf16")
            elif role.kind in ("partial_count_ptr", "partial_index_ptr", "full_count_ptr", "full_index_ptr"):
                given[argument.name] = self.table(emitted)[role.kind]
            elif role.kind == "grad_sum":
                rows_of = self.sizes.kv_len if emitted.kernel.entry in OWN_KEYS else self.sizes.q_len
                given[argument.name] = np.full((BATCH, HEADS, rows_of), np.nan, np.float32)
            else:
                value = values[key]
                given[argument.name] = value.numpy() if isinstance(value, Tensor) else value
        return given

    def table(self, emitted: Emitted) -> dict[str, np.ndarray[Any, Any]]:
        """The tiles that the kernel visits, counted pair by pair; one row of tiles for each sequence and head."""
        tile_q, tile_kv = emitted.schedule.tile_q, emitted.schedule.tile_kv
        keys = emitted.kernel.entry in OWN_KEYS
        seen = self.visible.swapaxes(2, 3) if keys else self.visible
        own, walked = (tile_kv, tile_q) if keys else (tile_q, tile_kv)
        made: dict[str, list[Any]] = {"partial_count": [], "partial_index": [], "full_count": [], "full_index": []}
        width = -(-seen.shape[3] // walked)
        shared = not bool((seen != seen[:, :1]).any())
        for b in range(seen.shape[0]):
            for h in range(1 if shared else seen.shape[1]):
                for start in range(0, seen.shape[2], own):
                    tiles = [seen[b, h, start : start + own, n * walked : (n + 1) * walked] for n in range(width)]
                    whole = [n for n, t in enumerate(tiles) if t.all() and t.shape[1] == walked]
                    cut = [n for n, t in enumerate(tiles) if t.any() and n not in whole]
                    for kind, found in (("partial", cut), ("full", whole)):
                        made[f"{kind}_count"].append(len(found))
                        made[f"{kind}_index"].append([*found, *[10**6] * (width - len(found))])
        return {f"{name}_ptr": np.array(rows, np.int32) for name, rows in made.items()}

    def grid(self, emitted: Emitted) -> int:
        """The programs of a launch."""
        keys = emitted.kernel.entry in OWN_KEYS
        length, tile = (
            (self.sizes.kv_len, emitted.schedule.tile_kv) if keys else (self.sizes.q_len, emitted.schedule.tile_q)
        )
        return -(-length // tile) * BATCH * (KV_HEADS if keys else HEADS)


@cache
def call(name: str, q_len: int = 200, head_dim: int = 64) -> Call:
    """The call of a gallery variant; made once."""
    return Call(name, q_len, head_dim)


def check(found: Mapping[str, Any], wanted: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Compare results that are rounded as bfloat16 has them."""
    for name, values in wanted.items():
        if f"{name}_desc" in found:
            bound = 2**-5 * max(1.0, float(np.abs(values).max()))
            np.testing.assert_allclose(found[f"{name}_desc"].base, values, atol=bound, err_msg=name)
    if "dq_sum_desc" in found:
        sums = found["dq_sum_desc"].base * found["scale"]
        bound = 2**-5 * max(1.0, float(np.abs(wanted["dq"]).max()))
        np.testing.assert_allclose(sums.reshape(wanted["dq"].shape), wanted["dq"], atol=bound, err_msg="dq")
