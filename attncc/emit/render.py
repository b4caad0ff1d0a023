"""From plans to the text of kernels: `KernelSource`.

The text that people read has the user's names, places and a docstring; the digest is of the same program with canonical
names and nothing that only helps the reader. The same input gives the same bytes.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields

from attncc.emit.plan import KernelPlan
from attncc.emit.templates import fill


@dataclass(frozen=True, slots=True)
class KernelSource:
    """A kernel as text: `name` for tracebacks and files, and the digest of the program that it holds."""

    name: str
    text: str
    digest: str


def render(readable: KernelPlan, canonical: KernelPlan) -> KernelSource:
    """The kernel of a plan, under the digest of the same plan with canonical names."""
    digest = hashlib.sha256(_fill(canonical).encode()).hexdigest()
    return KernelSource(f"{readable.name}_{readable.template.rsplit('/', 1)[-1]}", _fill(readable), digest)


def _fill(plan: KernelPlan) -> str:
    values: dict[str, object] = {field.name: getattr(plan, field.name) for field in fields(plan)}
    values["docstring"] = "\n".join(escaped(plan.docstring))
    return spaced(tidy(fill(plan.template, values)))


def escaped(lines: Sequence[str]) -> list[str]:
    """Lines that can stand in a docstring whatever the user wrote."""
    return [line.replace("\\", "\\\\").replace('"""', '\\"\\"\\"') for line in lines]


def tidy(text: str) -> str:
    """The text without spaces at the ends of its lines."""
    return "\n".join(line.rstrip() for line in text.split("\n"))


def spaced(text: str) -> str:
    """The text with the blank lines that Jinja's line statements swallow before definitions."""
    return re.sub(r"\n+(?=def )", "\n\n\n", re.sub(r"\n+(?=FLOAT = )", "\n\n", text))


def docstring(name: str, spec_text: str, reasons: Sequence[str], what: str) -> list[str]:
    """The docstring of a rendered kernel: variant, its `.attn` text, the schedule and why."""
    rows = [f"{name}: {what}.", "", *(f"    {line}".rstrip() for line in spec_text.rstrip("\n").split("\n")), ""]
    return [*rows, "Schedule:", *(f"- {reason}" for reason in reasons)]
