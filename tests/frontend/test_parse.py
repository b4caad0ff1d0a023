"""The language: what texts mean, and that every text ends in a spec or an error."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attncc.errors import AttnccError, InputError, LanguageError, LanguageErrors
from attncc.frontend import parse, read_source
from attncc.ir import (
    KV_IDX,
    Q_IDX,
    SCORE,
    TRUE,
    AttentionSpec,
    Capture,
    H,
    Op,
    Parameter,
    Scalar,
    apply,
    const,
    evaluate,
    load,
    param,
    print_spec,
)
from attncc.ir.syntax import CONSTANTS, CONVERSIONS, FUNCTIONS, OPERATORS, SHORTHANDS
from attncc.source import Source
from tests.share import share

EXAMPLE = """\
# ALiBi over a causal window
attention windowed_alibi(window: int = 256):
  capture slopes: float[heads]
  distance = q_idx - kv_idx
  mask  = distance >= 0 and distance < window
  score = score - slopes[h] * distance
"""


def score(expression, declarations=""):
    return parse(f"attention x:\n{declarations}  score = {expression}\n").score


def mask(expression, declarations=""):
    return parse(f"attention x:\n{declarations}  mask = {expression}\n").mask


def test_the_first_example_means_what_it_says():
    distance = apply(Op.SUB, Q_IDX, KV_IDX)
    expected = AttentionSpec(
        "windowed_alibi",
        score=apply(Op.SUB, SCORE, apply(Op.MUL, load("slopes", Scalar.FLOAT, H), distance)),
        mask=apply(Op.AND, apply(Op.GE, distance, const(0)), apply(Op.LT, distance, param("window"))),
        captures=(Capture("slopes", Scalar.FLOAT, ("heads",)),),
        parameters=(Parameter("window", 256),),
    )
    spec = parse(EXAMPLE)
    assert (spec, spec.name) == (expected, "windowed_alibi")


# The shape of a text


@pytest.mark.parametrize(
    "text",
    [
        f"attn 1\n{EXAMPLE}",
        f"\n\n  # first\n\tattn 1 # the header\n\n{EXAMPLE}",
        f"\ufeff{EXAMPLE}",
        EXAMPLE.replace("\n", "\r\n"),
        EXAMPLE.replace("\n", "\r"),
        EXAMPLE.replace("  ", "\t"),
        EXAMPLE.replace("  ", ""),
        EXAMPLE.rstrip(),
        EXAMPLE.rstrip() + "  # the end",
        EXAMPLE.replace("\n", "  # größer ≥ 漢\n\n   # again\n"),
        EXAMPLE.replace("distance >= 0 and", "(\n\n  distance\n >=  # (\n   0 \n) and"),
        EXAMPLE.replace("(window: int = 256)", "(\n  window: int = 256,\n)"),
        EXAMPLE.replace("[heads]", "[\n heads,\n ]"),
    ],
    ids=lambda text: repr(text[:24]),
)
def test_layout_header_and_line_ends_do_not_matter(text):
    assert parse(text) == parse(EXAMPLE)


def test_no_indentation_means_anything():
    assert mask("q_idx >= kv_idx") is mask("(\nq_idx\n>=\nkv_idx\n)")


def test_a_score_alone_sees_every_pair():
    assert parse("attention x:\n  score = score * 2").mask is TRUE


def test_score_may_be_bound_again_and_means_the_latest():
    text = "attention x:\n  score = score * 2\n  score = score + score\n  mask = true\n"
    doubled = apply(Op.MUL, SCORE, const(2))
    assert parse(text).score is apply(Op.ADD, doubled, doubled)


def test_the_score_can_read_the_mask():
    spec = parse("attention x:\n  mask = q_idx >= kv_idx\n  score = where(mask, score, 0)\n")
    assert spec.score is apply(Op.WHERE, spec.mask, SCORE, const(0.0))


def test_an_int_score_becomes_a_float():
    assert score("q_idx").scalar is Scalar.FLOAT


# Captured tensors


def test_sizes_are_numbers_names_or_anything():
    text = "attention x:\n  capture t: int[batch, heads, q_len, kv_len, _, 1_0]\n  capture z: bool\n  mask = z\n"
    captures = parse(text).captures
    assert captures == (
        Capture("t", Scalar.INDEX, ("batch", "heads", "q_len", "kv_len", "_", 10)),
        Capture("z", Scalar.BOOL, ()),
    )


def test_a_number_is_read_by_its_bare_name_and_a_tensor_by_all_its_indices():
    declarations = "  capture heat: float\n  capture ids: int[batch, _]\n  capture table: float[_]\n"
    ids = load("ids", Scalar.INDEX, parse("attention x:\n  score = b").score.args[0], Q_IDX)
    assert score("heat", declarations) is load("heat", Scalar.FLOAT)
    assert score("table[ids[b, q_idx]]", declarations) is load("table", Scalar.FLOAT, ids)


# Parameters

PARAMETERS = """\
attention x(window: int = 2 ** 8, cap: float = 30, sinks: bool = not true,):
  mask = q_idx - kv_idx < window or sinks
  score = cap * score
