"""Torch's operators `attncc::forward` and `attncc::backward`, and how autograd joins them.

The operators carry the spec as its `.attn` text and the captures as tensors, so that exported graphs stand alone. A
call on a warm kernel costs a dictionary look-up: `_KERNELS` knows the kernel of everything that its form depends on.
The compiler lives on the same floor and is not imported; whoever stands above hands it over with `install`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from attncc.config import settings
from attncc.errors import InternalError
from attncc.runtime import functional, launch, triton_version
from attncc.runtime.build import Kernel, build
from attncc.runtime.lowered import Lowered
from attncc.runtime.pack import settings_pack
from attncc.runtime.recall import Memory, Recalled, memory_of
from attncc.runtime.registering import known_file
from attncc.runtime.steps import empty_like
from attncc.runtime.triton_attention import Programs, TritonPass
from attncc.schedule.gluon import ARCH as HOPPER
from attncc.schedule.target import Facts, Gradients, Problem, Target, has_tf32

if TYPE_CHECKING:  # kernels that are found in the cache need no choice of schedules
    from attncc.runtime.triton_fit import Foresee

MAX_KERNELS = 8192


#: out, lse, and each row's largest score and sum of exp(score - largest)
Rows = tuple[Tensor, Tensor, Tensor, Tensor]
Lower = Callable[[str, Problem, Target], Lowered]

_KERNELS: dict[tuple[Any, ...], Kernel] = {}
_PASSES: dict[tuple[int | str, torch.device], TritonPass] = {}
_DIFFERENTIABLE: dict[str, tuple[bool, ...]] = {}
_COMPILER: list[Lower] = []
_TESTS: list[Callable[..., None]] = []
_FORESEEING: list[Foresee] = []


def install(lower: Lower, test: Callable[..., None] | None = None, foresee: Foresee | None = None) -> None:
    """Hand over the compiler that turns a spec's text, a problem and a target into kernels, and what tries kernels:
    a function of the text and of what a `TritonPass` gives its test. `foresee` hears what is about to be compiled."""
    _COMPILER[:] = [lower]
    _TESTS[:] = [] if test is None else [test]
    _FORESEEING[:] = [] if foresee is None else [foresee]


def attend(
    text: str,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    captures: Sequence[Tensor],
    parameters: Sequence[int],
    *,
    scale: float,
    tile_q: int = 0,
    tile_kv: int = 0,
    check_bounds: bool = True,
    backend: str = "torch",
    refine: bool = False,
    deterministic: bool = False,
) -> tuple[Tensor, Tensor]:
    """The output [B, H, Lq, Dv] and its lse [B, H, Lq] of a spec given by its text; differentiable once.

    Tensors are checked already. Under autocast q, k and v are cast as torch's own attention casts them. `tile_q` and
    `tile_kv` 0 leave the choice to the schedule; `refine` looks inside the tiles that their test leaves open;
    `deterministic` asks for gradients whose bits are the same in every run. Raises InputError for an index outside its
    capture at a visible pair, where `check_bounds` is on, and UnsupportedError under forward-mode differentiation and
    vmap.
    """
    if forward_ad._current_level >= 0:
        functional.refuse_duals((q, k, v, *captures))
    kind = q.device.type
    if torch.is_autocast_enabled(kind):
        dtype = torch.get_autocast_dtype(kind)
        q, k, v = (t if t.dtype == torch.float64 else t.to(dtype) for t in (q, k, v))
    rest = (list(parameters), scale, text, tile_q, tile_kv, backend, refine, deterministic, check_bounds)
    if not torch.compiler.is_dynamo_compiling() and functional.transform() is not None:
        out, lse, _, _ = functional.attend(q, k, v, captures, rest, _differentiable(text, captures))
    else:
        out, lse, _, _ = torch.ops.attncc.forward(q, k, v, list(captures), *rest)
    return out, lse


def problem_of(
    tensors: Sequence[Tensor],
    parameters: Sequence[int],
    gradients: Gradients | None,
    tile_q: int,
    tile_kv: int,
    refine: bool = False,
    tf32: bool = False,
    deterministic: bool = False,
) -> Problem:
    """The problem that a call on (q, k, v, *captures) poses, as the operators pose it; tile sizes 0 are chosen."""
    q, k, v, *captures = tensors
    shapes = tuple(tuple(capture.shape) for capture in captures)
    return Problem(
        dtype=_name(q),
        head_dim=q.shape[3],
        value_dim=v.shape[3],
        heads=q.shape[1],
        kv_heads=k.shape[1],
        capture_dtypes=tuple(map(_name, captures)),
        gradients=gradients,
        tile_q=tile_q or None,
        tile_kv=tile_kv or None,
        refine=refine,
        tf32=tf32,
        deterministic=deterministic,
        facts=Facts(q.shape[0], q.shape[2], k.shape[2], shapes, tuple(parameters)),
    )


def _name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _kernel(
    text: str,
    tensors: Sequence[Tensor],
    parameters: Sequence[int],
    tiles: tuple[int, int],
    backend: str,
    wanted: tuple[bool, ...] | None,
    refine: bool = False,
    deterministic: bool = False,
) -> Kernel:
    """The kernel of a call, from memory; otherwise compiled and built."""
    q, k, v, *captures = tensors
    shapes = (q.shape, k.shape, v.shape[3], *[(c.dtype, c.shape) for c in captures])
    asked = wants_tf32(q.dtype), deterministic
    key = (text, q.dtype, q.device, shapes, tuple(parameters), tiles, backend, wanted, refine, *asked)
    found = _KERNELS.get(key)
    if found is None:
        if len(_KERNELS) >= MAX_KERNELS:
            _KERNELS.clear()
        found = _KERNELS[key] = _compiled(text, tensors, parameters, tiles, backend, wanted, refine, deterministic)
    return found


def _compiled(
    text: str,
    tensors: Sequence[Tensor],
    parameters: Sequence[int],
    tiles: tuple[int, int],
    backend: str,
    wanted: tuple[bool, ...] | None,
    refine: bool,
    deterministic: bool,
) -> Kernel:
    gradients = None if wanted is None else Gradients(wanted[0], wanted[1], wanted[2], wanted[3:])
    target = target_of(backend, tensors[0].device)
    more = takes_tf32(target, tensors[0].dtype), deterministic and target.gluon
    problem = problem_of(tensors, parameters, gradients, *tiles, refine, *more)
    if backend == "triton":
        found = _triton(text, problem, target, tensors[0].device)
        return found.forward if wanted is None else found.backward
    lowered = _lower(text, problem, target)
    if wanted is None:
        return build(lowered.forward, "forward")
    return build(lowered.backward, "backward")


def target_of(backend: str, device: torch.device) -> Target:
    """The target of a back end on a device."""
    if backend == "torch" or device.type == "cpu":
        return Target(backend, device.type)
    index: int | None = device.index
    arch = launch.target_of(torch.cuda.current_device() if index is None else index)
    return Target(backend, device.type, arch, gluon=runs_gluon(arch), fast_math=settings().fast_math)


def wants_tf32(dtype: torch.dtype) -> bool:
    """Whether products of this dtype may round to TF32: torch's own setting for matrix products, off at first."""
    return dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"


