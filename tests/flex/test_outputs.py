"""lse, largest scores, and what `flex_attention` returns and refuses."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from attncc import flex
from attncc.errors import AttnccError, LanguageError
from tests.flex.mods import alibi, causal, rel_bias, times_two, window
from tests.flex.oracle import close, eager, tensors, theirs

LSE = flex.AuxRequest(lse=True)
VECTORS = torch.randn(64, 256)


def mask_of(function, length=64):
    return flex.create_block_mask(function, None, None, length, length, "cpu", 16)


def test_what_is_returned():
    q, k, v = tensors()
    assert isinstance(flex.flex_attention(q, k, v), torch.Tensor)
    _, aux = flex.flex_attention(q, k, v, return_aux=flex.AuxRequest())
    assert (aux.lse, aux.max_scores) == (None, None)
    _, aux = flex.flex_attention(q, k, v, return_aux=flex.AuxRequest(lse=True, max_scores=True))
    assert aux.lse.shape == aux.max_scores.shape == (2, 4, 64)
    assert not aux.max_scores.requires_grad
    with pytest.warns(FutureWarning, match="return_lse is deprecated"):
        _, lse = flex.flex_attention(q, k, v, return_lse=True)
    assert torch.equal(lse, aux.lse)
    assert flex.AuxRequest is theirs.AuxRequest
    assert flex.AuxOutput is theirs.AuxOutput


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_lse_and_largest_scores(dtype):
    q, k, v = tensors(dtype=dtype, q_len=50, kv_len=70)

    def late(b, h, i, j):
        return (i >= j) & (i >= 3)

    made = flex.create_block_mask(late, None, None, 50, 70, "cpu")
    _, aux = flex.flex_attention(q, k, v, alibi(4), made, return_aux=flex.AuxRequest(lse=True, max_scores=True))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    i, j = torch.arange(50)[:, None], torch.arange(70)
    slopes = torch.exp2(-(torch.arange(4) + 1) * 2.0).to(torch.float64)[:, None, None]
    score = (q.double() @ k.double().mT) / math.sqrt(8) + (j - i) * slopes
    score = score.masked_fill(~((i >= j) & (i >= 3)), -torch.inf)
    allowed = 1e-12 if dtype == torch.float64 else 2e-6
    close("lse", aux.lse, score.logsumexp(-1).to(wide), allowed)
    close("largest", aux.max_scores, score.amax(-1).to(wide), allowed)


def test_lse_alone_has_a_gradient():
    leaves = [t.requires_grad_() for t in tensors(1, 2, 9, 4)]

    def lse(*qkv):
        return flex.flex_attention(*qkv, rel_bias, mask_of(causal, 9), return_aux=LSE)[1].lse

    torch.autograd.gradcheck(lse, leaves)
    q, k, v = leaves
    for wanted, found in zip(
        torch.autograd.grad(lse(q, k, v).sum(), (q, k)),
        torch.autograd.grad((lse(q, k, v) * 2).sum(), (q, k)),
        strict=True,
    ):
        close("gradient", found, wanted * 2, 1e-12)


def test_two_parts_merged_by_lse_are_the_whole():
    leaves = [t.requires_grad_() for t in tensors(dtype=torch.float64)]

    def rest(b, h, i, j):
        return (i >= j) & (i - j > 10)

    (near, one), (far, two) = (
        flex.flex_attention(*leaves, block_mask=mask_of(mask), return_aux=LSE) for mask in (window(10), rest)
    )
    total = torch.logaddexp(one.lse, two.lse)
    merged = near * (one.lse - total).exp()[..., None] + far * (two.lse - total).exp()[..., None]
    wanted = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=True)
    close("out", merged, wanted, 1e-11)
    grads = [torch.autograd.grad(out.sin().sum(), leaves) for out in (wanted, merged)]
    for mine, other in zip(*grads, strict=True):
        close("gradient", other, mine, 1e-11)


OPTIONS = [
    {"BLOCK_M": 16, "BLOCK_N": 32, "num_warps": 4, "num_stages": 2},
    {"PRESCALE_QK": True, "ROWS_GUARANTEED_SAFE": True, "BLOCKS_ARE_CONTIGUOUS": True, "WRITE_DQ": False},
    {"BACKEND": "TRITON"},
    {"BACKEND": "AUTO", "fwd_BLOCK_M": 64, "bwd_BLOCK_M1": 32},
    {"FORCE_USE_FLEX_ATTENTION": True},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_kernel_options_of_torch_are_accepted_and_change_nothing(options):
    q, k, v = tensors()
    found = flex.flex_attention(q, k, v, times_two, mask_of(causal), kernel_options=options)
    assert torch.equal(found, flex.flex_attention(q, k, v, times_two, mask_of(causal)))


REFUSALS = {
    "both kinds of lse": ({"return_lse": True, "return_aux": LSE}, "`return_lse` and `return_aux` are both given"),
    "an internal option": ({"kernel_options": {"OUTPUT_MAX": True}}, "`OUTPUT_MAX` is not an option"),
    "an unknown back end": ({"kernel_options": {"BACKEND": "FAST"}}, "there is no BACKEND 'FAST'"),
    "two back ends": (
        {"kernel_options": {"BACKEND": "AUTO", "FORCE_USE_FLEX_ATTENTION": True}},
        "BACKEND and FORCE_USE_FLEX_ATTENTION are both given",
    ),
    "another block mask": ({"block_mask": torch.ones(64, 64)}, "`block_mask` must be a BlockMask, but is Tensor"),
    "lengths that differ": (
        {"block_mask": mask_of(causal, 63)},
        "block_mask is for 63 queries and 63 keys, but there are 64 and 64",
    ),
    "a reduction": ({"score_mod": lambda s, b, h, i, j: s + VECTORS[i].sum()}, "256 elements of `VECTORS`"),
    "a branch": ({"score_mod": lambda s, b, h, i, j: s if i > j else -s}, "where"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusals(name):
    given, message = REFUSALS[name]
    with pytest.raises(AttnccError, match=message):
        flex.flex_attention(*tensors(), **given)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_refused_tensors():
    q, k, v = tensors()
    with pytest.raises(ValueError, match="query has 4 heads and key has 2"):
        flex.flex_attention(q, k[:, :2], v[:, :2])
    with pytest.raises(ValueError, match="3 dimensions"):
        flex.flex_attention(q[0], k[0], v[0])
    with pytest.raises(ValueError, match="`key` must have 4 dimensions, but has 5"):
        flex.flex_attention(q, k[None], v)
    with pytest.raises(ValueError, match="4 query heads cannot share 3 key heads"):
        flex.flex_attention(q, k[:, :3], v[:, :3], enable_gqa=True)
    nested = torch.nested.nested_tensor([torch.randn(4, 3, 8), torch.randn(4, 5, 8)])
    with pytest.raises(NotImplementedError, match="nested"):
        flex.flex_attention(nested, nested, nested)


def test_refused_block_masks():
    with pytest.raises(ValueError, match="takes a mask function"):
        flex.create_block_mask(rel_bias, None, None, 64, 64, "cpu")
    with pytest.raises(ValueError, match="`Q_LEN` must be at least 1, but is 0"):
        flex.create_block_mask(causal, None, None, 0, 64, "cpu")
    with pytest.raises(RuntimeError, match="functions of"):
        flex.and_masks(causal, 3)
    with pytest.raises(LanguageError, match="mask"):
        flex.create_block_mask(lambda b, h, i, j: i - j, None, None, 64, 64, "cpu").to_dense()


def test_an_empty_sequence_is_an_empty_result():
    q, k, v = tensors()
    assert flex.flex_attention(q[:, :, :0], k, v).shape == (2, 4, 0, 8)


def test_what_torch_refuses_on_the_cpu_works():
    q, k, v = (t.requires_grad_() for t in tensors(head_dim=3))
    table = torch.randn(64, dtype=torch.float64, requires_grad=True)
    out = flex.flex_attention(q, k, v, lambda s, b, h, i, j: s + table[i] + table[j])
    out.sum().backward()
    assert all(t.grad is not None for t in (q, k, v, table))
    with eager():
        close(
            "out",
            out.detach(),
            theirs.flex_attention(q, k, v, lambda s, b, h, i, j: s + table[i] + table[j]).detach(),
            1e-11,
        )


def test_many_lengths_are_one_kernel():
    from attncc import pipeline

    for length in (256, 255, 383, 384, 1, 17):
        flex.flex_attention(*tensors(q_len=length, head_dim=5), times_two, mask_of(causal, length))
    kernels = {id(made.forward) for (text, problem, _), made in pipeline._LOWERED.items() if problem.head_dim == 5}
    assert len(kernels) == 1


def test_the_names_of_torch_are_there():
    assert set(theirs.__all__) == set(flex.__all__)
    assert flex._mask_mod_signature is theirs._mask_mod_signature
    assert flex._DEFAULT_SPARSE_BLOCK_SIZE == 128
    with pytest.raises(AttributeError, match=r"'attncc\.flex' has no attribute '_nothing'"):
        _ = flex._nothing


def test_the_signatures_are_those_of_torch():
    for name in ("flex_attention", "create_block_mask", "create_mask", "and_masks", "or_masks", "noop_mask"):
        ours, wanted = (inspect.signature(getattr(made, name)).parameters for made in (flex, theirs))
        # torch has the last three since 2.13
        newer = {"exact", "separate_full_blocks", "compute_dq_write_order", "dq_kv_order"}
        more = newer - set(wanted) if name == "create_block_mask" else set()
        assert [n for n in ours if n not in more] == list(wanted), name
        for each, parameter in wanted.items():
            assert (ours[each].kind, ours[each].default) == (parameter.kind, parameter.default), (name, each)
