"""Expressions: what a score or a mask computes for one (b, h, q_idx, kv_idx).

An `Expr` is an interned, immutable node: two expressions built alike are the same object, so `is`, `==` and hashing are
a pointer comparison, and shared subexpressions stay shared. Nodes know the kind of number they hold (`Scalar`), nothing
of where the user wrote them; that is kept beside the tree (`AttentionSpec.origins`).

`node` makes a node from parts that already fit. Front ends call `attncc.ir.build.apply`, which also converts operands
and refuses what has no meaning.
"""

from __future__ import annotations

import enum
import math
import struct
import threading
import weakref
from collections.abc import Callable
from typing import Any


class Scalar(enum.IntEnum):
    """The kind of number an expression holds; a larger kind can represent a smaller one."""

    BOOL = 0
    INDEX = 1
    FLOAT = 2

    def __str__(self) -> str:
        return {Scalar.BOOL: "bool", Scalar.INDEX: "int", Scalar.FLOAT: "float"}[self]


class Op(enum.Enum):
    """Every operation. The value is its name in messages and in `.attn` function syntax."""

    # leaves: `value` says which
    CONST = "const"  # bool, int or float
    INPUT = "input"  # one of INPUTS
    PARAM = "param"  # an integer parameter of the spec, by name
    LOAD = "load"  # an element of the captured tensor named `value`; args are its indices
    # arithmetic
    ADD = "add"
    SUB = "sub"
    MUL = "mul"
    DIV = "div"  # true division, always Float
    FLOORDIV = "floordiv"  # rounds towards minus infinity
    MOD = "mod"  # has the sign of the divisor
    POW = "pow"
    NEG = "neg"
    ABS = "abs"
    MIN = "min"
    MAX = "max"
    # bits of an Index
    BIT_AND = "bit_and"
    BIT_OR = "bit_or"
    BIT_XOR = "bit_xor"
    SHIFT_LEFT = "shift_left"
    SHIFT_RIGHT = "shift_right"
    # functions of a Float
    EXP = "exp"
    EXP2 = "exp2"
    EXPM1 = "expm1"
    LOG = "log"
    LOG2 = "log2"
    LOG1P = "log1p"
    SQRT = "sqrt"
    RSQRT = "rsqrt"
    TANH = "tanh"
    SIGMOID = "sigmoid"
    SIN = "sin"
    COS = "cos"
    ATAN = "atan"
    ERF = "erf"
    FLOOR = "floor"
    CEIL = "ceil"
    ROUND = "round"  # half to even
    TRUNC = "trunc"
    # comparisons
    LT = "lt"
    LE = "le"
    GT = "gt"
    GE = "ge"
    EQ = "eq"
    NE = "ne"
    # logic
    AND = "and"
    OR = "or"
    XOR = "xor"
    NOT = "not"
    WHERE = "where"
    # conversions
    CAST = "cast"  # to the node's scalar
    NARROW = "narrow"  # a Float rounded to the dtype named by `value`: "bfloat16" or "float16"

    __hash__ = object.__hash__  # members are single; enum's own hashes the name, in Python


#: The inputs that a definition may use, and what each holds. All but `score` are Index.
INPUTS: dict[str, Scalar] = {
    "score": Scalar.FLOAT,  # scale * q . k
    "b": Scalar.INDEX,  # batch
    "h": Scalar.INDEX,  # query head
    "q_idx": Scalar.INDEX,  # position of the query in its sequence
    "kv_idx": Scalar.INDEX,  # position of the key in its sequence
    "batch": Scalar.INDEX,  # sizes, from here on
    "heads": Scalar.INDEX,
    "q_len": Scalar.INDEX,
    "kv_len": Scalar.INDEX,
}

Value = bool | int | float | str | None


class Expr:
    """One interned node. `value` is a constant, a name or None; `scalar` is the kind of number it holds.

    Equality and hash are those of any object, by identity: most of the time of an analysis goes into look-ups.
    """

    __slots__ = ("__weakref__", "args", "op", "scalar", "value")

    op: Op
    args: tuple[Expr, ...]
    value: Value
    scalar: Scalar

    def __new__(cls, *_: Any, **__: Any) -> Expr:
        raise TypeError("expressions are made by attncc.ir.node or attncc.ir.apply")

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("expressions are immutable")

    def __copy__(self) -> Expr:
        return self

    def __deepcopy__(self, memo: object) -> Expr:
        return self

    def __repr__(self) -> str:
        inside = [] if self.value is None else [repr(self.value)]
        inside += [repr(a) if not a.args else f"{a.op.value}(…)" for a in self.args]
        return f"{self.op.value}({', '.join(inside)}): {self.scalar}"

    def __reduce__(self) -> tuple[Callable[..., Expr], tuple[Any, ...]]:
        return _unpickle, (_flatten(self),)


