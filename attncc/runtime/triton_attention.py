"""Running a variant's Triton kernels: tensors in, launches, tensors out.

A `TritonPass` runs one pass of one variant on one device, in the call form of every back end's kernels. A call looks
its kernels up, gathers their arguments by role, and launches; it builds nothing that a former call has built. On CPU
tensors the same kernels run in Triton's interpreter.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from attncc.runtime.build import build
from attncc.runtime.descriptors import describable
from attncc.runtime.outline import Outline, outline_of
from attncc.runtime.steps import empty_like
from attncc.runtime.triton_gradients import Backward
from attncc.runtime.triton_kernel import Kernel, make_kernel
from attncc.runtime.triton_tables import Lister, Tables
from attncc.runtime.triton_values import (
    Values,
    aligned,
    call_values,
    fit,
    fit_capture,
    fit_rows,
    pointer,
    positive,
    strides,
    wide,
)

if TYPE_CHECKING:  # kernels that are found in the cache need neither the emitter nor a choice of schedules
    from attncc.emit.triton.program import TritonProgram
    from attncc.runtime.triton_fit import Foresee


class Programs(Protocol):
    """The kernels of one pass of a variant, made when they are asked for, and what is known of them before."""

    def __call__(self, aligned: bool = True, wide: bool = False) -> TritonProgram:
        """The kernels for tensors that are aligned or not, and wide or not."""

    @property
    def guards_reads(self) -> bool:
        """Whether a row becomes NaN where a visible pair reads beyond a captured tensor, or is divided by 0."""

    def has_gluon(self, wide: bool) -> bool:
        """Whether kernels for aligned tensors may be in Gluon."""


@dataclass(slots=True)
class Loaded:
    """A program on a device: its kernels, what fills its tables, and the functions that torch runs around them.

    `find` gives the program itself, which running it does not need. `tested` says that nothing more has to be known of
    the kernels before they are used.
    """

    outline: Outline
    find: Callable[[], TritonProgram]
    kernels: dict[str, Kernel]
    lister: Lister
    host: dict[str, Callable[..., Any]]
    tested: bool = False

    @property
    def program(self) -> TritonProgram:
        """The program, under the schedules that run."""
        return self.find()


#: Tries newly loaded kernels: from them, (q, k, v), the captures and the parameters of the call that needs them.
Test = Callable[["TritonPass", Loaded, Sequence[Tensor], Sequence[Tensor], Sequence[int]], None]


class Cached(Protocol):
    """What the cache knows of a pass, and where it keeps what was settled."""

    @property
    def key(self) -> str | None:
        """What names the pass in the cache, once that is known."""

    def load(self, aligned: bool, wide: bool, settle: Callable[[bool, bool], TritonProgram]) -> Loaded | None:
        """The kernels for tensors of a kind, loaded; None where they are not all known. `settle` makes the program."""

    def keep(self, first: TritonProgram, gluon: tuple[bool, bool], guards_reads: bool, loaded: Loaded) -> None:
        """Keep what was settled, beginning with the program `first`, for processes to come."""


@dataclass
class TritonPass:
    """One pass of a variant on one device. `programs` gives the kernels for tensors that are aligned, or wide."""

    programs: Programs
    device: torch.device
    loaded: dict[tuple[bool, bool], Loaded] = field(default_factory=dict)
    tables: Tables = field(default_factory=Tables)
    test: Test | None = None
    foresee: Foresee | None = None
    memory: Cached | None = None

    @property
    def guards_reads(self) -> bool:
        """Whether a row becomes NaN where a visible pair reads beyond a captured tensor, or is divided by 0."""
        return self.programs.guards_reads

    def load(self, *tensors: Tensor) -> Loaded:
        """The program for such tensors, built at the first call."""
        return self.load_kind(*self.kind_of(*tensors))

    def kind_of(self, *tensors: Tensor) -> tuple[bool, bool]:
        """Whether tensors are aligned, and wide. Gluon kernels ask more of aligned ones."""
        is_aligned, is_wide = aligned(*tensors), wide(*tensors)
        if is_aligned and self.programs.has_gluon(is_wide):
            is_aligned = describable(*tensors)
        return is_aligned, is_wide

    def load_kind(self, is_aligned: bool, is_wide: bool) -> Loaded:
        """The program for aligned tensors or any, for wide ones or not."""
        found = self.loaded.get((is_aligned, is_wide))
        if found is None:
            found = None if self.memory is None else self.memory.load(is_aligned, is_wide, self.settled)
            if found is None:
                found = load_program(self.settled(is_aligned, is_wide), self.device)
                if self.memory is not None:
                    gluon = self.programs.has_gluon(False), self.programs.has_gluon(True)
                    self.memory.keep(self.programs(is_aligned, is_wide), gluon, self.programs.guards_reads, found)
            self.loaded[is_aligned, is_wide] = found
        return found

    def settled(self, is_aligned: bool, is_wide: bool) -> TritonProgram:
        """The program of a kind under the schedules that fit the device."""
        from attncc.runtime.triton_fit import settle  # late: what was settled before is found in the cache

        return settle(self.programs(is_aligned, is_wide), self.device, self.foresee)

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
        """out [B, Hq, Lq, Dv], and per row [B, Hq, Lq] lse, the largest score in base 2, and the sum of weights.

        A row is NaN where a visible pair reads beyond a captured tensor; whoever wants an error looks for that.
        """
        q, scale = positive(q, scale)
        q, k, v = fit(q), fit(k), fit(v)
        out = empty_like(q, v.shape[3])
        loaded = self.load(q, k, v, out)
        if not loaded.tested:
            self.try_out(loaded, (q, k, v), captures, parameters)
        return self.launch_forward(loaded, q, k, v, out, captures, parameters, scale)

    def try_out(
        self, loaded: Loaded, tensors: Sequence[Tensor], captures: Sequence[Tensor], parameters: Sequence[int]
    ) -> None:
        """Test kernels before their first use."""
        if self.test is not None:
            self.test(self, loaded, tensors, captures, parameters)
        loaded.tested = True

    def launch_forward(
        self,
        loaded: Loaded,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        captures: Sequence[Tensor],
        parameters: Sequence[int],
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The forward pass by these kernels, into `out`."""
        lse, largest, sums = (torch.empty(q.shape[:3], dtype=torch.float32, device=q.device) for _ in range(3))
        held = [fit_capture(capture, q) for capture in captures]
        values = call_values(q, k, v, held, parameters, scale)
        values |= {"out_ptr": pointer(out), "lse_ptr": pointer(lse), **strides("out", out)}
        values |= {"largest_ptr": pointer(largest), "sums_ptr": pointer(sums)}
        values |= self.table(loaded, "forward", captures, parameters, values)
        kernel = loaded.kernels["forward"]
        values |= kernel.describe({"q_desc": q, "k_desc": k, "v_desc": v, "out_desc": out})
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
        if not loaded.tested:
            self.try_out(loaded, (q, k, v), captures, parameters)
        rest = (captures, parameters, scale)
        return self.launch_backward(
            loaded, grad_out, grad_lse, q, k, v, out, largest, sums, grad_q, grad_k, grad_v, *rest
        )

    def launch_backward(
        self,
        loaded: Loaded,
        grad_out: Tensor,
        grad_lse: Tensor,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        out: Tensor,
        largest: Tensor,
        sums: Tensor,
        grad_q: Tensor,
        grad_k: Tensor,
        grad_v: Tensor,
        captures: Sequence[Tensor],
        parameters: Sequence[int],
        scale: float,
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None, list[Tensor | None]]:
        """The backward pass by these kernels, into `grad_q`, and `grad_k` and `grad_v` of every sequence."""
        held = [fit_capture(capture, q) for capture in captures]
        values = call_values(q, k, v, held, parameters, scale)
        rows = [torch.empty(largest.shape, dtype=torch.float32, device=q.device) for _ in range(3)]
        given = (("largest", largest), ("sums", sums), ("grad_lse", grad_lse))
        named = {name: fit_rows(tensor) for name, tensor in given}
        named |= dict(zip(("lse2", "delta", "share"), rows, strict=True))
        named |= {"out": out, "grad_out": grad_out, "grad_q": grad_q, "grad_k": grad_k, "grad_v": grad_v}
        values |= {f"{name}_ptr": pointer(tensor) for name, tensor in named.items()}
        for name, tensor in (("out", out), ("do", grad_out), ("dq", grad_q), ("dk", grad_k), ("dv", grad_v)):
            values |= strides(name, tensor)
        described = {"q": q, "k": k, "v": v, "do": grad_out, "dq": grad_q, "dk": grad_k, "dv": grad_v}
        described |= {"lse2": rows[0], "delta": rows[1]}
        tensors = {f"{name}_desc": tensor for name, tensor in described.items()}
        call = Backward(loaded.outline, loaded.kernels, loaded.host, held, parameters, values, self.device, tensors)
        of_captures = call.run(lambda name: self.table(loaded, name, captures, parameters, values), loaded.lister)
        if q.shape[0] != k.shape[0]:
            grad_k, grad_v = (g.sum(0, keepdim=True, dtype=torch.float32).to(g.dtype) for g in (grad_k, grad_v))
        narrow = [None if g is None else g.to(c.dtype) for g, c in zip(of_captures, captures, strict=True)]
        asked = call.gradients
        return grad_q if asked.q else None, grad_k if asked.k else None, grad_v if asked.v else None, narrow

    def table(
        self, loaded: Loaded, name: str, captures: Sequence[Tensor], parameters: Sequence[int], values: Values
    ) -> Values:
        """The tiles that a pass visits, where it reads a table."""
        if name not in loaded.outline.lists:
            return {}
        return self.tables.find(loaded.lister, name, captures, parameters, values)


def load_program(program: TritonProgram, device: torch.device) -> Loaded:
    """A program's kernels built and loaded, under the schedules that it begins with."""
    kernels = {name: make_kernel(emitted, device) for name, emitted in program.passes.items()}
    kernels |= {f"list_{name}": make_kernel(emitted, device) for name, emitted in program.lists.items()}
    host: dict[str, Callable[..., Any]] = {}
    if program.host is not None:
        for function in ("statistics", "collect", "add_pairs"):
            source = replace(program.host, digest=f"{program.host.digest}:{function}")
            host[function] = build(source, function)
    outline = outline_of(program)
    lister = Lister(outline, kernels, host.get("statistics"), device)
    return Loaded(outline, lambda: program, kernels, lister, host)
