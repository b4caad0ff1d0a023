"""A settled program comes back from the cache as it was, without what made it, and never where anything has changed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from attncc import pipeline
from attncc.config import settings
from attncc.emit.triton import program as emitted
from attncc.emit.triton import visits
from attncc.frontend.parse import parse
from attncc.ir.texts import remember
from attncc.runtime import ahead, op, outline, recall, sources, triton_build, triton_fit, triton_tables, tuned
from attncc.runtime.cache import default_store
from attncc.schedule import Facts, Gradients, Problem, Target
from attncc.variants.gallery import gallery
from tests.runtime import pretended
from tests.runtime.triton.cases import gallery_case
from tests.test_layers import all_imports, own, room_of, room_of_path

#: What a call whose program is in the cache does without.
FORBIDDEN = ("attncc.analysis", "attncc.emit", "attncc.passes", "attncc.pipeline", "attncc.reference", "attncc.report")
FORBIDDEN += ("attncc.runtime.triton_fit", "attncc.api.self_test", "attncc.api.explanation", "jinja2", "lark", "sympy")
FORBIDDEN += ("triton", "numpy.testing", "filelock")
#: Python functions that a first call may call, forward and backward, once attncc is imported.
CALLS = 45_000


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """A machine with a GPU that is not there and an empty cache; calling it begins a new process, as it were."""
    monkeypatch.setenv("ATTNCC_CACHE_DIR", str(tmp_path / "cache"))
    pretended.pretend(monkeypatch.setattr)
    settled, settle = [], triton_fit.settle_for

    def noted(program, *rest):
        settled.append(program)
        return settle(program, *rest)

    monkeypatch.setattr(triton_fit, "settle_for", noted)

    def begin():
        settings.cache_clear()
        default_store.cache_clear()
        for memory in (op._KERNELS, op._PASSES, op._DIFFERENTIABLE, triton_build._built, ahead._BEGUN):
            memory.clear()
        pipeline._LOWERED.clear()
        for noticed in (settled, pretended.COMPILED, pretended.LAUNCHED):
            noticed.clear()
        return settled

    yield begin
    begin()
    monkeypatch.undo()
    settings.cache_clear()
    default_store.cache_clear()


def call(name: str, length: int = pretended.LENGTH) -> list[list[object]]:
    """The launches of a call, forward and backward."""
    from attncc.api import program, warm

    program.clear()
    warm._CHECKED.clear()
    pretended.call(name, length)
    return list(pretended.LAUNCHED)


def test_a_warm_call_in_a_new_process_loads_no_compiler_and_launches_the_same(tmp_path):
    environment = os.environ | {"ATTNCC_CACHE_DIR": str(tmp_path / "cache")}
    runs = []
    for _ in range(2):
        command = [sys.executable, "-m", "tests.runtime.pretended", "alibi"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        runs.append(json.loads(done.stdout))
    cold, warm = runs
    assert sorted(cold["compiled"]) == ["backward_kv", "backward_q", "forward", "prepare"]
    assert "attncc.pipeline" in cold["modules"]
    assert warm["compiled"] == []
    assert warm["launched"] == cold["launched"]
    loaded = [name for name in warm["modules"] if any(name == f or name.startswith(f"{f}.") for f in FORBIDDEN)]
    assert loaded == []
    assert warm["calls"] < CALLS, "the timing-free measure of a warm start"


@pytest.mark.parametrize(("name", "lengths"), [("causal", (40, 200)), ("alibi", (40, 200)), ("sliding", (40, 40))])
def test_what_was_settled_is_not_lowered_again(machine, name, lengths):
    settled = machine()
    cold = call(name, lengths[0])
    assert len(settled) >= 2
    machine()
    warm = call(name, lengths[1])
    assert settled == []
    assert pretended.COMPILED == []
    assert [key for *_, key in warm] == [key for *_, key in cold]


def test_code_that_torch_runs_around_kernels_is_not_kept():
    text, facts = "  capture t: float[heads]\n  score = score + t[h]\n", Facts(1, 40, 40, ((4,),))
    made = lowered(text, facts, capture_dtypes=("float32",), gradients=Gradients(captures=(True,)))
    assert [outline.outline_of(each()).hosted for each in (made.triton_forward, made.triton_backward)] == [False, True]
    mask = "  capture t: float[_]\n  mask = abs(t[q_idx]) > t[kv_idx]\n"
    judged = lowered(mask, Facts(1, 40, 40, ((40,),)), capture_dtypes=("float32",)).triton_forward()
    assert outline.outline_of(judged).hosted


def test_changed_sources_find_nothing(machine, monkeypatch):
    settled = machine()
    call("causal")
    machine()
    monkeypatch.setattr(recall, "_own_sources", lambda: "other")
    call("causal")
    assert len(settled) >= 2


def test_sources_that_change_while_a_process_runs_keep_nothing(machine, monkeypatch):
    machine()
    recall._own_sources()
    monkeypatch.setattr(recall, "sources_digest", lambda: "written since")
    call("causal")
    kinds = [found.manifest["identity"]["kind"] for found in default_store().survey()]
    assert recall.KIND not in kinds


def test_a_problem_of_another_kind_finds_nothing(machine):
    machine()
    call("causal")
    text = remember(pipeline.spec_of(next(iter({key[0] for key in op._KERNELS}))))
    place, target = torch.device("cuda", 0), Target("triton", "cuda", "sm_80")
    facts = Facts(1, 40, 40)
    problem = Problem("bfloat16", 64, 64, 4, 4, facts=facts)
    assert recall.memory_of(text, problem, target, place).knows(True, False)
    assert recall.memory_of(text, replace(problem, facts=Facts(7, 999, 8)), target, place).knows(True, False)
    for other in (
        {"dtype": "float16"},
        {"head_dim": 128},
        {"heads": 8},
        {"gradients": Gradients(captures=(True,))},
        {"tile_q": 16},
        {"refine": True},
        {"tf32": True},
        {"deterministic": True},
        {"capture_dtypes": ("float32",)},
    ):
        assert not recall.memory_of(text, replace(problem, **other), target, place).knows(True, False), other
    for further in ({"arch": "sm_90"}, {"gluon": True}, {"fast_math": True}):
        assert not recall.memory_of(text, problem, replace(target, **further), place).knows(True, False), further
    assert not recall.memory_of(f"{text} ", problem, target, place).knows(True, False)
    assert not recall.memory_of(text, problem, target, place).knows(True, True)


def test_a_winner_that_was_tuned_since_counts(machine):
    settled = machine()
    cold = call("causal")
    first = next(program for program in settled if "forward" in program.passes)
    other = first.schedules.choices("forward")[1].forward
    winner = tuned.Winner("causal", "forward", torch.cuda.get_device_name(), other, 1.0, 2.0, 3, "today", "a shape")
    tuned.keep(first, winner)
    machine()
    warm = call("causal")
    assert warm[0] != cold[0]
    assert any("forward" in program.passes for program in settled)
    machine()
    assert call("causal") == warm
    assert settled == []


def test_a_damaged_or_missing_kernel_is_built_again(machine):
    settled = machine()
    cold = call("causal")
    machine()
    key = next(key for name, _, key in cold if name == "forward")
    default_store().remove(key)
    assert call("causal") == cold
    assert pretended.COMPILED == ["forward"]
    assert len(settled) == 1


def test_a_damaged_record_counts_as_absent(machine):
    settled = machine()
    cold = call("causal")
    for found in default_store().survey():
        if found.manifest["identity"]["kind"] == recall.KIND:
            path = default_store().path(found.key) / "manifest.json"
            path.write_bytes(path.read_bytes().replace(b"persistent_until", b"persistent_untiL"))
    machine()
    assert call("causal") == cold
    assert len(settled) >= 1


def test_nothing_is_kept_where_not_every_choice_can_be_compiled(machine, monkeypatch):
    machine()
    monkeypatch.setattr(recall.triton_version, "debugging_variables", lambda: ["DISABLE_PTXAS_OPT"])
    call("causal")
    kinds = [found.manifest["identity"]["kind"] for found in default_store().survey()]
    assert recall.KIND not in kinds


@pytest.mark.parametrize("fits", [True, False])
def test_where_nothing_may_be_compiled_only_first_choices_are_kept(machine, monkeypatch, fits):
    settled = machine()
    if not fits:  # the first choice spills
        monkeypatch.setattr(triton_fit, "_excess", lambda built, program, kernel: float(kernel.num_warps == 8))
    call("causal")
    for found in default_store().survey():
        if found.manifest["identity"]["kind"] == recall.KIND:
            default_store().remove(found.key)
    monkeypatch.setenv("ATTNCC_DISABLE_JIT", "1")
    machine()
    before = call("causal")
    assert settled != []
    machine()
    assert call("causal") == before
    assert (settled == []) == fits
    assert pretended.COMPILED == []


def lowered(text: str, facts: Facts, **options):
    problem = Problem("bfloat16", 64, 64, 4, 4, facts=facts, **options)
    return pipeline.lower(parse(f"attn 1\nattention it:\n{text}"), problem, Target("triton", "cuda", "sm_80"))


@pytest.mark.parametrize(
    ("text", "of_form"),
    [
        ("  mask = q_idx >= kv_idx\n", True),
        ("  capture t: float[heads]\n  score = score + t[h]\n", True),
        ("  capture t: float[_]\n  score = score + t[h % heads]\n", True),
        ("  capture t: float[_]\n  score = score + t[q_idx]\n", False),
        ("  capture t: float[_]\n  score = score + t[b]\n", False),
        ("  capture t: float[_]\n  capture h2: int[_]\n  score = score + t[h2[h]]\n", False),
        ("  capture t: float[_]\n  score = score + t[kv_len - 1]\n", False),
        ("attention it(n: int = 2):\n  capture t: float[_]\n  score = score + t[n]\n", False),
        ("attention it(n: int = 2):\n  mask = q_idx // n == kv_idx // n\n", False),
        ("  mask = q_idx // 16 == kv_idx // 16\n", True),
        ("  mask = q_idx // (h + 1) >= kv_idx\n", True),
    ],
)
def test_lengths_are_left_out_of_the_key_only_where_no_proof_needs_them(text, of_form):
    head = "" if text.startswith("attention") else "attention it:\n"
    spec = pipeline.canonicalize(parse(f"attn 1\n{head}{text}"))
    assert recall._is_of_form(spec) is of_form


@pytest.mark.parametrize("name", sorted(gallery()))
def test_an_outline_survives_json_and_reads_what_the_emitted_code_reads(name):
    case = gallery_case(name, 40, heads=2, group=1)
    own, captures = case.tensors(torch.float32)
    problem = op.problem_of([*own, *captures], case.parameters, None, 16, 16)
    program = pipeline.lower(case.spec, problem, Target("triton", "cpu")).triton_forward()
    found = outline.outline_of(program)
    assert outline.from_plain(json.loads(json.dumps(outline.to_plain(found)))) == found
    if not found.marks or found.hosted:
        return
    rest = (captures, case.parameters, 1, 2, 40, 40, torch.device("cpu"))
    names: dict[str, object] = {}
    exec(program.host.text, names)
    wanted = names["statistics"](*rest)
    for mark, ours, theirs in zip(found.marks, outline.read_marks(found.marks, *rest), wanted, strict=True):
        assert ours.dtype == theirs.dtype
        shape = (1, 2, 40, 1) if mark.axis == "q" else (1, 2, 1, 40)
        assert torch.equal(ours.expand(shape), theirs.expand(shape))


def test_documents_read_their_tensor_plainly():
    text = "  capture d: int[_]\n  mask = d[q_idx] == d[kv_idx]\n"
    program = lowered(text, Facts(1, 40, 40, ((40,),)), capture_dtypes=("int64",)).triton_forward()
    marks = outline.outline_of(program).marks
    assert {mark.read for mark in marks} == {outline.Read(0, (axis,), "int64") for axis in ("q_idx", "kv_idx")}


def test_the_runtime_and_the_emitter_mean_the_same_kernels():
    assert outline.OWN_KEYS == emitted.OWN_KEYS
    assert triton_tables.TABLE_POINTERS == visits.TABLE_POINTERS


def test_the_digest_is_of_all_that_the_compiler_imports():
    rooms, seen = ["pipeline", "runtime"], set()
    while rooms:
        room = rooms.pop()
        if room not in seen:
            seen.add(room)
            rooms += [
                room_of(each.module) for each in all_imports() if room_of_path(each.path) == room and own(each.module)
            ]
    known = {*sources.ROOMS, *(file.removesuffix(".py") for file in sources.FILES), "__init__", "__version__"}
    assert seen <= known
    assert any(file.name == "forward.py.j2" for file in sources.source_files())
