import copy
import pickle
import threading

import pytest
import torch
from torch import nn

import attncc
from attncc.errors import InputError, UnsupportedError
from tests.api.cases import WINDOW, agree, causal, halve, inputs

SLOPES = torch.linspace(0.1, 1.0, 4)


def alibi(score, b, h, q_idx, kv_idx):
    return score - SLOPES[h] * (q_idx - kv_idx)


def gradients(variant, tensors, backend, **given):
    out, lse = variant(*tensors, backend=backend, return_lse=True, **given)
    wanted = [tensor for tensor in (*tensors, *given.values()) if tensor.requires_grad]
    return torch.autograd.grad((out * out).sum() + lse.sum(), wanted)


def test_gradients_flow_through_out_and_lse_to_every_input():
    variant = attncc.loads(WINDOW)
    tensors, slopes = inputs(grad=True), SLOPES.clone().requires_grad_()
    agree(
        gradients(variant, tensors, "torch", slopes=slopes), gradients(variant, tensors, "reference", slopes=slopes), 10
    )


@pytest.mark.parametrize("wanted", range(4))
def test_only_some_inputs_may_need_gradients(wanted):
    variant = attncc.loads(WINDOW)
    *tensors, slopes = (tensor.requires_grad_(i == wanted) for i, tensor in enumerate((*inputs(), SLOPES.clone())))
    agree(
        gradients(variant, tensors, "torch", slopes=slopes), gradients(variant, tensors, "reference", slopes=slopes), 10
    )


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
def test_shapes_of_out_and_lse(backend):
    q, k, v = inputs(q=(2, 4, 5, 8), kv_len=7, value_dim=6)
    out, lse = attncc.compile(mask_mod=causal)(q, k, v, backend=backend, return_lse=True)
    assert out.shape == (2, 4, 5, 6)
    assert lse.shape == (2, 4, 5)
    assert out.dtype is lse.dtype is torch.float32


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize(
    ("dtype", "lse"), [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)]
)
def test_lse_is_float32_or_better(backend, dtype, lse):
    out, found = attncc.compile(mask_mod=causal)(*inputs(dtype=dtype), backend=backend, return_lse=True)
    assert (out.dtype, found.dtype) == (dtype, lse)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("shape", [{"q": (0, 4, 5, 8)}, {"q": (2, 4, 0, 8)}, {"q": (2, 4, 5, 8), "kv_len": 0}])
def test_empty_dimensions_give_empty_or_zero_results(backend, shape):
    tensors = inputs(**shape, grad=True)
    out, lse = attncc.compile(halve, causal)(*tensors, backend=backend, return_lse=True)
    assert out.shape == tensors[0].shape
    assert not out.any()
    assert bool((lse == -torch.inf).all())
    out.sum().backward()
    assert all(tensor.grad is not None and not tensor.grad.any() for tensor in tensors)


def test_a_batch_of_one_in_k_and_v_gets_summed_gradients():
    q, k, v = inputs(q=(3, 4, 9, 8))
    one = [tensor[:1].clone().requires_grad_() for tensor in (k, v)]
    copies = [tensor.detach().repeat(3, 1, 1, 1).requires_grad_() for tensor in one]
    variant = attncc.compile(mask_mod=causal)
    out, expected = variant(q, *one), variant(q, *copies)
    agree(out, expected)
    ours = torch.autograd.grad(out.square().sum(), one)
    theirs = torch.autograd.grad(expected.square().sum(), copies)
    agree(ours, tuple(gradient.sum(0, keepdim=True) for gradient in theirs), 10)


def test_output_strides_follow_those_of_q():
    q, k, v = (torch.randn(2, 33, 4, 8).transpose(1, 2) for _ in range(3))
    out = attncc.compile(mask_mod=causal)(q, k, v)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
    assert out.stride() == expected.stride() == q.stride()


def test_a_last_dimension_that_is_not_contiguous_is_copied():
    q, k, v = inputs(kv_heads=4)
    strided = [tensor.mT.contiguous().mT for tensor in (q, k, v)]
    variant = attncc.compile(mask_mod=causal)
    agree(variant(*strided), variant(q, k, v))


