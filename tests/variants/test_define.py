"""`Mask` and `Score` stay plain callables with FlexAttention's arguments, compose, bind, pickle and refuse clearly."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle

import pytest
import torch
from torch.nn.attention.flex_attention import create_block_mask, create_mask, flex_attention

from attncc.errors import LanguageError
from attncc.variants.define import Mask, Score, mask, recipe, score

# torch warns that its eager form is slow; here only its meaning is asked.
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning")


@mask
def causal(b, h, q_idx, kv_idx):
    """A query sees what lies before it."""
    return q_idx >= kv_idx


@mask(formula="j ≤ i + n − m", citation="Dao 2023", name="bottom_right")
def causal_bottom_right(b, h, q_idx, kv_idx, q_len, kv_len):
    return q_idx + kv_len - q_len >= kv_idx


@recipe
def window(width: int = 4) -> Mask:
    @mask(formula="|i − j| < w", citation="A 2020")
    def window(b, h, q_idx, kv_idx):
        return abs(q_idx - kv_idx) < width

    return window


@recipe
def temperature(values: torch.Tensor) -> Score:
    @score(captures={"values": "float[heads]"})
    def temperature(score, b, h, q_idx, kv_idx):
        return score * values[h]

    return temperature


@score(formula="s + 1")
def plus_one(score, b, h, q_idx, kv_idx):
    return score + 1


def plain_even(b, h, q_idx, kv_idx):
    return kv_idx % 2 == 0


def plain_double(score, b, h, q_idx, kv_idx):
    return score * 2


def dense(mask_mod, q_len=9, kv_len=9):
    return create_mask(mask_mod, 1, 1, q_len, kv_len, device="cpu")[0, 0]


ROWS = torch.arange(9)[:, None]
COLUMNS = torch.arange(9)[None, :]


def test_a_mask_keeps_the_name_the_docstring_and_the_signature_of_its_function():
    assert causal.name == causal.__name__ == "causal"
    assert causal.__doc__ == "A query sees what lies before it."
    assert causal.__module__ == __name__
    assert list(inspect.signature(causal).parameters) == ["b", "h", "q_idx", "kv_idx"]
    assert list(inspect.signature(plus_one).parameters) == ["score", "b", "h", "q_idx", "kv_idx"]


def test_the_facts_given_to_the_decorator_are_attributes():
    assert causal_bottom_right.name == "bottom_right"
    assert causal_bottom_right.formula == "j ≤ i + n − m"
    assert causal_bottom_right.citation == "Dao 2023"
    assert dict(temperature(torch.ones(2)).captures) == {"values": "float[heads]"}
    assert temperature(torch.ones(2)).__attncc_captures__ == {"values": "float[heads]"}


def test_and_or_not_mean_the_same_as_on_dense_masks():
    both = causal & window(3)
    assert torch.equal(dense(both), (ROWS >= COLUMNS) & ((ROWS - COLUMNS).abs() < 3))
    assert torch.equal(dense(causal | window(3)), (ROWS >= COLUMNS) | ((ROWS - COLUMNS).abs() < 3))
    assert torch.equal(dense(~causal), ROWS < COLUMNS)
    assert torch.equal(dense(~(causal & ~window(2))), ~((ROWS >= COLUMNS) & ~((ROWS - COLUMNS).abs() < 2)))


def test_plain_functions_compose_from_either_side():
    expected = (ROWS >= COLUMNS) & (COLUMNS % 2 == 0)
    assert torch.equal(dense(causal & plain_even), expected)
    assert torch.equal(dense(plain_even & causal), expected)
    assert torch.equal(dense(plain_even | causal), (ROWS >= COLUMNS) | (COLUMNS % 2 == 0))


def test_scores_run_from_left_to_right():
    at = [torch.tensor(0)] * 4
    assert (plus_one >> plain_double)(torch.tensor(3.0), *at) == 8
    assert (plain_double >> plus_one)(torch.tensor(3.0), *at) == 7


def test_a_composition_joins_names_formulas_citations_and_captures():
    both = window() & causal_bottom_right
    assert both.name == "window_and_bottom_right"
    assert both.formula == "(|i − j| < w) ∧ (j ≤ i + n − m)"
    assert both.citation == "A 2020; Dao 2023"
    chain = temperature(torch.ones(2)) >> plus_one
    assert chain.name == "temperature_then_plus_one"
    assert dict(chain.captures) == {"values": "float[heads]"}


def test_captures_that_are_declared_differently_are_left_undeclared():
    @score(captures={"values": "float[q_len]"})
    def other(score, b, h, q_idx, kv_idx):
        return score

    assert dict((temperature(torch.ones(2)) >> other).captures) == {}


def test_a_composition_asks_for_the_sizes_of_its_parts():
    both = window(3) & causal_bottom_right
    assert both.sizes == ("q_len", "kv_len")
    found = dense(both.bind(q_len=4, kv_len=9), 4, 9)
    rows = torch.arange(4)[:, None]
    assert torch.equal(found, ((rows - COLUMNS).abs() < 3) & (rows + 5 >= COLUMNS))


def test_bind_may_fix_some_sizes_and_leave_others():
    half = causal_bottom_right.bind(q_len=4)
    assert half.sizes == ("kv_len",)
    assert list(inspect.signature(half).parameters) == ["b", "h", "q_idx", "kv_idx", "kv_len"]
    assert half(0, 0, 1, 6, kv_len=9)
    assert not half(0, 0, 1, 7, kv_len=9)


def test_bind_refuses_a_size_that_the_function_does_not_ask_for():
    with pytest.raises(LanguageError, match="no argument `batch` to bind"):
        causal_bottom_right.bind(batch=2)
    with pytest.raises(LanguageError, match="it asks for no sizes"):
        causal.bind(q_len=2)


def test_eager_flex_attention_takes_masks_scores_and_compositions():
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, 9, 16) for _ in range(3))
    values = torch.tensor([0.5, 2.0])
    visible = causal & window(4)
    block_mask = create_block_mask(visible, None, None, 9, 9, device="cpu")
    found = flex_attention(q, k, v, score_mod=temperature(values) >> plus_one, block_mask=block_mask)
    scores = (q @ k.transpose(-1, -2)) / 4 * values[:, None, None] + 1
    keep = (ROWS >= COLUMNS) & (ROWS - COLUMNS < 4)
    expected = scores.masked_fill(~keep, float("-inf")).softmax(-1) @ v
    torch.testing.assert_close(found, expected)


def test_eager_flex_attention_takes_a_bound_mask():
    torch.compiler.reset()  # comparing with what other tests compiled, torch 2.13 fails
    q, kv = torch.randn(1, 1, 4, 16), torch.randn(1, 1, 9, 16)
    bound = causal_bottom_right.bind(q_len=4, kv_len=9)
    found = flex_attention(q, kv, kv, block_mask=create_block_mask(bound, None, None, 4, 9, device="cpu"))
    keep = torch.arange(4)[:, None] + 5 >= COLUMNS
    expected = ((q @ kv.transpose(-1, -2)) / 4).masked_fill(~keep, float("-inf")).softmax(-1) @ kv
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize(
    "made",
    [causal, causal_bottom_right.bind(q_len=4, kv_len=9), causal & plain_even, ~causal, window(2) | causal, window(2)],
    ids=lambda mod: mod.name,
)
def test_masks_pickle_and_copy_and_mean_the_same(made):
    for twin in (pickle.loads(pickle.dumps(made)), copy.deepcopy(made)):
        assert (twin.name, twin.formula, twin.citation) == (made.name, made.formula, made.citation)
        assert torch.equal(dense(twin, 4, 9), dense(made, 4, 9))


def test_scores_of_a_recipe_pickle_with_their_tensors():
    made = temperature(torch.tensor([3.0, 5.0])) >> plain_double
    twin = pickle.loads(pickle.dumps(made))
    assert twin(torch.tensor(1.0), 0, torch.tensor(1), 0, 0) == 10


def test_a_mask_of_a_module_unpickles_as_that_very_object():
    assert pickle.loads(pickle.dumps(causal)) is causal


def test_a_recipe_shows_its_arguments():
    assert repr(window(7)) == "<Mask window(width=7)>"
    assert repr(window()) == "<Mask window(width=4)>"
    assert repr(temperature(torch.ones(2))) == "<Score temperature(values=<tensor 2>)>"
    assert repr(causal) == "<Mask causal>"
    assert repr(causal & window(2)) == "<Mask causal_and_window>"


@pytest.mark.parametrize("made", [causal, plus_one], ids=["mask", "score"])
def test_truth_is_refused_with_advice(made):
    with pytest.raises(LanguageError, match="no truth value") as caught:
        _ = made and plain_even
    assert "`&`" in str(caught.value)
    assert "is None" in str(caught.value)


def test_a_mask_does_not_combine_with_a_score_or_a_value():
    with pytest.raises(LanguageError, match="not with the score `plus_one`"):
        _ = causal & plus_one
    with pytest.raises(LanguageError, match="not with True"):
        _ = causal | True
    with pytest.raises(LanguageError, match="not with the mask `causal`"):
        _ = plus_one >> causal


def test_a_function_with_other_arguments_is_refused():
    with pytest.raises(LanguageError, match=r"takes \(b, h, q_idx, kv_idx\), but `plus` takes \(a, b\)"):

        @mask
        def plus(a, b):
            return a + b

    with pytest.raises(LanguageError, match="it may ask for q_len"):

        @mask
        def wide(b, h, q_idx, kv_idx, width):
            return q_idx - kv_idx < width


def test_partials_are_functions_too():
    def banded(b, h, q_idx, kv_idx, width):
        return abs(q_idx - kv_idx) < width

    assert torch.equal(dense(mask(functools.partial(banded, width=2))), (ROWS - COLUMNS).abs() < 2)


def test_a_declaration_of_dims_that_cannot_be_read_is_refused():
    with pytest.raises(LanguageError, match="does not declare the dims of `slopes`"):
        score(captures={"slopes": "float32[H]"})(plain_double)


def test_torch_compile_follows_masks_and_scores_without_a_graph_break():
    q = torch.randn(1, 2, 9, 16)
    score_mod, blocks = (
        temperature(torch.tensor([0.5, 2.0])) >> plus_one,
        create_block_mask(causal & window(4), None, None, 9, 9, device="cpu"),
    )

    def attend(q, blocks):
        return flex_attention(q, q, q, score_mod=score_mod, block_mask=blocks)

    found = torch.compile(attend, backend="eager", fullgraph=True)(q, blocks)
    torch.testing.assert_close(found, attend(q, blocks))
