"""Small kernels of three structures, with arguments and what numpy makes of them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.gluon.simulator import Descriptor, simulate
from tests.gluon.values import BFLOAT16

KERNELS = Path(__file__).parent / "kernels"


@dataclass(frozen=True)
class Case:
    """A kernel's text, its entry and grid, a maker of arguments, and of what the outputs among them should be."""

    file: str
    entry: str
    grid: int
    make: Callable[[np.random.Generator], tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]]

    @property
    def text(self) -> str:
        return (KERNELS / f"{self.file}.py").read_text(encoding="utf-8")

    def run(self, text: str | None = None, *, seed: int = 0, slow: Collection[str] = ()) -> None:
        """Simulate the kernel, or another text of it, and compare with numpy."""
        arguments, expected = self.make(np.random.default_rng(seed))
        simulate(text or self.text, self.entry, self.grid, arguments, seed=seed, slow=slow)
        for name, values in expected.items():
            argument = arguments[name]
            found = argument.base if isinstance(argument, Descriptor) else argument
            np.testing.assert_allclose(found, values, rtol=2**-7, atol=2**-7 * np.abs(values).max(), err_msg=name)


def bfloat16(random: np.random.Generator, *shape: int) -> np.ndarray[Any, Any]:
    """Normal values, rounded as bfloat16 has them."""
    return np.asarray(BFLOAT16.hold(random.standard_normal(shape)))


def multiply(random: np.random.Generator) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """Arguments of the pipeline: more rows than one round of programs takes, and an end of the inner dimension."""
    a, b = bfloat16(random, 300, 272), bfloat16(random, 272, 64)
    out = np.full((300, 64), np.nan, np.float32)
    descriptors = {
        "a_desc": Descriptor(a, [64, 64], "bf16"),
        "b_desc": Descriptor(b, [64, 64], "bf16"),
        "out_desc": Descriptor(out, [64, 64], "bf16"),
    }
    return {**descriptors, "rows": 300, "inner": 272}, {"out_desc": a @ b}


def attend(random: np.random.Generator) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """Arguments of attention by turns: neither length is a multiple of a tile."""
    q, k, v = (bfloat16(random, 1, 1, length, 64) for length in (200, 300, 300))
    out, lse = np.full_like(q, np.nan), np.full(200, np.nan, np.float32)
    scores = q @ k.swapaxes(-1, -2) * 0.125
    weights = np.exp(scores)
    total = weights.sum(-1, keepdims=True)
    descriptors = {
        f"{name}_desc": Descriptor(x, [1, 1, 64, 64], "bf16")
        for name, x in {"q": q, "k": k, "v": v, "out": out}.items()
    }
    scalars = {"q_len": 200, "kv_len": 300, "scale": 0.125 * float(np.log2(np.e))}
    expected = {"out_desc": weights @ v / total, "lse_ptr": np.log(total).reshape(200)}
    return {**descriptors, "lse_ptr": lse, **scalars}, expected


def accumulate(random: np.random.Generator) -> tuple[dict[str, Any], dict[str, np.ndarray[Any, Any]]]:
    """Arguments of the adding kernel: three programs add to the same rows."""
    x, w = bfloat16(random, 300, 64), bfloat16(random, 150, 64)
    out = np.zeros((300, 64), np.float32)
    descriptors = {
        "x_desc": Descriptor(x, [64, 64], "bf16"),
        "w_desc": Descriptor(w, [64, 64], "bf16"),
        "out_desc": Descriptor(out, [64, 64], "fp32"),
    }
    return {**descriptors, "rows": 300}, {"out_desc": np.asarray(BFLOAT16.hold(x @ w.T)) @ w}


PIPELINE = Case("pipeline", "multiply", 2, multiply)
TURNS = Case("turns", "attend", 2, attend)
ADDING = Case("adding", "accumulate", 3, accumulate)
