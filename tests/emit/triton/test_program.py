"""The text of Triton kernels: what a reader sees of the gallery's main variants, and what holds of every variant."""

from __future__ import annotations

import ast
import random

import pytest

from attncc import pipeline
from attncc.emit.templates import template_text
from attncc.emit.triton.program import Emitted, TritonProgram
from attncc.frontend import parse
from attncc.ir import Scalar
from attncc.ir.spec import ANY_DIM
from attncc.resources import resource_dir
from attncc.schedule import Facts, Gradients, Problem, Target
from tests.share import SEED, share

MAIN = ("full", "causal", "alibi", "sliding_window", "documents", "soft_cap", "relative_bias", "prefix_lm")
TEMPLATES = sorted(path.name.removesuffix(".py.j2") for path in resource_dir("templates").joinpath("triton").iterdir())
KINDS = {Scalar.FLOAT: "float32", Scalar.INDEX: "int64", Scalar.BOOL: "bool"}
LENGTH = 4096


def programs(path, dim: int = 64, dtype: str = "bfloat16", proven: bool = True) -> list[TritonProgram]:
    """The kernels of a variant, forward and backward."""
    spec = parse(path.read_text(encoding="utf-8"))
    sizes = {"batch": 2, "heads": 8, "q_len": LENGTH, "kv_len": LENGTH, ANY_DIM: 1 << 24 if proven else 1}
    shapes = tuple(tuple(d if isinstance(d, int) else sizes[d] for d in capture.dims) for capture in spec.captures)
    facts = Facts(2, LENGTH, LENGTH, shapes, tuple(p.value for p in spec.parameters)) if proven else None
    gradients = Gradients(captures=tuple(c.scalar is Scalar.FLOAT for c in spec.captures))
    kinds = tuple(KINDS[c.scalar] for c in spec.captures)
    problem = Problem(dtype, dim, dim, 8, 2, kinds, gradients=gradients, facts=facts)
    lowered = pipeline.lower(spec, problem, Target("triton", "cuda", "sm_80"))
    assert lowered.triton_forward is not None
    assert lowered.triton_backward is not None
    return [lowered.triton_forward(), lowered.triton_backward()]


def kernels(program: TritonProgram) -> list[Emitted]:
    """Every kernel of a program."""
    return [*program.passes.values(), *program.lists.values()]


def chosen(repository) -> list:
    """A seeded share of the gallery."""
    every = sorted((repository / "examples" / "gallery").glob("*.attn"))
    return random.Random(SEED).sample(every, share(len(every)))


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_python_as_it_stands(name):
    compile(template_text(f"triton/{name}"), name, "exec")


@pytest.mark.parametrize("name", MAIN)
def test_kernels_read_well(name, golden, repository):
    """Whether they do is for the reader of these files to say."""
    for direction, program in zip(
        ("forward", "backward"), programs(repository / f"examples/gallery/{name}.attn"), strict=True
    ):
        golden(f"{direction}.py").check(program.source.text)


@pytest.mark.parametrize(("dim", "dtype", "proven"), [(64, "bfloat16", True), (80, "float32", False)])
def test_kernels_hold_what_the_style_asks(dim, dtype, proven, repository):
    faults = []
    for path in chosen(repository):
        for program in programs(path, dim, dtype, proven):
            for emitted in kernels(program):
                for text in (emitted.source.text, emitted.kernel.source.text):
                    faults += [f"{path.stem} {emitted.kernel.entry}: {fault}" for fault in faults_of(text, emitted)]
    assert not faults, "\n".join(sorted(set(faults)))


def faults_of(text: str, emitted: Emitted) -> list[str]:
    """Where a kernel breaks a rule of the house."""
    found = [f"line {i + 1} has {len(line)} columns" for i, line in enumerate(text.split("\n")) if len(line) > 120]
    found += [f"line {i + 1} ends in a space" for i, line in enumerate(text.split("\n")) if line != line.rstrip()]
    tree = ast.parse(text)
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        read = {node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
        written = {
            node.id for node in ast.walk(function) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        }
        arguments = [argument.arg for argument in function.args.args]
        found += [f"{function.name} never reads its argument {name}" for name in arguments if name not in read]
        found += [f"{function.name} never reads {name}" for name in sorted(written - read)]
        found += [f"{function.name} has a branch that never runs" for node in ast.walk(function) if _is_dead(node)]
    defined = [node.targets[0].id for node in tree.body if isinstance(node, ast.Assign)]
    everywhere = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load)}
    found += [f"{name} is defined and never read" for name in defined if name not in everywhere]
    if [argument.name for argument in emitted.kernel.arguments] != _parameters(
        text, emitted
    ) and text == emitted.kernel.source.text:
        found.append("the arguments are not those that the kernel is launched with")
    return found


def _is_dead(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Constant)


def _parameters(text: str, emitted: Emitted) -> list[str]:
    functions = {node.name: node for node in ast.parse(text).body if isinstance(node, ast.FunctionDef)}
    return [argument.arg for argument in functions[emitted.kernel.entry].args.args]


def test_the_same_variant_gives_the_same_bytes(repository):
    path = repository / "examples/gallery/relative_bias.attn"
    pipeline._LOWERED.clear()
    first = [program.source.text for program in programs(path)]
    pipeline._LOWERED.clear()
    assert [program.source.text for program in programs(path)] == first


def test_names_do_not_change_what_is_built():
    text = "attn 1\nattention {0}({1}: int = 5):\n  capture {2}: float[heads]\n  score = score + {2}[h]\n"
    text += "  mask = q_idx - kv_idx < {1}\n"
    problem = Problem("bfloat16", 64, 64, 8, 2, ("float32",))
    target = Target("triton", "cuda", "sm_80")
    built = []
    for names in (("first", "window", "slopes"), ("second", "reach", "tilt")):
        lowered = pipeline.lower(parse(text.format(*names)), problem, target)
        assert lowered.triton_forward is not None
        built.append([emitted.kernel.source.text for emitted in kernels(lowered.triton_forward())])
    assert built[0] == built[1]


@pytest.mark.parametrize("name", ["relative_bias", "clipped_relative_bias", "t5_bias"])
def test_biases_of_a_distance_are_summed_along_diagonals(name, repository):
    _, backward = programs(repository / "examples" / "gallery" / f"{name}.attn")
    assert "backward_diagonal" in backward.passes
    assert "backward_pairs" not in backward.passes
