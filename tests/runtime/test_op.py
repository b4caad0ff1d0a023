"""The operators under autograd and torch's transforms: what works, and what is refused by name."""

from __future__ import annotations

import concurrent.futures
import traceback

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import checkpoint

from attncc import pipeline
from attncc.errors import InputError, UnsupportedError
from attncc.frontend import parse
from attncc.reference import reference
from attncc.runtime import build, op, steps
from tests.numeric.kernels import attend, difference

CAUSAL = parse("attn 1\nattention causal:\n  mask = q_idx >= kv_idx\n")
ALIBI = parse(
    """attn 1
attention alibi(window: int = 30):
  capture slopes: float[heads]
  distance = q_idx - kv_idx
  mask = distance >= 0 and distance < window
  score = score - slopes[h] * distance
"""
)
TABLE = parse("attn 1\nattention table:\n  capture table: float[_]\n  score = score + table[kv_idx]\n")
DOCUMENTS = parse(
    "attn 1\nattention documents:\n  capture ids: int[q_len]\n  capture bias: float[_]\n"
    "  mask = q_idx >= kv_idx and ids[q_idx] == ids[kv_idx]\n  score = score + bias[q_idx - kv_idx]\n"
)


def qkv(
    batch: int = 2, heads: int = 4, q_len: int = 50, kv_len: int = 50, dim: int = 8, dtype: torch.dtype = torch.float32
) -> list[Tensor]:
    return [torch.randn(batch, heads, n, dim, dtype=dtype, requires_grad=True) for n in (q_len, kv_len, kv_len)]


def slopes() -> Tensor:
    return torch.rand(4, requires_grad=True)


