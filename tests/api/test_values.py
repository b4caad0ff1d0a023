import numpy
import pytest
import torch

from attncc.api.values import check_captures, check_names, check_parameters
from attncc.errors import InputError, UnsupportedError
from attncc.ir import AttentionSpec, Capture, Parameter, Scalar

SIZES = {"batch": 2, "heads": 4, "q_len": 5, "kv_len": 7}
SPEC = AttentionSpec(
    "packed",
    captures=(
        Capture("slopes", Scalar.FLOAT, ("heads",)),
        Capture("doc_ids", Scalar.INDEX, ("batch", "_")),
        Capture("flag", Scalar.BOOL, (3,)),
        Capture("temperature", Scalar.FLOAT, ()),
    ),
    parameters=(Parameter("window", 256),),
)


def captures(**changed):
    return {
        "slopes": torch.zeros(4),
        "doc_ids": torch.zeros(2, 9, dtype=torch.int64),
        "flag": torch.zeros(3, dtype=torch.bool),
        "temperature": torch.tensor(1.0),
        **changed,
    }


def check(**changed):
    return check_captures(SPEC, captures(**changed), SIZES)


def test_captures_come_out_in_the_order_of_the_spec():
    given = captures()
    assert [id(tensor) for tensor in check_captures(SPEC, dict(reversed(given.items())), SIZES)] == [
        id(given[name]) for name in ("slopes", "doc_ids", "flag", "temperature")
    ]


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8])
def test_ints_of_every_width_are_ints(dtype):
    check(doc_ids=torch.zeros(2, 9, dtype=dtype))


WRONG = {
    "rank": (
        {"slopes": torch.zeros(1, 4)},
        "`slopes` is declared as float[heads], but has 2 dimensions: [1, 4]\n"
        "hint: indexing is literal: sizes of 1 do not broadcast",
    ),
    "named size": (
        {"slopes": torch.zeros(8)},
        "`slopes` is declared as float[heads], but dimension 0 of [8] is 8\nhint: `heads` is 4 here",
    ),
    "number": ({"flag": torch.zeros(4, dtype=torch.bool)}, "dimension 0 of [4] is 4\nhint: it must be 3"),
    "batch": ({"doc_ids": torch.zeros(1, 9, dtype=torch.int64)}, "dimension 0 of [1, 9] is 1\nhint: `batch` is 2 here"),
    "kind": (
        {"doc_ids": torch.zeros(2, 9)},
        "`doc_ids` is declared as int[batch, _], but holds float32\nhint: pass doc_ids.long()",
    ),
    "ints for floats": ({"slopes": torch.arange(4)}, "but holds int64\nhint: pass slopes.float()"),
    "a number": ({"temperature": 1.0}, "`temperature` must be a 0-d tensor\nhint: pass torch.tensor(1.0)"),
    "shape [1] for 0-d": ({"temperature": torch.ones(1)}, "`temperature` is declared as float, but has 1 dimensions"),
    "a list": ({"slopes": [1.0]}, "`slopes` must be a tensor, but is a list"),
}


@pytest.mark.parametrize(("changed", "message"), WRONG.values(), ids=WRONG.keys())
def test_a_captured_tensor_that_does_not_fit_its_declaration_is_refused(changed, message):
    with pytest.raises(InputError) as caught:
        check(**changed)
    assert message in str(caught.value)


def test_sparse_captures_are_refused():
    with pytest.raises(UnsupportedError, match="`slopes` is a sparse tensor"):
        check(slopes=torch.zeros(4).to_sparse())


def test_missing_captures_are_named_with_their_declaration():
    with pytest.raises(InputError) as caught:
        check_captures(SPEC, {"slopes": torch.zeros(4), "flag": torch.zeros(3)}, SIZES)
    assert "`packed` needs doc_ids=... (int[batch, _]), temperature=... (float)" in str(caught.value)


def test_an_unknown_name_suggests_the_nearest():
    with pytest.raises(InputError) as caught:
        check_names(SPEC, {"doc_id": None})
    assert "no captured tensor or parameter `doc_id`" in str(caught.value)
    assert "did you mean `doc_ids`?" in str(caught.value)


def test_an_unknown_name_far_from_all_lists_what_there_is():
    with pytest.raises(InputError, match="it has: `slopes`, `doc_ids`, `flag`, `temperature`, `window`"):
        check_names(SPEC, {"xyz": None})


def test_numpy_ints_are_ints():
    (value,) = check_parameters(SPEC, {"window": numpy.int32(7)})
    assert (value, type(value)) == (7, int)


def test_a_constant_of_a_text_points_to_load():
    with pytest.raises(InputError, match=r"which attncc\.load takes"):
        check_names(SPEC, {"cap": 2.0})


def test_parameters_have_defaults():
    assert check_parameters(SPEC, {}) == (256,)
    assert check_parameters(SPEC, {"window": -3}) == (-3,)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.5, "parameter `window` must be an int, but is a float\nhint: pass int(window)"),
        (True, "parameter `window` must be an int, but is a bool"),
        (torch.tensor(3), "parameter `window` must be an int, but is a Tensor"),
        (2**63, "does not fit in 64 bits"),
        ("8", "parameter `window` must be an int, but is a str"),
    ],
)
def test_a_parameter_that_is_no_int_is_refused(value, message):
    with pytest.raises(InputError) as caught:
        check_parameters(SPEC, {"window": value})
    assert message in str(caught.value)


def test_a_misspelled_argument_of_a_call_is_recognised():
    with pytest.raises(InputError, match="did you mean `return_lse`"):
        check_names(SPEC, {"return_lze": True})
    with pytest.raises(InputError, match="did you mean `mask_mod`"):
        check_names(SPEC, {"mask": None})
