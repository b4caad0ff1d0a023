"""Running a variant's Triton kernels: tensors in, launches, tensors out.

A `TritonPass` runs one pass of one variant on one device, in the call form of every back end's kernels. A call looks
its kernels up, gathers their arguments by role, and launches; it builds nothing that a former call has built. On CPU
tensors the same kernels run in Triton's interpreter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from attncc.emit.triton.program import TritonProgram
from attncc.runtime.build import build
from attncc.runtime.steps import empty_like
from attncc.runtime.triton_fit import settle
from attncc.runtime.triton_gradients import Backward
from attncc.runtime.triton_kernel import Kernel, make_kernel
from attncc.runtime.triton_tables import Lister, Tables
from attncc.runtime.triton_values import Values, aligned, call_values, fit, fit_capture, pointer, strides, wide


@dataclass(frozen=True, slots=True)
class Loaded:
    """A program on a device: its kernels, what fills its tables, and the functions that torch runs around them."""

    program: TritonProgram
    kernels: dict[str, Kernel]
    lister: Lister
    host: dict[str, Callable[..., Any]]


@dataclass
class TritonPass:
    """One pass of a variant on one device. `programs` gives the kernels for tensors that are aligned, or wide."""

    programs: Callable[[bool, bool], TritonProgram]
    device: torch.device
    loaded: dict[tuple[bool, bool], Loaded] = field(default_factory=dict)
    tables: Tables = field(default_factory=Tables)

    def load(self, *tensors: Tensor) -> Loaded:
        """The program for such tensors, built at the first call."""
        kind = aligned(*tensors), wide(*tensors)
        found = self.loaded.get(kind)
        if found is None:
            found = self.loaded[kind] = _load(settle(self.programs(*kind), self.device), self.device)
        return found

    def forward(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        captures: Sequence[Tensor],
        parameters: Sequence[int],
        scale: float,
        check_bounds: bool = False,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """out [B, Hq, Lq, Dv], and per row [B, Hq, Lq] lse, the largest score in base 2, and the sum of weights."""
        q, k, v = fit(q), fit(k), fit(v)
        out = empty_like(q, v.shape[3])
        lse, largest, sums = (torch.empty(q.shape[:3], dtype=torch.float32, device=q.device) for _ in range(3))
        loaded = self.load(q, k, v, out)
        held = [fit_capture(capture, q) for capture in captures]
        values = call_values(q, k, v, held, parameters, scale)
        values |= {"out_ptr": pointer(out), "lse_ptr": pointer(lse), **strides("out", out)}
        values |= {"largest_ptr": pointer(largest), "sums_ptr": pointer(sums)}
        values |= self.table(loaded, "forward", captures, parameters, values)
        kernel = loaded.kernels["forward"]
        kernel.run(-(-q.shape[2] // kernel.tile_q) * q.shape[0] * q.shape[1], values)
        return out, lse, largest, sums

    def backward(
        self,
        grad_out: Tensor,
        grad_lse: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        largest: Tensor,
        sums: Tensor,
        captures: Sequence[Tensor],
        parameters: Sequence[int],
        scale: float,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, list[Tensor | None]]:
        """Gradients of q, k, v and the captures; None where none was asked for."""
        q, k, v, out, grad_out = fit(q), fit(k), fit(v), fit(out), fit(grad_out)
        grad_q = empty_like(q, q.shape[3])
        grad_k, grad_v = (t.new_empty((q.shape[0], *t.shape[1:])) for t in (k, v))
        loaded = self.load(q, k, v, out, grad_out, grad_q, grad_k, grad_v)
        held = [fit_capture(capture, q) for capture in captures]
        values = call_values(q, k, v, held, parameters, scale)
        rows = [torch.empty(largest.shape, dtype=torch.float32, device=q.device) for _ in range(2)]
        named = {"largest": largest, "sums": sums, "grad_lse": grad_lse.contiguous(), "lse2": rows[0], "delta": rows[1]}
        named |= {"out": out, "grad_out": grad_out, "grad_q": grad_q, "grad_k": grad_k, "grad_v": grad_v}
        values |= {f"{name}_ptr": pointer(tensor) for name, tensor in named.items()}
        for name, tensor in (("out", out), ("do", grad_out), ("dq", grad_q), ("dk", grad_k), ("dv", grad_v)):
            values |= strides(name, tensor)
        call = Backward(loaded.program, loaded.kernels, loaded.host, held, parameters, values, self.device)
        of_captures = call.run(lambda name: self.table(loaded, name, captures, parameters, values), loaded.lister)
        if q.shape[0] != k.shape[0]:
            grad_k, grad_v = (g.sum(0, keepdim=True, dtype=torch.float32).to(g.dtype) for g in (grad_k, grad_v))
        gradients = call.gradients
        narrow = [None if g is None else g.to(c.dtype) for g, c in zip(of_captures, captures, strict=True)]
        wanted = zip((grad_q, grad_k, grad_v), (gradients.q, gradients.k, gradients.v), strict=True)
        of_q, of_k, of_v = (grad if want else None for grad, want in wanted)
        return of_q, of_k, of_v, narrow

    def table(
        self, loaded: Loaded, name: str, captures: Sequence[Tensor], parameters: Sequence[int], values: Values
    ) -> Values:
        """The tiles that a pass visits, where it reads a table."""
        if name not in loaded.program.lists:
            return {}
        return self.tables.find(loaded.lister, name, captures, parameters, values)


def _load(program: TritonProgram, device: torch.device) -> Loaded:
    kernels = {name: make_kernel(emitted, device) for name, emitted in program.passes.items()}
    kernels |= {f"list_{name}": make_kernel(emitted, device) for name, emitted in program.lists.items()}
    host: dict[str, Callable[..., Any]] = {}
    if program.host is not None:
        for function in ("statistics", "collect", "add_pairs"):
            source = replace(program.host, digest=f"{program.host.digest}:{function}")
            host[function] = build(source, function)
    return Loaded(program, kernels, Lister(program, kernels, host.get("statistics"), device), host)
