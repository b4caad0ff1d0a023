"""The checks of captured tensors and parameters against what a spec declares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from numbers import Integral

import torch
from torch import Tensor

from attncc.api.inputs import check_tensor, kind_of
from attncc.errors import AttnccError, InputError
from attncc.ir import ANY_DIM, AttentionSpec, Capture, Op, Scalar, postorder

KINDS = {
    Scalar.BOOL: (torch.bool,),
    Scalar.INDEX: (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8),
    Scalar.FLOAT: (torch.float32, torch.float64, torch.bfloat16, torch.float16),
}
CONVERSION = {Scalar.BOOL: "bool()", Scalar.INDEX: "long()", Scalar.FLOAT: "float()"}
#: Other keywords of a call; a misspelled one is met here.
ARGUMENTS = (
    *("scale", "return_lse", "backend", "block_m", "block_n", "deterministic", "check_bounds", "refine"),
    *("score_mod", "mask_mod", "name"),
)
INT64 = range(-(2**63), 2**63)


def check_names(spec: AttentionSpec, given: Mapping[str, object]) -> None:
    """Raise InputError for a keyword that is neither a captured tensor nor a parameter of the variant."""
    known = [c.name for c in spec.captures] + [p.name for p in spec.parameters]
    for name, value in given.items():
        if name not in known:
            near = get_close_matches(name, [*known, *ARGUMENTS], 1)
            has = ", ".join(f"`{n}`" for n in known) or "none"
            hint = f"did you mean `{near[0]}`?" if near else f"it has: {has}"
            if not near and isinstance(value, bool | float):
                hint += "; float and bool parameters are constants, which attncc.load takes"
            raise InputError(f"`{spec.name}` has no captured tensor or parameter `{name}`", hint=hint)


def check_captures(spec: AttentionSpec, given: Mapping[str, object], sizes: Mapping[str, int]) -> tuple[Tensor, ...]:
    """The captured tensors in the order of the spec; `sizes` gives batch, heads, q_len and kv_len."""
    missing = [capture for capture in spec.captures if capture.name not in given]
    if missing:
        wanted = ", ".join(f"{c.name}=... ({spell(c)})" for c in missing)
        raise InputError(f"`{spec.name}` needs {wanted}", hint="pass captured tensors by name when you call it")
    return tuple(_check_capture(capture, given[capture.name], sizes) for capture in spec.captures)


def locate(error: AttnccError, spec: AttentionSpec, captures: Mapping[str, object]) -> None:
    """Give an error about a captured tensor the place where the definition reads it, if that is one place."""
    if error.capture is None or error.span is not None:
        return
    shape = list(getattr(captures.get(error.capture), "shape", ()))
    if 0 in shape:
        error.message = f"`{error.capture}` is empty, {shape}, but is read at a visible pair"
        error.args = (error.message, None, error.hint)
    reads = (e for e in postorder(spec.score, spec.mask) if e.op is Op.LOAD and e.value == error.capture)
    places = {spec.origins[expr].span for expr in reads if expr in spec.origins} - {None}
    if len(places) == 1 and (span := places.pop()) is not None:
        error.locate(span)


def spell(capture: Capture) -> str:
    """The declaration of a captured tensor as `.attn` text writes it: `float[heads, _]`."""
    return f"{capture.scalar}[{', '.join(map(str, capture.dims))}]" if capture.dims else str(capture.scalar)


def _check_capture(capture: Capture, value: object, sizes: Mapping[str, int]) -> Tensor:
    if isinstance(value, bool | int | float) and capture.rank == 0:
        raise InputError(f"`{capture.name}` must be a 0-d tensor", hint=f"pass torch.tensor({value})")
    tensor = check_tensor(capture.name, value)
    wanted = f"declared as {spell(capture)}"
    if tensor.dim() != capture.rank:
        hint = "indexing is literal: sizes of 1 do not broadcast" if 1 in tensor.shape else None
        shape = f"{tensor.dim()} dimensions: {list(tensor.shape)}"
        raise InputError(f"`{capture.name}` is {wanted}, but has {shape}", hint=hint)
    if tensor.dtype not in KINDS[capture.scalar]:
        kind = str(tensor.dtype).removeprefix("torch.")
        hint = f"pass {capture.name}.{CONVERSION[capture.scalar]}"
        raise InputError(f"`{capture.name}` is {wanted}, but holds {kind}", hint=hint)
    for axis, (dim, size) in enumerate(zip(capture.dims, tensor.shape, strict=True)):
        expected = sizes[dim] if isinstance(dim, str) and dim != ANY_DIM else dim
        if dim != ANY_DIM and size != expected:
            meaning = f"`{dim}` is {expected} here" if isinstance(dim, str) else f"it must be {expected}"
            problem = f"but dimension {axis} of {list(tensor.shape)} is {size}"
            raise InputError(f"`{capture.name}` is {wanted}, {problem}", hint=meaning)
    return tensor


def check_capture_devices(spec: AttentionSpec, captures: Sequence[Tensor], device: torch.device) -> tuple[Tensor, ...]:
    """The captured tensors on the device of q: a number (0-d) may come from the CPU, anything else must be there."""
    return tuple(_place(c.name, tensor, device) for c, tensor in zip(spec.captures, captures, strict=True))


def _place(name: str, tensor: Tensor, device: torch.device) -> Tensor:
    if tensor.device == device:
        return tensor
    if tensor.dim() == 0 and tensor.device.type == "cpu":
        return tensor.to(device, non_blocking=True)
    raise InputError(f"`{name}` is on {tensor.device}, but q is on {device}", hint=f"pass {name}.to({str(device)!r})")


def check_parameters(spec: AttentionSpec, given: Mapping[str, object]) -> tuple[int, ...]:
    """The parameters in the order of the spec: what was given, or their defaults."""
    return tuple(_check_parameter(p.name, given.get(p.name, p.value)) for p in spec.parameters)


def _check_parameter(name: str, value: object) -> int:
    if isinstance(value, torch.SymInt):  # an int that torch.compile leaves open
        return value  # type: ignore[return-value]  # torch counts with it as with an int
    if isinstance(value, bool) or not isinstance(value, Integral):
        hint = f"pass int({name})" if isinstance(value, float | Tensor) else None
        raise InputError(f"parameter `{name}` must be an int, but is {kind_of(value)}", hint=hint)
    if not INT64.start <= int(value) < INT64.stop:  # `in` is nothing that torch.compile can ask of an open int
        raise InputError(f"parameter `{name}` is {value}, which does not fit in 64 bits")
    return int(value)
