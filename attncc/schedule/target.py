"""What a kernel is made for: the problem (shapes and dtypes that the kernel's form depends on) and the target machine.

Both are plain hashable values; lengths, batch and parameters are not in them, because one kernel serves all.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Gradients:
    """Which gradients a backward pass computes; `captures` in the order of the spec."""

    q: bool = True
    k: bool = True
    v: bool = True
    captures: tuple[bool, ...] = ()

    @property
    def of_scores(self) -> bool:
        """Whether any of them needs the gradient of the scores (v alone does not)."""
        return self.q or self.k or any(self.captures)


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one call beyond the form of its kernel: it decides which reads of captures need no guard."""

    batch: int
    q_len: int
    kv_len: int
    capture_shapes: tuple[tuple[int, ...], ...] = ()
    parameters: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Problem:
    """What the form of a kernel depends on beside the spec.

    dtypes are torch's names, such as `float32`; `capture_dtypes` follow the spec. `facts` are those of a call, where
    one is at hand: the pipeline draws `in_bounds` from them, the loads (by their number in the canonical spec, see
    `attncc.schedule.loads`) whose indices are proven, `plain`, those of them that are never negative, and `nonzero`,
    the divisions by what is not 0; all others are guarded. `positive` says that every int is divided by 1 or more.
    `gradients` is None where no backward pass is wanted.
    `tile_q` and `tile_kv` are the caller's; `refine` asks to look inside the tiles that their test leaves open, and
    `deterministic` for gradients whose bits are the same in every run. `tf32` lets products of float32 round their
    factors to TF32, for a GPU that can (`has_tf32`). `short` says that there are so few queries that another schedule
    is faster; the pipeline draws it from the facts.
    """

    dtype: str = "float32"
    head_dim: int = 64
    value_dim: int = 64
    heads: int = 1
    kv_heads: int = 1
    capture_dtypes: tuple[str, ...] = ()
    in_bounds: frozenset[int] = frozenset()
    plain: frozenset[int] = frozenset()
    nonzero: frozenset[int] = frozenset()
    positive: bool = False
    gradients: Gradients | None = None
    tile_q: int | None = None
    tile_kv: int | None = None
    refine: bool = False
    tf32: bool = False
    deterministic: bool = False
    short: bool = False
    facts: Facts | None = None

    @property
    def accumulator(self) -> str:
        """The dtype in which scores and sums are held."""
        return "float64" if self.dtype == "float64" else "float32"


@dataclass(frozen=True, slots=True)
class Target:
    """A back end and the machine that it emits for: `device` is torch's type, `arch` a GPU such as `sm_90`.

    `gluon` allows Gluon kernels, where the GPU and the installed Triton are known to run them. `fast_math` allows the
    GPU's approximate functions, where it has them and the tensors' own rounding leaves room for their error.
    """

    backend: str = "torch"
    device: str = "cpu"
    arch: str | None = None
    gluon: bool = False
    fast_math: bool = False


def has_tf32(arch: str | None) -> bool:
    """Whether the matrix units of a GPU multiply float32 as TF32; the interpreter, which has no arch, takes it too."""
    return arch is None or arch.startswith("sm_") or arch == "gfx942"


TORCH_CPU = Target("torch", "cpu")
