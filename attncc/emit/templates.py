"""The templates of kernels: found, read once, and filled in.

A template is Python as it stands. It has two kinds of hole, `{{ name }}` for a piece of an expression and
`#: print name | lines(8)` for whole lines, and `if` and `for` over plain values of a `KernelPlan`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Final

from jinja2 import Environment, StrictUndefined

from attncc.resources import resource_dir

#: Texts and comments, then words: a tenth of the time that Python's own tokenizer takes, which a first call waits for.
WORDS: Final = re.compile(r'''"""[\s\S]*?"""|(?:\bf)?"[^"\n]*"|'[^'\n]*'|\#[^\n]*|\b([A-Za-z_]\w*)''')


def indented(lines: Iterable[object], width: int) -> str:
    """Whole lines at an indentation, each with its end."""
    return "".join(f"{' ' * width}{line}\n" if str(line) else "\n" for line in lines)


@cache
def environment() -> Environment:
    """The one environment of all templates: an unknown name is an error, nothing is escaped."""
    made = Environment(
        line_statement_prefix="#:",
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        autoescape=False,
    )
    made.filters["lines"] = indented
    return made


@cache
def template_text(name: str) -> str:
    """The text of a template, by its path below `templates/` without `.py.j2`."""
    return resource_dir("templates").joinpath(f"{name}.py.j2").read_text(encoding="utf-8")


@cache
def identifiers(name: str) -> frozenset[str]:
    """Every name that a template uses, which no generated name may be."""
    return frozenset(found for found in WORDS.findall(template_text(name)) if found)


@cache
def _template(name: str) -> object:
    return environment().from_string(template_text(name))


def fill(name: str, values: dict[str, object]) -> str:
    """The template with its holes filled."""
    return str(_template(name).render(values))  # type: ignore[attr-defined]  # cached as object, a jinja2 Template
