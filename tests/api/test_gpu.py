"""Calls on a GPU, beside the reference there."""

import pytest
import torch

import attncc
from attncc.errors import InputError
from tests.api.cases import WINDOW, agree, causal, inputs

pytestmark = pytest.mark.gpu


def on_gpu(**options):
    return tuple(tensor.detach().cuda().requires_grad_() for tensor in inputs(**options))


def gradients(variant, tensors, backend, **given):
    out, lse = variant(*tensors, backend=backend, return_lse=True, **given)
    wanted = [tensor for tensor in (*tensors, *given.values()) if tensor.requires_grad]
    return (out, lse, *torch.autograd.grad((out * out).sum() + lse.sum(), wanted))


@pytest.mark.parametrize("backend", ["auto", "torch", "triton"])
def test_every_back_end_agrees_with_the_reference(backend):
    variant, tensors = attncc.loads(WINDOW), on_gpu(q=(2, 4, 300, 64))
    slopes = torch.linspace(0.1, 1, 4, device="cuda", requires_grad=True)
    ours = gradients(variant, tensors, backend, slopes=slopes)
    agree(ours, gradients(variant, tensors, "reference", slopes=slopes), 100)


def test_auto_is_triton_and_says_so():
    variant, tensors = attncc.loads(WINDOW), on_gpu(q=(2, 4, 300, 64))
    slopes = torch.ones(4, device="cuda")
    assert variant.explain(*tensors, slopes=slopes).call.backend == "triton"
    assert "triton.jit" in variant.source(*tensors, slopes=slopes)


def test_a_number_may_stay_on_the_cpu_and_still_gets_its_gradient():
    text = "attention a:\n  capture t: float\n  mask = q_idx >= kv_idx\n  score = score * t\n"
    variant, tensors = attncc.loads(text), on_gpu()
    number = torch.tensor(0.7, requires_grad=True)
    ours = gradients(variant, tensors, "auto", t=number)
    theirs = gradients(variant, tensors, "reference", t=number)
    agree(ours, theirs, 100)
    assert ours[-1].device.type == "cpu"


def test_any_other_tensor_must_be_where_q_is():
    with pytest.raises(InputError, match=r"`slopes` is on cpu, but q is on cuda:0\nhint: pass slopes.to\('cuda:0'\)"):
        attncc.loads(WINDOW)(*on_gpu(), slopes=torch.ones(4))


def test_tensors_that_functions_make_are_made_where_q_is():
    def window(score, b, h, q_idx, kv_idx):
        return torch.where(q_idx - kv_idx < 9, score, torch.tensor(-torch.inf))

    q, k, v = on_gpu()
    agree(
        attncc.attention(q, k, v, window, causal), attncc.attention(q, k, v, window, causal, backend="reference"), 100
    )


def test_a_picture_of_tensors_on_the_gpu(tmp_path):
    ids = torch.sort(torch.randint(0, 4, (1, 200), device="cuda"))[0]
    variant = attncc.loads("attention a:\n  capture ids: int[batch, q_len]\n  mask = ids[b, q_idx] == ids[b, kv_idx]\n")
    assert variant.plot(200, 200, tmp_path / "mask.png", ids=ids).is_file()
