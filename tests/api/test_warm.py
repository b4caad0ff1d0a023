"""Warm calls: looked up by layout and still right when anything changes; torch's tools see the operator."""

import concurrent.futures
import gc
import weakref

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import attncc
from attncc.api import warm
from attncc.errors import InputError, UnsupportedError
from attncc.runtime import eager
from tests.api.cases import WINDOW, causal, inputs

ALIBI = "attn 1\nattention alibi(window: int = 9):\n  capture slopes: float[heads]\n  mask = q_idx - kv_idx < window\n"
ALIBI += "  score = score - slopes[h] * (q_idx - kv_idx)\n"


class Passing(TorchFunctionMode):
    """Changes nothing; calls under it go through the operator."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {}))


class Recording(TorchDispatchMode):
    """Notes the operators that run."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(str(func))
        return func(*args, **(kwargs or {}))


def results(variant, tensors, **given):
    """out, lse, and the gradients of all leaves."""
    out, lse = variant(*tensors, return_lse=True, **given)
    leaves = [t for t in (*tensors, *given.values()) if isinstance(t, Tensor) and t.requires_grad]
    return out, lse, *torch.autograd.grad(out.sin().sum() + lse.cos().sum(), leaves)


def test_results_and_gradients_are_those_of_the_operator():
    variant, tensors, slopes = attncc.loads(ALIBI), inputs(grad=True), torch.rand(4, requires_grad=True)
    for _ in range(2):
        ours = results(variant, tensors, slopes=slopes)
        with Passing():
            wanted = results(variant, tensors, slopes=slopes)
        assert len(ours) == 6
        assert all(torch.equal(a, b) for a, b in zip(ours, wanted, strict=True))


def test_a_warm_call_checks_nothing_again(monkeypatch):
    variant, tensors = attncc.compile(mask_mod=causal), inputs()
    wanted = variant(*tensors)
    attncc.attention(*tensors, mask_mod=causal)
    monkeypatch.setattr(warm, "check_inputs", None)
    monkeypatch.setattr(warm, "make_call", None)
    assert torch.equal(variant(*tensors), wanted)
    assert torch.equal(attncc.attention(*tensors, mask_mod=causal), wanted)
    with pytest.raises(TypeError):  # another length is another layout
        variant(*(t[:, :, :5] for t in tensors))


def test_what_equals_a_known_value_is_still_checked():
    variant, tensors, slopes = attncc.loads(ALIBI), inputs(), torch.rand(4)
    variant(*tensors, slopes=slopes, scale=1.0, window=1)
    with pytest.raises(InputError, match="`scale` must be a number"):
        variant(*tensors, slopes=slopes, scale=True, window=1)
    with pytest.raises(InputError, match="`window` must be an int"):
        variant(*tensors, slopes=slopes, scale=1.0, window=True)
    with pytest.raises(InputError, match="`window` must be an int"):
        variant(*tensors, slopes=slopes, scale=1.0, window=1.0)
    with pytest.raises(InputError, match="slopes"):
        variant(*tensors, scale=1.0, window=1)
    with pytest.raises(InputError, match="slopes"):
        variant(*tensors, slopes=torch.rand(5), scale=1.0, window=1)
    with pytest.raises(InputError, match="block_m"):
        variant(*tensors, slopes=slopes, block_m=True)


def test_captured_values_are_read_in_each_call():
    tensors, slopes, size = inputs(), torch.rand(4), 3

    def score_mod(score, b, h, q_idx, kv_idx):
        return score - slopes[h] * (q_idx - kv_idx)

    def mask_mod(b, h, q_idx, kv_idx):
        return abs(q_idx - kv_idx) < size

    variant = attncc.compile(score_mod, mask_mod)
    for change in ("nothing", "in place", "another tensor", "a number", "another dtype"):
        if change == "in place":
            slopes.mul_(2)
        elif change == "another tensor":
            slopes = torch.rand(4)
        elif change == "a number":
            size = 7
        elif change == "another dtype":
            slopes = slopes.to(torch.bfloat16)
        with Passing():
            wanted = variant(*tensors)
        assert torch.equal(variant(*tensors), wanted), change
        assert torch.equal(attncc.attention(*tensors, score_mod, mask_mod), wanted), change


def test_a_call_that_is_ready_reads_what_functions_make_and_notices_when_it_changes(monkeypatch):
    tensors, slopes, size = inputs(), torch.rand(4), 3

    def score_mod(score, b, h, q_idx, kv_idx):
        return score - (slopes * 2)[h] * (q_idx - kv_idx)

    def mask_mod(b, h, q_idx, kv_idx):
        return abs(q_idx - kv_idx) < size

    variant = attncc.compile(score_mod, mask_mod)
    for _ in range(3):
        variant(*tensors)
        attncc.attention(*tensors, score_mod, mask_mod)
    with monkeypatch.context() as patch:
        patch.setattr(warm, "_checked", None)  # such a call is looked up by its arguments alone
        variant(*tensors)
        attncc.attention(*tensors, score_mod, mask_mod)
        with pytest.raises(TypeError):
            variant(*tensors, scale=0.5)
    for change in ("in place", "another number", "another kind of number", "another dtype"):
        if change == "in place":
            slopes.mul_(3)
        elif change == "another number":
            size = 7
        elif change == "another kind of number":
            size = 3.5
        else:
            slopes = slopes.double()
        with Passing():
            wanted = variant(*tensors)
        assert all(torch.equal(variant(*tensors), wanted) for _ in range(3)), change


