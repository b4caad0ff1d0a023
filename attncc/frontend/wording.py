"""What to say about a text that does not follow the grammar: in the user's terms, with what to write instead."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

from attncc.errors import LanguageError
from attncc.ir.syntax import KEYWORDS
from attncc.source import Span

#: Signs of other languages, and of mathematics, with what this one writes.
SIGNS: Final = {
    **{"≤": "`<=`", "≥": "`>=`", "≠": "`!=`", "×": "`*`", "·": "`*`", "−": "`-`", "–": "`-`", "÷": "`/`"},
    **{"∧": "`and`", "∨": "`or`", "¬": "`not`", "!": "`not`", "∞": "`inf`", "π": "`pi`", "√": "`sqrt(x)`"},
    **{"\u00a0": "a plain space", "（": "`(`", "）": "`)`", "，": "`,`", "：": "`:`"},
    **{"?": "`where(condition, a, b)`", ";": "a new line", "\\": "parentheses around what goes on in the next line"},
    **{"$": "a plain name", "@": "nothing: there are no decorators", "{": "`(`", "}": "`)`"},
    **{"'": "a name without quotes", '"': "a name without quotes", "`": "a name without quotes"},
    ".": "the function alone, as in `exp(x)`: nothing has attributes",
}
#: Words of other languages.
WORDS: Final = {
    **dict.fromkeys(("if", "else", "elif", "then", "case", "match"), "choose with `where(condition, a, b)`"),
    **dict.fromkeys(("for", "while"), "there are no loops: the definition is for every pair of a query and a key"),
    **dict.fromkeys(("import", "from"), "every function is built in; others are helpers: `def name(x) = expression`"),
    **dict.fromkeys(("let", "var", "const", "set"), "a name is bound by `name = expression` alone"),
    **dict.fromkeys(("return", "yield"), "bind the result: `score = expression` or `mask = expression`"),
    **dict.fromkeys(("param", "parameter"), "parameters stand behind the name: `attention name(window: int = 256):`"),
    "lambda": "a helper is `def name(x) = expression`, above `attention`",
    "is": "equality is `==`",
    "in": "compare with each value: `x == 1 or x == 2`",
}
DESCRIBED: Final = {
    "_NEWLINE": "the end of the line",
    "$END": "the end of the text",
    "NAME": "a name",
    "EQUAL": "`=`",
    "COLON": "`:`",
    "LPAR": "`(`",
    "RPAR": "`)`",
    "LSQB": "`[`",
    "RSQB": "`]`",
    "INTEGER": "a number",
    "ATTENTION": "`attention`",
}
AUGMENTED: Final = ("+", "-", "*", "/", "//", "%", "**", "&", "|", "^", "<<", ">>")
DOUBLED: Final = {"&": "`and`", "|": "`or`", "+": "one `+`"}
#: Statements of the top of a text, found among those of a variant.
STATEMENTS: Final = {
    "ATTENTION": ("a text defines one variant, and this is a second", "put it into a file of its own"),
    "DEF": ("helpers come before the variant", "move this line above `attention`"),
    "ATTN": ("the header `attn 1` comes first", "move it to the top"),
}
KEYWORD_TYPES: Final = frozenset(word.upper() for word in KEYWORDS)
MAX_QUOTED: Final = 40
EXAMPLE: Final = "the shortest definition is two lines: `attention causal:` and `mask = q_idx >= kv_idx`"


def character_error(span: Span) -> LanguageError:
    """A character that starts no word of the language."""
    sign = span.text
    if sign in SIGNS:
        return LanguageError(f"{_shown(sign)} means nothing here", span, f"write {SIGNS[sign]}")
    hint = "names are made of the letters a to z, digits and `_`; comments, after `#`, may hold anything"
    return LanguageError(f"{_shown(sign)} means nothing here", span, "remove it" if sign.isascii() else hint)


def shorten(text: str) -> str:
    """A word of the user's as messages quote it."""
    return text if len(text) <= MAX_QUOTED else f"{text[: MAX_QUOTED // 2]}…"


def _shown(sign: str) -> str:
    if sign.isprintable() and not sign.isspace() and not unicodedata.combining(sign):
        return f"`{sign}`"
    name = unicodedata.name(sign, "a control character").lower()
    return f"U+{ord(sign):04X} ({name})"


@dataclass(frozen=True, slots=True)
class Misfit:
    """A word where the grammar has none: its kind, the kinds that fit, its place, and its statement up to there."""

    found: str
    expected: frozenset[str]
    span: Span
    before: str

    @property
    def word(self) -> str:
        """The word as messages quote it."""
        return shorten(self.span.text)

    @property
    def statement(self) -> str:
        """The word that the statement starts with, if there is one before this."""
        return self.before.split(maxsplit=1)[0] if self.before.strip() else ""

    @property
    def previous(self) -> str:
        """The word before this one."""
        last = re.search(r"(\w+|\S)\s*$", self.before[-100:])
        return last.group(1) if last else ""

    def error(self, message: str, hint: str | None) -> LanguageError:
        """An error at this word."""
        return LanguageError(message, self.span, hint)

    def earlier_error(self, message: str, hint: str, *, only: bool = False) -> LanguageError:
        """An error at the word before this one and, unless it alone is meant, at this one."""
        start = self.span.start - (len(self.before) - self.before.rindex(self.previous))
        end = start + len(self.previous) if only else self.span.end
        return LanguageError(message, Span(self.span.source, start, end), hint)