def takes_tf32(target: Target, dtype: torch.dtype) -> bool:
    """Whether the kernels of a call do so; the torch back end leaves it to torch."""
    return target.backend == "triton" and has_tf32(target.arch) and wants_tf32(dtype)


def runs_gluon(arch: str) -> bool:
    """Whether Gluon kernels are made for a GPU: it is Hopper, and Triton is one that they are tested with.

    Kernels of a pack are those of the Triton that made it.
    """
    pack = settings_pack()
    version = triton_version.version() if pack is None else pack.triton
    return arch == HOPPER and settings().gluon and triton_version.gluon_refusal(version) is None


def _triton(text: str, problem: Problem, target: Target, device: torch.device) -> TritonPass:
    """The pass of a variant on a device; calls of other lengths share it. What the cache knows is not lowered."""
    memory = memory_of(text, problem, target, device)
    head = None if memory is None else memory.head()
    programs: Programs
    key: int | str
    if memory is not None and head is not None:
        _DIFFERENTIABLE[text] = head.differentiable
        known = (made for made in _PASSES.values() if made.memory is not None and made.memory.key == head.key)
        key, programs = head.key, Recalled(head, partial(_programs, text, problem, target, memory))
        found = _PASSES.get((key, device)) or next((made for made in known if made.device == device), None)
    else:
        programs = _programs(text, problem, target, memory)
        key = id(programs)
        found = _PASSES.get((key, device))
    if found is None:
        test = partial(_TESTS[0], text) if _TESTS else None
        foresee = _FORESEEING[0] if _FORESEEING else None
        found = TritonPass(programs, device, test=test, foresee=foresee, memory=memory)
    return _PASSES.setdefault((key, device), found)