def test_gradients_are_made_for_what_needs_them_now():
    variant, tensors = attncc.compile(mask_mod=causal), inputs()
    assert not variant(*tensors).requires_grad
    tensors[1].requires_grad_()
    out = variant(*tensors)
    out.sum().backward()
    assert [t.grad is not None for t in tensors] == [False, True, False]
    with torch.no_grad():
        assert not variant(*tensors).requires_grad
    with torch.inference_mode():
        assert variant(*tensors).is_inference()


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")  # torch.func itself uses it
def test_what_cannot_be_differentiated_is_refused():
    variant, (q, k, v) = attncc.compile(mask_mod=causal), inputs(grad=True)
    (grad,) = torch.autograd.grad(variant(q, k, v).sum(), q, create_graph=True)
    with pytest.raises(UnsupportedError, match="twice"):
        grad.sum().backward()
    plain = q.detach()
    with forward_ad.dual_level(), pytest.raises(UnsupportedError, match="forward mode"):
        variant(forward_ad.make_dual(plain, plain), k, v)
    with pytest.raises(UnsupportedError, match="vmap"):
        torch.vmap(lambda q: variant(q, k, v))(torch.stack([plain, plain]))
    changed = q * 1
    out = variant(changed, k, v)
    changed.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_batched_gradients_are_torchs_own_error():
    variant, tensors = attncc.compile(mask_mod=causal), inputs(grad=True)
    out = variant(*tensors)
    with pytest.raises(RuntimeError, match="Batching rule not implemented for attncc::backward"):
        torch.autograd.grad(out, tensors, torch.ones((2, *out.shape)), is_grads_batched=True)


def test_results_may_be_changed_in_place():
    variant, tensors = attncc.compile(mask_mod=causal), inputs(grad=True)
    out, lse = variant(*tensors, return_lse=True)
    lse.mul_(2)
    (found,) = torch.autograd.grad(lse.sum(), tensors[0])
    (half,) = torch.autograd.grad(variant(*tensors, return_lse=True)[1].sum(), tensors[0])
    assert torch.equal(found, half * 2)
    out = variant(*tensors).mul_(2)
    with pytest.raises(
        RuntimeError, match="modified by an inplace operation"
    ):  # backward needs it, as torch's own does
        out.sum().backward()


def test_tools_of_torch_see_the_operator():
    variant, tensors = attncc.loads(WINDOW), inputs()
    call = lambda *tensors: variant(*tensors, slopes=torch.ones(4))  # noqa: E731  # it is traced
    call(*tensors)
    with Recording() as recording:
        call(*tensors)
    assert "attncc.forward.default" in recording.seen
    graph = make_fx(call)(*tensors).graph
    assert any(str(node.target) == "attncc.forward.default" for node in graph.nodes)


def test_a_profile_names_the_forward_pass():
    variant, tensors = attncc.compile(mask_mod=causal), inputs()
    variant(*tensors)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        variant(*tensors)
    assert "attncc::forward" in [event.key for event in found.key_averages()]


def test_a_call_is_plain_only_where_operations_just_run():
    assert eager.is_plain()
    with Passing():
        assert not eager.is_plain()
    with Recording():
        assert not eager.is_plain()
    with forward_ad.dual_level():
        assert not eager.is_plain()
    seen = []
    torch.vmap(lambda x: seen.append(eager.is_plain()) or x)(torch.ones(2))
    assert seen == [False]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_tensors_that_are_not_plain_memory_have_no_layout():
    class Own(Tensor):
        pass

    plain = torch.randn(2, 3)
    assert eager.layout_of(plain) == eager.layout_of(torch.nn.Parameter(plain))
    negative = torch.randn(2, 3, dtype=torch.complex64).conj().imag
    strange = (plain.as_subclass(Own), plain.to_sparse(), plain.to("meta"), negative, None, [1.0])
    assert [eager.layout_of(each) for each in strange] == [None] * 6
    nested = torch.nested.nested_tensor([plain, plain])
    assert eager.layout_of(nested) is None


def test_negated_views_are_read_as_what_they_are():
    variant, (_, k, v) = attncc.compile(mask_mod=causal), inputs()
    q = torch.randn(*k.shape, dtype=torch.complex128 if k.dtype == torch.float64 else torch.complex64).conj().imag
    assert q.is_neg()
    assert torch.equal(variant(q, k, v), variant(q.resolve_neg(), k, v))


def test_autocast_is_followed_in_each_call():
    variant, tensors = attncc.compile(mask_mod=causal), [t.float().requires_grad_() for t in inputs()]
    assert variant(*tensors).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(2):
            out = variant(*tensors)
            assert out.dtype == torch.bfloat16
            assert torch.autograd.grad(out.sum(), tensors)[0].dtype == torch.float32
    assert variant(*tensors).dtype == torch.float32


def test_no_captured_tensor_is_kept_alive():
    variant, slopes = attncc.loads(ALIBI), torch.rand(4)
    variant(*inputs(), slopes=slopes)
    gone = weakref.ref(slopes)
    del slopes
    gc.collect()
    assert gone() is None


def test_threads_call_one_variant_with_different_values():
    variant, tensors = attncc.loads(ALIBI), inputs()
    given = [{"slopes": torch.rand(4), "window": n % 5 + 1} for n in range(64)]
    wanted = [variant(*tensors, **each) for each in given]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda each: variant(*tensors, **each), given))
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