def token_error(found: str, expected: set[str], span: Span, before: str) -> LanguageError:
    """What is wrong with a word where the grammar has none; `before` is its statement up to there."""
    misfit = Misfit(found, frozenset(expected), span, before)
    if found == "$END":
        return _end_error(misfit)
    return _foreign_word(misfit) or _foreign_sign(misfit) or _misplaced(misfit) or _missing(misfit) or _plain(misfit)


def _end_error(misfit: Misfit) -> LanguageError:
    if "ATTENTION" in misfit.expected:
        return misfit.error("there is no variant here" if misfit.span.start else "this text is empty", EXAMPLE)
    return misfit.error("the definition ends before it says anything", "bind `mask` or `score`, or both")


def _foreign_word(misfit: Misfit) -> LanguageError | None:
    """Words of other languages; one that could be a name is noticed when the next word does not fit."""
    if misfit.found not in ("NAME", "INTEGER", "REAL", "LPAR", "COLON"):
        return None
    if misfit.span.text in WORDS:
        return misfit.error(f"unexpected `{misfit.span.text}`", WORDS[misfit.span.text])
    if misfit.previous in WORDS:
        hint = WORDS[misfit.previous]
        return misfit.earlier_error(f"`{misfit.previous}` means nothing here", hint, only=True)
    if misfit.found == "NAME" and misfit.previous[:1].isdigit():
        return misfit.error(f"unexpected `{misfit.word}` after a number", "a product is written with `*`")
    return None


def _foreign_sign(misfit: Misfit) -> LanguageError | None:
    """Signs of other languages that are made of signs of this one."""
    sign, previous = misfit.span.text, misfit.previous
    if sign == previous and sign in DOUBLED:
        return misfit.earlier_error(f"`{previous}{sign}` means nothing here", f"write {DOUBLED[sign]}")
    if misfit.found == "EQUAL" and "=" in misfit.before:
        return misfit.error("`=` binds a name at the start of a line", "equality is `==`")
    if sign in AUGMENTED and misfit.before.split() == [previous] and previous.isidentifier():
        hint = f"write the name again: `{shorten(previous)} = {shorten(previous)} {sign} …`"
        return misfit.error(f"`{sign}=` means nothing here", hint)
    if sign == "[" and previous in ("]", ")"):
        return misfit.error("only a captured tensor can be indexed", "give all indices at once, as in `t[b, h]`")
    return None


def _misplaced(misfit: Misfit) -> LanguageError | None:
    """Words of this language in the wrong place."""
    found, expected = misfit.found, misfit.expected
    if "ATTENTION" in expected:
        hint = "the header `attn 1` comes first and only once" if found == "ATTN" else EXAMPLE
        return misfit.error(f"expected `attention`, but found `{misfit.word}`", hint)
    if "CAPTURE" in expected:
        message, hint = STATEMENTS.get(found, ("a statement binds a name", "write `name = expression`"))
        return misfit.error(message, hint)
    if found in KEYWORD_TYPES and "NAME" in expected and (found not in ("AND", "OR") or expected == {"NAME"}):
        return misfit.error(f"`{misfit.word}` is a word of the language, not a name", "choose another name")
    return None


def _missing(misfit: Misfit) -> LanguageError | None:
    """Signs that a statement cannot do without."""
    expected, statement = misfit.expected, misfit.statement
    if statement == "attention" and misfit.before.count("(") > misfit.before.count(")"):
        if "COLON" in expected:
            return misfit.error("a parameter says what it is", "write `name: int = 256`, with one of int, float, bool")
        if "EQUAL" in expected:
            return misfit.error("a parameter has a default", "write `name: int = 256`")
    if statement == "attention" and "COLON" in expected:
        hint = "write `attention name:`, or `attention name(window: int = 256):`"
        return misfit.error("`:` is missing after the name of the variant", hint)
    if statement == "capture" and "COLON" in expected:
        hint = "write `capture slopes: float[heads]`, with one of int, float, bool"
        return misfit.error("a captured tensor says what it holds", hint)
    if statement == "capture" and "[" in misfit.before:
        return misfit.error(
            "a size is one number or one name", "a number, `batch`, `heads`, `q_len`, `kv_len`, or `_` for any"
        )
    if statement == "def" and expected <= {"EQUAL", "LPAR"}:
        return misfit.error("a helper has arguments and one expression", "write `def near(x, y) = abs(x - y) < 8`")
    if expected == {"EQUAL"}:
        return misfit.error("a statement binds a name", "write `name = expression`")
    return None


def _plain(misfit: Misfit) -> LanguageError:
    expected = misfit.expected
    found = DESCRIBED["_NEWLINE"] if misfit.found == "_NEWLINE" else f"`{misfit.word}`"
    if {"NAME", "LPAR", "INTEGER"} <= expected:
        wanted, hint = "an expression", "an expression is a number, a name, a call, or made of these by operators"
        if misfit.found == "_NEWLINE":
            hint = "an expression goes on in the next line only inside parentheses"
    elif "PLUS" in expected:
        end = {"_NEWLINE": " or the end of the line", "RPAR": ", `,` or `)`", "RSQB": ", `,` or `]`"}
        wanted = "an operator" + next((text for kind, text in end.items() if kind in expected), "")
        hint = "two values need an operator between them; each statement has a line of its own"
    else:
        wanted = " or ".join(sorted(DESCRIBED[kind] for kind in expected if kind in DESCRIBED)) or "something else"
        hint = f"put {wanted} here"
    return misfit.error(f"expected {wanted}, but found {found}", hint)
