"""The checks of how a call shall run: back end, block sizes, determinism, bounds."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from numbers import Integral

import torch

from attncc.api.inputs import kind_of
from attncc.config import settings
from attncc.errors import InputError, UnsupportedError

BACKENDS = ("auto", "torch", "triton", "reference")
PLANNED = ("gluon",)
MAX_BLOCK = 1 << 16
CHECK_BOUNDS = settings().check_bounds  # a plain value: torch.compile traces calls and cannot follow settings()


@dataclass(frozen=True, slots=True)
class Options:
    """Checked options; None leaves the choice to attncc."""

    backend: str
    block_m: int | None = None
    block_n: int | None = None
    deterministic: bool | None = None
    check_bounds: bool | None = None
    refine: bool = False

    @property
    def is_deterministic(self) -> bool:
        """Whether gradients shall have the same bits in every run: as asked, or as torch is set."""
        return torch.are_deterministic_algorithms_enabled() if self.deterministic is None else self.deterministic

    def checks_bounds(self, device: str) -> bool:
        """Whether an index outside a captured tensor raises an error: as asked, as set, or on the CPU."""
        if self.check_bounds is not None:
            return self.check_bounds
        return CHECK_BOUNDS == "on" or (CHECK_BOUNDS == "auto" and device == "cpu")


def check_options(
    backend: object,
    block_m: object,
    block_n: object,
    deterministic: object,
    check_bounds: object,
    refine: object = None,
) -> Options:
    """The options of a call. Raises InputError for a bad value, UnsupportedError for a back end that is not there."""
    return Options(
        _backend(backend),
        _block("block_m", block_m),
        _block("block_n", block_n),
        _switch("deterministic", deterministic),
        _switch("check_bounds", check_bounds),
        _switch("refine", refine) or False,
    )


def _backend(backend: object) -> str:
    if isinstance(backend, str) and backend in BACKENDS:
        return backend
    has = ", ".join(f'"{name}"' for name in BACKENDS)
    if backend in PLANNED:
        raise UnsupportedError(f'this version of attncc has no back end "{backend}"', hint=f"it has {has}")
    near = get_close_matches(str(backend), BACKENDS, 1)
    raise InputError(
        f"there is no back end {backend!r}", hint=f'did you mean "{near[0]}"?' if near else f"one of {has}"
    )


def _block(name: str, size: object) -> int | None:
    if size is None:
        return None
    if isinstance(size, bool) or not isinstance(size, Integral):
        raise InputError(f"`{name}` must be an int, but is {kind_of(size)}", hint="None leaves it to attncc")
    if not 1 <= int(size) <= MAX_BLOCK:
        raise InputError(f"`{name}` must be from 1 to {MAX_BLOCK}, but is {size}", hint="None leaves it to attncc")
    return int(size)


def _switch(name: str, value: object) -> bool | None:
    if value is None or isinstance(value, bool):
        return value
    raise InputError(f"`{name}` must be True, False or None, but is {value!r}", hint="None leaves it to attncc")
