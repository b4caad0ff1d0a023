"""The forward pass of a variant's Triton kernels for tensors of one layout: only addresses are left to fill in.

What a call of `TritonPass.forward` works out from shapes, strides and parameters is worked out here once; a call of
the result allocates, puts addresses into a list, and launches.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from attncc.runtime.descriptors import descriptor_of
from attncc.runtime.steps import empty_like
from attncc.runtime.triton_attention import Loaded, TritonPass
from attncc.runtime.triton_values import ALIGNMENT, call_values, fit, fit_capture, strides

#: The pointers of every forward kernel, in the order in which a call gathers them.
POINTERS: Final = ("q_ptr", "k_ptr", "v_ptr", "out_ptr", "lse_ptr", "largest_ptr", "sums_ptr")
FLOAT: Final = 4  # bytes


class TritonForward:
    """A prepared forward pass. Calls may come from several threads: each fills a list of its own."""

    def __init__(
        self, kernels: TritonPass, loaded: Loaded, q: Tensor, k: Tensor, v: Tensor, out: Tensor,
        captures: Sequence[Tensor], parameters: Sequence[int], scale: float,
    ) -> None:  # fmt: skip
        kernel = loaded.kernels["forward"]
        values = call_values(q, k, v, captures, parameters, scale) | strides("out", out)
        self._kernels, self._loaded, self._parameters = kernels, loaded, tuple(parameters)
        self._launch, self._grid = (
            kernel.launch,
            kernel.grid(-(-q.shape[2] // kernel.tile_q) * q.shape[0] * q.shape[1], q.shape[2]),
        )
        self._values = {key: value for key, value in values.items() if not _is_pointer(key)}
        self._arguments = [self._values.get(key) for key in kernel.keys]
        self._places = tuple((kernel.keys.index(key), i) for i, key in enumerate(POINTERS) if key in kernel.keys)
        tensors = {"q_desc": q, "k_desc": k, "v_desc": v, "out_desc": out}
        self._described = tuple(
            (kernel.keys.index(key), POINTERS.index(key.replace("desc", "ptr")), descriptor_of(tensors[key], box))
            for key, box in kernel.boxes.items()
        )
        numbered = [(f"capture:{i}:0", i) for i in range(len(captures))]
        self._captures = tuple((kernel.keys.index(key), i) for key, i in numbered if key in kernel.keys)
        self._numbered = tuple(numbered)
        self._reads_table = "forward" in loaded.outline.lists
        self._by_address = takes_addresses(q.device)
        self._shape, self._order = tuple(out.shape), (*sorted(range(3), key=q.stride, reverse=True), 3)
        self._rows = self._shape[:3]
        self._dtype, self._device = q.dtype, q.device
        unit = ALIGNMENT // FLOAT
        self._padded = -(-q.shape[0] * q.shape[1] * q.shape[2] // unit) * unit  # kernels expect aligned rows
        # `empty_like` takes half the time of `empty`, which reads a size, a dtype and a device.
        self._kept = torch.empty(1, dtype=torch.float32, device=q.device).expand(3, self._padded)
        self._out_like_q = _laid_out(torch.empty_like(q)) == _laid_out(self._empty_out())

    def __call__(
        self, q: Tensor, k: Tensor, v: Tensor, captures: Sequence[Tensor], with_lse: bool
    ) -> tuple[Tensor, Tensor | None, tuple[Tensor, ...]]:
        """out, lse if it is asked for, and what `largest_and_sums` takes."""
        out = torch.empty_like(q) if self._out_like_q else self._empty_out()
        kept = torch.empty_like(self._kept)
        lse = torch.empty(self._rows, dtype=torch.float32, device=self._device) if with_lse else None
        pointers: list[Any]
        if self._by_address:
            first, step = kept.data_ptr(), self._padded * FLOAT
            rows = (first if lse is None else lse.data_ptr(), first + step, first + 2 * step)
            pointers = [q.data_ptr(), k.data_ptr(), v.data_ptr(), out.data_ptr(), *rows]
        else:
            pointers = [q, k, v, out, kept[0] if lse is None else lse, kept[1], kept[2]]
        arguments = self._arguments.copy()
        for place, i in self._places:
            arguments[place] = pointers[i]
        for place, i, descriptor in self._described:
            arguments[place] = descriptor.at(pointers[i])
        for place, i in self._captures:
            arguments[place] = captures[i].data_ptr() if self._by_address else captures[i]
        if self._reads_table:
            self._find_table(arguments, pointers, captures)
        self._launch(self._grid, *arguments)
        return out, lse, (kept,)

    def _empty_out(self) -> Tensor:
        return torch.empty_permuted(self._shape, self._order, dtype=self._dtype, device=self._device)

    def largest_and_sums(self, kept: Tensor) -> tuple[Tensor, Tensor]:
        """For each row [B, Hq, Lq] the largest score and the sum of weights, as a backward pass takes them."""
        _, heads, length = self._rows
        form = self._rows, (heads * length, length, 1)
        return kept.as_strided(*form, self._padded), kept.as_strided(*form, 2 * self._padded)

    def _find_table(self, arguments: list[Any], pointers: Sequence[Any], captures: Sequence[Tensor]) -> None:
        """Fill in the tiles to visit; a table that has to be made may read any tensor."""
        values = {**self._values, **dict(zip(POINTERS, pointers, strict=True))}
        for key, i in self._numbered:
            values[key] = captures[i].data_ptr() if self._by_address else captures[i]
        table = self._kernels.table(self._loaded, "forward", captures, self._parameters, values)
        for place, key in enumerate(self._loaded.kernels["forward"].keys):
            if key in table:
                arguments[place] = table[key]


def prepare_forward(
    kernels: TritonPass,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    captures: Sequence[Tensor],
    parameters: Sequence[int],
    scale: float,
) -> TritonForward | None:
    """The pass for tensors laid out like these, with kernels that are built and tried; None where a call must copy."""
    if scale <= 0.0 or any(fit(each) is not each for each in (q, k, v)):
        return None
    if any(fit_capture(each, q).data_ptr() != each.data_ptr() or each.device != q.device for each in captures):
        return None
    out = empty_like(q, v.shape[3])
    loaded = kernels.load(q, k, v, out)
    if not loaded.tested:
        kernels.try_out(loaded, (q, k, v), captures, parameters)
    return TritonForward(kernels, loaded, q, k, v, out, captures, parameters, scale)


def takes_addresses(device: torch.device) -> bool:
    """Whether launches take addresses; the interpreter takes tensors."""
    return device.type != "cpu"


def _laid_out(tensor: Tensor) -> tuple[object, ...]:
    return tensor.shape, tensor.stride()


def _is_pointer(key: str) -> bool:
    return key in POINTERS or (key.startswith("capture:") and key.endswith(":0"))
