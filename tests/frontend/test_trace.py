"""Functions written for FlexAttention compile unchanged: each agrees with itself, called on 0-d tensors."""

from __future__ import annotations

import argparse
import collections
import enum
import functools
import math
import operator
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import and_masks, noop_mask, or_masks

from attncc.frontend import fingerprint, trace, trace_functions
from attncc.ir import Op, Scalar, postorder
from attncc.ir.text import print_spec
from tests.frontend.oracle import agree, read, value

GENERATOR = torch.Generator().manual_seed(0)


def table(*shape: int) -> Tensor:
    """Random numbers in float64, so that both sides round alike."""
    return torch.randn(*shape, generator=GENERATOR, dtype=torch.float64)


def ids(*shape: int, high: int = 5, dtype: torch.dtype = torch.int64) -> Tensor:
    """Random indices."""
    return torch.randint(0, high, shape, generator=GENERATOR).to(dtype)


SLOPES = table(4)
BIAS = table(2, 4, 10, 12)
RELATIVE = table(4, 32)
DOCUMENTS = ids(12)
LENGTHS = ids(2, high=12)
OFFSET = torch.tensor(3)
GAIN = torch.tensor(0.75, dtype=torch.float64)
POSITIONS = table(12, 3)
WINDOW = 4


def alibi(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return score - SLOPES[h] * (q_idx - kv_idx)


def all_dims(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return score + BIAS[b, h, q_idx, kv_idx]


def one_by_one(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return score + BIAS[b][h][q_idx][kv_idx]


def pairs_of_indices(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return score + BIAS[b, h][q_idx, kv_idx]


def ellipsis(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return score + BIAS[..., kv_idx][b, h, q_idx] + BIAS[b, ..., kv_idx][h, q_idx] + BIAS[0, ...][h, ..., q_idx, kv_idx]


def constants_as_indices(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return score + BIAS[0, h, -1, kv_idx] + BIAS[-1][-2][q_idx][0] + BIAS[1, 2, 3, 4] + SLOPES[-4]


def slices(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    middle = BIAS[:, 1:3]
    return score + middle[b, h % 2, q_idx, kv_idx] + RELATIVE[h, 4:][q_idx] + RELATIVE[:, ::2][h, kv_idx]


def slices_of_a_row(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    row = RELATIVE[h]
    return score + row[2:][q_idx] + row[-16:][-1] + BIAS[b][:, :, 1:][h, q_idx, kv_idx - 1]


def nested(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return score + RELATIVE[h, DOCUMENTS[(q_idx + DOCUMENTS[kv_idx]) % 12]]


def zero_dimensional(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return GAIN * score + (q_idx - OFFSET) / (OFFSET + kv_idx) - GAIN


def index_by_a_captured_number(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return score + RELATIVE[h, OFFSET] + SLOPES[OFFSET]


def on_captures_alone(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return score + (SLOPES * 2)[h] + (-SLOPES.exp())[h] + RELATIVE.T[q_idx, h] + torch.softmax(RELATIVE, -1)[h, kv_idx]


def on_captures_and_numbers(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    ramp = torch.arange(12, dtype=torch.float64) * WINDOW
    return score + ramp[kv_idx] + (RELATIVE + WINDOW)[h, q_idx] + torch.full((4,), 2.5, dtype=torch.float64)[h]


def whole_row_first(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return score + BIAS[b, h].abs()[q_idx, kv_idx] + BIAS[b].to(torch.float64).exp()[h, q_idx, kv_idx]


def turned_rows(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    rows = BIAS[b]
    return (
        score
        + BIAS[b, h].T[kv_idx, q_idx]
        + rows.permute(2, 0, 1)[kv_idx, h, q_idx]
        + rows.transpose(0, 2)[kv_idx, q_idx, h]
    )


def small_vectors(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    difference = POSITIONS[q_idx] - POSITIONS[kv_idx]
    x, y, z = POSITIONS[kv_idx]
    dot = torch.dot(POSITIONS[q_idx], POSITIONS[kv_idx]) + POSITIONS[q_idx] @ POSITIONS[kv_idx]
    return score - difference.norm() + (difference**2).sum().sqrt() + dot + x * y - z


def reductions(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    v = POSITIONS[q_idx] * 2 - 1
    spread = v.amax() - v.amin() + v.max() - torch.min(v) + v.mean() + v.prod() + v.norm(1) + v.norm(float("inf"))
    return score + spread + torch.linalg.vector_norm(v, 3) + torch.logsumexp(v, 0) + v.softmax(0)[1] + v.sum(dim=-1)


def stacked(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    pair = torch.stack([score, SLOPES[h] + kv_idx])
    more = torch.cat([pair, POSITIONS[q_idx]]).unsqueeze(0)
    return more.sum(-1).squeeze() + pair[1] + pair.flip(0)[0] + more.view(5)[-1] + len(pair)


def tensor_methods(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    near = (q_idx - kv_idx).abs().clamp(max=8).to(torch.float64)
    return score.mul(2).add(near).sub(1).div(3).tanh().pow(2).neg().float() + (q_idx >= kv_idx).double() * near.double()


def types_and_shapes(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    if score.shape != () or score.ndim or score.dim() or score.numel() != 1 or not score.is_floating_point():
        return score
    if isinstance(score, Tensor) and SLOPES.ndim == 1 and SLOPES.dtype == torch.float64 and len(SLOPES) == 4:
        return score + SLOPES[h].to(SLOPES.dtype).type_as(score) + SLOPES.shape[0] + BIAS.size(-1)
    return score * 0


def factories(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    lowest = torch.tensor(float("-inf"), device=score.device, dtype=score.dtype)
    visible = q_idx.new_ones((), dtype=torch.bool) & (kv_idx <= q_idx)
    one = torch.ones_like(score) + q_idx.new_zeros(()) + score.new_full((), 2.0) + torch.full_like(score, 3)
    one = (
        one + torch.zeros((), device=q_idx.device) + score.new_tensor(4.0) + torch.tensor(5) + torch.scalar_tensor(6.0)
    )
    return torch.where(visible, score + one, lowest) + torch.zeros_like(score)


def where_chain(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    first = torch.where(q_idx > kv_idx, score * 2, 0)
    return torch.where(h == 0, first, torch.where(h == 1, -float("inf"), torch.where(b > 0, SLOPES[h], q_idx)))


def augmented(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    score = score + 0
    score += SLOPES[h]
    score *= 2
    score -= q_idx
    score /= 3
    visible = q_idx >= kv_idx
    visible &= h > 0
    visible |= b > 0
    return score * visible


def loops(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    total = score
    for i in range(3):
        total = total + POSITIONS[q_idx, i] * i
    for each in [SLOPES, RELATIVE[0]]:
        total = total + each[h]
    return sum((POSITIONS[kv_idx, i] for i in range(3)), start=total)


def embedding(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    distance = (q_idx - kv_idx).clamp(0, 11)
    picked = torch.nn.functional.embedding(distance, POSITIONS)
    return score + picked[1] + torch.index_select(SLOPES, 0, h) + torch.take(POSITIONS, q_idx)


def vector_of_indices(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    near = torch.stack([q_idx, kv_idx])
    return score + SLOPES[near % 4].sum() + RELATIVE[h, near].prod() + POSITIONS[near][1, 2]


def index_tensors(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    order = torch.tensor([3, 1, 0, 2])
    return (
        score + SLOPES[order][h] + RELATIVE[h][[0, 2, 4]].sum() + RELATIVE[:, None][h, 0, q_idx] + SLOPES[None, :][0, h]
    )


def python_numbers(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return score * math.sqrt(2) + (WINDOW // 2) * q_idx - kv_idx / WINDOW + 2**WINDOW + (h == 1) * 0.5


def parts_of_results(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    first, second = SLOPES.chunk(2)
    best = SLOPES.topk(2)
    return score + first[h % 2] + second[h % 2] + best.values[0] + SLOPES.sort()[0][h] + best.indices[1]


def devices(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    moved = SLOPES.to(q_idx.device)
    made = torch.zeros(4, device=q_idx.device, dtype=torch.double) + torch.arange(4, device=score.device)
    return score + moved[h] + made[h]


def numbers_as_plain_values(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    table = {3: 4.0, 4: 5.0}
    picked = [1.0, 2.0, 3.0, 4.0, 5.0][WINDOW] + table[WINDOW] + (WINDOW in (1, 4)) + float(f"{WINDOW}")
    return (
        score + picked + divmod(WINDOW, 3)[1] + WINDOW.bit_length() + max(WINDOW, 2) + round(WINDOW / 3) + WINDOW**0.5
    )


def types_of_numbers(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return score * WINDOW if type(WINDOW) is int and isinstance(WINDOW, int) else score


def operators_and_aten(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    total = functools.reduce(operator.add, [score, q_idx, kv_idx])
    return total + torch.ops.aten.tanh(score) + torch.ops.aten.add.Tensor(score, q_idx)


SCORES = [
    *(alibi, all_dims, one_by_one, pairs_of_indices, ellipsis, constants_as_indices, slices, slices_of_a_row, nested),
    *(zero_dimensional, index_by_a_captured_number, on_captures_alone, on_captures_and_numbers, whole_row_first),
    *(small_vectors, reductions, stacked, tensor_methods, types_and_shapes, factories, where_chain, augmented, loops),
    *(turned_rows, embedding, vector_of_indices, index_tensors, python_numbers, parts_of_results, devices),
    *(numbers_as_plain_values, types_of_numbers, operators_and_aten),
]


@pytest.mark.parametrize("function", SCORES, ids=lambda each: each.__name__)
def test_score_function_agrees_with_itself(function: Callable[..., Any]) -> None:
    agree(function)


def causal(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return q_idx >= kv_idx


def window(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return (q_idx - kv_idx).abs() < WINDOW


def documents(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return (DOCUMENTS[q_idx] == DOCUMENTS[kv_idx]) & causal(b, h, q_idx, kv_idx)


def lengths(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return (kv_idx < LENGTHS[b]) | (h == 0) ^ ~(q_idx > OFFSET)


def logic(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return torch.logical_or(torch.logical_and(q_idx > 3, kv_idx), torch.logical_not(h)) | (True & (b == 1)) | False


def any_of_a_row(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    chosen = torch.tensor([[1, 4], [2, 7], [0, 3], [5, 6]])[h]
    return (chosen == kv_idx.unsqueeze(-1)).any(dim=-1) | (chosen < q_idx).all()


def bool_table(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return (BIAS > 0)[b, h, q_idx, kv_idx] & ((BIAS[b, h, q_idx, kv_idx] < 1) | (SLOPES[h] > 0))


def always(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> bool:
    return True


def by_a_python_flag(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor, bidirectional: bool = False) -> Tensor:
    return (q_idx - kv_idx).abs() < 3 if bidirectional else q_idx >= kv_idx


MASKS = [
    *(causal, window, documents, lengths, logic, any_of_a_row, bool_table, always, by_a_python_flag, noop_mask),
    *(and_masks(causal, window), or_masks(documents, lengths, noop_mask)),
]


@pytest.mark.parametrize("function", MASKS, ids=lambda each: each.__name__)
def test_mask_function_agrees_with_itself(function: Callable[..., Any]) -> None:
    agree(function, "mask", count=150)


class Callable_:
    """A callable object with state."""

    def __init__(self, slopes: Tensor, window: int) -> None:
        self.slopes = slopes
        self.window = window
        self.parts = {"gain": GAIN, "shift": [1, 2]}

    def __call__(self, score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return self.scaled(score, h) + self.window * q_idx + self.parts["shift"][1]

    def scaled(self, score: Tensor, h: Tensor) -> Tensor:
        return score * self.slopes[h] * self.gain

    @property
    def gain(self) -> Tensor:
        return self.parts["gain"]

    def mask(self, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return q_idx - kv_idx < self.window


class Module(nn.Module):
    """A module whose parameters, buffers and submodules a score uses."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(table(4, 32))
        self.register_buffer("documents", DOCUMENTS)
        self.activation = nn.Sequential(nn.LeakyReLU(0.3), nn.PReLU().double(), nn.Dropout(0.5).eval())
        self.table = nn.Embedding(12, 2).double()
        self.gains = nn.ParameterList([nn.Parameter(table(4)), nn.Parameter(table(4))])
        self.inner = nn.ModuleDict({"scale": Scale(5)})
        self.reach = 3

    def score_mod(self, score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        biased = self.activation(score) + self.bias[h, self.documents[kv_idx]] + self.table(q_idx)[1]
        return self.inner["scale"](biased) * self.gains[0][h] + self.gains[1][h] + self.reach * q_idx

    def forward(self, score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return self.score_mod(score, b, h, q_idx, kv_idx) + 1


class Scale(nn.Module):
    """A submodule of the user's, with a number."""

    def __init__(self, factor: int) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        return x * self.factor


@dataclass(frozen=True, slots=True)
class Settings:
    """Numbers in slots."""

    window: int
    slope: float
    table: Tensor


def decorated(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A decorator that keeps the signature."""

    @functools.wraps(function)
    def wrapper(*args: Tensor, **kwargs: Tensor) -> Tensor:
        return function(*args, **kwargs) * 2

    return wrapper


@decorated
def under_a_decorator(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return score + SLOPES[h]


@functools.lru_cache
def cached_helper(x: int) -> int:
    return x * 3


def with_cached_helper(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    return score + q_idx * cached_helper(WINDOW)


def with_settings(settings: Settings) -> Callable[..., Tensor]:
    """A closure over an object with slots."""

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        near = (q_idx - kv_idx).abs() < settings.window
        return torch.where(near, score * settings.slope, settings.table[h])

    return score_mod


def partial_target(
    gain: Tensor, score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor, *, reach: int
) -> Tensor:
    return score * gain + reach * q_idx


FORMS: dict[str, Callable[[], Any]] = {
    "callable object": lambda: Callable_(SLOPES, 5),
    "bound method": lambda: Callable_(SLOPES, 5).__call__,
    "module": Module,
    "bound method of a module": lambda: Module().score_mod,
    "lambda": lambda: lambda score, b, h, q_idx, kv_idx: score * SLOPES[h] + WINDOW,
    "partial": lambda: functools.partial(partial_target, GAIN, reach=7),
    "partial of a partial": lambda: functools.partial(functools.partial(partial_target, reach=7), GAIN),
    "decorated": lambda: under_a_decorator,
    "cached helper": lambda: with_cached_helper,
    "slots": lambda: with_settings(Settings(3, 0.5, SLOPES)),
    "super": lambda: Derived().score_mod,
    "objects": lambda: with_objects(
        Pair(3, SLOPES), Level.HIGH, Odd(), argparse.Namespace(window=3), types.SimpleNamespace(window=4)
    ),
    "dictionaries": lambda: with_dictionaries(
        collections.defaultdict(int, reach=3), collections.OrderedDict(slopes=SLOPES)
    ),
    "recursion and generators": lambda: with_recursion_and_generators,
    "list in a closure": lambda: in_containers([SLOPES, SLOPES * 2], {"a": (1, 2.5)}),
}


class Base:
    """A class with a number and a method that a subclass extends."""

    factor = 2

    def scaled(self, x: Tensor) -> Tensor:
        return x * self.factor


class Derived(Base):
    """Uses `super()`."""

    def __init__(self) -> None:
        self.shift = 5
        self.lock = threading.Lock()

    def scaled(self, x: Tensor) -> Tensor:
        return super().scaled(x) + self.shift

    def score_mod(self, score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return self.scaled(score) + super().scaled(q_idx)


class Pair(NamedTuple):
    """A named tuple."""

    reach: int
    table: Tensor


class Level(enum.IntEnum):
    """An enumeration."""

    LOW = 3
    HIGH = 4


class Odd:
    """Answers to operators."""

    def __getitem__(self, i: Tensor) -> Tensor:
        return SLOPES[i] * 2

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[int]:
        return iter((1, 2, 3))


def with_objects(pair: Pair, level: Level, odd: Odd, settings: argparse.Namespace, plain: types.SimpleNamespace) -> Any:
    """A closure over all of them."""

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        score = score * pair.reach + pair.table[h] + odd[h] + len(odd) + sum(odd)
        match level:
            case Level.HIGH:
                score = score * level
        return score * settings.window + plain.window

    return score_mod


def with_dictionaries(numbers: dict[str, int], tables: dict[str, Tensor]) -> Any:
    """A closure over mappings of other types."""

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score * numbers["reach"] + tables["slopes"][h]

    return score_mod


def factorial(n: int) -> int:
    return 1 if n <= 1 else n * factorial(n - 1)


def rows(count: int) -> Iterator[Tensor]:
    for i in range(count):
        yield SLOPES[i]


def with_recursion_and_generators(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
    made = Pair(3, SLOPES)
    return score * factorial(WINDOW) + sum(rows(WINDOW)) + made.table[h] * made.reach


def in_containers(tables: list[Tensor], numbers: dict[str, tuple[int, float]]) -> Callable[..., Tensor]:
    """A closure over containers."""

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        for each in tables:
            score = score + each[h] * numbers["a"][0]
        return score * numbers["a"][1]

    return score_mod


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_function_agrees_with_itself(form: str) -> None:
    function = FORMS[form]()
    agree(function)
    assert fingerprint(function, None) is not None


def test_sizes_come_by_name_after_the_arguments() -> None:
    def bottom_right(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor, q_len: Tensor, kv_len: Tensor) -> Tensor:
        return q_idx + (kv_len - q_len) >= kv_idx

    def sized(score: Any, b: Any, h: Any, q_idx: Any, kv_idx: Any, *, heads: Any, batch: Any) -> Any:
        return score * heads + batch

    agree(bottom_right, "mask", named=("q_len", "kv_len"))
    agree(sized, named=("heads", "batch"))


def test_role_is_told_by_the_number_of_arguments() -> None:
    assert trace(causal).mask.op is Op.GE
    assert trace(alibi).score.op is Op.SUB
    assert trace(Module()).captures


def test_score_and_mask_share_captures_and_parameters() -> None:
    obj = Callable_(SLOPES, 5)
    spec = trace_functions(obj, obj.mask).spec
    assert [each.name for each in spec.captures] == ["slopes", "gain"]
    assert [(each.name, each.value) for each in spec.parameters] == [("window", 5), ("shift1", 2)]


def test_ints_of_the_surroundings_are_parameters_and_literals_are_not() -> None:
    spec = trace(window)
    assert [(each.name, each.value) for each in spec.parameters] == [("WINDOW", 4)]
    assert trace(lambda b, h, q_idx, kv_idx: q_idx - kv_idx < 4).parameters == ()


def test_arithmetic_on_parameters_stays_symbolic() -> None:
    reach, step = 12, 4

    def mask(b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return (q_idx - kv_idx) < (2 * reach - 1) // step + reach % step - abs(-step)

    spec = agree(mask, "mask").spec
    assert {each.name for each in spec.parameters} == {"reach", "step"}


def test_number_that_decides_is_a_constant() -> None:
    count = 3

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        for i in range(count):
            score = score + POSITIONS[q_idx, i]
        return score * count

    spec = agree(score_mod).spec
    assert spec.parameters == ()


def test_floats_and_bools_are_constants() -> None:
    factor, flag = 0.5, True
    spec = trace(lambda score, b, h, q_idx, kv_idx: score * factor if flag else score)
    assert spec.parameters == ()
    assert "score * 0.5" in print_spec(spec)


def test_names_come_from_variables_and_never_clash() -> None:
    scale, q_len = SLOPES, table(12)

    def score_mod(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        return score * scale[h] + q_len[q_idx] + in_other_scope()[h]

    def in_other_scope() -> Tensor:
        scale = RELATIVE[:, 0]
        return scale * 1

    names = [each.name for each in agree(score_mod).spec.captures]
    assert len(set(names)) == len(names)
    assert not {"scale", "q_len"} & set(names)
    assert names[0].startswith("scale")


def test_let_names_are_kept() -> None:
    def score_mod(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        distance = q_idx - kv_idx
        bias = SLOPES[h] * distance
        return score + bias + distance

    spec = trace(score_mod)
    assert {origin.name for origin in spec.origins.values() if origin.name} == {"distance", "bias"}


def test_every_operation_has_the_place_where_it_was_written() -> None:
    spec = trace(alibi)
    for expr in postorder(spec.score):
        if expr.op not in (Op.INPUT, Op.CONST, Op.PARAM):
            span = spec.origins[expr].span
            assert span is not None
            assert span.source.name == __file__
    root = spec.origins[spec.score].span
    assert root is not None
    assert root.text == "score - SLOPES[h] * (q_idx - kv_idx)"


@pytest.mark.parametrize(
    ("dtype", "scalar"),
    [
        *((each, Scalar.INDEX) for each in (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)),
        *((each, Scalar.FLOAT) for each in (torch.float16, torch.bfloat16, torch.float32, torch.float64)),
        (torch.bool, Scalar.BOOL),
    ],
)
def test_captures_of_every_dtype(dtype: torch.dtype, scalar: Scalar) -> None:
    values = ids(4, high=2).to(dtype)
    traced = agree(lambda score, b, h, q_idx, kv_idx: score + values[h])
    assert traced.spec.captures[0].scalar is scalar


def test_half_precision_rounds() -> None:
    agree(lambda score, b, h, q_idx, kv_idx: score.half().double() + score.to(torch.bfloat16).double(), tolerance=1e-12)


def test_captures_that_need_gradients_keep_them() -> None:
    slopes = table(4).requires_grad_()
    function = lambda score, b, h, q_idx, kv_idx: score + (slopes * 2)[h] + slopes[h]  # noqa: E731
    captures, _ = read(trace_functions(function, None), function, None)
    doubled, plain = sorted(captures.values(), key=lambda each: each is slopes)
    assert plain is slopes
    doubled.sum().backward()
    assert slopes.grad is not None
    assert slopes.grad.tolist() == [2.0] * 4


def test_recorded_operation_runs_once_however_often_it_is_written() -> None:
    function = lambda score, b, h, q_idx, kv_idx: score * (SLOPES * 2)[h] + (SLOPES * 2)[0]  # noqa: E731
    assert len(trace_functions(function, None).spec.captures) == 1


def test_what_is_detached_before_it_is_indexed_gets_no_gradient() -> None:
    slopes = table(4).requires_grad_()

    def function(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
        with torch.no_grad():
            shifted = slopes + 1
        return score + slopes.detach()[h] + shifted[h]

    captures, _ = read(trace_functions(function, None), function, None)
    assert not any(each.requires_grad for each in captures.values())


def test_non_contiguous_and_strided_captures_are_read_as_they_are() -> None:
    turned = RELATIVE.T
    strided = RELATIVE[:, ::3]
    agree(lambda score, b, h, q_idx, kv_idx: score + turned[q_idx, h] + strided[h, q_idx])


def test_traces_within_fake_tensors() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        slopes = torch.empty(8)

        def function(score: Tensor, b: Tensor, h: Tensor, q_idx: Tensor, kv_idx: Tensor) -> Tensor:
            return score + slopes[h] + (slopes * 2)[h]

        assert len(trace(function).captures) == 2


def test_traces_where_dynamo_is_disabled() -> None:
    @torch.compiler.disable
    def traced() -> str:
        return print_spec(trace(alibi))

    assert traced() == print_spec(trace(alibi))


def test_helper_under_torch_compile_is_traced_through() -> None:
    @torch.compile(backend="eager")
    def doubled(x: Tensor) -> Tensor:
        return x * 2

    assert "score * 2" in print_spec(trace(lambda score, b, h, q_idx, kv_idx: doubled(score) + SLOPES[h]))


def test_traces_under_no_grad_and_inference_mode() -> None:
    with torch.no_grad():
        first = print_spec(trace_functions(lambda score, b, h, q_idx, kv_idx: score + SLOPES[h] * 2, None).spec)
    with torch.inference_mode():
        second = print_spec(trace_functions(lambda score, b, h, q_idx, kv_idx: score + SLOPES[h] * 2, None).spec)
    assert first == second


def test_function_of_an_earlier_device_context_traces() -> None:
    with torch.device("cpu"):
        spec = trace(lambda score, b, h, q_idx, kv_idx: score + torch.tensor(2.0) + SLOPES[h])
    assert "score + 2.0" in print_spec(spec)


def test_one_value_at_one_pair() -> None:
    at = {"score": 1.0, "b": 0, "h": 1, "q_idx": 5, "kv_idx": 2}
    assert value(trace_functions(alibi, None), "score", at, (alibi, None)) == 1.0 - SLOPES[1].item() * 3
