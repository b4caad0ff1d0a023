"""Running a variant's Triton kernels: tensors in, launches, tensors out.

A `TritonPass` runs one pass of one variant on one device, in the call form of every back end's kernels. A call looks
its kernels up, gathers their arguments by role, and launches; it builds nothing that a former call has built. On CPU
tensors the same kernels run in Triton's interpreter.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import Tensor

from attncc.emit.triton.plan import Role
from attncc.emit.triton.program import Emitted, TritonProgram
from attncc.emit.triton.visits import TABLE_POINTERS, table_axes
from attncc.runtime import launch, triton_build
from attncc.runtime.build import build
from attncc.runtime.steps import empty_like

#: Tables that a pass remembers; a training step with one mask per batch needs one.
MAX_TABLES: Final = 16
#: Largest stride of a position that 32-bit offsets inside a tile can take.
MAX_STRIDE: Final = 1 << 22
ALIGNMENT: Final = 16
#: Shares of single pairs that the gradient of a general gather holds at a time: 64 MiB.
PAIRS_AT_ONCE: Final = 1 << 24

Values = dict[str, Any]
Launch = Callable[..., None]


@dataclass
class Kernel:
    """One kernel on one device: its launch, and the keys of its arguments in order."""

    launch: Launch
    keys: tuple[str, ...]
    tile_q: int
    tile_kv: int

    def run(self, programs: int, values: Mapping[str, Any]) -> None:
        """Launch that many programs."""
        self.launch((programs, 1, 1), *[values[key] for key in self.keys])


def _key(role: Role) -> str:
    return f"{role.kind}:{role.index}:{role.dim}" if role.kind in _NUMBERED else role.kind


_NUMBERED: Final = frozenset(
    ("capture", "capture_stride", "capture_size", "parameter", "grad_sum", "statistic_stride")
    + ("statistic_min", "statistic_max", "statistic_nan")
)


def _kernel(emitted: Emitted, device: torch.device) -> Kernel:
    schedule = emitted.schedule
    keys = tuple(map(_key, emitted.roles))
    if device.type == "cpu":
        made: Launch = triton_build.interpret(emitted.kernel)
    else:
        index: int | None = device.index
        index = torch.cuda.current_device() if index is None else index
        made = launch.launcher(triton_build.build(emitted.kernel, launch.target_of(index)), index)
    return Kernel(made, keys, schedule.tile_q, schedule.tile_kv)


@dataclass
class TritonPass:
    """One pass of a variant on one device. `program` gives the kernels, for aligned tensors or for any."""

    program: Callable[[bool], TritonProgram]
    device: torch.device
    kernels: dict[bool, dict[str, Kernel]] = field(default_factory=dict)
    hosts: dict[tuple[bool, str], Any] = field(default_factory=dict)
    tables: dict[Any, Any] = field(default_factory=dict)

    def prepared(self, aligned: bool) -> tuple[TritonProgram, dict[str, Kernel]]:
        """The kernels of a program, built at the first call."""
        program = self.program(aligned)
        found = self.kernels.get(aligned)
        if found is None:
            found = {name: _kernel(emitted, self.device) for name, emitted in program.passes.items()}
            found |= {f"list_{name}": _kernel(emitted, self.device) for name, emitted in program.lists.items()}
            self.kernels[aligned] = found
        return program, found

    def host(self, program: TritonProgram, aligned: bool, function: str) -> Any:
        """A function of the part that torch computes."""
        key = (aligned, function)
        if key not in self.hosts:
            assert program.host is not None
            source = replace(program.host, digest=f"{program.host.digest}:{function}")
            self.hosts[key] = build(source, function)
        return self.hosts[key]

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
        q, k, v = map(_fit, (q, k, v))
        captures = [_captured(capture, q) for capture in captures]
        out = empty_like(q, v.shape[3])
        lse, largest, sums = (torch.empty(q.shape[:3], dtype=torch.float32, device=q.device) for _ in range(3))
        aligned = _aligned(q, k, v, out)
        program, kernels = self.prepared(aligned)
        values = _values(q, k, v, captures, parameters, scale)
        values |= {"out_ptr": _pointer(out), "lse_ptr": _pointer(lse), **_strides("out", out)}
        values |= {"largest_ptr": _pointer(largest), "sums_ptr": _pointer(sums)}
        kernel = kernels["forward"]
        if program.lists:
            values |= self.table(program, aligned, "forward", captures, parameters, values)
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
        q, k, v, out, grad_out = map(_fit, (q, k, v, out, grad_out))
        given, captures = captures, [_captured(capture, q) for capture in captures]
        batch, heads, q_len, kv_len = *q.shape[:3], k.shape[2]
        rows = [torch.empty(largest.shape, dtype=torch.float32, device=q.device) for _ in range(2)]
        grad_q = empty_like(q, q.shape[3])
        grad_k, grad_v = (t.new_empty((batch, *t.shape[1:])) for t in (k, v))
        aligned = _aligned(q, k, v, out, grad_out, grad_q, grad_k, grad_v)
        program, kernels = self.prepared(aligned)
        grad_lse = grad_lse.contiguous()
        values = _values(q, k, v, captures, parameters, scale) | {
            "out_ptr": _pointer(out),
            "largest_ptr": _pointer(largest),
            "sums_ptr": _pointer(sums),
            "grad_out_ptr": _pointer(grad_out),
            "grad_lse_ptr": _pointer(grad_lse),
            "lse2_ptr": _pointer(rows[0]),
            "delta_ptr": _pointer(rows[1]),
            "grad_q_ptr": _pointer(grad_q),
            "grad_k_ptr": _pointer(grad_k),
            "grad_v_ptr": _pointer(grad_v),
        }
        for name, tensor in (("out", out), ("do", grad_out), ("dq", grad_q), ("dk", grad_k), ("dv", grad_v)):
            values |= _strides(name, tensor)
        kernel = kernels["prepare"]
        kernel.run(-(-q_len // kernel.tile_q) * batch * heads, values)
        call = _Call(program, aligned, captures, parameters, values, (batch, heads, q_len, kv_len))
        taken = self.sides(call, kernels, k.shape[1])
        if "backward_diagonal" in kernels:
            taken += self.diagonals(call, kernels["backward_diagonal"])
        if batch != k.shape[0]:
            grad_k, grad_v = (g.sum(0, keepdim=True, dtype=torch.float32).to(g.dtype) for g in (grad_k, grad_v))
        derivatives = program.variant.derivatives
        assert derivatives is not None
        wanted = derivatives.gradients
        of_captures = self.collect(call, kernels, taken)
        narrow = [None if g is None else g.to(c.dtype) for g, c in zip(of_captures, given, strict=True)]
        return (
            grad_q if wanted.q else None,
            grad_k if wanted.k else None,
            grad_v if wanted.v else None,
            narrow,
        )

    def sides(self, call: _Call, kernels: Mapping[str, Kernel], kv_heads: int) -> list[Tensor]:
        """Launch the passes that own queries and keys; the sums that they make for captures."""
        batch, heads, q_len, kv_len = call.sizes
        variant, sums = call.program.variant, []
        for name, reads, tile, length, count, last in (
            ("backward_q", variant.row_sums, "tile_q", q_len, heads, (q_len, 1)),
            ("backward_kv", variant.column_sums, "tile_kv", kv_len, kv_heads, (1, kv_len)),
        ):
            if name not in kernels:
                continue
            own = [torch.empty((batch, heads, *last), dtype=torch.float32, device=self.device) for _ in reads]
            values = {**call.values, **{f"grad_sum:{i}:0": _pointer(each) for i, each in enumerate(own)}}
            values |= self.tabulated(call, name)
            kernels[name].run(-(-length // getattr(kernels[name], tile)) * batch * count, values)
            sums += own
        return sums

    def diagonals(self, call: _Call, kernel: Kernel) -> list[Tensor]:
        """Sums [B, Hq, Lq + Lkv - 1, 1] along the diagonals of q_idx - kv_idx, from the least."""
        batch, heads, q_len, kv_len = call.sizes
        tile = kernel.tile_q
        q_tiles, kv_tiles = -(-q_len // tile), -(-kv_len // tile)
        count = q_tiles + kv_tiles - 1
        reads = call.program.variant.diagonal_sums
        own = [torch.empty((batch, heads, count, 2, tile), dtype=torch.float32, device=self.device) for _ in reads]
        values = {**call.values, **{f"grad_sum:{i}:0": _pointer(each) for i, each in enumerate(own)}}
        values |= self.statistics(call.program, call.aligned, kernel, call.captures, call.parameters, values)
        kernel.run(count * batch * heads, values)
        first = kv_tiles * tile - (kv_len - 1)
        found = []
        for each in own:  # tile d holds the distances from (d - kv_tiles) * tile, and overlaps the next by half
            line = each.new_zeros((batch, heads, count + 1, tile))
            line[:, :, :-1] += each[:, :, :, 0]
            line[:, :, 1:] += each[:, :, :, 1]
            found.append(line.view(batch, heads, -1, 1)[:, :, first : first + q_len + kv_len - 1])
        return found

    def tabulated(self, call: _Call, name: str) -> Values:
        """The table of a pass, where it reads one."""
        if name not in call.program.lists:
            return {}
        return self.table(call.program, call.aligned, name, call.captures, call.parameters, call.values)

    def collect(self, call: _Call, kernels: Mapping[str, Kernel], sums: Sequence[Tensor]) -> list[Tensor | None]:
        """The gradients of the captures from what the passes summed, in float32."""
        if not call.program.variant.loads:
            return [None] * len(call.captures)
        collect = self.host(call.program, call.aligned, "collect")
        totals: list[Tensor | None] = collect(sums, call.captures, call.parameters, *call.sizes, self.device)
        if "backward_pairs" in kernels:
            self.add_pairs(call, kernels["backward_pairs"], totals)
        return totals

    def add_pairs(self, call: _Call, kernel: Kernel, totals: list[Tensor | None]) -> None:
        """Add the shares of single pairs, a chunk of queries at a time, so that memory stays linear in the length."""
        batch, heads, q_len, kv_len = call.sizes
        reads = call.program.variant.pair_sums
        add = self.host(call.program, call.aligned, "add_pairs")
        tiles = -(-q_len // kernel.tile_q)
        per_tile = batch * heads * kernel.tile_q * kv_len * len(reads)
        chunk = min(tiles, max(1, PAIRS_AT_ONCE // max(1, per_tile)))
        values = {**call.values, **self.tabulated(call, "backward_pairs"), "chunk_tiles": chunk}
        shape = (batch, heads, chunk * kernel.tile_q, kv_len)
        pairs = [torch.empty(shape, dtype=torch.float32, device=self.device) for _ in reads]
        values |= {f"grad_sum:{i}:0": _pointer(each) for i, each in enumerate(pairs)}
        for first in range(0, tiles, chunk):
            rows = min(chunk * kernel.tile_q, q_len - first * kernel.tile_q)
            for each in pairs:
                each.zero_()
            kernel.run(chunk * batch * heads, {**values, "first_tile": first})
            seen = [each[:, :, :rows] for each in pairs]
            add(totals, seen, first * kernel.tile_q, call.captures, call.parameters, *call.sizes, self.device)

    def table(
        self,
        program: TritonProgram,
        aligned: bool,
        name: str,
        captures: Sequence[Tensor],
        parameters: Sequence[int],
        values: Mapping[str, Any],
    ) -> Values:
        """The tiles that a pass visits, from memory where captures and sizes are those of a former call."""
        sizes = tuple(values[size] for size in ("batch", "heads", "q_len", "kv_len"))
        key = (aligned, name, sizes, tuple(parameters))
        versions = _versions(captures)
        remembered = self.tables.get(key)
        capturing = self.device.type == "cuda" and torch.cuda.is_current_stream_capturing()
        reads = bool(captures) and _reads_captures(program)
        if remembered is not None and (not reads or (not capturing and remembered.matches(captures, versions))):
            return remembered.values  # type: ignore[no-any-return]
        tensors = self.list_tiles(program, aligned, name, captures, parameters, values)
        made = dict(zip(TABLE_POINTERS, map(_pointer, tensors), strict=True))
        if versions is not None and not capturing:
            if len(self.tables) >= MAX_TABLES:
                self.tables.pop(next(iter(self.tables)))
            self.tables[key] = _Table(made, tensors, [weakref.ref(c) for c in captures], versions)
        return made

    def list_tiles(
        self,
        program: TritonProgram,
        aligned: bool,
        name: str,
        captures: Sequence[Tensor],
        parameters: Sequence[int],
        values: Mapping[str, Any],
    ) -> tuple[Tensor, ...]:
        """Fill the table of a pass: counts and indices of partial and full tiles, for each tile that it owns."""
        _, kernels = self.prepared(aligned)
        kernel = kernels[f"list_{name}"]
        batch, heads, q_len, kv_len = (values[size] for size in ("batch", "heads", "q_len", "kv_len"))
        by_batch, by_head = table_axes(program.variant.test)
        counts = -(-q_len // kernel.tile_q), -(-kv_len // kernel.tile_kv)
        owned, walked = counts if name != "backward_kv" else (counts[1], counts[0])
        rows = (batch if by_batch else 1) * (heads if by_head else 1) * owned
        shapes = ((rows,), (rows, walked)) * 2
        tensors = tuple(torch.empty(shape, dtype=torch.int32, device=self.device) for shape in shapes)
        filled = {**values, **dict(zip(TABLE_POINTERS, map(_pointer, tensors), strict=True))}
        filled["table_heads"] = heads if by_head else 1
        filled |= self.statistics(program, aligned, kernel, captures, parameters, values)
        kernel.run(rows, filled)
        return tensors

    def statistics(
        self,
        program: TritonProgram,
        aligned: bool,
        kernel: Kernel,
        captures: Sequence[Tensor],
        parameters: Sequence[int],
        values: Mapping[str, Any],
    ) -> Values:
        """What tile tests need of captured tensors, for the tiles of a kernel."""
        statistics = program.variant.test.statistics
        if not statistics:
            return {}
        batch, heads, q_len, kv_len = (values[size] for size in ("batch", "heads", "q_len", "kv_len"))
        compute = self.host(program, aligned, "statistics")
        found = compute(captures, parameters, batch, heads, q_len, kv_len, self.device)
        filled: Values = {}
        for statistic, each in zip(statistics, found, strict=True):
            tile = kernel.tile_q if statistic.axis == "q" else kernel.tile_kv
            length = q_len if statistic.axis == "q" else kv_len
            made = _statistic(statistic.number, statistic.axis, each, tile, length)
            filled |= made | {"keep": [*filled.get("keep", []), *made["keep"]]}
        return filled


@dataclass(frozen=True)
class _Call:
    """One backward call: its program, tensors and argument values."""

    program: TritonProgram
    aligned: bool
    captures: Sequence[Tensor]
    parameters: Sequence[int]
    values: Values
    sizes: tuple[int, int, int, int]


@dataclass
class _Table:
    values: Values
    tensors: tuple[Tensor, ...]
    captures: list[Any]
    versions: tuple[int, ...]

    def matches(self, captures: Sequence[Tensor], versions: tuple[int, ...] | None) -> bool:
        """Whether these are the captures, unchanged."""
        return versions == self.versions and all(r() is c for r, c in zip(self.captures, captures, strict=True))


def _reads_captures(program: TritonProgram) -> bool:
    """Whether the tiles depend on captured values."""
    lists = next(iter(program.lists.values()))
    return any(role.kind in ("capture", "statistic_min") for role in lists.roles)


def _versions(captures: Sequence[Tensor]) -> tuple[int, ...] | None:
    """How often each capture was written in place; None where torch does not count."""
    if any(capture.is_inference() for capture in captures):
        return None
    return tuple(capture._version for capture in captures)


def _fit(tensor: Tensor) -> Tensor:
    """The tensor with a contiguous last dimension and a stride of positions that 32 bits hold inside a tile."""
    if tensor.stride(3) == 1 and 0 <= tensor.stride(2) < MAX_STRIDE:
        return tensor
    return tensor.contiguous()


def _captured(capture: Tensor, q: Tensor) -> Tensor:
    """A capture as kernels read it: on the device of q, its last dimension contiguous."""
    capture = capture.detach()
    if capture.device != q.device:
        capture = capture.to(q.device)
    return capture if capture.dim() == 0 or capture.stride(-1) == 1 else capture.contiguous()


def _aligned(*tensors: Tensor) -> bool:
    return all(
        tensor.data_ptr() % ALIGNMENT == 0 and not any(s % ALIGNMENT for s in tensor.stride()[:3]) for tensor in tensors
    )


def _pointer(tensor: Tensor) -> Any:
    """What a launch takes for a tensor: its address, or the tensor itself in the interpreter."""
    return tensor.data_ptr() if tensor.is_cuda else tensor


def _strides(name: str, tensor: Tensor) -> Values:
    b, h, n, _ = tensor.stride()
    return {f"{name}_stride_b": b, f"{name}_stride_h": h, f"{name}_stride_n": n}


def _values(
    q: Tensor, k: Tensor, v: Tensor, captures: Sequence[Tensor], parameters: Sequence[int], scale: float
) -> Values:
    """The arguments that every kernel may ask for, by key."""
    values: Values = {
        "q_ptr": _pointer(q),
        "k_ptr": _pointer(k),
        "v_ptr": _pointer(v),
        **_strides("q", q),
        **_strides("k", k),
        **_strides("v", v),
        "batch": q.shape[0],
        "heads": q.shape[1],
        "group": q.shape[1] // k.shape[1],
        "q_len": q.shape[2],
        "kv_len": k.shape[2],
        "scale": scale,
    }
    if k.shape[0] != q.shape[0]:
        values |= {"k_stride_b": 0, "v_stride_b": 0}
    for i, capture in enumerate(captures):
        values[f"capture:{i}:0"] = _pointer(capture)
        for d, (stride, size) in enumerate(zip(capture.stride(), capture.shape, strict=True)):
            values[f"capture_stride:{i}:{d}"] = stride
            values[f"capture_size:{i}:{d}"] = size
    for i, parameter in enumerate(parameters):
        values[f"parameter:{i}:0"] = parameter
    return values


def _statistic(number: int, axis: str, found: Tensor, tile: int, length: int) -> Values:
    """Minima and maxima over tiles of an expression's values, which broadcast to [B, Hq, Lq, 1] or [B, Hq, 1, Lkv]."""
    line = found.reshape((1,) * (4 - found.dim()) + tuple(found.shape))
    line = line.squeeze(3 if axis == "q" else 2) if line.shape[3 if axis == "q" else 2] == 1 else line
    line = line.expand(*line.shape[:2], length)
    count = -(-length // tile)
    lost = line.isnan() if line.is_floating_point() else None
    lows, highs = _blocks(line, count, tile, lost)
    values: Values = {f"statistic_min:{number}:0": _pointer(lows), f"statistic_max:{number}:0": _pointer(highs)}
    values["keep"] = [*values.get("keep", []), lows, highs]
    if lost is not None:
        padded = torch.nn.functional.pad(lost, (0, count * tile - length))
        nan = padded.view(*line.shape[:2], count, tile).any(-1)
        values[f"statistic_nan:{number}:0"] = _pointer(nan)
        values["keep"].append(nan)
    for d in range(2):
        values[f"statistic_stride:{number}:{d}"] = 0 if lows.shape[d] == 1 else lows.stride(d)
    return values


def _blocks(line: Tensor, count: int, tile: int, lost: Tensor | None) -> tuple[Tensor, Tensor]:
    """Minimum and maximum of each block of the last dimension; NaN takes no part, the last block may be short."""
    kind = line.dtype
    wide = line.to(torch.int64) if not kind.is_floating_point else line.to(torch.float32)
    ends = (torch.iinfo(torch.int64).min, torch.iinfo(torch.int64).max) if lost is None else (-torch.inf, torch.inf)
    ends = ends if kind != torch.bool else (0, 1)
    found = []
    for end, reduce in ((ends[1], torch.amin), (ends[0], torch.amax)):
        held = wide if lost is None else wide.masked_fill(lost, end)
        padded = torch.nn.functional.pad(held, (0, count * tile - line.shape[-1]), value=end)
        best = reduce(padded.view(*line.shape[:2], count, tile), -1)
        found.append(best.to(torch.bool) if kind == torch.bool else best)
    return found[0], found[1]
