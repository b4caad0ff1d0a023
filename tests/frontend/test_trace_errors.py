"""Every mistake in a Python function: `tests/errors/python` has a file for each, beside it what its author reads."""

from __future__ import annotations

import linecache
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from attncc.errors import AttnccError, LanguageError, UnsupportedError
from attncc.frontend import trace, trace_functions
from tests.golden_files import UPDATE, Golden

FOLDER = Path(__file__).resolve().parent.parent / "errors" / "python"
FILES = sorted(path.name for path in FOLDER.glob("*.py"))


def caught(name: str) -> AttnccError:
    """What tracing a file's function raises; the file is known by its bare name, as in its own folder."""
    text = (FOLDER / name).read_text(encoding="utf-8")
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    scope: dict[str, Any] = {"__name__": name.removesuffix(".py")}
    exec(compile(text, name, "exec"), scope)
    with pytest.raises(AttnccError) as found:
        trace_functions(scope.get("score_mod"), scope.get("mask_mod"))
    return found.value


@pytest.mark.parametrize("name", FILES)
def test_the_drawing_is_the_one_beside_the_file(name: str, request: pytest.FixtureRequest) -> None:
    expected = Golden((FOLDER / name).with_suffix(".txt"), request.config.getoption(UPDATE))
    assert caught(name).describe() + "\n" == expected


@pytest.mark.parametrize("name", FILES)
def test_a_mistake_in_a_function_has_a_place_and_pickles(name: str) -> None:
    error = caught(name)
    assert isinstance(error, LanguageError | UnsupportedError)
    assert error.span is not None
    assert error.span.source.name == name
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert error.__cause__ is None
    assert error.__suppress_context__ or error.__context__ is None


def test_every_drawing_belongs_to_a_file() -> None:
    assert [path.name for path in FOLDER.glob("*.txt") if not path.with_suffix(".py").exists()] == []


def test_exceptions_of_the_user_come_through_unchanged() -> None:
    class Own(Exception):
        pass

    def raising(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        raise Own("mine")

    def missing(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return {}["key"] + q_idx

    def out_of_range(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        return torch.ones(4)[9] > q_idx

    for function, kind in ((raising, Own), (missing, KeyError), (out_of_range, IndexError)):
        with pytest.raises(kind) as found:
            trace_functions(None, function)
        assert type(found.value) is kind


def test_code_without_a_source_has_no_place_and_its_hint_names_every_replacement() -> None:
    scope: dict[str, Any] = {}
    exec("mask_mod = lambda b, h, q_idx, kv_idx: q_idx >= kv_idx and b == 0", scope)
    with pytest.raises(LanguageError) as found:
        trace_functions(None, scope["mask_mod"])
    assert found.value.span is None
    assert found.value.hint == "use `&`, `|`, `~` on conditions, torch.where to choose, torch.minimum and torch.maximum"


def test_traced_values_do_not_work_outside_of_their_trace() -> None:
    kept: list[Any] = []

    def keeping(b: Any, h: Any, q_idx: Any, kv_idx: Any) -> Any:
        kept.append(q_idx)
        return q_idx >= kv_idx

    trace_functions(None, keeping)
    with pytest.raises(LanguageError, match="outside of its trace"):
        kept[0] + 1
    with pytest.raises(LanguageError, match="a trace that is over"):
        trace_functions(None, lambda b, h, q_idx, kv_idx: q_idx > kept[0])


def test_what_is_no_function_is_refused() -> None:
    with pytest.raises(LanguageError, match="`mask_mod` must be a function, not 3"):
        trace_functions(None, 3)  # type: ignore[arg-type]
    with pytest.raises(LanguageError, match="compiled code"):
        trace_functions(None, torch.add)
    with pytest.raises(LanguageError, match="cannot be told"):
        trace(lambda *args: args[0])
    with pytest.raises(LanguageError, match="3 arguments"):
        trace(lambda b, h, q_idx: q_idx)


def test_truth_of_a_traced_value_in_a_running_program_text_is_refused_whatever_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "edited.py"
    path.write_text("mask_mod = lambda b, h, q_idx, kv_idx: not q_idx\n")
    scope: dict[str, Any] = {}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    path.write_text("")
    linecache.clearcache()
    with pytest.raises(LanguageError, match="cannot be true or false"):
        trace_functions(None, scope["mask_mod"])
