"""How the text of kernels is laid out."""

from __future__ import annotations

from attncc.emit.triton.layout import flatten

BRANCHES = """\
for i in range(n):
    if True:
        a = 1

        if a:
            if True:
                b = 2
        c = 3
    d = 4
if False:
    e = 5"""
PLAIN = """\
for i in range(n):
    a = 1

    if a:
        b = 2
    c = 3
    d = 4
if False:
    e = 5"""


def test_a_branch_that_is_always_taken_is_none():
    assert flatten(BRANCHES) == PLAIN
    assert flatten(PLAIN) == PLAIN