def sdpa(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def grads(out: Tensor, *inputs: Tensor) -> tuple[Tensor, ...]:
    return torch.autograd.grad(out.sum(), inputs)


# numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype_agrees_with_torch(dtype):
    q, k, v = qkv(dtype=dtype)
    out, lse = attend(CAUSAL, q, k, v)
    wide = [t.detach().double().requires_grad_() for t in (q, k, v)]
    wanted = sdpa(*wide)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    assert out.dtype == dtype
    assert lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    for found, expected in zip((out, *grads(out, q, k, v)), (wanted, *grads(wanted, *wide)), strict=True):
        assert found.dtype == dtype
        assert difference(found, expected) <= tolerance


@pytest.mark.parametrize(("batch", "q_len", "kv_len"), [(0, 5, 5), (2, 0, 5), (2, 5, 0)])
def test_empty_dimensions_give_zeros_and_lse_of_minus_infinity(batch, q_len, kv_len):
    q, k, v = qkv(batch=batch, q_len=q_len, kv_len=kv_len)
    bias = slopes()
    out, lse = attend(ALIBI, q, k, v, (bias,))
    assert out.shape == (batch, 4, q_len, 8)
    assert not out.any()
    assert (lse == -torch.inf).all()
    assert not any(grad.any() for grad in grads(out, q, k, v, bias))


def test_rows_without_a_visible_key_give_zeros_everywhere():
    spec = parse("attn 1\nattention late:\n  mask = kv_idx > q_idx + 20\n")
    q, k, v = qkv()
    out, lse = attend(spec, q, k, v)
    assert not out[:, :, 29:].any()
    assert (lse[:, :, 29:] == -torch.inf).all()
    assert lse[:, :, :29].isfinite().all()
    (grad,) = grads(out, q)
    assert grad.isfinite().all()
    assert not grad[:, :, 29:].any()


def test_one_batch_of_keys_serves_all_queries():
    q, k, v = qkv(batch=3)
    k, v = (t.detach()[:1, :2].clone().requires_grad_() for t in (k, v))
    found = grads(attend(CAUSAL, q, k, v)[0], q, k, v)
    whole = [t.expand(3, -1, -1, -1).repeat_interleave(2, 1) for t in (k, v)]
    for ours, wanted in zip(found, grads(sdpa(q, *whole), q, k, v), strict=True):
        assert difference(ours, wanted) <= 1e-5


def test_gradients_of_the_same_tensor_add_up():
    q, _, _ = qkv()
    assert difference(*grads(attend(CAUSAL, q, q, q)[0], q), *grads(sdpa(q, q, q), q)) <= 1e-5


def test_lse_alone_can_be_differentiated():
    q, k, v = qkv()
    found = torch.autograd.grad(attend(CAUSAL, q, k, v)[1].sum(), (q, k, v))
    wanted = torch.autograd.grad(reference(CAUSAL, q, k, v, return_lse=True)[1].sum(), (q, k))
    assert not found[2].any()
    assert difference(found[0], wanted[0]) <= 1e-5
    assert difference(found[1], wanted[1]) <= 1e-5


@pytest.mark.parametrize("needing", range(4))
def test_only_what_needs_a_gradient_gets_one(needing):
    tensors = [t.detach() for t in (*qkv(), slopes())]
    tensors[needing].requires_grad_()
    out, _ = attend(ALIBI, *tensors[:3], (tensors[3],))
    out.sum().backward()
    assert [t.grad is not None for t in tensors] == [i == needing for i in range(4)]


def test_a_capture_that_only_the_mask_reads_gets_no_gradient():
    spec = parse("attn 1\nattention near:\n  capture reach: float[heads]\n  mask = q_idx - kv_idx < reach[h]\n")
    (q, k, v), reach = qkv(), torch.tensor([1.0, 2.0, 3.0, 4.0], requires_grad=True)
    attend(spec, q, k, v, (reach,))[0].sum().backward()
    assert reach.grad is None


def test_gradients_are_the_same_bits_each_time():
    (q, k, v), bias = qkv(q_len=300, kv_len=300), torch.randn(599, requires_grad=True)
    spec = parse("attn 1\nattention t:\n  capture t: float[_]\n  score = score + t[q_idx - kv_idx + 299]\n")
    runs = [grads(attend(spec, q, k, v, (bias,))[0], q, k, v, bias) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_a_nan_row_stays_alone():
    q, k, v = (t.detach() for t in qkv())
    spec = parse(
        "attn 1\nattention bad:\n  capture t: float[q_len]\n  mask = q_idx >= kv_idx\n  score = score + t[q_idx]\n"
    )
    bias = torch.zeros(50)
    bias[[7, 20]] = torch.tensor([torch.nan, torch.inf])
    out, lse = attend(spec, q, k, v, (bias,))
    lost = out.isnan().any(-1)[0, 0].nonzero().flatten().tolist()
    assert lost == lse.isnan()[0, 0].nonzero().flatten().tolist() == [7, 20]


# reads beyond a tensor -------------------------------------------------------------------------------------------


def test_a_read_beyond_a_tensor_is_refused_with_its_places():
    with pytest.raises(InputError, match="`table` has size 40 in dimension 0, but is read at 40 to 49"):
        attend(TABLE, *qkv(), (torch.randn(40),))


def test_a_read_beyond_a_tensor_makes_its_rows_nan_where_bounds_are_not_checked():
    spec = parse(
        "attn 1\nattention t:\n  capture table: float[_]\n  mask = q_idx >= kv_idx\n  score = score + table[kv_idx]\n"
    )
    (q, k, v), table = qkv(), torch.randn(40, requires_grad=True)
    out, lse = attend(spec, q, k, v, (table,), check_bounds=False)
    assert out[:, :, :40].isfinite().all()
    assert out[:, :, 40:].isnan().all()
    assert lse[:, :, 40:].isnan().all()


def test_a_read_beyond_a_tensor_is_harmless_where_the_mask_hides_it():
    (q, k, v), ids, bias = qkv(), torch.zeros(50, dtype=torch.int64), torch.randn(50)
    out, _ = attend(DOCUMENTS, q, k, v, (ids, bias))
    wanted = reference(DOCUMENTS, q, k, v, (ids, bias))
    assert difference(out, wanted) <= 1e-5


# torch's transforms ----------------------------------------------------------------------------------------------


def test_autocast_casts_as_torch_does():
    q, k, v = qkv()
    with torch.autocast("cpu", torch.bfloat16):
        out, lse = attend(CAUSAL, q, k, v)
        wanted = sdpa(q, k, v)
    assert (out.dtype, lse.dtype) == (wanted.dtype, torch.float32)
    assert difference(out, wanted) <= 2e-2
    assert grads(out.float(), q)[0].dtype == torch.float32


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_recompute_the_same(reentrant):
    (q, k, v), bias = qkv(), slopes()

    def run(q: Tensor) -> Tensor:
        return attend(ALIBI, q, k, v, (bias,))[0].sum()

    run(q).backward()
    plain, q.grad = q.grad, None
    checkpoint(run, q, use_reentrant=reentrant).backward()
    assert torch.equal(plain, q.grad)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_sees_no_graph_break(dynamic):
    (q, k, v), bias, text = qkv(), slopes(), pipeline.remember(ALIBI)

    def run(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        return op.attend(text, q * 2, k, v, (bias,), (30,), scale=0.3)[0].cos()

    compiled = torch.compile(run, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    found, wanted = compiled(q, k, v, bias), run(q, k, v, bias)
    assert torch.equal(found, wanted)
    assert all(torch.equal(a, b) for a, b in zip(grads(found, q, bias), grads(wanted, q, bias), strict=True))


def test_torch_finds_the_operator_well_made():
    (q, k, v), text = qkv(q_len=9, kv_len=9), pipeline.remember(ALIBI)
    # the last argument before the switches names the back end
    given = (q, k, v, [slopes()], [30], 0.3, text, 0, 0, "torch", False, False, True)
    torch.library.opcheck(torch.ops.attncc.forward.default, given)


def test_double_backward_is_refused():
    q, k, v = qkv()
    (grad,) = torch.autograd.grad(attend(CAUSAL, q, k, v)[0].sum(), q, create_graph=True)
    with pytest.raises(UnsupportedError, match="twice"):
        grad.sum().backward()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch.func itself uses it
def test_forward_mode_is_refused():
    q, k, v = (t.detach() for t in qkv())
    with pytest.raises(UnsupportedError, match="forward mode"):
        torch.func.jvp(lambda q: attend(CAUSAL, q, k, v)[0], (q,), (q,))
    with forward_ad.dual_level(), pytest.raises(UnsupportedError, match="forward mode"):
        attend(CAUSAL, forward_ad.make_dual(q, q), k, v)


def test_vmap_is_refused():
    q, k, v = (torch.randn(3, 2, 4, 5, 8) for _ in range(3))
    with pytest.raises(UnsupportedError, match="vmap"):
        torch.vmap(lambda q, k, v: attend(CAUSAL, q, k, v)[0])(q, k, v)


def test_a_change_between_forward_and_backward_is_torchs_own_error():
    q, k, v = qkv()
    changed = q * 1
    out, _ = attend(CAUSAL, changed, k, v)
    changed.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


# memory and threads ----------------------------------------------------------------------------------------------


class Allocations(TorchDispatchMode):
    """Remembers the largest tensor that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else (result,):
            if isinstance(each, Tensor):
                self.largest = max(self.largest, each.untyped_storage().nbytes())
        return result


WINDOWED_TABLE = parse(
    "attn 1\nattention t:\n  capture t: float[_]\n  mask = q_idx - kv_idx < 99\n"
    "  score = score + t[abs(q_idx - kv_idx)]\n"
)
PACKED = parse("attn 1\nattention packed:\n  capture ids: int[q_len]\n  mask = ids[q_idx] == ids[kv_idx]\n")


@pytest.mark.parametrize(
    ("spec", "captures"),
    [
        (CAUSAL, lambda n: ()),
        (WINDOWED_TABLE, lambda n: (torch.randn(n, requires_grad=True),)),
        (PACKED, lambda n: (torch.arange(n) // 200,)),
    ],
    ids=["causal", "windowed_table", "packed"],
)
def test_no_tensor_grows_with_the_square_of_the_length(spec, captures, monkeypatch):
    seen, find = Allocations(), op._kernel

    def watched(*args):
        kernel = find(*args)

        def run(*inner):
            with seen:
                return kernel(*inner)

        return run

    monkeypatch.setattr(op, "_kernel", watched)
    largest = []
    for length in (4096, 8192):
        q, k, v = (torch.randn(1, 1, length, 4, requires_grad=True) for _ in range(3))
        given, seen.largest = captures(length), 0
        out, _ = attend(spec, q, k, v, given)
        torch.autograd.grad(out.sum(), [t for t in (q, k, v, *given) if t.requires_grad])
        largest.append(seen.largest)
    # A step of scores has a fixed size, with int64 indices 8 MiB; nothing else is larger than 32 bytes a position.
    assert largest[0] > 0
    assert largest[1] <= max(largest[0], 32 * 8192, 8 << 20)


SHARED = parse(
    "attn 1\nattention shared(reach: int = 90):\n  capture table: float[_]\n  capture slopes: float[heads]\n"
    "  mask = q_idx - kv_idx < reach + 20 * h\n  score = score * slopes[h] + table[abs(q_idx - kv_idx)]\n"
)


@pytest.mark.parametrize(("batch", "kv_batch", "kv_heads"), [(2, 2, 6), (2, 1, 6), (1, 1, 2), (3, 3, 1)])
def test_shares_of_heads_on_threads_give_the_same(batch, kv_batch, kv_heads, monkeypatch):
    q, k, v = (torch.randn(b, h, 300, 8) for b, h in ((batch, 6), (kv_batch, kv_heads), (kv_batch, kv_heads)))
    inputs = [t.requires_grad_() for t in (q, k, v, torch.randn(300), torch.rand(6))]
    before = torch.get_num_threads()

    def run() -> list[Tensor]:
        out, lse = attend(SHARED, *inputs[:3], tuple(inputs[3:]))
        return [out, lse, *torch.autograd.grad((out.sin()).sum() + lse.sum(), inputs)]

    alone = run()
    try:
        torch.set_num_threads(3)
        monkeypatch.setattr(steps, "WORTH_A_THREAD", 0)
        shared, again = run(), run()
    finally:
        torch.set_num_threads(before)
    assert [difference(a, b) for a, b in zip(shared, again, strict=True)] == [0.0] * len(shared)
    assert max(difference(a, b) for a, b in zip(shared, alone, strict=True)) <= 1e-5


def test_threads_share_one_kernel():
    (q, k, v), bias = qkv(), slopes()
    for memory in (pipeline._LOWERED, op._KERNELS, build._BUILT):
        memory.clear()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        outs = list(pool.map(lambda _: attend(ALIBI, q, k, v, (bias,))[0].detach(), range(16)))
    assert all(torch.equal(outs[0], out) for out in outs)
    assert len(build._BUILT) == 1


def test_lengths_and_parameters_share_one_kernel():
    build._BUILT.clear()
    for length, window in ((50, 3), (51, 30), (300, 7)):
        attend(ALIBI, *qkv(q_len=length, kv_len=length), (slopes(),), (window,))
    assert len(build._BUILT) == 1


def test_a_traceback_shows_the_lines_of_the_kernel():
    try:
        attend(TABLE, *qkv(), (torch.randn(40),))
    except InputError as error:
        lines = [frame.line for frame in traceback.extract_tb(error.__traceback__)]
    assert any(line is not None and line.startswith("refuse_outside(") for line in lines)
