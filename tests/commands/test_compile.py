import json
from dataclasses import replace
from itertools import product

import pytest
import torch
import typer
from typer.testing import CliRunner

from attncc.commands.app import Verbs
from attncc.commands.compile import Wanted, emit_kernels, make_verb, requests_of
from attncc.commands.definition import read_definition
from attncc.config import settings
from attncc.errors import UnsupportedError
from attncc.frontend.parse import parse
from attncc.pipeline import lower
from attncc.runtime.binary import Resources
from attncc.runtime.cache import default_store, digest
from attncc.runtime.op import problem_of
from attncc.runtime.pack import open_pack
from attncc.runtime.triton_build import Built, build, forget, identify, unpack
from attncc.runtime.triton_fit import GLUON_SPILLS, ONE_PASS_SPILLS, settle_for
from attncc.schedule import Gradients, Problem, Target
from attncc.schedule.gluon import ONE_PASS
from tests.commands.runner import PACKED, WINDOW, Finished, attncc
from tests.runtime.kernels import add_kernel, attend_kernel

pytest.importorskip("triton")

ALIBI = """\
attn 1
attention alibi:
  capture slopes: float[heads]
  mask = q_idx >= kv_idx
  score = score - slopes[h] * (q_idx - kv_idx)
"""
SHORT = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


def emit(spec, problem, target, build, layouts):
    """One kernel for the forward pass, another for the backward pass, as small as they can be."""
    if problem.head_dim > 256:
        raise UnsupportedError(f"no head of {problem.head_dim}")
    kernels = [attend_kernel(SHORT[problem.dtype], problem.head_dim, tq=32, tk=32)]
    if problem.gradients is not None:
        kernels = [add_kernel(tile=problem.head_dim), add_kernel(tile=2 * problem.head_dim)]
        kernels += [add_kernel(tile=512)] if any(problem.gradients.captures) else []
    return kernels


