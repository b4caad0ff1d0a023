"""The backward pass of a variant in Triton: which kernels run, and where the sums for captured tensors go."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.functional import pad

from attncc.errors import InternalError
from attncc.runtime.outline import Outline
from attncc.runtime.triton_kernel import Kernel
from attncc.runtime.triton_tables import SIZES, Lister, values_of
from attncc.runtime.triton_values import Values, pointer
from attncc.schedule.gluon import ONE_PASS
from attncc.schedule.target import Gradients

#: Shares of single pairs that the gradient of a general gather holds at a time: 64 MiB.
PAIRS_AT_ONCE: Final = 1 << 24
#: The TMA takes rows of float32 that lie a multiple of 16 bytes apart.
ROW_UNIT: Final = 4

Table = Callable[[str], Values]


@dataclass(frozen=True, slots=True)
class Backward:
    """One backward call: its program's outline, kernels and captures as kernels read them, and the values of arguments.

    `tensors` are those that a kernel may take as descriptions, by the key of the argument.
    """

    outline: Outline
    kernels: Mapping[str, Kernel]
    host: Mapping[str, Callable[..., Any]]
    captures: Sequence[Tensor]
    parameters: Sequence[int]
    values: Values
    device: torch.device
    tensors: Mapping[str, Tensor]

    @property
    def gradients(self) -> Gradients:
        """What is differentiated."""
        if self.outline.gradients is None:
            raise InternalError("a forward program has no backward pass")
        return self.outline.gradients

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Batch, query heads, and the two lengths."""
        batch, heads, q_len, kv_len = (int(self.values[size]) for size in SIZES)
        return batch, heads, q_len, kv_len

    def run(self, table: Table, lister: Lister) -> list[Tensor | None]:
        """Launch every pass. The result are the gradients of the captures, in float32."""
        batch, heads, q_len, _ = self.sizes
        prepare = self.kernels["prepare"]
        prepare.run(-(-q_len // prepare.tile_q) * batch * heads, self.values)
        sums = self.sides(table)
        if "backward_diagonal" in self.kernels:
            sums += self.diagonals(lister)
        if not self.outline.loads:
            return [None] * len(self.captures)
        totals: list[Tensor | None] = self.host["collect"](
            sums, self.captures, self.parameters, *self.sizes, self.device
        )
        if "backward_pairs" in self.kernels:
            self.add_pairs(table, totals)
        return totals

    def sides(self, table: Table) -> list[Tensor]:
        """Launch the passes that own queries and keys; the sums that they make for captures."""
        batch, heads, q_len, kv_len = self.sizes
        outline = self.outline
        sums: list[Tensor] = []
        of_keys = outline.columns, "tile_kv", kv_len, heads // self.values["group"], (1, kv_len)
        for name, reads, tile, length, count, last in (
            ("backward_q", outline.rows, "tile_q", q_len, heads, (q_len, 1)),
            ("backward_kv", *of_keys),
            (ONE_PASS, *of_keys),
        ):
            if name in self.kernels:
                kernel = self.kernels[name]
                own = [self.empty(batch, heads, *last) for _ in range(reads)]
                tensors = self.one_pass_tensors() if name == ONE_PASS else {}
                values = {**self.values, **_sums(own), **table(name), **self.described(kernel, tensors)}
                kernel.run(-(-length // getattr(kernel, tile)) * batch * count, values)
                sums += own
                if name == ONE_PASS:
                    dq_sum, dq = tensors["dq_sum_desc"], self.tensors["dq_desc"]
                    torch.mul(dq_sum.view(dq.shape), self.values["scale"], out=dq)
        return sums

    def one_pass_tensors(self) -> dict[str, Tensor]:
        """Where programs that own keys add up the gradients of all queries [B * Hq, Lq, D], in float32."""
        batch, heads, q_len, _ = self.sizes
        dim = self.outline.head_dim
        return {"dq_sum_desc": torch.zeros((batch * heads, q_len, dim), dtype=torch.float32, device=self.device)}

    def described(self, kernel: Kernel, further: Mapping[str, Tensor]) -> Values:
        """The descriptions that a kernel takes; what belongs to rows is padded to the strides that the TMA takes."""
        found = {**self.tensors, **further}
        for key in ("lse2_desc", "delta_desc") if "lse2_desc" in kernel.boxes else ():
            rows = found[key].flatten(0, 1)
            found[key] = rows if rows.shape[1] % ROW_UNIT == 0 else pad(rows, (0, -rows.shape[1] % ROW_UNIT))
        return kernel.describe(found)

    def diagonals(self, lister: Lister) -> list[Tensor]:
        """Sums [B, Hq, Lq + Lkv - 1, 1] along the diagonals of q_idx - kv_idx, from the least."""
        batch, heads, q_len, kv_len = self.sizes
        kernel = self.kernels["backward_diagonal"]
        tile = kernel.tile_q
        kv_tiles = -(-kv_len // tile)
        count = -(-q_len // tile) + kv_tiles - 1
        own = [self.empty(batch, heads, count, 2, tile) for _ in range(self.outline.diagonals)]
        judged = lister.statistics(kernel, self.captures, self.parameters, self.values)
        kernel.run(count * batch * heads, {**self.values, **_sums(own), **values_of(judged)})
        first = kv_tiles * tile - (kv_len - 1)
        found = []
        for each in own:  # tile d holds the distances from (d - kv_tiles) * tile, and overlaps the next by half
            line = each.new_zeros((batch, heads, count + 1, tile))
            line[:, :, :-1] += each[:, :, :, 0]
            line[:, :, 1:] += each[:, :, :, 1]
            found.append(line.view(batch, heads, -1, 1)[:, :, first : first + q_len + kv_len - 1])
        return found

    def add_pairs(self, table: Table, totals: list[Tensor | None]) -> None:
        """Add the shares of single pairs, a chunk of queries at a time, so that memory stays linear in the length."""
        batch, heads, q_len, kv_len = self.sizes
        kernel = self.kernels["backward_pairs"]
        reads = self.outline.pairs
        tiles = -(-q_len // kernel.tile_q)
        per_tile = batch * heads * kernel.tile_q * kv_len * reads
        chunk = min(tiles, max(1, PAIRS_AT_ONCE // max(1, per_tile)))
        pairs = [self.empty(batch, heads, chunk * kernel.tile_q, kv_len) for _ in range(reads)]
        values = {**self.values, **_sums(pairs), **table("backward_pairs"), "chunk_tiles": chunk}
        for first in range(0, tiles, chunk):
            start = first * kernel.tile_q
            for each in pairs:
                each.zero_()
            kernel.run(chunk * batch * heads, {**values, "first_tile": first})
            seen = [each[:, :, : q_len - start] for each in pairs]
            self.host["add_pairs"](totals, seen, start, self.captures, self.parameters, *self.sizes, self.device)

    def empty(self, *shape: int) -> Tensor:
        """An uninitialised float32 tensor."""
        return torch.empty(shape, dtype=torch.float32, device=self.device)


def _sums(tensors: Sequence[Tensor]) -> Values:
    return {f"grad_sum:{i}:0": pointer(each) for i, each in enumerate(tensors)}