def _programs(text: str, problem: Problem, target: Target, memory: Memory | None) -> Programs:
    """The kernels of a pass, lowered."""
    lowered = _lower(text, problem, target)
    if memory is not None:
        memory.differentiable = lowered.differentiable
    programs: Programs = lowered.triton_forward if problem.gradients is None else lowered.triton_backward
    return programs


def _lower(text: str, problem: Problem, target: Target) -> Lowered:
    if not _COMPILER:
        raise InternalError("the operators of attncc have no compiler yet", hint="import attncc.api")
    lowered = _COMPILER[0](text, problem, target)
    _DIFFERENTIABLE[text] = lowered.differentiable
    return lowered


def _differentiable(text: str, captures: Sequence[Tensor]) -> tuple[bool, ...]:
    """For each capture, whether it can have a gradient; in a traced graph this may be the first to ask."""
    if text not in _DIFFERENTIABLE:
        _lower(text, Problem(capture_dtypes=tuple(map(_name, captures))), Target())
    return _DIFFERENTIABLE[text]


def _forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    captures: list[Tensor],
    parameters: list[int],
    scale: float,
    text: str,
    tile_q: int,
    tile_kv: int,
    backend: str,
    refine: bool,
    deterministic: bool,
    check_bounds: bool,
) -> Rows:
    kernel = _kernel(text, (q, k, v, *captures), parameters, (tile_q, tile_kv), backend, None, refine)
    if _is_empty(q, k):
        out, lse, largest, sums = _forward_fake(q, k, v)
        return out.zero_(), lse.fill_(-torch.inf), largest.fill_(-torch.inf), sums.zero_()
    kind = q.device.type
    with torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext():
        rows: Rows = kernel(q, k, v, captures, parameters, scale, check_bounds)
        if check_bounds and may_read_outside(kernel) and bool(rows[1].isnan().any()):
            # A Triton kernel marks such rows with NaN. Whether that is the reason, and which read it was, is for the
            # torch back end to say: it raises.
            torch_kernel = _kernel(text, (q, k, v, *captures), parameters, (0, 0), "torch", None)
            torch_kernel(q, k, v, captures, parameters, scale, True)
    return rows


def may_read_outside(kernel: Kernel) -> bool:
    """Whether a kernel is Triton's, and has reads of captured tensors that it could not prove to lie inside."""
    owner = getattr(kernel, "__self__", None)
    capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
    return isinstance(owner, TritonPass) and owner.guards_reads and not capturing


def _forward_fake(q: Tensor, k: Tensor, v: Tensor, *_: object) -> Rows:
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    lse, largest, sums = (torch.empty(q.shape[:3], dtype=wide, device=q.device) for _ in range(3))
    return empty_like(q, v.shape[3]), lse, largest, sums


def _is_empty(q: Tensor, k: Tensor) -> bool:
    return q.shape[0] == 0 or q.shape[2] == 0 or k.shape[2] == 0