"""


def test_int_parameters_are_arguments_and_others_constants():
    spec = parse(PARAMETERS)
    assert spec.parameters == (Parameter("window", 256),)
    assert spec.score is apply(Op.MUL, const(30.0), SCORE)


def test_defaults_can_be_replaced():
    spec = parse(PARAMETERS, {"window": 7, "cap": 2, "sinks": True})
    assert spec.parameters == (Parameter("window", 7),)
    assert spec.score is apply(Op.MUL, const(2.0), SCORE)
    assert spec.mask.args[1] is TRUE


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"windw": 7}, "`x` has no parameter `windw`\nhint: did you mean `window`?"),
        ({"zzz": 7}, "`x` has no parameter `zzz`\nhint: it has `window`, `cap`, `sinks`"),
        ({"window": 7.0}, "the parameter `window` is an int, not 7.0\nhint: pass an int of 64 bits"),
        ({"window": True}, "the parameter `window` is an int, not True\nhint: pass an int of 64 bits"),
        ({"window": 2**63}, "the parameter `window` is an int, not 9223372036854775808\nhint: pass an int of 64 bits"),
        ({"cap": "30"}, "the parameter `cap` is a float, not '30'\nhint: pass float(...)"),
        ({"cap": False}, "the parameter `cap` is a float, not False\nhint: pass float(...)"),
        ({"sinks": 1}, "the parameter `sinks` is a bool, not 1\nhint: pass bool(...)"),
    ],
)
def test_values_that_do_not_fit_are_refused(given, message):
    with pytest.raises(InputError) as caught:
        parse(PARAMETERS, given)
    assert str(caught.value) == message


def test_a_variant_without_parameters_says_so():
    with pytest.raises(InputError, match=r"`windowed` has no parameter `w`\nhint: it has none"):
        parse("attention windowed:\n  mask = true\n", {"w": 1})


# Helpers


def test_helpers_are_put_in_place():
    text = """\
        def near(x, y, width) = abs(x - y) <= width
        def both(x) = near(q_idx, kv_idx, x) and near(h, b, x)
        attention x:
          mask = both(3)
    """
    assert parse(text).mask is mask("abs(q_idx - kv_idx) <= 3 and abs(h - b) <= 3")


def test_a_helper_takes_the_kinds_of_its_arguments():
    text = "def twice(x) = x + x\nattention x:\n  score = twice(score) * twice(h)\n  mask = twice(q_idx > 3)\n"
    spec = parse(text)
    assert spec.score is score("(score + score) * (h + h)")
    assert spec.mask is mask("q_idx > 3 or q_idx > 3")


def test_a_helper_without_arguments_is_a_name_for_an_expression():
    assert parse("def distance() = q_idx - kv_idx\nattention x:\n  mask = distance() < 8\n").mask is mask(
        "q_idx - kv_idx < 8"
    )


def test_an_argument_may_be_called_like_a_name_of_the_variant():
    text = "def square(window) = window * window\nattention x(window: int = 3):\n  mask = square(h) < window\n"
    assert parse(text).mask is parse("attention x(window: int = 3):\n  mask = h * h < window\n").mask


def test_helpers_that_share_grow_no_text_and_no_time():
    helpers = "def f0(x) = x + 1\n" + "".join(f"def f{i + 1}(x) = f{i}(x) * f{i}(x)\n" for i in range(300))
    text = f"{helpers}attention x:\n  score = f300(score)\n"
    start = time.perf_counter()
    parse(text)
    assert time.perf_counter() - start < 10


def test_a_thousand_helpers_deep_is_no_recursion():
    helpers = "def f0(x) = x + 1\n" + "".join(f"def f{i + 1}(x) = f{i}(x) + 1\n" for i in range(2000))
    assert parse(f"{helpers}attention x:\n  score = f2000(score)\n").score.op is Op.ADD


# Expressions

X = 0.37
FUNCTION_VALUES = {
    "where": ("where(q_idx > 1, score, 7)", X),
    "min": ("min(score, 0.5, 0.25)", 0.25),
    "max": ("max(score, 0.5, 0.25)", 0.5),
    "abs": ("abs(-score)", X),
    "exp": ("exp(score)", math.exp(X)),
    "exp2": ("exp2(score)", 2**X),
    "expm1": ("expm1(score)", math.expm1(X)),
    "log": ("log(score)", math.log(X)),
    "log2": ("log2(score)", math.log2(X)),
    "log1p": ("log1p(score)", math.log1p(X)),
    "sqrt": ("sqrt(score)", math.sqrt(X)),
    "rsqrt": ("rsqrt(score)", 1 / math.sqrt(X)),
    "tanh": ("tanh(score)", math.tanh(X)),
    "sigmoid": ("sigmoid(score)", 1 / (1 + math.exp(-X))),
    "sin": ("sin(score)", math.sin(X)),
    "cos": ("cos(score)", math.cos(X)),
    "atan": ("atan(score)", math.atan(X)),
    "erf": ("erf(score)", math.erf(X)),
    "floor": ("floor(-score)", -1.0),
    "ceil": ("ceil(score)", 1.0),
    "round": ("round(score + 2.13)", 2.0),
    "trunc": ("trunc(-score - 1)", -1.0),
    "clamp": ("clamp(score, 0.5, 2)", 0.5),
    "relu": ("relu(-score)", 0.0),
    "silu": ("silu(score)", X / (1 + math.exp(-X))),
    "gelu": ("gelu(score)", X * 0.5 * (1 + math.erf(X / math.sqrt(2)))),
    "softplus": ("softplus(score)", math.log1p(math.exp(X))),
    "int": ("int(-score - 2)", -2.0),
    "float": ("float(q_idx) / 2", 2.5),
    "bool": ("where(bool(score), 1, 0)", 1.0),
    "bfloat16": ("bfloat16(score)", 0.369140625),
    "float16": ("float16(score)", 0.3701171875),
}


def test_every_function_has_a_value_below():
    assert sorted(FUNCTION_VALUES) == sorted((*FUNCTIONS, *SHORTHANDS, *CONVERSIONS))


@pytest.mark.parametrize("name", FUNCTION_VALUES)
def test_functions_have_their_values(name):
    expression, value = FUNCTION_VALUES[name]
    assert evaluate(score(expression), {"score": X, "q_idx": 5}) == pytest.approx(value, rel=1e-14)


@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_have_their_values(name):
    assert evaluate(score(f"where({name} == {name}, {name}, 5)"), {}) == pytest.approx(
        float(CONSTANTS[name]) if name != "nan" else 5.0
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *(("0", 0), ("1_000", 1000), ("0xFf", 255), ("0b1_01", 5), ("007", 7), ("9223372036854775807", 2**63 - 1)),
        *((".5", 0.5), ("5.", 5.0), ("1e3", 1e3), ("1_0.2_5E-1", 1.025), ("1e-400", 0.0), ("5e-324", 5e-324)),
        *(("-9223372036854775808", -(2**63)), ("-1", -1), ("-0.0", -0.0), ("-inf", -math.inf)),
    ],
)
def test_numbers_are_read_as_they_are_written(text, value):
    parsed = mask(f"kv_idx < {text}").args[1] if isinstance(value, int) else score(f"score * {text}").args[1]
    assert parsed is const(value)


REFUSED = re.compile("fit in 64 bits|constant int of at least 0|constant from 0 to 63")
ATOMS = ("q_idx", "kv_idx", "h", "b", "1", "7", "12")
BINARY = ("+", "-", "*", "&", "|", "^")
BY_CONSTANTS = ("// 3", "% 5", "<< 2", ">> 1", "** 2")
COMPARED = ("<", "<=", ">", ">=", "==", "!=")


def texts_of_ints() -> st.SearchStrategy[str]:
    """Int expressions that mean the same in Python, with and without parentheses."""
    return st.recursive(
        st.sampled_from(ATOMS),
        lambda inner: st.one_of(
            st.builds("{} {} {}".format, inner, st.sampled_from(BINARY), inner),
            st.builds("{} {}".format, inner, st.sampled_from(BY_CONSTANTS)),
            st.builds("({})".format, inner),
            st.builds("{}{}".format, st.sampled_from(("-", "~")), inner),
            st.builds("min({}, {}, {})".format, inner, inner, inner),
            st.builds("abs({})".format, inner),
        ),
        max_leaves=12,
    )


def texts_of_bools() -> st.SearchStrategy[str]:
    ints = texts_of_ints()
    compared = st.one_of(
        st.builds("{} {} {}".format, ints, st.sampled_from(COMPARED), ints),
        st.builds("{} {} {} {} {}".format, ints, st.sampled_from(COMPARED), ints, st.sampled_from(COMPARED), ints),
    )
    return st.recursive(
        compared,
        lambda inner: st.one_of(
            st.builds("{} {} {}".format, inner, st.sampled_from(("and", "or")), inner),
            st.builds("not {}".format, inner),
            st.builds("({})".format, inner),
            st.builds("({}) {} ({})".format, inner, st.sampled_from(("&", "|", "^", "==", "!=")), inner),
        ),
        max_leaves=5,
    )


@settings(max_examples=share(2000))
@given(texts_of_bools())
def test_precedence_chains_and_values_are_those_of_python(text):
    places = {"q_idx": 11, "kv_idx": 4, "h": 3, "b": 2}
    parsed = read(f"attention x:\n  mask = {text}\n")
    if isinstance(parsed, LanguageError):  # what Python computes and 64 bits do not hold
        assert REFUSED.search(str(parsed))
        return
    expected = eval(text, {"__builtins__": {"min": min, "abs": abs}}, places)  # the text is made of the words above
    assert evaluate(parsed.mask, places) == bool(expected)


def test_every_operator_of_the_table_is_in_the_grammar():
    for op, operator in OPERATORS.items():
        operands = ["q_idx > 3", "h > 1"] if op in (Op.AND, Op.OR, Op.XOR, Op.NOT) else ["q_idx", "3"]
        words = [operator.symbol, f"({operands[0]})", f"({operands[1]})"]
        text = f"{words[0]} {words[1]}" if len(operator.operands) == 1 else f"{words[1]} {words[0]} {words[2]}"
        made = mask(f"({text}) != (b > 5)") if op in (Op.AND, Op.OR, Op.XOR, Op.NOT) else mask(f"({text}) != 77")
        assert op in (made.args[0].op, *(arg.op for arg in made.args[0].args))


# Origins


def test_origins_say_where_and_under_which_name():
    text = EXAMPLE.replace("distance >= 0", "0 <= q_idx - kv_idx")
    spec = parse(Source("alibi.attn", text, first_line=11))
    distance = apply(Op.SUB, Q_IDX, KV_IDX)
    origin = spec.origins[distance]
    assert (origin.name, origin.span.text, origin.span.place) == ("distance", "q_idx - kv_idx", "alibi.attn:14:14")
    assert spec.origins[spec.score].span.text == "score - slopes[h] * distance"
    assert spec.origins[spec.score].name is None


# Robustness


def read(text):
    """The spec of a text, or the error that it ends in."""
    try:
        return parse(text)
    except LanguageError as error:
        return error


def assert_spec_or_drawing(text):
    found = read(text)
    if isinstance(found, LanguageError):
        assert found.span is not None
        assert "-->" in str(found)
    else:
        assert parse(print_spec(found)) == found


def message(text):
    with pytest.raises(AttnccError) as caught:
        parse(text)
    assert not isinstance(caught.value, LanguageErrors)
    return str(caught.value)


def test_a_very_long_text_is_refused_at_once(golden):
    start = time.perf_counter()
    text = message("attention x:\n" + "  # x\n" * 2_000_000 + "  mask = true\n")
    assert time.perf_counter() - start < 2
    assert text == golden


def test_a_hundred_thousand_names_are_too_long(golden):
    names = "".join(f"  a{i + 1} = a{i} + 1\n" for i in range(100_000))
    assert message(f"attention x:\n  a0 = q_idx\n{names}  mask = a7 > 3\n") == golden


def test_a_chain_of_names_is_too_deep(golden):
    names = "".join(f"  a{i + 1} = a{i} + 1\n" for i in range(6000))
    assert message(f"attention x:\n  a0 = q_idx\n{names}  mask = a6000 > 3\n") == golden


def test_ten_thousand_names_are_read():
    names = "".join(f"  a{i} = q_idx + {i}\n" for i in range(10_000))
    assert parse(f"attention x:\n{names}  mask = a77 > 3\n").mask is mask("q_idx + 77 > 3")


def test_ten_thousand_parentheses_are_read():
    assert mask("(" * 10_000 + "q_idx > 3" + ")" * 10_000) is mask("q_idx > 3")


@settings(max_examples=share(2000))
@given(st.text(st.characters(codec="utf-8"), max_size=60), st.integers(0, len(EXAMPLE)), st.integers(0, len(EXAMPLE)))
def test_no_text_ends_in_anything_but_a_spec_or_an_error(inserted, start, end):
    text = EXAMPLE[:start] + inserted + EXAMPLE[end:]
    assert_spec_or_drawing(text)


WORDS = (
    *(
        "attn 1",
        "attention",
        "x",
        ":",
        "\n",
        "\n",
        "(",
        ")",
        "[",
        "]",
        ",",
        "=",
        "==",
        "<",
        "+",
        "-",
        "**",
        "&",
        "not",
        "and",
    ),
    *(
        "capture",
        "t",
        "int",
        "float",
        "[heads]",
        "def",
        "f",
        "mask",
        "score",
        "q_idx",
        "h",
        "1",
        "2.5",
        "inf",
        "true",
        "exp",
    ),
    *(
        "attention x:\n",
        "  mask = ",
        "  score = ",
        "capture t: float[heads]\n",
        "def f(x) = ",
        "f(q_idx)",
        "t[h]",
        "# hm",
    ),
)


@settings(max_examples=share(2000))
@given(st.lists(st.sampled_from(WORDS), max_size=30))
def test_no_words_end_in_anything_but_a_spec_or_an_error(words):
    assert_spec_or_drawing(" ".join(words))


def test_reading_a_text_runs_no_code_and_needs_neither_torch_nor_sympy():
    program = f"""