_TABLE: weakref.WeakValueDictionary[tuple[Any, ...], Expr] = weakref.WeakValueDictionary()
_LOCK = threading.RLock()


def node(op: Op, args: tuple[Expr, ...] = (), value: Value = None, scalar: Scalar = Scalar.FLOAT) -> Expr:
    """The one node with these parts. The caller promises that they fit (see `attncc.ir.verify`)."""
    # the type tells 1, 1.0 and True apart, the bytes 0.0 from -0.0, and they find NaN equal to itself
    plain = struct.pack("<d", value) if isinstance(value, float) else value
    key = (op, tuple(map(id, args)), value.__class__, plain, scalar)
    found = _TABLE.get(key)
    if found is not None:
        return found
    with _LOCK:
        found = _TABLE.get(key)
        if found is not None:
            return found
        made: Expr = object.__new__(Expr)
        for name, part in (("op", op), ("args", args), ("value", value), ("scalar", scalar)):
            object.__setattr__(made, name, part)
        _TABLE[key] = made
        return made


def const(value: bool | int | float) -> Expr:
    """A constant; bool, int and float stay different, all NaN are one."""
    if value.__class__ is int and value in _SMALL:
        return _SMALL[value]
    value = math.nan if value != value else value
    kind = Scalar.BOOL if isinstance(value, bool) else Scalar.INDEX if isinstance(value, int) else Scalar.FLOAT
    return node(Op.CONST, (), value, kind)


def input_(name: str) -> Expr:
    """One of `INPUTS`."""
    return node(Op.INPUT, (), name, INPUTS[name])


def param(name: str) -> Expr:
    """An integer parameter: a run-time argument of the kernel."""
    return node(Op.PARAM, (), name, Scalar.INDEX)


def load(capture: str, scalar: Scalar, *index: Expr) -> Expr:
    """The element of a captured tensor at Index expressions; no index for a 0-d tensor."""
    return node(Op.LOAD, tuple(index), capture, scalar)


#: Held forever: most constants are these.
_SMALL: dict[int, Expr] = {}
_SMALL.update((value, const(value)) for value in range(-64, 513))

SCORE = input_("score")
B, H, Q_IDX, KV_IDX = (input_(name) for name in ("b", "h", "q_idx", "kv_idx"))
BATCH, HEADS, Q_LEN, KV_LEN = (input_(name) for name in ("batch", "heads", "q_len", "kv_len"))
TRUE, FALSE = const(True), const(False)
NEG_INF = const(float("-inf"))

#: Held forever, so that these constants keep their identity.
LEAVES = (SCORE, B, H, Q_IDX, KV_IDX, BATCH, HEADS, Q_LEN, KV_LEN, TRUE, FALSE, NEG_INF)


def postorder(*roots: Expr) -> list[Expr]:
    """Every node below the roots once, arguments before their users, in a fixed order; iterative."""
    seen: set[Expr] = set()
    order: list[Expr] = []
    stack: list[tuple[Expr, bool]] = [(root, False) for root in reversed(roots)]
    while stack:
        current, done = stack.pop()
        if done:
            order.append(current)
        elif current not in seen:
            seen.add(current)
            stack.append((current, True))
            stack.extend((arg, False) for arg in reversed(current.args))
    return order


def _flatten(root: Expr) -> list[tuple[str, list[int], Value, int]]:
    """Rows of (op, argument rows, value, scalar), so that pickling does not recurse."""
    order = postorder(root)
    row = {e: i for i, e in enumerate(order)}
    return [(e.op.name, [row[a] for a in e.args], e.value, int(e.scalar)) for e in order]


def _unpickle(rows: list[tuple[str, list[int], Value, int]]) -> Expr:
    made: list[Expr] = []
    for op, args, value, scalar in rows:
        made.append(node(Op[op], tuple(made[i] for i in args), value, Scalar(scalar)))
    return made[-1]
