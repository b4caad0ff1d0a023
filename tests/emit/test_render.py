"""What rendered kernels look like, and what their digests depend on."""

from __future__ import annotations

import ast
import dataclasses

import pytest

from attncc.frontend import parse
from attncc.schedule import Gradients
from tests.emit.lowering import ALIBI, DOCUMENTS, PAIRS, RELATIVE, lowered

CASES = {
    "alibi": (ALIBI, ("float32",), ((8,),), (256,), (True,)),
    "documents": (DOCUMENTS, ("int32",), ((2, 256),), (), (False,)),
    "relative": (RELATIVE, ("float32",), ((8, 511),), (), (True,)),
    "pairs": (PAIRS, ("bfloat16",), ((8, 256, 256),), (), (True,)),
}


def kernels(name: str):
    text, dtypes, shapes, parameters, captures = CASES[name]
    return lowered(text, dtypes, shapes, parameters, Gradients(captures=captures))


@pytest.mark.parametrize("name", CASES)
def test_kernels_read_as_agreed(name, golden):
    found = kernels(name)
    golden("forward.py").check(found.forward.text)
    golden("backward.py").check(found.backward.text)


def test_an_unproven_read_is_guarded(golden):
    golden("forward.py").check(lowered(RELATIVE, ("float32",), ((8, 100),)).forward.text)


@pytest.mark.parametrize("name", CASES)
def test_kernels_use_every_name_that_they_define(name):
    for source in (kernels(name).forward, kernels(name).backward):
        tree = ast.parse(source.text)
        stored = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        loaded = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
        imported = {a.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for a in n.names}
        assert imported <= loaded
        shared = {
            "partial",
            "batch",
            "heads",
            "_",
            "head_dim",
            "value_dim",
            "q_len",
            "kv_len",
            "NEG_INF",
            "LOG2E",
            "LN2",
            "device",
        }
        assert {name for name in stored - loaded - shared if not name.endswith("_nan")} == set()


def test_a_kernel_opens_with_its_variant_and_its_schedule():
    text = kernels("alibi").forward.text
    docstring = ast.get_docstring(ast.parse(text))
    assert docstring.startswith("alibi: ")
    for line in (*ALIBI.splitlines()[1:], "- tile_q = 128: low tiles follow the visible keys"):
        assert line.strip() in docstring


def test_names_of_users_do_not_enter_the_digest():
    renamed = ALIBI.replace("distance", "far").replace("slopes", "steepness").replace("window", "reach")
    renamed = renamed.replace("attention alibi", "attention other")
    ours, theirs = (lowered(text, ("float32",), ((8,),), (256,)).forward for text in (ALIBI, renamed))
    assert ours.digest == theirs.digest
    assert ours.text != theirs.text
    assert "steepness[h]" in theirs.text


def test_constants_enter_the_digest():
    ours, theirs = (
        lowered(text, ("float32",), ((8, 511),)).forward for text in (RELATIVE, RELATIVE.replace("20.0", "30.0"))
    )
    assert ours.digest != theirs.digest


def test_the_same_input_gives_the_same_bytes():
    spec = parse(DOCUMENTS)
    texts = {
        lowered(dataclasses.replace(spec, name=f"n{i % 2}"), ("int64",)).forward.text.replace(f"n{i % 2}", "n")
        for i in range(4)
    }
    assert len(texts) == 1


def test_a_docstring_cannot_be_closed_by_a_name():
    spec = dataclasses.replace(parse(DOCUMENTS), name='a"""b\\')
    ast.parse(lowered(spec, ("int64",)).forward.text)


def test_only_wanted_gradients_are_computed():
    only_v = lowered(ALIBI, ("float32",), ((8,),), (256,), Gradients(False, False, True, (False,))).backward.text
    assert "grad_values" in only_v
    assert not {"grad_queries", "grad_keys", "grad_slopes", "flow"} & set(only_v.replace("(", " ").split())
