"""What to say about a text that does not follow the grammar: in the user's terms, with what to write instead."""

from __future__ import annotations

import re
import unicodedata
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
KEYWORD_TYPES: Final = frozenset(word.upper() for word in KEYWORDS)
MAX_QUOTED: Final = 40
EXAMPLE: Final = "the shortest definition is two lines: `attention causal:` and `mask = q_idx >= kv_idx`"


def character_error(span: Span) -> LanguageError:
    """A character that starts no word of the language."""
    sign = span.text
    if sign in SIGNS:
        return LanguageError(f"{_shown(sign)} means nothing here", span, f"write {SIGNS[sign]}")
    hint = "names are made of the letters a to z, digits and `_`; comments, after `#`, may hold anything"
    return LanguageError(f"{_shown(sign)} means nothing here", span, None if sign.isascii() else hint)


def shorten(text: str) -> str:
    """A word of the user's as messages quote it."""
    return text if len(text) <= MAX_QUOTED else f"{text[: MAX_QUOTED // 2]}…"


def _shown(sign: str) -> str:
    if sign.isprintable() and not sign.isspace() and not unicodedata.combining(sign):
        return f"`{sign}`"
    name = unicodedata.name(sign, "a control character").lower()
    return f"U+{ord(sign):04X} ({name})"


def token_error(found: str, expected: set[str], span: Span, before: str) -> LanguageError:
    """A word where the grammar has none: `found` is its kind, `before` its statement up to there."""
    if found == "$END":
        return _end_error(expected, span)
    for message, hint in (_foreign(found, span, before), _misplaced(found, expected, span), _missing(expected, before)):
        if message:
            return LanguageError(message, span, hint)
    shown = DESCRIBED["_NEWLINE"] if found == "_NEWLINE" else f"`{shorten(span.text)}`"
    wanted, hint = _wanted(expected)
    return LanguageError(f"expected {wanted}, but found {shown}", span, hint if found == "_NEWLINE" else None)


def _end_error(expected: set[str], span: Span) -> LanguageError:
    if "ATTENTION" in expected:
        message = "there is no variant here" if span.start else "this text is empty"
        return LanguageError(message, span, EXAMPLE)
    return LanguageError("the definition ends before it says anything", span, "bind `mask` or `score`, or both")


Wording = tuple[str | None, str | None]
NOTHING: Final[Wording] = (None, None)


def _misplaced(found: str, expected: set[str], span: Span) -> Wording:
    """Words of this language in the wrong place."""
    if "ATTENTION" in expected:
        hint = "the header `attn 1` comes first and only once" if found == "ATTN" else EXAMPLE
        return f"expected `attention`, but found `{shorten(span.text)}`", hint
    if "CAPTURE" in expected and found == "ATTENTION":
        return "a text defines one variant, and this is a second", "put it into a file of its own"
    if "CAPTURE" in expected and found == "DEF":
        return "helpers come before the variant", "move this line above `attention`"
    if "CAPTURE" in expected and found == "ATTN":
        return "the header `attn 1` comes first", "move it to the top"
    if "CAPTURE" in expected:
        return "a statement binds a name", "write `name = expression`"
    if found in KEYWORD_TYPES and "NAME" in expected and (found not in ("AND", "OR") or expected == {"NAME"}):
        return f"`{span.text}` is a word of the language, not a name", None
    return NOTHING


def _foreign(found: str, span: Span, before: str) -> Wording:
    """What other languages write here."""
    last = re.search(r"(\w+|\S)\s*$", before)
    previous = last.group(1) if last else ""
    if found == "NAME":
        for word, message in ((span.text, f"unexpected `{span.text}`"), (previous, f"`{previous}` means nothing here")):
            if word in WORDS:
                return message, WORDS[word]
        if previous[:1].isdigit():
            return f"unexpected `{shorten(span.text)}` after a number", "a product is written with `*`"
    doubled = {"&": "`and`", "|": "`or`", "+": "one `+`"}
    if span.text == previous and span.text in doubled:
        return f"`{previous}{span.text}` means nothing here", f"write {doubled[previous]}"
    if found == "EQUAL" and "=" in before:
        return "`=` binds a name at the start of a line", "equality is `==`"
    if span.text in AUGMENTED and len(before.split()) == 1 and previous.isidentifier():
        return f"`{span.text}=` means nothing here", f"write the name again: `{previous} = {previous} {span.text} …`"
    if found == "LSQB" and previous in "])":
        return "only a captured tensor can be indexed", "give all indices at once, as in `t[b, h]`"
    return NOTHING


def _missing(expected: set[str], before: str) -> Wording:
    """A sign that the statement cannot do without."""
    word = before.split(maxsplit=1)[0] if before.strip() else ""
    if "COLON" in expected and word == "attention":
        inside = before.count("(") > before.count(")")
        if inside:
            return "a parameter says what it is", "write `name: int = 256`, with one of int, float, bool"
        return (
            "`:` is missing after the name of the variant",
            "write `attention name:`, or `attention name(window: int = 256):`",
        )
    if "COLON" in expected and word == "capture":
        return (
            "a captured tensor says what it holds",
            "write `capture slopes: float[heads]`, with one of int, float, bool",
        )
    if expected == {"EQUAL"} and word == "attention":
        return "a parameter has a default", "write `name: int = 256`"
    if word == "def" and expected <= {"EQUAL", "LPAR"}:
        return "a helper has arguments and one expression", "write `def near(x, y) = abs(x - y) < 8`"
    if expected == {"EQUAL"}:
        return "a statement binds a name", "write `name = expression`"
    return NOTHING


def _wanted(expected: set[str]) -> Wording:
    if {"NAME", "LPAR", "INTEGER"} <= expected:
        return "an expression", "an expression goes on in the next line only inside parentheses"
    if {"PLUS", "_NEWLINE"} <= expected:
        return "an operator or the end of the line", None
    if {"PLUS", "RPAR"} <= expected:
        return "an operator, `,` or `)`", None
    if {"PLUS", "RSQB"} <= expected:
        return "an operator, `,` or `]`", None
    named = sorted({DESCRIBED[kind] for kind in expected if kind in DESCRIBED})
    return " or ".join(named) or "something else", None
