"""The simulator agrees with numpy on kernels that are right, and catches each fault that is planted in one."""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass, replace

import numpy as np
import pytest

from tests.gluon import machine
from tests.gluon.cases import ADDING, PIPELINE, TURNS, Case
from tests.gluon.simulator import Descriptor, Fault, Pointer, simulate

CASES = [pytest.param(case, id=case.file) for case in (PIPELINE, TURNS, ADDING)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("seed", range(4))
def test_kernels_agree_with_numpy_in_any_order(case: Case, seed: int):
    case.run(seed=seed)


@pytest.mark.parametrize(
    ("case", "slow"),
    [
        (PIPELINE, "produce"),
        (PIPELINE, "consume"),
        (PIPELINE, "consume[1]"),
        (PIPELINE, "transfers"),
        (TURNS, "produce"),
        (TURNS, "consume[0]"),
        (TURNS, "transfers"),
        (ADDING, "add"),
        (ADDING, "score"),
        (ADDING, "transfers"),
    ],
)
def test_kernels_agree_with_numpy_however_slow_a_part_is(case: Case, slow: str):
    case.run(slow=(slow,))


@dataclass(frozen=True)
class Planted:
    """A fault: what to replace in a kernel, and the kinds that it may be caught as, whatever the order."""

    name: str
    case: Case
    old: str
    new: str
    kinds: str


RACE = "overwrite unordered uninitialised"  # whichever comes first
FREE = "mbarrier.wait(empty.index(stage), ((loaded // STAGES) & 1) ^ 1)"
LOADED = "mbarrier.wait(full.index(stage), (done // STAGES) & 1)"
LAST_ARRIVAL = "mbarrier.arrive(empty.index((done - 1) % STAGES), count=1)"
COUNT = "empty.index(stage), count=CONSUMERS"
PRODUCT = "acc = warpgroup_mma_wait(1, deps=[acc])"
AWAIT_SCORES = 'named_barrier(SCORES + stage, "barrier.sync'

PLANTED = [
    Planted("missing_arrive", PIPELINE, LAST_ARRIVAL, "pass", "deadlock"),
    Planted("count_too_low", PIPELINE, COUNT, "empty.index(stage), count=1", RACE + " deadlock"),
    Planted("count_too_high", PIPELINE, COUNT, "empty.index(stage), count=3", "deadlock"),
    Planted("two_arrivals", PIPELINE, "pred=step > 0)", "pred=step >= 0)", RACE + " deadlock barrier"),
    Planted("wrong_phase_of_full", PIPELINE, LOADED, LOADED.replace(") & 1)", ") & 1 ^ 1)"), RACE + " deadlock"),
    Planted("wrong_phase_of_empty", PIPELINE, FREE, FREE.replace(" ^ 1", ""), "deadlock"),
    Planted("no_phase", PIPELINE, LOADED, LOADED.replace(") & 1)", "))"), "barrier"),
    Planted("no_wait_for_loads", PIPELINE, LOADED, "pass", RACE),
    Planted("no_wait_for_free_stages", PIPELINE, FREE, "pass", RACE + " barrier"),
    Planted("early_release", PIPELINE, "(done + 1) % STAGES), count=1, pred=step > 0", "stage), count=1", RACE),
    Planted("nothing_awaited", PIPELINE, "acc = warpgroup_mma_wait(0, deps=[acc])", "pass", "unfinished"),
    Planted("one_product_left", PIPELINE, "warpgroup_mma_wait(0,", "warpgroup_mma_wait(1,", "unfinished"),
    Planted("result_without_wait", PIPELINE, PRODUCT, "acc = acc * 1.0", "unfinished"),
    Planted("too_few_bytes", PIPELINE, "CONSUMERS * a_desc.block", "1 * a_desc.block", RACE + " bytes"),
    Planted("too_many_bytes", PIPELINE, "CONSUMERS * a_desc.block", "3 * a_desc.block", "deadlock"),
    Planted("nothing_expected", PIPELINE, "mbarrier.expect(full.index(stage), ", "gl.assume(", "deadlock"),
    Planted("no_barrier", PIPELINE, "mbarrier.init(empty.index(stage), count=CONSUMERS)", "pass", "barrier"),
    Planted("former_store_in_flight", PIPELINE, "tma.store_wait(0)  # the former", "#", "overwrite"),
    Planted("last_store_in_flight", PIPELINE, "\n    tma.store_wait(0)\n", "\n", "exit"),
    Planted("no_fence_before_store", PIPELINE, "        fence_async_shared()\n        tma", "        tma", "fence"),
    Planted("barriers_not_fenced", PIPELINE, "    fence_async_shared()\n    gl.warp", "    gl.warp", "fence"),
    Planted("wrong_stage", PIPELINE, "b_tiles.index(stage))", "b_tiles.index(0))", RACE),
    Planted("stage_beyond_the_last", PIPELINE, "stage = loaded % STAGES", "stage = loaded % 3", "bounds"),
    Planted("first_turn_not_given", TURNS, 'named_barrier(TURN, "arrive", 256, 4)', "pass", "deadlock"),
    Planted("last_turn_not_taken", TURNS, 'named_barrier(TURN, "sync", 256, 4)', "pass", "barrier"),
    Planted("turn_kept", TURNS, 'named_barrier(TURN + 1 - CONSUMER, "arrive", 256, 4)', "pass", "deadlock"),
    Planted("stage_not_freed", TURNS, 'named_barrier(EMPTY + stage, "arrive", 288, 4)', "pass", "deadlock"),
    Planted("stage_half_free", TURNS, "gl.maximum(tiles, STAGES), tiles + STAGES", "0", "barrier"),
    Planted("stage_not_awaited", TURNS, 'named_barrier(EMPTY + stage, "sync", 288, 1)', "pass", RACE + " barrier"),
    Planted("too_few_threads", TURNS, '"arrive", 288', '"arrive", 256', "barrier"),
    Planted("threads_of_one_warp", TURNS, '"sync", 288, 1)', '"sync", 288, 4)', "barrier"),
    Planted("barrier_of_triton", TURNS, "TURN = gl.constexpr(8)", "TURN = gl.constexpr(1)", "barrier"),
    Planted("pure_barrier", TURNS, "is_pure=False", "is_pure=True", "type"),
    Planted("store_beyond_lse", TURNS, "mask=q_row < q_len", "mask=q_row < 256", "bounds"),
    Planted("runtime_constant", TURNS, "(gl.constexpr(0), lse_ptr", "(gl.program_id(1), lse_ptr", "type"),
    Planted("scores_not_free", ADDING, "mbarrier.wait(empty", "print; (empty", RACE + " barrier"),
    Planted("scores_freed_early", ADDING, "total = warpgroup_mma_wait(0, deps=[total])", "", RACE + " unfinished"),
    Planted("scores_not_awaited", ADDING, AWAIT_SCORES, AWAIT_SCORES.replace("sync", "arrive"), RACE),
    Planted("scores_not_fenced", ADDING, "        fence_async_shared()\n        named", "        named", "fence"),
    Planted("sums_overwritten", ADDING, "store_wait(BUFFERS - 1)", "store_wait(BUFFERS)", "overwrite"),
    Planted("sums_not_fenced", ADDING, "        fence_async_shared()\n        reduce", "        reduce", "fence"),
    Planted("load_not_awaited", ADDING, "mbarrier.wait(full.index(1), 0)", "pass", RACE),
]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("planted", [pytest.param(planted, id=planted.name) for planted in PLANTED])
def test_planted_faults_are_caught_in_any_order(planted: Planted, seed: int):
    assert planted.case.text.count(planted.old) >= 1
    with pytest.raises(Fault) as caught:
        planted.case.run(planted.case.text.replace(planted.old, planted.new), seed=seed)
    assert caught.value.kind in planted.kinds.split()


def test_a_deadlock_tells_who_waits_for_what():
    text = TURNS.text.replace('named_barrier(EMPTY + stage, "arrive", 288, 4)', "pass")
    with pytest.raises(Fault) as caught:
        replace(TURNS, grid=1).run(text)
    first, *waiting = str(caught.value).splitlines()
    assert first == "deadlock: nobody can go on"
    assert [line.split()[0] for line in waiting] == ["consume[0]", "consume[1]", "produce"]
    assert "full[0] in phase 1 lacks 1 of 1 arrivals, 0 bytes, line " in waiting[0]
    assert "named barrier 10, which has 32 of 288 threads" in waiting[2]
    assert 'named_barrier(EMPTY + stage, "sync", 288, 1)' in text.splitlines()[_last_line_number(waiting[2]) - 1]


def _last_line_number(message: str) -> int:
    return int(re.findall(r"line (\d+)", message)[-1])


def test_the_same_seed_finds_the_same_fault_in_the_same_place():
    text = PIPELINE.text.replace("mbarrier.wait(empty.index(stage), ((loaded // STAGES) & 1) ^ 1)", "pass")
    messages = set()
    for _ in range(3):
        with pytest.raises(Fault) as caught:
            PIPELINE.run(text, seed=5)
        messages.add(str(caught.value))
    assert len(messages) == 1


def kernel(body: str) -> str:
    """The text of a kernel with this body, of one partition; `x_ptr` and `n` are its parameters."""
    head = "from triton.experimental import gluon\nfrom triton.experimental.gluon import language as gl\n\n\n"
    imports = "from triton.experimental.gluon.language.nvidia.hopper import fence_async_shared, mbarrier, tma\n"
    return f"{imports}{head}@gluon.jit\ndef run(x_ptr, n):\n{textwrap.indent(textwrap.dedent(body), '    ')}"


def evaluate(body: str, n: int = 7, dtype: type = np.int32) -> list[float]:
    """What a kernel of one partition leaves in eight elements of memory."""
    x = np.zeros(8, dtype)
    simulate(kernel(body), "run", 1, {"x_ptr": x, "n": n})
    return x.tolist()


def test_integers_divide_towards_zero_as_on_the_device():
    body = "gl.store(x_ptr + 0, (0 - n) // 2)\ngl.store(x_ptr + 1, (0 - n) % 2)\ngl.store(x_ptr + 2, n // (0 - 2))"
    assert evaluate(body)[:3] == [-3, -1, -3]


def test_numbers_that_are_assigned_become_scalars_of_run_time():
    assert evaluate("a = -7\ngl.store(x_ptr, a // 2)")[0] == -3  # a constant would give -4
    assert evaluate("a: gl.constexpr = -7\ngl.store(x_ptr, a // 2)")[0] == -4


def test_integers_wrap_around_as_on_the_device():
    assert evaluate("gl.store(x_ptr, n * 613566757)")[0] == 7 * 613566757 - 2**32
    assert evaluate("gl.store(x_ptr, (n.to(gl.int64) * 613566757) >> 3)")[0] == 7 * 613566757 >> 3


def test_sixteen_bit_floats_are_rounded():
    body = "i = gl.arange(0, 8)\ngl.store(x_ptr + i, (i * 0.1).to(gl.{}).to(gl.float32))"
    assert evaluate(body.format("bfloat16"), dtype=np.float32)[1:4] == [0.10009765625, 0.2001953125, 0.30078125]
    assert evaluate(body.format("float16"), dtype=np.float32)[1:4] == [0.0999755859375, 0.199951171875, 0.300048828125]


def test_masked_elements_of_a_load_without_other_are_of_no_use():
    x = np.arange(8, dtype=np.float32)
    simulate(
        kernel("i = gl.arange(0, 8)\ngl.store(x_ptr + i, gl.load(x_ptr + i, mask=i < n))"),
        "run",
        1,
        {"x_ptr": x, "n": 5},
    )
    assert np.isnan(x[5:]).all()
    assert (x[:5] == np.arange(5)).all()


def test_approximate_instructions_run_as_assembly():
    text = "tanh.approx.f32 $0, $1;"
    body = f"""
        i = gl.arange(0, 8)
        x = i.to(gl.float32) * 0.25
        y = gl.inline_asm_elementwise("{text}", "=r,r", [x], dtype=gl.float32, is_pure=True, pack=1)
        gl.store(x_ptr + i, y)
    """
    np.testing.assert_allclose(evaluate(body, dtype=np.float32), np.tanh(np.arange(8) * 0.25), rtol=2**-11)


def test_atomics_return_what_was_there_before():
    assert evaluate("a = gl.atomic_add(x_ptr, n)\nb = gl.atomic_add(x_ptr, n)\ngl.store(x_ptr + 1, a * 100 + b)") == [
        14, 7, 0, 0, 0, 0, 0, 0,
    ]  # fmt: skip


def test_programs_share_the_tiles_that_a_counter_hands_out():
    body = """
        tile = gl.atomic_add(x_ptr, 1)
        while tile < n:
            gl.atomic_add(x_ptr + 1 + tile, 1 + gl.program_id(0))
            tile = gl.atomic_add(x_ptr, 1)
    """
    shares = set()
    for seed in range(4):
        x = np.zeros(8, np.int32)
        simulate(kernel(body), "run", 3, {"x_ptr": x, "n": 7}, seed=seed, resident=3)
        assert x[0] == 7 + 3
        assert ((x[1:] >= 1) & (x[1:] <= 3)).all()
        shares.add(tuple(x[1:]))
    assert len(shares) > 1


def test_a_program_that_waits_for_one_that_cannot_start_never_ends(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "MAX_TURNS", 2000)
    text = kernel("gl.atomic_add(x_ptr, 1)\nwhile gl.atomic_add(x_ptr, 0) < n:\n    pass")
    simulate(text, "run", 2, {"x_ptr": np.zeros(8, np.int32), "n": 2}, resident=2)
    with pytest.raises(Fault, match="no end after 2000 turns"):
        simulate(text, "run", 2, {"x_ptr": np.zeros(8, np.int32), "n": 2}, resident=1)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("gl.store(x_ptr + gl.arange(0, 16), 0)", "bounds"),
        ("gl.store(x_ptr - 1, 0)", "bounds"),
        ("gl.store(x_ptr + gl.arange(0, 6), 0)", "type"),
        ("gl.store(x_ptr, gl.histogram(n))", "unmodelled"),
        ("if gl.arange(0, 2) > 0:\n    pass", "type"),
        ("m = gl.allocate_shared_memory(gl.int32, [8], None)\ngl.store(x_ptr, gl.max(m.load()))", "uninitialised"),
        ("m = gl.allocate_shared_memory(gl.int32, [8], None)\nm.store(gl.zeros([8], gl.float32))", "type"),
        ("m = gl.allocate_shared_memory(gl.int32, [8], None)\nm.store(gl.zeros([4], gl.int32))", "type"),
        ("m = gl.allocate_shared_memory(gl.int32, [2, 8], None)\nm.index(2)", "bounds"),
        ("gl.static_assert(n is None)", "type"),
    ],
)
def test_single_mistakes_are_caught(body: str, kind: str):
    with pytest.raises(Fault) as caught:
        evaluate(body)
    assert caught.value.kind == kind
    assert "line " in str(caught.value) or kind == "unmodelled"


