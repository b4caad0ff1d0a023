"""The front door of the room: its names are the functions, in whichever order they are imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

ORDERS = (
    "from attncc.frontend import trace_functions, read_source",
    "from attncc.frontend.trace import Traced; from attncc.frontend.parse import read_source",
    "import attncc.frontend.trace, attncc.frontend.parse",
    "pass",
)


@pytest.mark.parametrize("first", ORDERS)
def test_trace_and_parse_are_functions_whatever_was_imported_first(first: str) -> None:
    program = f"{first}\nfrom attncc.frontend import trace, parse\nassert callable(trace) and callable(parse)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_reading_text_needs_no_torch() -> None:
    program = "import sys\nfrom attncc.frontend import parse\nassert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)
