"""The corners of the Triton back end, in Triton's interpreter: lengths, captures, empty rows, indices beyond."""

from __future__ import annotations

import math

import pytest

from tests.interpreter import interpreted


def attend(
    score_mod=None, mask_mod=None, *, q_len=19, kv_len=19, heads=2, kv_heads=1, dim=16, value_dim=None, **options
):
    """The Triton call and the reference's, on the same random tensors: results, wanted results."""
    import torch

    from attncc import attention

    torch.manual_seed(1)
    torch.set_num_threads(1)
    shapes = ((heads, q_len, dim), (kv_heads, kv_len, dim), (kv_heads, kv_len, value_dim or dim))
    own = [torch.randn(2, *shape) for shape in shapes]
    leaves = options.pop("leaves", ())
    found = []
    for dtype, backend in ((torch.float32, "triton"), (torch.float64, "reference")):
        tensors = [t.to(dtype, copy=True).requires_grad_() for t in own]
        tiles = {"block_m": 16, "block_n": 16} if backend == "triton" else {}
        out, lse = attention(*tensors, score_mod, mask_mod, return_lse=True, backend=backend, **tiles, **options)
        loss = out.double().sum() + torch.where(lse == -math.inf, 0.0, lse).double().cos().sum()
        found.append([out, lse, *torch.autograd.grad(loss, (*tensors, *leaves), allow_unused=True)])
    return found


def check(found, wanted, tolerance=5e-5) -> None:
    from tests.runtime.triton.cases import errors

    faults = errors(found, wanted)
    assert max(faults) <= tolerance, faults


@interpreted
@pytest.mark.parametrize("sizes", [(1, 1), (1, 40), (40, 1), (16, 16), (17, 33), (48, 15)])
def test_lengths_need_not_match_tiles(sizes):
    check(*attend(mask_mod=lambda b, h, i, j: i >= j, q_len=sizes[0], kv_len=sizes[1]))


@interpreted
@pytest.mark.parametrize("dims", [(24, 24), (80, 16), (8, 40), (16, 80)])
def test_head_sizes_need_not_be_powers_of_two(dims):
    check(*attend(lambda s, b, h, i, j: s * 0.5, dim=dims[0], value_dim=dims[1]))


@interpreted
@pytest.mark.parametrize("scale", [-0.3, 0.0, 2.0])
def test_a_scale_may_be_negative_or_zero(scale):
    check(*attend(mask_mod=lambda b, h, i, j: i >= j, scale=scale))


@interpreted
@pytest.mark.parametrize("group", [1, 4, 7])
def test_query_heads_share_the_head_of_their_group(group):
    import torch

    slopes = torch.randn(group, requires_grad=True)
    check(*attend(lambda s, b, h, i, j: s + slopes[h] * (i - j), heads=group, kv_heads=1, leaves=(slopes,)))


@interpreted
def test_rows_without_a_key_are_zero_and_take_no_gradient():
    found, wanted = attend(mask_mod=lambda b, h, i, j: (j > i) & (i != 3))
    check(found, wanted)
    out, lse, grad_q = found[:3]
    assert not out[:, :, 3].any()
    assert not grad_q[:, :, 3].any()
    assert (lse[:, :, 3] == -math.inf).all()


@interpreted
def test_a_mask_that_hides_everything_gives_zeros():
    found, wanted = attend(mask_mod=lambda b, h, i, j: i + j < 0)
    check(found, wanted)
    assert not any(t.any() for t in (found[0], *found[2:]))


@interpreted
@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8", "bool"])
def test_captures_of_every_kind_of_number_are_read(dtype):
    import torch

    torch.manual_seed(0)
    kinds = torch.randint(0, 2 if dtype == "bool" else 5, (19,)).to(getattr(torch, dtype))
    check(*attend(lambda s, b, h, i, j: s + torch.where(kinds[j] == kinds[i], 1.0, 0.0) + kinds[j] * 0.25))
    check(*attend(mask_mod=lambda b, h, i, j: kinds[j] == kinds[i]))


