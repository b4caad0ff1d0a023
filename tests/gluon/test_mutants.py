"""Every call that orders memory in the small kernels is needed: without it, or with another phase, a Fault follows."""

from __future__ import annotations

import pytest

from tests.gluon.cases import ADDING, PIPELINE, TURNS, Case
from tests.gluon.mutants import mutants
from tests.gluon.simulator import Fault

ORDERING = ("named_barrier",)


def caught(case: Case, text: str) -> bool:
    """Whether the simulator refuses a text; what it lets pass must not be right by chance."""
    try:
        case.run(text)
    except (Fault, AssertionError):
        return True
    return False


@pytest.mark.parametrize("case", [pytest.param(case, id=case.file) for case in (PIPELINE, TURNS, ADDING)])
def test_no_mutant_survives(case: Case):
    found = list(mutants(case.text, ORDERING))
    assert len(found) > 20
    assert [mutant.name for mutant in found if not caught(case, mutant.text)] == []


def test_mutants_differ_in_one_place_and_say_where():
    text = PIPELINE.text
    lines = text.splitlines()
    for mutant in mutants(text):
        changed = [i for i, (a, b) in enumerate(zip(lines, mutant.text.splitlines(), strict=False), 1) if a != b]
        assert changed
        assert changed[0] <= mutant.line


def test_kinds_of_mutants():
    kinds = {mutant.what for mutant in mutants(PIPELINE.text)}
    assert "phase (done // STAGES) & 1 turned round" in kinds
    assert "count CONSUMERS - 1" in kinds
    assert "without fence_async_shared()" in kinds
    assert "waits for all but 1 + 1" in kinds
    assert "half of CONSUMERS * a_desc.block_type.nbytes + b_desc.block_type.nbytes" in kinds
    assert any(what.endswith("in front of the wait") for what in kinds)
