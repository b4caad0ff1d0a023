"""Random masks, the boxes to try them on, and what really is in a box, pair by pair."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from attncc.analysis import Visit
from attncc.errors import LanguageError
from attncc.ir import KV_IDX, KV_LEN, Q_IDX, Q_LEN, B, Expr, H, Op, Scalar, apply, cast, const, evaluate, load, param

LENGTH = 24
PARAMS = ("w", "s")


def lifted(value: Any) -> Expr:
    return value if isinstance(value, Expr) else const(value)


def make(op: Op, *operands: Any) -> Expr:
    """`apply` on expressions and Python numbers."""
    return apply(op, *map(lifted, operands))


class Draw:
    """Random expressions over the whole language of masks, from a seed."""

    def __init__(self, seed: int, captures: bool = True, floats: bool = True) -> None:
        self.random = random.Random(seed)
        self.captures = captures
        self.floats = floats

    def index(self, depth: int) -> Expr:
        r = self.random
        if depth == 0 or r.random() < 0.2:
            return r.choice([Q_IDX, KV_IDX, Q_IDX, KV_IDX, B, H, Q_LEN, KV_LEN, param("w"), param("s"), self.number()])
        kinds: list[Callable[[], Expr]] = [
            *[lambda: make(r.choice([Op.ADD, Op.SUB]), self.index(depth - 1), self.index(depth - 1))] * 4,
            *[lambda: make(Op.SUB, Q_IDX, KV_IDX)] * 2,
            lambda: make(Op.MUL, self.index(depth - 1), r.choice([-2, -1, 2, 3])),
            lambda: make(Op.MUL, self.index(depth - 1), self.index(depth - 1)),
            lambda: make(r.choice([Op.FLOORDIV, Op.MOD]), self.index(depth - 1), r.choice([2, 3, 4, 8, -3, 5])),
            lambda: make(r.choice([Op.FLOORDIV, Op.MOD]), self.index(depth - 1), param("s")),
            lambda: make(r.choice([Op.NEG, Op.ABS]), self.index(depth - 1)),
            lambda: make(r.choice([Op.MIN, Op.MAX]), self.index(depth - 1), self.index(depth - 1)),
            lambda: make(Op.WHERE, self.bool(depth - 1), self.index(depth - 1), self.index(depth - 1)),
            lambda: make(r.choice([Op.BIT_AND, Op.BIT_OR, Op.BIT_XOR]), self.index(depth - 1), self.index(depth - 1)),
            lambda: make(r.choice([Op.SHIFT_LEFT, Op.SHIFT_RIGHT]), self.index(depth - 1), r.choice([0, 1, 3])),
            lambda: make(Op.POW, self.index(0), r.choice([0, 1, 2, 3])),
        ]
        if self.captures:
            kinds += [lambda: load("doc", Scalar.INDEX, r.choice([Q_IDX, KV_IDX]))] * 3
            kinds += [lambda: load("len", Scalar.INDEX, B)]
        if self.floats:
            kinds += [lambda: cast(make(Op.MIN, make(Op.MAX, self.float(depth - 1), -50.0), 50.0), Scalar.INDEX)]
        return r.choice(kinds)()

    def mask(self, depth: int = 4) -> Expr:
        """A mask whose constants fold; `bool` may come upon a division by zero."""
        while True:
            try:
                return self.bool(depth)
            except (LanguageError, ZeroDivisionError):
                continue

    def number(self) -> Expr:
        return const(self.random.choice([0, 1, 2, 3, 5, 8, 13, -1, -4]))

    def float(self, depth: int) -> Expr:
        r = self.random
        if depth == 0 or r.random() < 0.2:
            return (
                cast(self.index(depth), Scalar.FLOAT) if r.random() < 0.7 else const(r.choice([0.1, 0.5, 2.0, -3.25]))
            )
        unary = [Op.NEG, Op.ABS, Op.TANH, Op.SIGMOID, Op.SIN, Op.COS, Op.ATAN, Op.FLOOR, Op.CEIL, Op.ROUND, Op.TRUNC]
        kinds: list[Callable[[], Expr]] = [
            lambda: make(
                r.choice([Op.ADD, Op.SUB, Op.MUL, Op.MIN, Op.MAX]), self.float(depth - 1), self.float(depth - 1)
            ),
            lambda: make(r.choice(unary), self.float(depth - 1)),
            lambda: make(r.choice([Op.SQRT, Op.LOG, Op.RSQRT, Op.EXP, Op.ERF, Op.LOG1P]), self.float(depth - 1)),
            lambda: make(r.choice([Op.DIV, Op.FLOORDIV, Op.MOD]), self.float(depth - 1), self.float(depth - 1)),
            lambda: make(Op.WHERE, self.bool(depth - 1), self.float(depth - 1), self.float(depth - 1)),
        ]
        if self.captures:
            kinds += [lambda: load("thr", Scalar.FLOAT, r.choice([Q_IDX, KV_IDX]))] * 2
        return r.choice(kinds)()

    def bool(self, depth: int) -> Expr:
        r = self.random
        order = r.choice([Op.LT, Op.LE, Op.GT, Op.GE, Op.GE, Op.LT, Op.EQ, Op.NE])
        if depth <= 0 or r.random() < 0.3:
            return make(order, self.index(max(depth - 1, 0)), self.index(max(depth - 1, 0)))
        kinds: list[Callable[[], Expr]] = [
            *[lambda: make(r.choice([Op.AND, Op.OR]), self.bool(depth - 1), self.bool(depth - 1))] * 4,
            lambda: make(Op.NOT, self.bool(depth - 1)),
            lambda: make(Op.XOR, self.bool(depth - 1), self.bool(depth - 1)),
            lambda: make(Op.WHERE, self.bool(depth - 1), self.bool(depth - 1), self.bool(depth - 1)),
            lambda: make(order, self.index(depth - 1), self.index(depth - 1)),
        ]
        if self.floats:
            kinds += [lambda: make(order, self.float(depth - 1), self.float(depth - 1))] * 2
        if self.captures:
            kinds += [lambda: load("valid", Scalar.BOOL, r.choice([Q_IDX, KV_IDX]))]
            kinds += [lambda: load("table", Scalar.BOOL, make(Op.FLOORDIV, Q_IDX, 4), make(Op.FLOORDIV, KV_IDX, 4))]
        return r.choice(kinds)()

    def box(self, length: int = LENGTH) -> tuple[int, int, int, int]:
        """q_min, q_max, kv_min, kv_max: small tiles anywhere inside the length."""
        ends = []
        for _ in range(2):
            size = self.random.choice([1, 2, 4, 4, 8])
            start = self.random.randrange(0, length - size + 1)
            ends += [start, start + size - 1]
        return ends[0], ends[1], ends[2], ends[3]

    def inputs(self) -> dict[str, int]:
        r = self.random
        sizes = {"batch": 2, "heads": 4, "q_len": LENGTH, "kv_len": LENGTH}
        return sizes | {
            "b": r.randrange(2),
            "h": r.randrange(4),
            "w": r.choice([0, 1, 3, 5, 9]),
            "s": r.choice([1, 2, 4, 7]),
        }

    def loader(self) -> Callable[[str, tuple[int, ...]], Any]:
        r = self.random
        doc, start = [], 0
        for _ in range(LENGTH):
            start += r.random() < 0.2
            doc.append(start)
        tensors: dict[str, Any] = {
            "doc": doc,
            "len": [r.randrange(LENGTH) for _ in range(2)],
            "thr": [
                r.choice([r.uniform(-9, 9), float("nan"), float("inf")] if r.random() < 0.1 else [r.uniform(-9, 9)])
                for _ in doc
            ],
            "valid": [r.random() < 0.8 for _ in doc],
            "table": [[r.random() < 0.5 for _ in range(LENGTH // 4)] for _ in range(LENGTH // 4)],
        }

        def read(name: str, index: tuple[int, ...]) -> Any:
            value = tensors[name]
            for i in index:
                value = value[i]
            return value

        return read


class Undefined(Exception):
    """The mask has no value at some pair: a division by zero, an int from NaN."""


def truths(mask: Expr, box: tuple[int, int, int, int], inputs: Mapping[str, int], load: Any = None) -> Iterator[bool]:
    """The mask's value at every pair of the box."""
    for q in range(box[0], box[1] + 1):
        for kv in range(box[2], box[3] + 1):
            try:
                yield bool(evaluate(mask, {**inputs, "q_idx": q, "kv_idx": kv}, load))
            except (ZeroDivisionError, ValueError, OverflowError) as error:
                raise Undefined from error


def actual(mask: Expr, box: tuple[int, int, int, int], inputs: Mapping[str, int], load: Any = None) -> Visit:
    """The class of the box, by looking at every pair."""
    values = list(truths(mask, box, inputs, load))
    return Visit.FULL if all(values) else Visit.PARTIAL if any(values) else Visit.SKIP


def is_sound(claimed: Visit, real: Visit) -> bool:
    """PARTIAL is always allowed; SKIP and FULL must be so."""
    return claimed in (Visit.PARTIAL, real)