@interpreted
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_float_captures_take_gradients_in_their_own_dtype(dtype):
    import torch

    bias = torch.randn(2, 19).to(getattr(torch, dtype)).requires_grad_()
    found, wanted = attend(lambda s, b, h, i, j: s + bias[h, j], leaves=(bias,))
    assert found[-1].dtype == bias.dtype
    check(found, wanted, {"float16": 2e-3, "bfloat16": 1.6e-2}.get(dtype, 5e-5))


@interpreted
def test_values_without_dimensions_are_numbers_with_gradients():
    import torch

    cap = torch.tensor(2.5, requires_grad=True)
    check(*attend(lambda s, b, h, i, j: cap * torch.tanh(s / cap), leaves=(cap,)))


@interpreted
def test_captures_without_elements_are_never_read():
    import torch

    nothing = torch.empty(0)
    check(*attend(lambda s, b, h, i, j: s + torch.where(i < 0, nothing[j], 0.0), check_bounds=False))


@interpreted
def test_indices_from_the_end_wrap():
    import torch

    bias = torch.randn(19, requires_grad=True)
    check(*attend(lambda s, b, h, i, j: s + bias[-1 - j], leaves=(bias,)))
    check(*attend(lambda s, b, h, i, j: s + bias[i - j], mask_mod=lambda b, h, i, j: i - j > -12, leaves=(bias,)))


@interpreted
def test_a_visible_pair_that_reads_beyond_makes_its_row_nan():
    import torch

    bias = torch.randn(10)
    found, wanted = attend(
        lambda s, b, h, i, j: s + bias[j - i], mask_mod=lambda b, h, i, j: j >= i, check_bounds=False
    )
    rows = found[0].isnan().any(-1)[0, 0]
    assert rows.tolist() == [18 - i > 9 for i in range(19)]
    assert torch.equal(found[0].isnan(), wanted[0].isnan())
    assert torch.equal(found[1].isnan(), wanted[1].isnan())
    check(found[:2], wanted[:2])


@interpreted
def test_a_mask_that_reads_beyond_makes_its_rows_nan():
    import torch

    ids = torch.arange(12) // 5
    found, wanted = attend(mask_mod=lambda b, h, i, j: ids[i] == ids[j], check_bounds=False)
    assert torch.equal(found[0].isnan(), wanted[0].isnan())
    assert found[0].isnan().any()


@interpreted
def test_a_hidden_pair_may_read_beyond():
    import torch

    bias = torch.randn(10, requires_grad=True)
    visible = lambda b, h, i, j: (j >= i) & (j - i < 10)  # noqa: E731  # a mask, as users write them
    found, wanted = attend(lambda s, b, h, i, j: s + bias[j - i], visible, leaves=(bias,))
    assert found[0].isfinite().all()
    check(found, wanted)


@interpreted
def test_bounds_are_checked_on_request():
    import torch

    from attncc import attention
    from attncc.errors import InputError

    bias, own = torch.randn(10), [torch.randn(1, 1, 19, 16) for _ in range(3)]
    functions = (lambda s, b, h, i, j: s + bias[j], lambda b, h, i, j: j >= i)
    for _ in range(2):
        with pytest.raises(InputError, match="bias"):
            attention(*own, *functions, backend="triton", check_bounds=True)
    assert attention(*own, *functions, backend="triton", check_bounds=False).isnan().any()


@interpreted
def test_a_row_that_is_nan_for_another_reason_is_no_error():
    import torch

    from attncc import attention

    bias, own = torch.randn(10), [torch.randn(1, 1, 19, 16) for _ in range(3)]
    shown = lambda b, h, i, j: (j >= i) & (j < 10)  # noqa: E731  # a mask, as users write them
    own[0][0, 0, 3] = math.nan
    out = attention(*own, lambda s, b, h, i, j: s + bias[j], shown, backend="triton", check_bounds=True)
    assert out[0, 0, 3].isnan().all()
    assert out[0, 0, :3].isfinite().all()


