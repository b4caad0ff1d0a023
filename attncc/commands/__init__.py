"""The command line of attncc: one file per verb, each of them importing the compiler only when it runs.

Exit codes: 0 when all is well, 1 when a definition, a file or a tensor is wrong, 2 when the command line is.
"""

from __future__ import annotations

import sys

from attncc.commands.app import app
from attncc.commands.terminal import complain
from attncc.config import settings
from attncc.errors import AttnccError, InternalError

__all__ = ["app", "main"]

HINT = "this is a bug of attncc: please report it with what `attncc --traceback ...` prints"


def main() -> None:
    """Run the command line of this process."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # a terminal that cannot show a character shows a question mark instead
            reconfigure(errors="replace")
    try:
        app(prog_name="attncc")
    except Exception as error:
        if isinstance(error, AttnccError) or "--traceback" in sys.argv or settings().log == "debug":
            raise  # asked for: an error of attncc comes here only then
        complain(InternalError(f"{type(error).__name__}: {error}", hint=HINT))
        sys.exit(1)
