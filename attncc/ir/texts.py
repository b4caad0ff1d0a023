"""The text by which torch's operators know a spec, and the specs that this process has seen, by it."""

from __future__ import annotations

import threading
from typing import Final

from attncc.ir.spec import AttentionSpec
from attncc.ir.text import print_spec

#: What stands for the end of a line in the text that operators take; no `.attn` text has it.
LINE_END: Final = "\u21b5"

_SPECS: dict[str, AttentionSpec] = {}
_LOCK = threading.Lock()


def remember(spec: AttentionSpec) -> str:
    """The text by which `known_spec` finds this spec, in one line: torch.compile writes it into a comment."""
    text = print_spec(spec).replace("\n", LINE_END)
    with _LOCK:
        _SPECS.setdefault(text, spec)
    return text


def known_spec(text: str) -> AttentionSpec | None:
    """The spec of this text, if this process has seen it."""
    return _SPECS.get(text)