@interpreted
def test_gradients_of_lse_may_lie_anywhere_in_memory():
    import torch

    from attncc import attention

    torch.manual_seed(0)
    own = [torch.randn(1, 2, 19, 16, requires_grad=True) for _ in range(3)]
    packed = torch.randn(2 * 19 + 1)[1:].view(1, 2, 19)
    assert packed.data_ptr() % 16 != 0
    assert packed.is_contiguous()
    grads = []
    for grad in (packed, packed.clone()):
        _, lse = attention(*own, return_lse=True, backend="triton")
        grads.append(torch.autograd.grad(lse, own[:2], grad))
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


@interpreted
def test_nan_and_infinite_scores_stay_in_their_rows():
    import torch

    for value in (math.nan, math.inf):
        found, wanted = attend(lambda s, b, h, i, j, value=value: torch.where((i == 4) & (j == 2), value, s))
        assert found[0].isnan().any(-1)[0, 0].tolist() == [i == 4 for i in range(19)]
        check(found[:2], wanted[:2])


@interpreted
def test_minus_infinity_hides_a_pair():
    import torch

    check(*attend(lambda s, b, h, i, j: torch.where(i >= j, s, -math.inf)))
    weights = torch.tensor([0.0, -math.inf] * 10)[:19]
    check(*attend(lambda s, b, h, i, j: s + weights[j]))


@interpreted
def test_two_calls_give_the_same_bytes():
    import torch

    table = torch.randn(2, 8, requires_grad=True)
    runs = [attend(lambda s, b, h, i, j: s + table[h, (i * j) % 8], leaves=(table,))[0] for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@interpreted
def test_queries_may_lie_in_memory_in_any_order():
    import torch

    from attncc import attention

    torch.manual_seed(0)
    packed = torch.randn(2, 19, 3, 2, 16)  # [B, N, 3, H, D]
    q, k, v = packed.permute(2, 0, 3, 1, 4)
    for tensors in ((q, k, v), (q.transpose(-1, -2).contiguous().transpose(-1, -2), k.flip(2), v[..., :8])):
        found = attention(*tensors, None, lambda b, h, i, j: i >= j, backend="triton", block_m=16, block_n=16)
        wanted = attention(*(t.double() for t in tensors), None, lambda b, h, i, j: i >= j, backend="reference")
        check([found], [wanted])


@interpreted
def test_keys_of_one_sequence_serve_a_whole_batch():
    import torch

    from attncc import attention

    torch.manual_seed(0)
    results = []
    shapes = ((3, 2, 19, 16), (1, 2, 19, 16), (1, 2, 19, 16))
    own = [torch.randn(shape) for shape in shapes]
    for dtype, backend in ((torch.float32, "triton"), (torch.float64, "reference")):
        tensors = [t.to(dtype, copy=True).requires_grad_() for t in own]
        out = attention(*tensors, backend=backend)
        results.append([out, *torch.autograd.grad(out.square().sum(), tensors)])
    check(*results)


@interpreted
@pytest.mark.parametrize("of", ["nothing", "keys", "queries", "positions"])
def test_scores_need_not_depend_on_the_products(of):
    import torch

    numbers = torch.randn(19, requires_grad=True)
    scores = {
        "nothing": lambda s, b, h, i, j: torch.full_like(s, 0.25),
        "keys": lambda s, b, h, i, j: numbers[j],
        "queries": lambda s, b, h, i, j: numbers[i],
        "positions": lambda s, b, h, i, j: i - j,
    }
    check(*attend(scores[of], leaves=(numbers,)))
    check(*attend(scores[of], lambda b, h, i, j: i >= j, leaves=(numbers,)))
