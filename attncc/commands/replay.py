"""`attncc replay`: a case on which kernels went wrong, run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from attncc.errors import CompileError

Folder = Annotated[Path, typer.Argument(help="The folder that an error named.", show_default=False)]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, …", show_default="where it went wrong")]


def replay(folder: Folder, device: Device = None) -> None:
    """
    Run a case again on which kernels differed from the reference.

    \b
      attncc replay ~/.cache/attncc/wrong/causal-0123456789ab
    """
    from attncc.api.self_test import replay as run  # late: torch

    found = run(folder, device)
    for finding, is_right in found:
        typer.echo(f"{'right' if is_right else 'WRONG'}  {finding.line}")
    wrong = [finding.name for finding, is_right in found if not is_right]
    if wrong:
        raise CompileError(f"still wrong: {', '.join(wrong)}")
