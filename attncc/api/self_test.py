"""Newly built kernels, tried once before their first use: on a small random case, beside the dense reference.

The case takes the captured tensors of the call, cut to its sizes, and lengths at which the mask cuts tiles, skips some
and shows some whole, as far as it can. The reference of a small case runs on the CPU: there its operations are loaded
already, while a GPU loads the kernels of each when it is first used. A kernel that is wrong is an error with everything
that a replay needs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from attncc.api import apart
from attncc.api.repro import Trial, read, save
from attncc.api.tested import needs_test, pass_test
from attncc.config import LOG
from attncc.errors import CompileError, InternalError
from attncc.ir import AttentionSpec, Op, Scalar, postorder
from attncc.pipeline import canonicalize, lower
from attncc.reference import reference, reference_scores
from attncc.runtime import op
from attncc.runtime.steps import empty_like
from attncc.runtime.triton_attention import Loaded, TritonPass
from attncc.schedule import Gradients, Problem, call_box, prove_divisions, prove_loads, prove_positive

LENGTHS: Final = (200, 456, 1000)
MAX_HEADS: Final = 8
#: Pairs of a length at which a trial has several heads and sequences, and of all heads at which there is one at all.
MANY_PAIRS, MAX_PAIRS = 1 << 16, 1 << 27
SEED: Final = 1
#: Bars relative to the largest wanted number, at least 1, in units of the dtype's precision; lse is in float32.
OUT_BAR, GRADIENT_BAR, LSE_BAR = 8, 24, 2e-3
#: That of float32, where sums and exponentials round as well as the results.
FLOAT32_PRECISION: Final = 4e-6
#: The share of numbers that may differ where scores jump: a score that is rounded either way moves a whole row.
JUMP_SHARE: Final = 0.05
JUMPS: Final = frozenset((Op.FLOOR, Op.CEIL, Op.ROUND, Op.TRUNC, Op.FLOORDIV, Op.MOD, Op.LT, Op.LE, Op.GT, Op.GE))


@dataclass(frozen=True, slots=True)
class Finding:
    """How far one result of a trial lies from the reference, and how far it may."""

    name: str
    error: float
    bar: float
    share: float  # of numbers beyond the bar

    @property
    def line(self) -> str:
        """The finding in words."""
        return f"{self.name}: off by {self.error:.2g} where {self.bar:.2g} is allowed, {self.share:.1%} of the numbers"


def check(
    spec: AttentionSpec,
    kernels: TritonPass,
    loaded: Loaded,
    tensors: Sequence[Tensor],
    captures: Sequence[Tensor],
    parameters: Sequence[int],
) -> None:
    """Try the kernels of a pass, unless that is known to have gone well. Raises CompileError if they are wrong."""
    if not needs_test(loaded, tensors[0].device):
        return
    trial = make_trial(spec, loaded, tensors, captures, parameters)
    if trial is None:
        LOG.info("%s: no small case has the proofs of this call, so its kernels are not tried", spec.name)
        return
    if not (apart.may_hang(loaded.program) and apart.try_out(trial, loaded)):
        refuse_wrong(trial, kernels, loaded)
    pass_test(loaded, tensors[0].device, spec.name)


def refuse_wrong(trial: Trial, kernels: TritonPass, loaded: Loaded) -> None:
    """Raises CompileError, and keeps what a replay needs, if the kernels are wrong on a trial."""
    wrong = [each for each in findings(trial, kernels, loaded) if not _is_right(trial.spec, each)]
    if not wrong:
        return
    folder = save(trial, loaded, [each.line for each in wrong])
    raise CompileError(
        f"the kernels of {trial.spec.name} are wrong on {trial.device}: {'; '.join(each.line for each in wrong)}",
        hint=f'run `attncc replay {folder}` to see it again; backend="torch" computes without them',
    )


def make_trial(
    spec: AttentionSpec,
    loaded: Loaded,
    tensors: Sequence[Tensor],
    captures: Sequence[Tensor],
    parameters: Sequence[int],
) -> Trial | None:
    """The case with most kinds of tiles: skipped, cut, whole. None if none is as well proven as the call."""
    q, k, v = tensors
    best: tuple[int, Trial] | None = None
    lengths = dict.fromkeys((min(q.shape[2], n), min(k.shape[2], n)) for n in LENGTHS)
    for q_len, kv_len in (*lengths, (q.shape[2], k.shape[2])):
        if best is not None and (best[0] == 3 or q_len * kv_len > MAX_PAIRS // MAX_HEADS):
            break
        trial = _trial(spec, (q, k, v), captures, parameters, q_len, kv_len)
        if trial.pairs > MAX_PAIRS or not _is_proven(trial, loaded):
            continue
        kinds = _count_kinds(trial, loaded)
        if best is None or kinds > best[0]:
            best = kinds, trial
    return None if best is None else best[1]


def _trial(
    spec: AttentionSpec,
    tensors: tuple[Tensor, Tensor, Tensor],
    captures: Sequence[Tensor],
    parameters: Sequence[int],
    q_len: int,
    kv_len: int,
) -> Trial:
    q, k, v = tensors
    group, many = q.shape[1] // k.shape[1], q_len * kv_len <= MANY_PAIRS
    kv_heads = min(k.shape[1], max(1, (MAX_HEADS if many else 2) // group))
    sizes = {"batch": min(q.shape[0], 2 if many else 1), "heads": kv_heads * group, "q_len": q_len, "kv_len": kv_len}
    cut = []
    for capture, tensor in zip(spec.captures, captures, strict=True):
        part = tensor.detach()
        for dim, name in enumerate(capture.dims):
            part = part.narrow(dim, 0, sizes[name]) if isinstance(name, str) and name in sizes else part
        cut.append(part)
    dtype = str(q.dtype).removeprefix("torch.")
    shape = (sizes["batch"], sizes["heads"], kv_heads, q_len, kv_len, q.shape[3], v.shape[3])
    return Trial(spec, dtype, shape, tuple(cut), tuple(parameters), str(q.device), SEED)


def _is_proven(trial: Trial, loaded: Loaded) -> bool:
    """Whether what the kernels take as proven of a call holds for the trial."""
    problem = loaded.program.variant.problem
    canonical = canonicalize(trial.spec)
    sizes = dict(zip(("batch", "heads", "q_len", "kv_len"), trial.sizes, strict=True))
    box = call_box(sizes, dict(zip((p.name for p in canonical.parameters), trial.parameters, strict=True)))
    shapes = {c.name: tuple(t.shape) for c, t in zip(canonical.captures, trial.captures, strict=True)}
    loads = prove_loads(canonical, box, shapes)
    positive = not problem.positive or prove_positive(canonical, box)
    return positive and problem.in_bounds <= loads and problem.nonzero <= prove_divisions(canonical, box)


def _count_kinds(trial: Trial, loaded: Loaded) -> int:
    """How many kinds of tiles the mask has there: none of 3 without a visible pair."""
    kernel = next(each for name, each in loaded.kernels.items() if name != "prepare")
    here = trial.for_reference()
    q, k, _ = here.tensors()
    visible = reference_scores(here.spec, q, k, here.captures, here.named, check_bounds=False) != -math.inf
    tile_q, tile_kv = kernel.tile_q, kernel.tile_kv
    rows, columns = -visible.shape[2] % tile_q, -visible.shape[3] % tile_kv
    ends = []
    for value in (False, True):
        padded = torch.nn.functional.pad(visible, (0, columns, 0, rows), value=value)
        tiles = padded.view(*padded.shape[:2], -1, tile_q, padded.shape[3] // tile_kv, tile_kv)
        ends.append(tiles.all(-1).all(3) if value else tiles.any(-1).any(3))
    some, whole = ends
    return 0 if not some.any() else sum(bool(kind.any()) for kind in (~some, some & ~whole, whole))


@torch.inference_mode(False)
@torch.enable_grad()
def findings(trial: Trial, kernels: TritonPass, loaded: Loaded) -> list[Finding]:
    """The results of the kernels beside those of the reference in float64."""
    device, here = torch.device(trial.device), trial.for_reference()
    with torch.autocast(device.type, enabled=False), torch.autocast("cpu", enabled=False):
        tensors, captures = trial.tensors(), [capture.clone() for capture in trial.captures]
        derivatives = loaded.program.variant.derivatives
        wide = [t.double().requires_grad_() for t in here.tensors()]
        held = [c.double().requires_grad_() if c.is_floating_point() else c for c in here.captures]
        q, k, v = wide
        out, lse = reference(trial.spec, q, k, v, held, trial.named, return_lse=True, check_bounds=False)
        precision = max(torch.finfo(tensors[0].dtype).eps, FLOAT32_PRECISION)
        if loaded.program.variant.problem.tf32:
            precision = 2 * torch.finfo(torch.float16).eps  # TF32 has its mantissa, and matrix units cut the rest off
        if derivatives is None:
            found = kernels.launch_forward(
                loaded, *tensors, empty_like(tensors[0], trial.shape[6]), captures, trial.parameters, trial.scale
            )
            return [
                _compare("out", found[0], out, OUT_BAR * precision),
                _compare("lse", found[1], lse, LSE_BAR),
            ]
        grad_out, grad_lse = here.gradients(out)
        finite = torch.where(lse.isfinite(), lse, 0.0)
        loss = (out * grad_out.double()).nan_to_num().sum() + (finite * grad_lse.double()).sum()
        wanted = torch.autograd.grad(loss, [*wide, *(c for c in held if c.requires_grad)], allow_unused=True)
        empty = lse == -math.inf
        largest = torch.where(empty, -math.inf, lse * math.log2(math.e)).float()
        rows = out.to(tensors[0].dtype), largest, torch.where(empty, 0.0, 1.0).float()
        grads = [torch.empty_like(tensor) for tensor in tensors]
        given = [row.detach().to(device) for row in (grad_out, grad_lse, *rows)]
        call: tuple[Any, ...] = (*given[:2], *tensors, *given[2:], *grads, captures, trial.parameters, trial.scale)
        of_q, of_k, of_v, of_captures = kernels.launch_backward(loaded, *call)
        floats = [grad for grad, c in zip(of_captures, captures, strict=True) if c.is_floating_point()]
        names = ["q", "k", "v", *(c.name for c in trial.spec.captures if c.scalar is Scalar.FLOAT)]
        return [
            _compare(f"gradient of {name}", a, b, GRADIENT_BAR * precision)
            for name, a, b in zip(names, [of_q, of_k, of_v, *floats], wanted, strict=True)
            if a is not None
        ]


def _compare(name: str, found: Tensor, wanted: Tensor | None, bar: float) -> Finding:
    """One result, compared on the CPU; None stands for a gradient of zeros."""
    found = found.detach().cpu().double()
    wanted = torch.zeros_like(found) if wanted is None else wanted.detach().double()
    if not found.numel():
        return Finding(name, 0.0, bar, 0.0)
    same = (found == wanted) | (found.isnan() & ~wanted.isfinite()) | (~found.isfinite() & wanted.isnan())
    bar *= max(1.0, float(torch.where(wanted.isfinite(), wanted.abs(), 0.0).max()))
    off = torch.where(same, 0.0, (found - wanted).abs()).nan_to_num(nan=math.inf)
    return Finding(name, float(off.max()), bar, float((off > bar).double().mean()))


def _is_right(spec: AttentionSpec, finding: Finding) -> bool:
    jumps = any(
        e.op in JUMPS and any(a.scalar is Scalar.FLOAT for a in e.args) for e in postorder(spec.score, spec.mask)
    )
    return finding.share <= (JUMP_SHARE if jumps else 0.0)


def replay(folder: Path, device: str | None = None) -> list[tuple[Finding, bool]]:
    """What the kernels make of a kept case, each with whether it is right now. Raises InputError if there is none."""
    trial, known = read(folder, device)
    _, heads, kv_heads, _, _, dim, value_dim = trial.shape
    wanted = known["gradients"]
    gradients = None if wanted is None else Gradients(wanted[0], wanted[1], wanted[2], tuple(wanted[3:]))
    problem = replace(
        Problem(trial.dtype, dim, value_dim, heads, kv_heads, tuple(known["captures"]), gradients=gradients),
        in_bounds=frozenset(known["in_bounds"]),
        plain=frozenset(known["plain"]),
        nonzero=frozenset(known["nonzero"]),
        **{name: known.get(name, False) for name in ("positive", "tf32", "deterministic", "short")},
    )
    place = torch.device(trial.device)
    target = replace(op.target_of("triton", place), fast_math=known.get("fast_math", False))
    lowered = lower(trial.spec, problem, target)
    programs = lowered.triton_forward if gradients is None else lowered.triton_backward
    if programs is None:
        raise InternalError("this case has no kernels")
    kernels = TritonPass(programs, place)
    loaded = kernels.load_kind(known["aligned"], known["wide"])
    return [(each, _is_right(trial.spec, each)) for each in findings(trial, kernels, loaded)]
