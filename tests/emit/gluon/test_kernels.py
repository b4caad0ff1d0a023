"""Gluon kernels as they are read."""

from __future__ import annotations

import ast

import pytest

from tests.gluon.rendered import call

KERNELS = ("forward", "backward_q", "backward_kv")


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", ["causal", "alibi", "documents"])
def test_kernels_read_well(name, kernel, golden):
    text = call(name, 200, 128).emitted(kernel).source.text
    golden("kernel.py").check(text)
    assert all(len(line) <= 120 for line in text.splitlines())


@pytest.mark.parametrize("kernel", KERNELS)
def test_warps_take_what_they_read_and_nothing_else(kernel):
    tree = ast.parse(call("alibi", 200, 128).emitted(kernel).kernel.source.text)
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    for warps in ("consume", "produce"):
        names = [argument.arg for argument in functions[warps].args.args if argument.arg != "CONSUMER"]
        read = {node.id for node in ast.walk(functions[warps]) if isinstance(node, ast.Name)}
        assert set(names) <= read
        calls = [
            [one.id for one in node.elts[1].elts if isinstance(one, ast.Name)]
            for node in ast.walk(functions[kernel])
            if isinstance(node, ast.Tuple)
            and len(node.elts) == 2
            and isinstance(node.elts[0], ast.Name)
            and node.elts[0].id == warps
            and isinstance(node.elts[1], ast.Tuple)
        ]
        assert calls
        assert all(each == names for each in calls)
