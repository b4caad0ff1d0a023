"""Calls inside functions that torch.compile compiles."""

import pytest
import torch

import attncc
from tests.api.cases import WINDOW, agree, causal, inputs

# torch.compile itself warns of many things.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_variant_of_text_is_one_graph_with_its_gradient(backend):
    variant, slopes, tensors = attncc.loads(WINDOW), torch.rand(4, requires_grad=True), inputs(grad=True)

    def model(q, k, v, slopes):
        out, lse = variant(q * 2, k, v, slopes=slopes, return_lse=True)
        return out.sin().sum() + lse.sum()

    wanted = (*tensors, slopes)
    ours = torch.autograd.grad(torch.compile(model, fullgraph=True, backend=backend)(*wanted), wanted)
    agree(ours, torch.autograd.grad(model(*wanted), wanted), 10)


def test_python_functions_stay_in_the_graph():
    tensors = inputs(grad=True)
    slopes = torch.rand(4)

    def bias(score, b, h, q_idx, kv_idx):
        return score - slopes[h] * (q_idx - kv_idx)

    def model(q, k, v):
        return attncc.attention(q * 2, k, v, bias, causal).sin().sum()

    compiled = torch.compile(model, fullgraph=True, backend="eager")
    agree(torch.autograd.grad(compiled(*tensors), tensors), torch.autograd.grad(model(*tensors), tensors), 10)
    slopes.mul_(3)
    agree(compiled(*tensors), model(*tensors), 10)
