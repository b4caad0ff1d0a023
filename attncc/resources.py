"""Where the files that are not Python lie: the grammar and the templates.

They sit inside the package once attncc is installed, and beside it in a source tree. Nothing is read here.
"""

from __future__ import annotations

from pathlib import Path

from attncc.errors import InternalError

PACKAGE = Path(__file__).resolve().parent


def resource_dir(name: str) -> Path:
    """The folder `name` (`grammar` or `templates`). Raises InternalError if this installation lacks it."""
    for folder in (PACKAGE / name, PACKAGE.parent / name):
        if folder.is_dir():
            return folder
    raise InternalError(f"this installation of attncc has no folder `{name}`", hint="install attncc again")
