import pytest

from tests.commands.runner import PYTHON, WINDOW, attncc


@pytest.fixture
def window(tmp_path):
    path = tmp_path / "window.attn"
    path.write_text(WINDOW)
    return path


@pytest.fixture
def functions(tmp_path):
    path = tmp_path / "functions.py"
    path.write_text(PYTHON)
    return path


def test_a_canonical_file_is_shown_as_it_is(window):
    assert attncc("show", window).out == WINDOW


def test_text_is_read_from_standard_input():
    assert attncc("show", "-", stdin=WINDOW).out == WINDOW


def test_a_python_function_shows_the_same_text(functions):
    shown = attncc("show", f"{functions}:near").out
    assert [line for line in shown.split("\n") if "attention" not in line] == [
        line for line in WINDOW.split("\n") if "attention" not in line
    ]


def test_a_score_and_a_mask_make_one_variant(functions):
    shown = attncc("show", f"{functions}:alibi,near").out
    assert "mask =" in shown
    assert "score = score - slopes[h] * distance" in shown


def test_functions_inside_classes_are_found(functions):
    assert "mask = q_idx >= kv_idx" in attncc("show", f"{functions}:masks.causal").out


def test_a_module_is_imported_from_the_current_folder(functions, monkeypatch):
    monkeypatch.chdir(functions.parent)
    functions.rename(functions.with_name("functions_of_a_module.py"))
    assert "mask =" in attncc("show", "functions_of_a_module:near").out


def test_json_has_the_text_and_what_a_call_brings(window):
    shown = attncc("show", window, "--json").json
    assert shown["text"] == WINDOW
    assert shown["parameters"] == [{"name": "window", "value": 256}]
    assert shown["captures"] == []


def test_parameters_are_shown_with_the_values_given(window, functions):
    assert "window: int = 17" in attncc("show", window, "--param", "window=17").out
    assert "window: int = 17" in attncc("show", f"{functions}:near", "--param", "window=17").out


def test_a_function_that_makes_a_mask_is_called(functions):
    assert "window: int = 8" in attncc("show", f"{functions}:make_near").out
    assert "window: int = 17" in attncc("show", f"{functions}:make_near", "-p", "window=17").out
    assert attncc("show", "attncc.variants.windows:sliding_window").out == WINDOW.replace("window(", "sliding_window(")


MISTAKES = {
    "no file": ("nowhere.attn", "InputError: there is no file nowhere.attn\n"),
    "no colon": ("nowhere", "InputError: there is no file nowhere\n"),
    "no module": (
        "no_such_module:causal",
        "InputError: there is no module `no_such_module`\n"
        "hint: a variant is file.attn, module:function or path.py:function\n",
    ),
    "no python file": ("nowhere.py:causal", "InputError: there is no file nowhere.py\n"),
    "nearest": ("{functions}:naer", "there is no `naer`\nhint: did you mean `near`?\n"),
    "arguments": ("{functions}:three", "InputError: `three` takes 3 arguments\nhint: a score function takes (score,"),
    "makes nothing": ("{functions}:make_nothing", "make_nothing() makes neither a score nor a mask, but 'nothing'\n"),
    "fails": ("{functions}:make_fail", "make_fail() raised KeyError: 'x'\n"),
    "needs a tensor": (
        "attncc.variants.bias:alibi",
        "InputError: `alibi` takes 1 argument\nhint: a score function takes (score, b, h, q_idx, kv_idx), "
        "a mask function (b, h, q_idx, kv_idx); if it makes one of these from `slopes`, name what it made: "
        "mine = alibi(...)\n",
    ),
    "another module": ("attncc.variants:nothing_near", "write attncc.variants.MODULE:nothing_near\n"),
    "no function": ("{functions}:window", "InputError: `window` is not a function\n"),
    "two masks": ("{functions}:near,masks.causal", "names two mask functions\n"),
    "which function": ("{functions}", "which function?\nhint: name it, as in"),
}


@pytest.mark.parametrize(("target", "message"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_target_that_does_not_exist_is_explained(target, message, functions):
    finished = attncc("show", target.format(functions=functions))
    assert finished.code == 1
    assert finished.out == ""
    assert message in finished.err


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("widnow=3", "did you mean `window`?"),
        ("other=3", "it has `window`"),
        ("window=1.5", "the parameter `window` is an int, not 1.5"),
    ],
)
def test_a_parameter_that_does_not_fit_is_explained(value, message, window, functions):
    for target in (window, f"{functions}:near"):
        finished = attncc("show", target, "--param", value)
        assert (finished.code, finished.out) == (1, "")
        assert message in finished.err


def test_a_module_that_fails_says_how(tmp_path):
    path = tmp_path / "failing.py"
    path.write_text("raise KeyError('x')")
    finished = attncc("show", f"{path}:causal")
    assert finished.code == 1
    assert "raised KeyError: 'x'" in finished.err


def test_a_missing_argument_is_a_usage_error():
    finished = attncc("show")
    assert finished.code == 2
    assert "Missing argument" in finished.err
