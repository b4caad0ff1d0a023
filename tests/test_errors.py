"""Errors: what they say, and that they survive a trip to another process with their place."""

import copy
import pickle

import pytest

from attncc import errors
from attncc.errors import AttnccError, InputError, LanguageError, LanguageErrors, UnsupportedError, raise_collected
from attncc.source import Source, Span

TEXT = Source("windowed.attn", "attention windowed:\n  score = q_idx >= kv_idx\n")
PLACE = Span(TEXT, 30, 45)

CLASSES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, AttnccError)]
SINGLE = [each for each in CLASSES if each is not LanguageErrors]

DRAWN = """\
`score` must be a float, but this is a bool
 --> windowed.attn:2:11
  |
2 |   score = q_idx >= kv_idx
  |           ^^^^^^^^^^^^^^^
   hint: conditions belong in `mask`"""


def made(kind=LanguageError):
    return kind("`score` must be a float, but this is a bool", PLACE, "conditions belong in `mask`")


def again(error):
    yield pickle.loads(pickle.dumps(error))
    yield copy.copy(error)
    yield copy.deepcopy(error)


def test_an_error_draws_its_message_its_place_and_its_hint():
    assert str(made()) == DRAWN
    assert made().describe() == f"LanguageError: {DRAWN}"


def test_an_error_without_a_place_is_a_line_with_a_hint():
    assert str(InputError("there is no file", hint="look again")) == "there is no file\nhint: look again"
    assert str(InputError("there is no file")) == "there is no file"


def test_an_error_can_be_given_its_place_later():
    error = InputError("`score` must be a float, but this is a bool", hint="conditions belong in `mask`")
    error.locate(PLACE)
    assert [str(other) for other in (error, *again(error))] == [DRAWN] * 4


@pytest.mark.parametrize("kind", SINGLE)
def test_every_error_pickles_and_copies_with_its_place(kind):
    error = made(kind)
    for other in again(error):
        assert type(other) is kind
        assert (str(other), other.message, other.hint) == (str(error), error.message, error.hint)
        assert (other.span.start, other.span.end, other.span.source.text) == (30, 45, TEXT.text)


def test_several_mistakes_pickle_and_copy_together():
    error = LanguageErrors([made(), LanguageError("second")])
    assert str(error) == f"{DRAWN}\n\nsecond"
    for other in again(error):
        assert type(other) is LanguageErrors
        assert str(other) == str(error)
        assert [each.message for each in other.errors] == [each.message for each in error.errors]
        assert other.span.start == 30


def test_errors_are_what_callers_of_python_expect():
    assert issubclass(InputError, ValueError)
    assert issubclass(UnsupportedError, NotImplementedError)
    assert issubclass(LanguageErrors, LanguageError)


def test_collected_mistakes_are_raised_alone_or_together():
    one, two = made(), LanguageError("second")
    raise_collected([])
    with pytest.raises(LanguageError) as caught:
        raise_collected([one])
    assert caught.value is one
    with pytest.raises(LanguageErrors) as several:
        raise_collected([one, two])
    assert several.value.errors == (one, two)