def run(*arguments, emit=emit):
    app = typer.Typer(cls=Verbs, pretty_exceptions_enable=False)
    app.command("compile")(make_verb(emit))
    app.command("other")(lambda: None)
    result = CliRunner().invoke(app, ["compile", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Finished(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(autouse=True)
def files(tmp_path, monkeypatch, fresh_settings):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "window.attn").write_text(WINDOW)
    (tmp_path / "packed.attn").write_text(PACKED)


def test_variants_are_compiled_into_a_pack_without_a_gpu(tmp_path):
    finished = run("window.attn", "packed.attn", "-t", "sm_80,gfx942", "-D", "64,32", "-j", "2", "-o", "pack")
    assert finished.code == 0, finished.err
    pack = open_pack(tmp_path / "pack")
    # forward: 2 head sizes; backward: tiles 32, 64 and 128 are shared between them, and 512 is for captures
    assert len(pack.kernels) == 2 * (2 + 3 + 1)
    assert "12 kernels for gfx942, sm_80," in finished.err
    assert all(found.damage is None for found in pack.store.survey(whole=True))
    shared = next(
        row for row in pack.kernels if row["target"] == "sm_80" and row["entry"] == "add" and len(row["for"]) > 3
    )
    assert {label["variant"] for label in shared["for"]} == {"window", "packed"}
    assert {label["head_dim"] for label in shared["for"]} == {32, 64}


def test_json_is_the_index_of_the_pack(tmp_path):
    finished = run("window.attn", "-t", "sm_90", "-D", "64", "--pass", "forward", "-j", "1", "-o", "pack", "--json")
    assert finished.code == 0, finished.err
    assert finished.json["kernels"] == json.loads((tmp_path / "pack" / "pack.json").read_text())["kernels"]
    (row,) = finished.json["kernels"]
    assert row["registers"] > 32
    assert row["shared"] > 4096
    assert row["for"] == [
        {
            "variant": "window",
            "dtype": "bfloat16",
            "head_dim": 64,
            "value_dim": 64,
            "pass": "forward",
            "kernel": "attend",
        }
    ]


def test_a_program_runs_from_the_pack(tmp_path, monkeypatch):
    run("window.attn", "-t", "sm_90", "-D", "64", "--pass", "forward", "-j", "1", "-o", "pack")
    monkeypatch.setenv("ATTNCC_PACK", str(tmp_path / "pack"))
    monkeypatch.setenv("ATTNCC_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("ATTNCC_DISABLE_JIT", "1")
    settings.cache_clear()
    default_store.cache_clear()
    forget()
    assert build(attend_kernel("bf16", 64, tq=32, tk=32), "sm_90").target == "sm_90"
    with pytest.raises(UnsupportedError, match="is neither in the pack"):
        build(attend_kernel("fp16", 64, tq=32, tk=32), "sm_90")
    default_store.cache_clear()
    forget()


@pytest.mark.slow
def test_a_call_runs_a_variant_from_what_the_verb_compiled(tmp_path):
    """Whatever the heads, the lengths and the batch of a call, the kernels that it builds are those of the pack."""
    (tmp_path / "alibi.attn").write_text(ALIBI)
    spec = read_definition("alibi.attn").spec
    finished = attncc("compile", "alibi.attn", "-t", "sm_90", "-D", "64", "-j", "2", "-o", "pack")
    assert finished.code == 0, finished.err
    pack = open_pack(tmp_path / "pack")

    def look(kernel, target):
        found = pack.store.load(digest(identify(kernel, target, pack.triton)))
        assert found is not None, kernel.entry
        return unpack(found)

    for wanted in (None, (True, True, True, False), (True, True, True, True)):
        for batch, heads, kv_heads, q_len, kv_len in ((1, 8, 2, 100, 100), (3, 4, 4, 1, 777)):
            q = torch.empty(batch, heads, q_len, 64, dtype=torch.bfloat16)
            k = torch.empty(batch, kv_heads, kv_len, 64, dtype=torch.bfloat16)
            gradients = None if wanted is None else Gradients(*wanted[:3], wanted[3:])
            problem = problem_of((q, k, k, torch.empty(heads)), (), gradients, 0, 0)
            lowered = lower(spec, problem, Target("triton", "cuda", "sm_90", gluon=True))
            programs = lowered.triton_forward if wanted is None else lowered.triton_backward
            program = settle_for(programs(True), "sm_90", look)
            for one in (*program.passes.values(), *program.lists.values()):
                allowed = ONE_PASS_SPILLS if one.kernel.entry == ONE_PASS else GLUON_SPILLS if one.kernel.gluon else 0
                assert look(one.kernel, "sm_90").resources.spills <= allowed


RELATIVE = """\
attn 1
attention relative:
  capture table: float[heads, _]
  capture weights: float[heads]
  mask = q_idx >= kv_idx
  score = score * weights[h] + table[h, q_idx - kv_idx + kv_len - 1]
"""
PROBLEM = Problem("bfloat16", 64, 64, 8, 8, ("float32", "float32"))


def emitted(layouts=("aligned",), **gradients):
    """The texts of the kernels of RELATIVE that a pack holds, for a target and a build that are made up."""

    def build(kernel, target):
        return Built("", "", target, (), 4, 1, Resources(0, 0, 0), {}, b"")

    found = emit_kernels(parse(RELATIVE), replace(PROBLEM, **gradients), "sm_90", build, layouts)
    return [kernel.source.text for kernel in found]


def test_kernels_with_and_without_proven_reads_are_in_a_pack():
    guarded = ["table_size" in text or "capture0_size" in text for text in emitted()]
    assert guarded.count(True) == guarded.count(False) == 1


def test_other_layouts_of_tensors_are_compiled_on_request():
    aligned, every = emitted(), emitted(("aligned", "any", "wide"))
    assert set(aligned) < set(every)
    assert len({text for text in every if "kv_row[:, None].to(tl.int64)" in text}) == 2


def test_backward_passes_are_compiled_for_each_choice_of_gradients():
    wanted = Wanted(("sm_90",), ("bfloat16",), (64,), (), ("backward",), {})
    found = [request.problem.gradients for request in requests_of(parse(RELATIVE), wanted)]
    assert {each.captures for each in found} == set(product((False, True), repeat=2))
    assert all(each.q and each.k and each.v for each in found)


def test_a_captured_tensor_of_the_mask_has_no_gradient_to_compile():
    wanted = Wanted(("sm_90",), ("bfloat16",), (64,), (), ("backward",), {})
    text = "attn 1\nattention far:\n  capture reach: float[heads]\n  mask = q_idx - kv_idx < reach[h]\n"
    (request,) = requests_of(parse(text), wanted)
    assert request.problem.gradients.captures == (False,)


def test_what_captures_are_reaches_the_emitter():
    seen = []

    def watch(spec, problem, target, build, layouts):
        seen.append((problem, target))
        assert layouts == ("aligned", "any")
        return []

    arguments = (
        "packed.attn",
        "-t",
        "sm_80",
        "-D",
        "80",
        "--value-dim",
        "96",
        "-d",
        "fp16,fp32",
        "--layout",
        "aligned,any",
        "-j",
        "1",
        "-o",
        "pack",
    )
    assert run(*arguments, "--capture-dtype", "slopes=bf16", emit=watch).code == 0
    assert {problem.dtype for problem, _ in seen} == {"float16", "float32"}
    assert {(problem.head_dim, problem.value_dim) for problem, _ in seen} == {(80, 96)}
    assert {problem.capture_dtypes for problem, _ in seen} == {("int64", "bfloat16")}
    gradients = [problem.gradients and problem.gradients.captures for problem, _ in seen]
    assert gradients == [None, (False, False), (False, True)] * 2


def test_a_pass_without_kernels_is_drawn_and_nothing_is_written(tmp_path):
    finished = run("window.attn", "-t", "sm_80", "-D", "64,512", "-o", "pack")
    assert finished.code == 1
    assert finished.err.count("UnsupportedError: no head of 512") == 2
    assert "InputError: 2 of 4 passes have no kernels" in finished.err
    assert not (tmp_path / "pack" / "pack.json").exists()


def test_the_settings_name_targets_too(monkeypatch, tmp_path):
    monkeypatch.setenv("ATTNCC_TARGETS", "sm_80")
    settings.cache_clear()
    assert run("window.attn", "-D", "64", "--pass", "forward", "-j", "1", "-o", "pack").code == 0
    assert {row["target"] for row in open_pack(tmp_path / "pack").kernels} == {"sm_80"}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("-t", "sm_70"), 1, "sm_70 is too old"),
        (("-t", "turing"), 1, "'turing' is no target that attncc knows"),
        (("-t", "sm_80,sm_80"), 2, "different names"),
        (("-t", "sm_80", "-d", "int8"), 2, "'int8' is none of bf16, fp16, fp32"),
        (("-t", "sm_80", "-D", "64,wide"), 2, "should be sizes"),
        (("-t", "sm_80", "-D", "0"), 2, "should be sizes"),
        (("-t", "sm_80", "--pass", "sideways"), 2, "'sideways' is none of forward, backward"),
        (("-t", "sm_80", "--capture-dtype", "slopes=fp16"), 1, "window captures no slopes"),
    ],
)
def test_a_wrong_command_line_is_said_before_anything_is_compiled(arguments, code, message, tmp_path):
    finished = run("window.attn", *arguments, "-o", "pack")
    assert finished.code == code
    assert message in " ".join(finished.err.replace("│", " ").split())
    assert not (tmp_path / "pack").exists()


def test_without_a_gpu_and_without_a_target_the_way_out_is_said(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    finished = run("window.attn", "-o", "pack")
    assert finished.code == 1
    assert "this machine has no GPU to compile for" in finished.err
    assert "--target sm_80,sm_90,gfx942" in finished.err
