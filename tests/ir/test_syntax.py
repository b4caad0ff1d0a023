"""The tables of spelling: every operation can be written, and names that mean something cannot be taken."""

from __future__ import annotations

import math
import struct

from attncc.ir import OPS, Op, const
from attncc.ir.syntax import ARGUMENT_NAMES, FUNCTIONS, OPERATORS, RESERVED_NAMES, free_name, is_free

WITH_OWN_SYNTAX = {Op.CONST, Op.INPUT, Op.PARAM, Op.LOAD, Op.CAST, Op.NARROW}


def test_every_operation_has_exactly_one_spelling():
    spelled = [*OPERATORS, *FUNCTIONS.values(), *WITH_OWN_SYNTAX]
    assert sorted(op.value for op in spelled) == sorted(op.value for op in OPS)


def test_an_operator_has_a_level_for_each_operand():
    assert {op: len(operator.operands) for op, operator in OPERATORS.items()} == {op: OPS[op].arity for op in OPERATORS}


def test_free_name_gives_names_that_are_free():
    taken: set[str] = set()
    for wanted in ("slopes", "slopes", "scale", "scale", "mask", "q", "größe", "θ", "2d", "", "_", "self.w", "exp"):
        name = free_name(wanted, taken)
        assert is_free(name)
        assert name not in taken
        taken.add(name)
    assert free_name("slopes") == "slopes"
    assert not any(is_free(name) for name in RESERVED_NAMES | ARGUMENT_NAMES)


def test_every_nan_is_one_constant():
    negative = struct.unpack("<d", struct.pack("<Q", 0xFFF8000000000001))[0]
    assert const(negative) is const(math.nan)
    assert const(math.inf - math.inf) is const(math.nan)
