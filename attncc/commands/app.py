"""The command `attncc`: its verbs, its options, and what a user sees when something goes wrong."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from attncc import __version__
from attncc.commands.bench import bench
from attncc.commands.cache import cache
from attncc.commands.check import check
from attncc.commands.compile import compile_ahead
from attncc.commands.cost import cost
from attncc.commands.demo import demo
from attncc.commands.diff import diff
from attncc.commands.explain import explain
from attncc.commands.info import info
from attncc.commands.plot import plot
from attncc.commands.prove import prove
from attncc.commands.replay import replay
from attncc.commands.show import show
from attncc.commands.terminal import complain
from attncc.commands.tune import tune
from attncc.config import settings
from attncc.errors import AttnccError

VERBS = (demo, check, show, explain, plot, prove, diff, cost, compile_ahead, bench, tune, replay, info)

EPILOG = """
\b
A first look
  attncc demo                               train a small model, and compare
  attncc show window.attn                   the variant, as attncc reads it
  attncc explain window.attn -p window=512  which tiles are skipped, and why
  attncc plot window.attn -o window.png     a picture of the mask
  attncc check *.attn masks.py:causal       every mistake in all of them
  attncc prove window.attn                  why what it skips may be skipped
  attncc cost window.attn -q 1048576        its work, bytes and best time on a GPU
  attncc diff old.attn new.attn             a pair at which they differ, or that they are equal

A variant is a file of .attn text, which is data, or a Python function (module:function or path.py:function), which is
imported: that runs its code. `attncc VERB --help` has more examples.
"""


class Verbs(TyperGroup):
    """The group of verbs; it draws an error of attncc without Python's traceback and exits with 1."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except AttnccError as error:
            if _wants_traceback(ctx):
                raise
            complain(error)
            raise typer.Exit(1) from None


def _wants_traceback(ctx: Any) -> bool:
    try:
        return bool(ctx.params.get("traceback")) or settings().log == "debug"
    except AttnccError:  # the settings themselves are wrong: that is the error being drawn
        return False


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"attncc {__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=Verbs,
    name="attncc",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def options(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show Python's traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """A compiler for attention variants: write what a score or a mask means, get the kernels and the reasons."""
    settings()  # reading them early reports a wrong environment variable, and starts the log


for verb in VERBS:
    app.command()(verb)
app.add_typer(cache)
