"""The errors of attncc: what is wrong, where, and what to write instead.

Every error that a user can cause is an `AttnccError` with a message in the user's terms, the place in the user's text
where there is one, and a hint. Anything else that escapes from attncc is a bug.
"""

from __future__ import annotations

from collections.abc import Sequence

from attncc.source import Span, draw


class AttnccError(Exception):
    """An error with an optional place in the user's text and an optional hint; `str` draws all three."""

    #: The captured tensor that it is about, for those who know where the user reads it.
    capture: str | None = None

    def __init__(self, message: str, span: Span | None = None, hint: str | None = None) -> None:
        super().__init__(message, span, hint)
        self.message = message
        self.span = span
        self.hint = hint

    def __str__(self) -> str:
        rows = [self.message]
        if self.span is not None:
            rows.append(draw(self.span))
        if self.hint is not None:
            rows.append(f"{' ' * 3}hint: {self.hint}" if self.span is not None else f"hint: {self.hint}")
        return "\n".join(rows)

    def locate(self, span: Span) -> None:
        """Give the error a place."""
        self.span = span
        self.args = (self.message, span, self.hint)

    def describe(self) -> str:
        """The error as a terminal shows it: its class, then the drawing."""
        return f"{type(self).__name__}: {self}"


class LanguageError(AttnccError):
    """A definition (Python function or `.attn` text) says something that the language does not allow."""


class InputError(AttnccError, ValueError):
    """Tensors, files or arguments given to attncc do not fit what was compiled."""


class UnsupportedError(AttnccError, NotImplementedError):
    """A well-formed request that attncc cannot fulfil."""


class CompileError(AttnccError):
    """Generated code did not compile, or failed its self-test."""


class InternalError(AttnccError):
    """A broken promise inside attncc: a bug to report."""


class LanguageErrors(LanguageError):
    """Several mistakes of one definition, reported together, in the order of the text."""

    def __init__(self, errors: Sequence[LanguageError]) -> None:
        Exception.__init__(self, tuple(errors))
        self.errors = tuple(errors)
        self.message = "\n".join(error.message for error in errors)
        self.span = errors[0].span
        self.hint = None

    def __str__(self) -> str:
        return "\n\n".join(str(error) for error in self.errors)


def raise_collected(errors: Sequence[LanguageError]) -> None:
    """Raise one error as it is, several as `LanguageErrors`, none not at all."""
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise LanguageErrors(errors)
