import pickle

import pytest
import torch

from attncc.api.inputs import check_inputs
from attncc.errors import InputError, UnsupportedError


def tensors(q=(2, 4, 5, 8), k=(2, 2, 7, 8), v=(2, 2, 7, 6), dtype=torch.float32):
    return tuple(torch.zeros(shape, dtype=dtype) for shape in (q, k, v))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_tensors_that_fit_pass_unchanged(dtype):
    q, k, v = tensors(dtype=dtype)
    checked = check_inputs(q, k, v)
    assert checked.q is q
    assert checked.k is k
    assert checked.v is v
    assert checked.scale == pytest.approx(8**-0.5, rel=1e-15)


@pytest.mark.parametrize(
    "shapes",
    [
        {"q": (0, 4, 5, 8), "k": (0, 2, 7, 8), "v": (0, 2, 7, 6)},
        {"q": (2, 4, 0, 8)},
        {"k": (2, 2, 0, 8), "v": (2, 2, 0, 6)},
        {"v": (2, 2, 7, 0)},
    ],
)
def test_empty_batches_lengths_and_values_are_fine(shapes):
    check_inputs(*tensors(**shapes))


def test_a_batch_of_one_in_k_and_v_serves_every_query():
    q, k, v = tensors(k=(1, 2, 7, 8), v=(1, 2, 7, 6))
    checked = check_inputs(q, k, v)
    assert checked.k.shape == (2, 2, 7, 8)
    assert checked.k.stride(0) == 0
    assert checked.v.data_ptr() == v.data_ptr()


SHAPES = {
    "rank": ({"q": (4, 5, 8)}, "`q` must be [B, Hq, Lq, D], but has 3 dimensions: [4, 5, 8]"),
    "heads": ({"q": (2, 5, 5, 8)}, "5 query heads cannot share 2 key heads"),
    "fewer heads": ({"q": (2, 1, 5, 8)}, "1 query heads cannot share 2 key heads"),
    "head size": ({"q": (2, 4, 5, 9)}, "the head sizes of q and k differ: q [2, 4, 5, 9], k [2, 2, 7, 8]"),
    "length of v": ({"v": (2, 2, 8, 6)}, "k and v must agree in all but the last size"),
    "heads of v": ({"v": (2, 1, 7, 6)}, "k and v must agree in all but the last size"),
    "batch": ({"k": (3, 2, 7, 8), "v": (3, 2, 7, 6)}, "the batch of k and v must be that of q, or 1"),
    "batch of q": ({"q": (1, 4, 5, 8)}, "the batch of k and v must be that of q, or 1"),
    "no heads": ({"k": (2, 0, 7, 8), "v": (2, 0, 7, 6)}, "there must be at least one head"),
    "no head size": ({"q": (2, 4, 5, 0), "k": (2, 2, 7, 0)}, "a head size of at least 1"),
}


@pytest.mark.parametrize(("shapes", "message"), SHAPES.values(), ids=SHAPES.keys())
def test_shapes_that_do_not_fit_are_named(shapes, message):
    with pytest.raises(InputError) as caught:
        check_inputs(*tensors(**shapes))
    assert message in str(caught.value)


def quantized():
    return torch.quantize_per_tensor(torch.zeros(2, 4, 5, 8), 0.1, 0, torch.qint8)


def nested():
    return torch.nested.nested_tensor([torch.zeros(4, 5, 8)], layout=torch.jagged)


VALUES = {
    "a list": (lambda: [[1.0]], InputError, "`q` must be a tensor, but is a list\nhint: torch.as_tensor(q) makes one"),
    "None": (lambda: None, InputError, "`q` must be a tensor, but is a NoneType"),
    "an array": (lambda: torch.zeros(2, 4, 5, 8).numpy(), InputError, "`q` must be a tensor, but is an ndarray"),
    "sparse": (lambda: torch.zeros(2, 4, 5, 8).to_sparse(), UnsupportedError, "`q` is a sparse tensor (sparse_coo)"),
    "complex": (lambda: torch.zeros(2, 4, 5, 8, dtype=torch.complex64), UnsupportedError, "`q` is complex"),
    "meta": (lambda: torch.zeros(2, 4, 5, 8, device="meta"), InputError, "`q` is on the meta device"),
    "quantized": (quantized, UnsupportedError, "`q` is a quantized tensor"),
    "nested": (nested, UnsupportedError, "`q` is a nested tensor"),
    "ints": (lambda: torch.zeros(2, 4, 5, 8, dtype=torch.int32), InputError, "`q` is int32"),
    "bools": (lambda: torch.zeros(2, 4, 5, 8, dtype=torch.bool), InputError, "`q` is bool"),
    "float8": (lambda: torch.zeros(2, 4, 5, 8).to(torch.float8_e4m3fn), InputError, "`q` is float8_e4m3fn"),
}


@pytest.mark.filterwarnings(
    "ignore:.*torch.quantize_per_tensor:DeprecationWarning"
)  # torch deprecates, users still have
@pytest.mark.filterwarnings("ignore:.*:UserWarning")  # torch warns about nested and quantized tensors by themselves
@pytest.mark.parametrize(("make", "error", "message"), VALUES.values(), ids=VALUES.keys())
def test_what_is_no_dense_float_tensor_is_refused(make, error, message):
    _, k, v = tensors()
    with pytest.raises(error) as caught:
        check_inputs(make(), k, v)
    assert message in str(caught.value)


def test_mixed_dtypes_are_refused():
    q, k, v = tensors()
    with pytest.raises(InputError, match="q is float32, k is float16, v is float32"):
        check_inputs(q, k.half(), v)


def test_autocast_converts_as_sdpa_does():
    q, k, v = tensors()
    with torch.autocast("cpu", torch.bfloat16):
        checked = check_inputs(q, k.half(), v.bfloat16())
        expected = torch.nn.functional.scaled_dot_product_attention(q, k[:, :1], v[:, :1, :, :])
    assert {checked.q.dtype, checked.k.dtype, checked.v.dtype} == {expected.dtype} == {torch.bfloat16}


def test_autocast_leaves_float64_as_it_is():
    with torch.autocast("cpu", torch.bfloat16):
        assert check_inputs(*tensors(dtype=torch.float64)).q.dtype is torch.float64
        with pytest.raises(InputError, match="q is float64, k is bfloat16"):
            check_inputs(tensors()[0].double(), *tensors()[1:])


@pytest.mark.parametrize("scale", [1, 0.25, -2.0, 0.0])
def test_any_finite_scale_is_taken(scale):
    assert check_inputs(*tensors(), scale).scale == scale


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        (float("nan"), "`scale` is nan"),
        (float("inf"), "`scale` is inf"),
        ("1", "`scale` must be a number, but is a str"),
        (True, "`scale` must be a number, but is a bool"),
        (torch.tensor(1.0), "`scale` is a tensor"),
    ],
)
def test_a_scale_that_is_no_finite_number_is_refused(scale, message):
    with pytest.raises(InputError, match=message):
        check_inputs(*tensors(), scale)


def test_errors_of_inputs_pickle():
    with pytest.raises(InputError) as caught:
        check_inputs([1], None, None)
    again = pickle.loads(pickle.dumps(caught.value))
    assert str(again) == str(caught.value)
    assert type(again) is InputError


@pytest.mark.gpu
def test_devices_that_differ_are_named():
    q, k, v = tensors()
    with pytest.raises(InputError, match="q on cpu, k on cuda:0, v on cpu"):
        check_inputs(q, k.cuda(), v)