def _backward(
    grad_out: Tensor,
    grad_lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    largest: Tensor,
    sums: Tensor,
    captures: list[Tensor],
    parameters: list[int],
    scale: float,
    text: str,
    tile_q: int,
    tile_kv: int,
    backend: str,
    refine: bool,
    deterministic: bool,
    wanted: list[bool],
) -> list[Tensor]:
    tensors = (q, k, v, *captures)
    if _is_empty(q, k):
        return [
            grad.zero_() for grad in _backward_fake(grad_out, grad_lse, q, k, v, out, largest, sums, captures, wanted)
        ]
    kernel = _kernel(text, tensors, parameters, (tile_q, tile_kv), backend, tuple(wanted), refine, deterministic)
    with torch.autocast(q.device.type, enabled=False):
        *grads, of_captures = kernel(grad_out, grad_lse, q, k, v, out, largest, sums, captures, parameters, scale)
    return [grad for grad in (*grads, *of_captures) if grad is not None]


def _backward_fake(
    grad_out: Tensor,
    grad_lse: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    largest: Tensor,
    sums: Tensor,
    captures: list[Tensor],
    *rest: Any,
) -> list[Tensor]:
    want_q, *wanted = rest[-1]
    grads = [empty_like(q, q.shape[3])] if want_q else []
    dense = [torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (k, v, *captures)]
    return grads + [grad for grad, want in zip(dense, wanted, strict=True) if want]


def _save(ctx: Any, inputs: tuple[Any, ...], output: Rows) -> None:
    q, k, v, captures, *ctx.rest = inputs
    out, _, largest, sums = output
    ctx.mark_non_differentiable(largest, sums)
    ctx.save_for_backward(q, k, v, out, largest, sums, *captures)


def _differentiate(ctx: Any, grad_out: Tensor, grad_lse: Tensor, *_: object) -> tuple[Any, ...]:
    q, k, v, out, largest, sums, *captures = ctx.saved_tensors
    parameters, scale, text, tile_q, tile_kv, backend, refine, deterministic, _ = ctx.rest
    asked = ctx.needs_input_grad
    can = _differentiable(text, captures)
    wanted = [*asked[:3], *(a and b for a, b in zip(asked[3], can, strict=True))]
    none: list[Any] = [
        None if parameters else [],
        *[None] * 8,
    ]  # an empty list has its own place in torch's tree of arguments
    if not any(wanted):
        return (None, None, None, [None] * len(captures), *none)
    tensors = (grad_out, grad_lse, q, k, v, out, largest, sums, captures)
    rest = (parameters, scale, text, tile_q, tile_kv, backend, refine, deterministic)
    grads = torch.ops.attncc.backward(*tensors, *rest, wanted)
    found = iter(grads)
    of_q, of_k, of_v, *of_captures = [next(found) if want else None for want in wanted]
    return (of_q, of_k, of_v, of_captures, *none)


def _nothing(ctx: Any, inputs: tuple[Any, ...], output: object) -> None:
    return None


known_file(__file__, __name__)
# torch has no types for its libraries
_LIBRARY: Any = torch.library.Library("attncc", "DEF")  # type: ignore[no-untyped-call]
_INPUTS = "Tensor q, Tensor k, Tensor v"
_REST = "Tensor[] captures, SymInt[] parameters, float scale, str spec, int tile_q, int tile_kv, str backend, "
_REST += "bool refine, bool deterministic"
_LIBRARY.define(f"forward({_INPUTS}, {_REST}, bool check_bounds) -> (Tensor, Tensor, Tensor, Tensor)")
_LIBRARY.define(
    f"backward(Tensor grad_out, Tensor grad_lse, {_INPUTS}, Tensor out, Tensor largest, Tensor sums, {_REST}, "
    "bool[] wanted) -> Tensor[]"
)
for _kind, _run, _fake in (("forward", _forward, _forward_fake), ("backward", _backward, _backward_fake)):
    _LIBRARY.impl(_kind, _run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"attncc::{_kind}", _fake, lib=_LIBRARY)
    torch.library.register_vmap(f"attncc::{_kind}", functional.refuse_vmap, lib=_LIBRARY)
torch.library.register_autograd("attncc::forward", _differentiate, setup_context=_save, lib=_LIBRARY)
torch.library.register_autograd("attncc::backward", functional.refuse_second, setup_context=_nothing, lib=_LIBRARY)
