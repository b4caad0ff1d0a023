"""Random variants over the whole language, and problems to run them on.

`random_problem(seed)` makes a spec with sizes, parameters and the seed of its tensors: uniform and fast, for counted
runs that name a failing seed. `random_expr(seed, kind)` makes a single typed expression inside such a problem.
`problems()`, `specs()` and `exprs(kind)` make the same choices through hypothesis, so that examples shrink. `measure`
runs a problem and its gradients; `is_settled` says whether two ways to compute it can be compared.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor

from attncc.ir import (
    KV_IDX,
    Q_IDX,
    SCORE,
    AttentionSpec,
    Expr,
    Op,
    Scalar,
    apply,
    cast,
    conjunction,
    const,
    evaluate,
)
from attncc.reference import reference
from tests.drafts import COMPARISONS, MAX_LEN, ROUNDINGS, CapturePlan, Choose, Draft, below, draw_mask, draw_score

LENGTHS = (1, 2, 3, 5, 8, 16, 17, 31, 63, 64, 65, 100)
HEAD_COUNTS = ((1, 1), (2, 2), (2, 1), (4, 1), (4, 2), (8, 2), (3, 3))

Draw = Callable[[st.SearchStrategy[Any]], Any]


@dataclass(frozen=True, slots=True)
class Sizes:
    """The sizes of a problem; `kv_batch` is 1 or `batch`, `kv_heads` divides `heads`."""

    batch: int = 1
    kv_batch: int = 1
    heads: int = 1
    kv_heads: int = 1
    q_len: int = 1
    kv_len: int = 1
    head_dim: int = 4
    value_dim: int = 4

    @property
    def inputs(self) -> dict[str, int]:
        """The inputs of an expression that are sizes."""
        return {"batch": self.batch, "heads": self.heads, "q_len": self.q_len, "kv_len": self.kv_len}


@dataclass(frozen=True, slots=True)
class Values:
    """The tensors of a problem, with gradients asked for where there are any."""

    q: Tensor
    k: Tensor
    v: Tensor
    captures: tuple[Tensor, ...]

    @property
    def leaves(self) -> list[Tensor]:
        """The tensors that take a gradient: q, k, v, then Float captures."""
        return [t for t in (self.q, self.k, self.v, *self.captures) if t.is_floating_point()]


@dataclass(frozen=True, slots=True)
class Problem:
    """A spec and everything that is needed to run it; `values` makes the same tensors whenever it is asked."""

    spec: AttentionSpec
    plans: tuple[CapturePlan, ...] = ()
    sizes: Sizes = field(default_factory=Sizes)
    parameters: tuple[int, ...] = ()
    seed: int = 0

    @property
    def named_parameters(self) -> dict[str, int]:
        """The value of each parameter by name."""
        return {p.name: value for p, value in zip(self.spec.parameters, self.parameters, strict=True)}

    def values(self, dtype: torch.dtype = torch.float64, *, grad: bool = False, wobble: float = 0.0) -> Values:
        """q, k, v and captures; `wobble` moves every float by a relative amount of that size, the same each time.

        Numbers are drawn as float64 and rounded to `dtype`, so that problems of several dtypes are close.
        """
        numbers = torch.Generator().manual_seed(self.seed)
        shaken = torch.Generator().manual_seed(self.seed + 1)
        s = self.sizes
        shapes = (
            (s.batch, s.heads, s.q_len, s.head_dim),
            (s.kv_batch, s.kv_heads, s.kv_len, s.head_dim),
            (s.kv_batch, s.kv_heads, s.kv_len, s.value_dim),
        )
        made = [torch.randn(shape, generator=numbers, dtype=torch.float64) for shape in shapes]
        made += [_fill(plan, self.sizes, numbers) for plan in self.plans]
        for i, tensor in enumerate(made):
            if tensor.is_floating_point():
                shake = torch.rand(tensor.shape, generator=shaken, dtype=torch.float64) * 2 - 1
                made[i] = (tensor * (1 + wobble * shake)).to(dtype).requires_grad_(grad)
        return Values(made[0], made[1], made[2], tuple(made[3:]))

    def inputs_at(self, b: int, h: int, q_idx: int, kv_idx: int, score: float = 0.0) -> dict[str, bool | int | float]:
        """What `attncc.ir.evaluate` needs to know at one pair."""
        position = {"b": b, "h": h, "q_idx": q_idx, "kv_idx": kv_idx, "score": score}
        return {**self.sizes.inputs, **self.named_parameters, **position}

    def loader(self, values: Values) -> Callable[[str, tuple[int, ...]], bool | int | float]:
        """Reads captured tensors for `attncc.ir.evaluate`; an index beyond its tensor reads NaN, 0 or False."""
        tables = {c.name: tensor for c, tensor in zip(self.spec.captures, values.captures, strict=True)}
        kinds = {c.name: c.scalar for c in self.spec.captures}

        def read(name: str, index: tuple[int, ...]) -> bool | int | float:
            table = tables[name]
            if any(not -n <= i < n for i, n in zip(index, table.shape, strict=True)):
                return (False, 0, math.nan)[kinds[name]]
            return table[index].item()

        return read


def _fill(plan: CapturePlan, sizes: Sizes, numbers: torch.Generator) -> Tensor:
    shape = [int(evaluate(size, sizes.inputs)) for size in plan.sizes]
    match plan.capture.scalar:
        case Scalar.FLOAT:
            unit = torch.rand(shape, generator=numbers, dtype=torch.float64)
            return plan.lo + unit * (plan.hi - plan.lo)
        case Scalar.INDEX:
            return torch.randint(int(plan.lo), int(plan.hi) + 1, shape, generator=numbers)
        case _:
            return torch.rand(shape, generator=numbers) < 0.75


#: Indices by one position each, with the name of the dimension that always holds them.
def _drafted(choosers: Iterator[Choose]) -> tuple[AttentionSpec, tuple[CapturePlan, ...]]:
    draft = Draft(next(choosers))
    score = draw_score(draft)
    draft.choose = next(choosers)
    mask = draw_mask(draft)
    mask = conjunction(*dict.fromkeys(draft.guards), mask)
    used = below(score) | below(mask)
    names = {e.value for e in used if e.op in (Op.LOAD, Op.PARAM)}
    plans = tuple(plan for plan in draft.plans if plan.capture.name in names)
    parameters = tuple(p for p in draft.parameters if p.name in names)
    captures = tuple(plan.capture for plan in plans)
    return AttentionSpec("random", score, mask, captures=captures, parameters=parameters), plans


def _sizes(choose: Choose, lengths: Sequence[int]) -> Sizes:
    batch = 1 + choose(3)
    heads, kv_heads = HEAD_COUNTS[choose(len(HEAD_COUNTS))]
    q_len = lengths[choose(len(lengths))]
    return Sizes(
        batch=batch,
        kv_batch=batch if choose(3) < 2 else 1,
        heads=heads,
        kv_heads=kv_heads,
        q_len=q_len,
        kv_len=q_len if choose(2) == 0 else lengths[choose(len(lengths))],
        head_dim=(4, 1, 8, 16)[choose(4)],
        value_dim=(4, 1, 3, 16)[choose(4)],
    )


def _problem(choosers: Iterator[Choose], lengths: Sequence[int]) -> Problem:
    spec, plans = _drafted(choosers)
    choose = next(choosers)
    values = tuple(p.value if choose(2) == 0 else (1, 3, 16, MAX_LEN)[choose(4)] for p in spec.parameters)
    return Problem(spec, plans, _sizes(choose, lengths), values, choose(1 << 31))


def _typed(choose: Choose, kind: Scalar, depth: int, with_score: bool) -> tuple[Expr, Problem]:
    draft = Draft(choose, with_score=with_score)
    root = draft.term(kind, choose(depth + 1)).expr
    spec = AttentionSpec(captures=tuple(plan.capture for plan in draft.plans), parameters=tuple(draft.parameters))
    values = tuple(p.value for p in draft.parameters)
    return root, Problem(spec, tuple(draft.plans), _sizes(choose, (1, 2, 5, 17)), values, choose(1 << 31))


def _choosers(draw: Draw) -> Iterator[Choose]:
    """Sources of choices from hypothesis: a seed, and how many choices follow it before the simplest is taken.

    One hypothesis draw for each choice would shrink further, but most examples of such a strategy are alike.
    """
    numbers = st.integers(0, 2**24 - 1)
    while True:
        yield _chooser(random.Random(draw(numbers)), draw(numbers))


def _chooser(numbers: random.Random, free: int) -> Choose:
    made = itertools.count()
    return lambda n: numbers.randrange(n) if next(made) < free else 0


@st.composite
def specs(draw: Draw) -> AttentionSpec:
    """A random variant: score and mask over the whole language, with the captures and parameters that they use."""
    return _drafted(_choosers(draw))[0]


@st.composite
def sizes(draw: Draw, lengths: Sequence[int] = LENGTHS) -> Sizes:
    """Sizes of a problem: GQA, one batch of keys for several of queries, lengths that differ, Dv that is not D."""
    return _sizes(next(_choosers(draw)), lengths)


@st.composite
def problems(draw: Draw, lengths: Sequence[int] = LENGTHS) -> Problem:
    """A random variant with sizes, parameters and tensors; an index leaves its tensor only at masked pairs."""
    return _problem(_choosers(draw), lengths)


@st.composite
def exprs(draw: Draw, kind: Scalar, depth: int = 4, *, with_score: bool = True) -> tuple[Expr, Problem]:
    """An expression of this kind, and a problem whose captures and parameters it reads (its spec says no more)."""
    return _typed(next(_choosers(draw)), kind, depth, with_score)


def random_problem(seed: int, lengths: Sequence[int] = LENGTHS) -> Problem:
    """The problem of this seed: what `problems()` draws, without hypothesis."""
    return _problem(itertools.repeat(random.Random(seed).randrange), lengths)


def random_expr(seed: int, kind: Scalar, depth: int = 4, *, with_score: bool = True) -> tuple[Expr, Problem]:
    """The expression of this seed: what `exprs(kind)` draws, without hypothesis."""
    return _typed(random.Random(seed).randrange, kind, depth, with_score)


def chain(depth: int) -> Expr:
    """A Float expression of this depth whose every level reads the one below once."""
    steps = (
        lambda e: apply(Op.ADD, e, cast(Q_IDX, Scalar.FLOAT)),
        lambda e: apply(Op.TANH, e),
        lambda e: apply(Op.MUL, e, const(0.75)),
        lambda e: apply(Op.WHERE, apply(Op.GT, Q_IDX, KV_IDX), e, const(0.5)),
        lambda e: apply(Op.SIN, e),
    )
    expr = SCORE
    for level in range(depth):
        expr = steps[level % len(steps)](expr)
    return expr


def doubled(levels: int) -> Expr:
    """A Float expression that reads each level twice: 2 ** levels paths, but few nodes."""
    expr = SCORE
    for level in range(levels):
        if level % 3 == 0:
            expr = apply(Op.MUL, expr, apply(Op.COS, expr))
        elif level % 3 == 1:
            expr = apply(Op.ADD, expr, apply(Op.SIN, expr))
        else:
            expr = apply(Op.MAX, expr, apply(Op.NEG, expr))
    return expr


JUMPING = frozenset((*ROUNDINGS, *COMPARISONS, Op.FLOORDIV, Op.MOD, Op.CAST, Op.NARROW))


def has_jumps(root: Expr) -> bool:
    """Whether the expression may jump when a Float moves a little: rounding, comparing or truncating a Float."""
    return any(e.op in JUMPING and any(a.scalar is Scalar.FLOAT for a in e.args) for e in below(root))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a call gives, and the gradients of a fixed loss on out and lse for `Values.leaves` (None: no path)."""

    out: Tensor
    lse: Tensor
    grads: tuple[Tensor | None, ...]

    @property
    def tensors(self) -> list[Tensor]:
        """Everything that is a number."""
        return [self.out, self.lse, *(grad for grad in self.grads if grad is not None)]


