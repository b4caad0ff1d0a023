"""Drawings of places: the carets stand below what is meant, and nothing in a text can reach the terminal."""

from __future__ import annotations

import pytest

from attncc.source import Source, Span, draw


def drawn(text, marked):
    start = text.index(marked)
    return draw(Span(Source("x.attn", text), start, start + len(marked))).splitlines()[-2:]


@pytest.mark.parametrize("sign", ["\x00", "\x1b[31m", "\x7f", "\u00a0", "\u200b", "\u202e", "\u3000", "\ud800"])
def test_what_cannot_be_seen_is_shown_as_a_sign(sign):
    line, carets = drawn(f"a = {sign}b", "b")
    shown = "".join(c if c.isprintable() else "\ufffd" for c in sign)
    assert line == f"1 | a = {shown}b"
    assert carets.index("^") == line.index("b", 6)


def test_tabs_and_wide_signs_keep_carets_below_their_word():
    assert drawn("\ta = 漢 + b", "b") == ["1 |     a = 漢 + b", "  | " + " " * 13 + "^"]