def test_shared_memory_that_was_never_written_may_be_read_if_nobody_looks():
    assert evaluate("m = gl.allocate_shared_memory(gl.int32, [8], None)\nm.load()\ngl.store(x_ptr, n)")[0] == 7


def test_loads_are_zero_beyond_the_tensor_and_stores_are_clipped():
    body = """
        tile = gl.allocate_shared_memory(gl.float32, [4, 8], None)
        full = gl.allocate_shared_memory(gl.int64, [1, 1], mbarrier.MBarrierLayout())
        mbarrier.init(full.index(0), count=1)
        fence_async_shared()
        mbarrier.expect(full.index(0), n.block_type.nbytes)
        tma.async_copy_global_to_shared(n, [2, -4], full.index(0), tile)
        mbarrier.wait(full.index(0), 0)
        tile.store(tile.load() + 1.0)
        fence_async_shared()
        tma.async_copy_shared_to_global(x_ptr, [2, 0], tile)
        tma.store_wait(0)
    """
    source, target = np.arange(32, dtype=np.float32).reshape(4, 8), np.zeros((4, 8), np.float32)
    descriptors = [Descriptor(array, [4, 8], "fp32") for array in (target, source)]
    simulate(kernel(body), "run", 1, dict(zip(("x_ptr", "n"), descriptors, strict=True)))
    expected = np.zeros((4, 8), np.float32)
    expected[2:, :4] = 1
    expected[2:, 4:] = source[2:, :4] + 1
    assert (target == expected).all()


@pytest.mark.parametrize("shape", [[64, 4], [512, 64], [48, 64]])
def test_blocks_that_the_tma_lacks_are_refused(shape: list[int]):
    with pytest.raises(Fault, match="the TMA has no block"):
        Descriptor(np.zeros((512, 64), np.float32), shape, "bf16")


def test_strides_that_the_tma_lacks_are_refused():
    with pytest.raises(Fault, match="strides of 16 bytes"):
        Descriptor(np.zeros((512, 68), np.float32), [64, 64], "bf16")


def test_pointers_to_sixteen_bit_floats_round_what_they_store():
    x = np.zeros(8, np.float32)
    simulate(kernel("gl.store(x_ptr, 1.001)"), "run", 1, {"x_ptr": Pointer(x, "bf16"), "n": 0})
    assert x[0] == 1.0