import sys
from attncc.frontend import parse
from attncc.ir import print_spec
print_spec(parse({EXAMPLE!r}))
loaded = sorted({{"torch", "sympy", "jinja2", "numpy"}} & set(sys.modules))
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_a_usual_text_is_read_in_less_than_50_ms():
    parse(EXAMPLE)  # the grammar is loaded once
    start = time.perf_counter()
    for _ in range(5):
        parse(EXAMPLE)
    assert (time.perf_counter() - start) / 5 < 0.05


# Files


def test_a_file_is_read_with_its_name(tmp_path):
    path = tmp_path / "x.attn"
    path.write_bytes(b"\xef\xbb\xbfattention x:\r\n  mask = q_idx >= kvidx")
    source = read_source(path)
    assert source.name == str(path)
    with pytest.raises(LanguageError) as caught:
        parse(source)
    assert caught.value.span.place == f"{path}:2:19"


def test_files_that_cannot_be_read_are_input_errors(tmp_path, golden, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "latin.attn").write_bytes(b"# ok\nattention x:\n  # gr\xf6\xdfer\n  mask = true\n")
    (tmp_path / "utf16.attn").write_bytes("attention x:\n  mask = true\n".encode("utf-16"))
    (tmp_path / "long.attn").write_bytes(b"# x\n" * 2_600_000)
    drawn = []
    for name in ("missing.attn", "folder", "latin.attn", "utf16.attn", "long.attn", "null\0.attn"):
        with pytest.raises(InputError) as caught:
            parse(read_source(name))
        drawn.append(caught.value.describe())
    assert "\n\n".join(drawn).replace("\0", "\\0") + "\n" == golden
