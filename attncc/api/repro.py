"""A small case of a variant on which kernels are tried, and the folder that holds one which went wrong.

The folder has the variant as `.attn`, the sizes and parameters as JSON, the captured tensors as `.npy`, and the kernels
as text. Nothing in it is pickled.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from attncc.errors import InputError
from attncc.ir import AttentionSpec, print_spec
from attncc.runtime.cache import default_store, digest
from attncc.runtime.triton_attention import Loaded

#: numpy has no bfloat16: such captures are written as float32 and narrowed again, which is exact.
VARIANT, PROBLEM = "variant.attn", "problem.json"
#: The most pairs, or elements of a captured tensor, that a CPU is given: 2 million pairs take half a second of one
#: core, forward and backward, in float64 (D 128, EPYC, 2026-11-24).
CPU_PAIRS: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class Trial:
    """Sizes (batch, query heads, kv heads, both lengths, head size, value size), captures, parameters and a seed."""

    spec: AttentionSpec
    dtype: str
    shape: tuple[int, int, int, int, int, int, int]
    captures: tuple[Tensor, ...]
    parameters: tuple[int, ...]
    device: str
    seed: int

    @property
    def batch(self) -> int:
        """Sequences."""
        return self.shape[0]

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.shape[1]

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Batch, query heads, and both lengths."""
        return self.shape[0], self.shape[1], self.shape[3], self.shape[4]

    @property
    def pairs(self) -> int:
        """Scores of all heads and sequences."""
        return math.prod(self.sizes)

    @property
    def scale(self) -> float:
        """The usual scale."""
        return 1 / math.sqrt(self.shape[5])

    @property
    def named(self) -> dict[str, int]:
        """The parameters by name."""
        return {p.name: value for p, value in zip(self.spec.parameters, self.parameters, strict=True)}

    def for_reference(self) -> Trial:
        """The same case where the dense reference computes it: on the CPU, unless that is too much for it."""
        if max([self.pairs, *(capture.numel() for capture in self.captures)]) > CPU_PAIRS:
            return self
        return replace(self, device="cpu", captures=tuple(capture.cpu() for capture in self.captures))

    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        """q, k and v: few keys dominate a row, so that a single wrong pair is seen."""
        batch, heads, kv_heads, q_len, kv_len, dim, value_dim = self.shape
        shapes = ((batch, heads, q_len, dim), (batch, kv_heads, kv_len, dim), (batch, kv_heads, kv_len, value_dim))
        q, k, v = (self._random(shape, number) for number, shape in enumerate(shapes))
        return q * 2, k, v

    def gradients(self, out: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients of out and of lse."""
        return self._random(tuple(out.shape), 3), self._random(tuple(out.shape[:3]), 4).float()

    def _random(self, shape: tuple[int, ...], number: int) -> Tensor:
        numbers = torch.Generator().manual_seed(self.seed * 100 + number)
        return torch.randn(shape, generator=numbers).to(self.device, getattr(torch, self.dtype))


def save(trial: Trial, loaded: Loaded, lines: Sequence[str], parent: Path | None = None) -> Path:
    """Write a case, one that went wrong below the cache folder; the folder's name is its content's."""
    variant = loaded.program.variant
    gradients = None if variant.derivatives is None else variant.derivatives.gradients
    problem: dict[str, Any] = {
        "dtype": trial.dtype,
        "shape": list(trial.shape),
        "parameters": list(trial.parameters),
        "device": trial.device,
        "seed": trial.seed,
        "aligned": variant.aligned,
        "wide": variant.wide,
        "in_bounds": sorted(variant.problem.in_bounds),
        "plain": sorted(variant.problem.plain),
        "nonzero": sorted(variant.problem.nonzero),
        "positive": variant.problem.positive,
        "fast_math": bool(variant.guarded.approximate),
        "tf32": variant.problem.tf32,
        "deterministic": variant.problem.deterministic,
        "short": variant.problem.short,
        "gradients": None if gradients is None else [gradients.q, gradients.k, gradients.v, *gradients.captures],
        "captures": [str(capture.dtype).removeprefix("torch.") for capture in trial.captures],
        "wrong": list(lines),
    }
    text = print_spec(trial.spec)
    folder = (
        parent or default_store().folder / "wrong"
    ) / f"{trial.spec.name}-{digest({'spec': text, **problem})[:12]}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    (folder / VARIANT).write_text(text, encoding="utf-8")
    (folder / PROBLEM).write_text(json.dumps(problem, indent=1) + "\n", encoding="utf-8")
    for capture, tensor in zip(trial.spec.captures, trial.captures, strict=True):
        plain = tensor.detach().float() if tensor.dtype == torch.bfloat16 else tensor.detach()
        np.save(folder / f"{capture.name}.npy", plain.cpu().numpy(), allow_pickle=False)
    for name, emitted in {**loaded.program.passes, **{f"list_{n}": e for n, e in loaded.program.lists.items()}}.items():
        (folder / f"{name}.py").write_text(emitted.source.text, encoding="utf-8")
    return folder


def read(folder: Path, device: str | None = None) -> tuple[Trial, dict[str, Any]]:
    """The case in a folder, and everything else that is known of it. Raises InputError for what is none."""
    from attncc.frontend import parse  # late: the grammar is loaded only where text is read

    try:
        problem = json.loads((folder / PROBLEM).read_text(encoding="utf-8"))
        spec = parse((folder / VARIANT).read_text(encoding="utf-8"))
        place = device or problem["device"]
        captures = [
            torch.from_numpy(np.load(folder / f"{capture.name}.npy", allow_pickle=False)).to(
                place, getattr(torch, dtype)
            )
            for capture, dtype in zip(spec.captures, problem["captures"], strict=True)
        ]
        shape, parameters = tuple(problem["shape"]), tuple(problem["parameters"])
        trial = Trial(spec, problem["dtype"], shape, tuple(captures), parameters, place, problem["seed"])
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{folder} does not hold a case that went wrong: {error}") from error
    return trial, problem
