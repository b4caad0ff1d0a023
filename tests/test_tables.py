"""A new operation is a new row in every table: none has a hole, and none has a row for what does not exist."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from attncc.analysis import TRANSFER
from attncc.emit.spelling import TORCH as TORCH_SPELLING
from attncc.emit.spelling import Spelling
from attncc.emit.triton.spelling import TRITON as TRITON_SPELLING
from attncc.ir import INPUTS, OPS, Op, Scalar
from attncc.ir.build import NARROW_DTYPES, Rule
from attncc.ir.evaluate import EVALUATE
from attncc.ir.naming import NOUNS
from attncc.ir.syntax import CONVERSIONS, FUNCTIONS, OPERATORS
from attncc.ir.verify import LEGAL
from attncc.passes.derive import DERIVATIVES, FLAT, SELECTS
from attncc.passes.simplify import RULES
from attncc.reference.dense import TORCH

ALL = frozenset(Op)
LEAVES = frozenset((Op.CONST, Op.INPUT, Op.PARAM, Op.LOAD))
#: Their meaning depends on the node: the kind asked for, or the dtype.
CONVERTING = frozenset((Op.CAST, Op.NARROW))
COMPUTING = ALL - LEAVES - CONVERTING

TABLES: dict[str, tuple[Iterable[Op], frozenset[Op]]] = {
    "OPS": (OPS, ALL),
    "LEGAL": (LEGAL, ALL),
    "EVALUATE": (EVALUATE, COMPUTING),
    "the reference's TORCH": (TORCH, COMPUTING),
    "DERIVATIVES": (DERIVATIVES, ALL),
    "TRANSFER": (TRANSFER, ALL),
    "NOUNS": (NOUNS, ALL),
    "the language": ([*OPERATORS, *FUNCTIONS.values()], COMPUTING),
}


@pytest.mark.parametrize("table", TABLES)
def test_no_table_of_operations_has_a_hole(table: str):
    rows, needed = TABLES[table]
    assert sorted(op.name for op in needed - set(rows)) == []
    assert sorted(op.name for op in set(rows) - needed) == []


@pytest.mark.parametrize("spelling", [TORCH_SPELLING, TRITON_SPELLING], ids=lambda spelling: spelling.name)
def test_each_back_end_spells_every_operation_on_every_kind(spelling: Spelling):
    kinds = {
        Rule.NUMBER: (Scalar.INDEX, Scalar.FLOAT),
        Rule.POWER: (Scalar.INDEX, Scalar.FLOAT),
        Rule.ORDER: (Scalar.INDEX, Scalar.FLOAT),
        Rule.BITS: (Scalar.INDEX,),
        Rule.LOGIC: (Scalar.BOOL,),
        Rule.EQUALITY: tuple(Scalar),
        Rule.WHERE: tuple(Scalar),
    }
    for op in COMPUTING:
        for kind in kinds.get(OPS[op].rule, (Scalar.FLOAT,)):
            form = spelling.form(op, kind)
            holes = sum(f"{{{place}}}" in form.text for place in range(OPS[op].arity or 0))
            assert holes == OPS[op].arity, (op, kind)
    rows = {row[0] if isinstance(row, tuple) else row for row in spelling.forms}
    assert rows == COMPUTING
    numbers = (Scalar.BOOL, Scalar.INDEX, Scalar.FLOAT)
    casts = {(a, b) for a in numbers for b in numbers if b is not Scalar.BOOL and a is not b}
    assert set(spelling.casts) == casts
    assert set(spelling.narrow) == set(NARROW_DTYPES)


def test_every_conversion_can_be_written():
    assert set(NARROW_DTYPES) | {str(kind) for kind in Scalar} == set(CONVERSIONS)


def test_every_rule_of_simplification_names_operations_that_compute():
    assert {rule.op for rule in RULES} <= ALL - LEAVES
    assert all(rule.text.count("->") >= 1 for rule in RULES)


def test_operations_that_select_an_operand_have_derivatives():
    assert not set(SELECTS) & FLAT
    assert set(SELECTS) == {Op.WHERE, Op.MIN, Op.MAX}


def test_every_operation_says_how_many_operands_it_takes():
    for op, row in OPS.items():
        assert (row.arity is None) == (op is Op.LOAD)
        assert (row.rule is Rule.LEAF) == (op in LEAVES)
        assert (row.rule is Rule.CONVERSION) == (op in CONVERTING)


def test_operations_have_names_of_their_own():
    assert len({op.value for op in Op}) == len(Op)
    assert not {op.value for op in Op} & set(INPUTS)
