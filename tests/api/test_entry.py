import functools

import pytest
import torch

import attncc
from attncc.errors import InputError, LanguageError
from tests.api.cases import WINDOW, agree, causal, halve, inputs


def test_compile_makes_a_variant_of_functions():
    variant = attncc.compile(halve, causal, name="half")
    assert variant.name == "half"
    assert variant.score_mod is halve
    assert variant.mask_mod is causal
    q, k, v = inputs()
    agree(variant(q, k, v), attncc.reference(variant.spec, q, k, v))


def test_compile_of_nothing_is_plain_attention():
    q, k, v = inputs(kv_heads=4)
    agree(attncc.compile()(q, k, v), torch.nn.functional.scaled_dot_product_attention(q, k, v))


@pytest.mark.parametrize("wrong", ["window.attn", 3, torch.zeros(2)])
def test_compile_takes_functions_only(wrong):
    with pytest.raises(InputError, match="`mask_mod` must be a function"):
        attncc.compile(mask_mod=wrong)


def test_a_variant_is_no_function():
    with pytest.raises(InputError, match="`mask_mod` must be a function, but is a Variant"):
        attncc.compile(mask_mod=attncc.compile(mask_mod=causal))


def test_a_path_given_to_compile_points_to_load():
    with pytest.raises(InputError, match=r"attncc\.load takes a path"):
        attncc.compile("window.attn")


def test_mistakes_in_functions_are_language_errors_with_a_place():
    def mask(b, h, q_idx, kv_idx):
        return q_idx + kv_idx

    with pytest.raises(LanguageError) as caught:
        attncc.compile(mask_mod=mask)
    assert "q_idx + kv_idx" in str(caught.value)


def test_one_shot_attention_is_the_compiled_variant():
    q, k, v = inputs()
    out, lse = attncc.attention(q, k, v, halve, causal, return_lse=True)
    agree((out, lse), attncc.compile(halve, causal)(q, k, v, return_lse=True))


def test_one_shot_attention_traces_a_closure_once(monkeypatch):
    from attncc.api import program

    traced = []
    original = program.trace_functions
    monkeypatch.setattr(program, "trace_functions", lambda *args: traced.append(args) or original(*args))
    program.clear()
    q, k, v = inputs()

    def once(factor):
        slopes = torch.full((4,), factor)

        def bias(score, b, h, q_idx, kv_idx):
            return score - slopes[h] * (q_idx - kv_idx)

        return attncc.attention(q, k, v, bias, causal)

    first, second = once(0.1), once(0.7)
    assert not torch.equal(first, second)
    assert len(traced) == 1


def test_a_number_in_a_closure_counts_when_it_changes():
    q, k, v = inputs()

    def once(cap):
        return attncc.attention(q, k, v, lambda score, b, h, q_idx, kv_idx: cap * torch.tanh(score / cap))

    assert not torch.allclose(once(0.1), once(5.0))
    agree(once(0.1), once(0.1))


def test_partials_are_functions_too():
    def window(b, h, q_idx, kv_idx, size):
        return (q_idx >= kv_idx) & (q_idx - kv_idx < size)

    q, k, v = inputs()
    narrow = attncc.attention(q, k, v, mask_mod=functools.partial(window, size=3))
    wide = attncc.attention(q, k, v, mask_mod=functools.partial(window, size=100))
    agree(wide, attncc.attention(q, k, v, mask_mod=causal))
    assert not torch.allclose(narrow, wide)


def test_load_reads_a_file_and_loads_a_text(tmp_path):
    path = tmp_path / "window.attn"
    path.write_text(WINDOW)
    q, k, v = inputs()
    slopes = torch.rand(4)
    agree(attncc.load(path)(q, k, v, slopes=slopes), attncc.loads(WINDOW)(q, k, v, slopes=slopes))
    agree(attncc.load(str(path), slopes=slopes)(q, k, v), attncc.loads(WINDOW)(q, k, v, slopes=slopes))


def test_values_given_to_load_are_defaults():
    q, k, v = inputs()
    slopes = torch.rand(4)
    bound = attncc.loads(WINDOW, window=4, slopes=slopes)
    plain = attncc.loads(WINDOW)
    agree(bound(q, k, v), plain(q, k, v, window=4, slopes=slopes))
    agree(bound(q, k, v, window=9), plain(q, k, v, window=9, slopes=slopes))


def test_constants_of_a_text_can_be_given_to_load():
    text = "attention capped(cap: float = 30.0):\n  score = cap * tanh(score / cap)\n"
    q, k, v = inputs()
    agree(attncc.loads(text, cap=0.5)(q, k, v), attncc.loads(text.replace("30.0", "0.5"))(q, k, v))


def test_errors_of_texts_and_files():
    with pytest.raises(InputError, match="there is no file"):
        attncc.load("nowhere.attn")
    with pytest.raises(InputError, match="loads takes text, not an int"):
        attncc.loads(3)
    with pytest.raises(LanguageError, match="unknown name `kv_idy`"):
        attncc.loads("attention a:\n  mask = q_idx >= kv_idy\n")
    with pytest.raises(InputError, match="no captured tensor or parameter `slope`"):
        attncc.loads(WINDOW, slope=torch.ones(4))