def test_one_tensor_may_be_query_key_and_value():
    x = torch.randn(2, 4, 20, 8, requires_grad=True)
    variant = attncc.compile(halve, causal)
    (ours,) = torch.autograd.grad(variant(x, x, x).square().sum(), x)
    (expected,) = torch.autograd.grad(variant(x, x, x, backend="reference").square().sum(), x)
    agree(ours, expected, 10)


def test_an_in_place_change_before_backward_raises_torchs_error():
    q, k, v = inputs(grad=True)
    held = k * 1.0
    out = attncc.compile(mask_mod=causal)(q, held, v)
    held.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_gives_the_same_gradients(reentrant):
    from torch.utils.checkpoint import checkpoint

    variant, tensors = attncc.compile(alibi, causal), inputs(grad=True)
    plain = torch.autograd.grad(variant(*tensors).square().sum(), tensors)
    checkpoint(variant, *tensors, use_reentrant=reentrant).square().sum().backward()
    agree(tuple(tensor.grad for tensor in tensors), plain)


def test_autocast_computes_in_its_dtype_and_returns_gradients_in_theirs():
    tensors = inputs(grad=True)
    variant = attncc.compile(mask_mod=causal)
    with torch.autocast("cpu", torch.bfloat16):
        out, lse = variant(*tensors, return_lse=True)
        outside = variant(*(tensor.detach().bfloat16() for tensor in tensors))
    assert (out.dtype, lse.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(out, variant(*(tensor.detach().bfloat16() for tensor in tensors)))
    torch.testing.assert_close(out, outside)
    out.float().sum().backward()
    assert all(tensor.grad.dtype is torch.float32 for tensor in tensors)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")  # torch, when it loads forward mode
def test_double_backward_forward_mode_and_vmap_are_refused_by_name():
    variant, (q, k, v) = attncc.compile(mask_mod=causal), inputs(grad=True)
    (gradient,) = torch.autograd.grad(variant(q, k, v).square().sum(), q, create_graph=True)
    with pytest.raises(UnsupportedError, match="double backward"):
        gradient.sum().backward()
    with pytest.raises(UnsupportedError, match="forward"):
        torch.func.jvp(lambda q: variant(q, k, v), (q.detach(),), (torch.ones_like(q),))
    with pytest.raises(UnsupportedError, match="vmap"):
        torch.vmap(lambda q: variant(q, k.detach(), v.detach()))(torch.randn(3, *q.shape))


def test_parameters_and_captures_of_a_call_replace_the_surroundings():
    q, k, v = inputs()
    variant = attncc.compile(alibi, causal)
    assert not torch.allclose(variant(q, k, v), variant(q, k, v, SLOPES=torch.zeros(4)))
    agree(variant(q, k, v, SLOPES=torch.zeros(4)), attncc.compile(mask_mod=causal)(q, k, v))


def test_bad_names_and_values_are_input_errors():
    q, k, v = inputs()
    variant = attncc.loads(WINDOW)
    for given, message in (
        ({}, "`windowed_alibi` needs slopes=... (float[heads])"),
        ({"slope": SLOPES}, "did you mean `slopes`?"),
        ({"slopes": SLOPES, "window": 1.5}, "parameter `window` must be an int"),
        ({"slopes": SLOPES[:2]}, "`heads` is 4 here"),
        ({"slopes": SLOPES, "backend": "fast"}, "there is no back end 'fast'"),
        ({"slopes": SLOPES, "scale": float("nan")}, "`scale` is nan"),
        ({"slopes": SLOPES, "block_m": 0}, "`block_m` must be from 1"),
    ):
        with pytest.raises(InputError) as caught:
            variant(q, k, v, **given)
        assert message in str(caught.value)


def test_new_values_new_tensors_and_new_buffers_are_seen():
    q, k, v = inputs()

    class Bias(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("slopes", torch.rand(4))

        def bias(self, score, b, h, q_idx, kv_idx):
            return score - self.slopes[h] * (q_idx - kv_idx)

    module = Bias()
    variant = attncc.compile(module.bias, causal)
    reference = attncc.loads(WINDOW, window=1000)
    for change in (lambda: None, lambda: module.slopes.mul_(2), lambda: setattr(module, "slopes", torch.rand(4))):
        change()
        agree(variant(q, k, v), reference(q, k, v, slopes=module.slopes))
    module.to(torch.float64)
    agree(
        variant(q.double(), k.double(), v.double()), reference(q.double(), k.double(), v.double(), slopes=module.slopes)
    )


def test_eight_threads_compile_and_call_one_variant():
    from attncc.api import program

    program.clear()
    q, k, v = inputs()
    expected = attncc.loads(WINDOW, window=1000)(q, k, v, slopes=SLOPES)
    variant = attncc.compile(alibi, causal)
    program.clear()
    start, found = threading.Barrier(8), []

    def call():
        start.wait()
        found.append(variant(q, k, v))

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    for out in found:
        agree(out, expected)


def test_a_variant_of_text_pickles_with_its_values():
    q, k, v = inputs()
    variant = attncc.loads(WINDOW, window=5, slopes=SLOPES)
    again = pickle.loads(pickle.dumps(variant))
    assert again.text == variant.text
    agree(again(q, k, v), variant(q, k, v))


def test_a_variant_of_importable_functions_pickles_by_reference():
    again = pickle.loads(pickle.dumps(attncc.compile(alibi, causal)))
    assert again.score_mod is alibi
    assert again.mask_mod is causal


def test_a_variant_of_closures_pickles_what_they_capture_now():
    q, k, v = inputs()
    slopes, window = SLOPES.clone(), 7
    variant = attncc.compile(
        lambda score, b, h, q_idx, kv_idx: score - slopes[h] * (q_idx - kv_idx),
        lambda b, h, q_idx, kv_idx: (q_idx >= kv_idx) & (q_idx - kv_idx < window),
    )
    before = variant(q, k, v)
    again = pickle.loads(pickle.dumps(variant))
    slopes.mul_(3)
    agree(again(q, k, v), before)
    assert not torch.allclose(variant(q, k, v), before)


class Warm(nn.Module):
    """A module whose attention reads its own parameter."""

    def __init__(self):
        super().__init__()
        self.temperature = nn.Parameter(torch.full((4,), 2.0))
        self.attention = attncc.compile(self.heat, causal)

    def heat(self, score, b, h, q_idx, kv_idx):
        return score / self.temperature[h]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_copied_module_reads_its_own_parameter(again):
    q, k, v = inputs()
    module = Warm()
    twin = again(module)
    agree(twin.attention(q, k, v), module.attention(q, k, v))
    with torch.no_grad():
        twin.temperature.fill_(0.1)
    assert not torch.allclose(twin.attention(q, k, v), module.attention(q, k, v))
    twin.attention(q, k, v).square().sum().backward()
    assert twin.temperature.grad is not None
    assert module.temperature.grad is None


def test_copies_of_variants_agree():
    q, k, v = inputs()
    variant = attncc.loads(WINDOW, slopes=SLOPES)
    for again in (copy.copy(variant), copy.deepcopy(variant)):
        agree(again(q, k, v), variant(q, k, v))


def test_the_source_is_the_code_of_both_passes():
    import ast

    source = attncc.loads(WINDOW).source(*inputs(), slopes=SLOPES)
    ast.parse(source)
    assert "windowed_alibi" in source
    assert "backward" in source


def test_a_variant_is_made_of_a_spec():
    with pytest.raises(InputError, match=r"attncc\.load a path"):
        attncc.Variant("window.attn")


def test_bound_values_are_defaults():
    q, k, v = inputs()
    variant = attncc.loads(WINDOW)
    agree(variant.bind(slopes=SLOPES, window=3)(q, k, v), variant(q, k, v, slopes=SLOPES, window=3))
    with pytest.raises(InputError, match="`windowed_alibi` has no captured tensor or parameter `x`"):
        variant.bind(x=1)


def test_an_error_names_the_capture_of_its_own_definition_where_kernels_are_shared():
    q, k, v = inputs(q=(1, 1, 5, 8), kv_heads=1)
    for name in ("first", "second"):
        text = f"attention x:\n  capture {name}: float[_]\n  score = score + {name}[kv_idx]\n"
        with pytest.raises(InputError, match=f"`{name}` has size 3 in dimension 0, but is read at 3 to 4"):
            attncc.loads(text)(q, k, v, **{name: torch.zeros(3)})