def measure(call: Callable[..., tuple[Tensor, Tensor]], values: Values) -> Outcome:
    """Out, lse and gradients of `call(q, k, v, captures)`, which returns out and lse; `values` must ask for gradients.

    The loss weighs every element of out and of the finite lse differently.
    """
    out, lse = call(values.q, values.k, values.v, values.captures)
    weights = [torch.linspace(-1, 2, t.numel(), dtype=torch.float64).reshape(t.shape).to(t.dtype) for t in (out, lse)]
    loss = (out * weights[0]).sum() + torch.where(lse == -math.inf, 0, lse * weights[1]).sum()
    if not loss.requires_grad:
        return Outcome(out, lse, tuple(None for _ in values.leaves))
    grads = torch.autograd.grad(loss, values.leaves, allow_unused=True)
    return Outcome(out.detach(), lse.detach(), grads)


def measure_reference(problem: Problem, dtype: torch.dtype = torch.float64, *, wobble: float = 0.0) -> Outcome:
    """What the reference makes of a problem."""

    def call(q: Tensor, k: Tensor, v: Tensor, captures: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        return reference(problem.spec, q, k, v, captures, problem.named_parameters, return_lse=True)

    return measure(call, problem.values(dtype, grad=True, wobble=wobble))


def is_settled(problem: Problem) -> bool:
    """Whether the reference and its gradients are finite, and unchanged by moving every float by a part in 1e12.

    What fails this is set aside, and counted, where two ways to compute the same thing are compared.
    """
    plain, moved = measure_reference(problem), measure_reference(problem, wobble=1e-12)
    return all(_is_same(a, b) for a, b in zip(plain.tensors, moved.tensors, strict=True))


def _is_same(a: Tensor, b: Tensor) -> bool:
    a, b = (torch.where(t == -math.inf, 0.0, t) for t in (a, b))
    largest = a.abs().max() if a.numel() else torch.tensor(0.0)
    return bool(largest.isfinite()) and torch.allclose(a, b, rtol=0, atol=1e-10 * max(1.0, float(largest)))
