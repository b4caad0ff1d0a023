"""The command line of attncc: one file per verb, each of them importing the compiler only when it runs.

Exit codes: 0 when all is well, 1 when a definition, a file or a tensor is wrong, 2 when the command line is.
"""

from __future__ import annotations

import sys

from attncc.commands.app import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command line of this process."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # a terminal that cannot show a character shows a question mark instead
            reconfigure(errors="replace")
    app(prog_name="attncc")
