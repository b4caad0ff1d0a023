"""`attncc diff`: a pair at which two variants differ, or that they are equal."""

from __future__ import annotations

from typing import Annotated

import typer

from attncc.commands.arguments import TARGET, Json, Params, read_params
from attncc.commands.definition import read_definition
from attncc.commands.terminal import print_json

First = Annotated[str, typer.Argument(metavar="A", help=TARGET, show_default=False)]
Second = Annotated[str, typer.Argument(metavar="B", help=TARGET, show_default=False)]


def diff(first: First, second: Second, param: Params = None, as_json: Json = False) -> None:
    """
    Say where two variants differ, with a pair that shows it, or that they are equal: proven, or only tested.

    \b
      attncc diff window.attn mymodel.masks:window
      attncc diff old.attn new.attn -p window=512
      attncc diff a.attn b.attn --json           (imports nothing: text is only read)

    Exits with 1 if they differ. Parameters have the values of the texts unless -p gives others, to each side that has
    them; where those agree, and the variants are equal for all others too, it says so.
    """
    from attncc.analysis.difference import compare
    from attncc.passes import simplify
    from attncc.pipeline import canonicalize
    from attncc.report.difference import difference_dict, difference_text

    values = read_params(param)
    read = [read_definition(target) for target in (first, second)]
    known = [{p.name for p in each.spec.parameters} for each in read]
    if values:
        given = [{name: value for name, value in values.items() if name in names} for names in known]
        given[0] |= {name: value for name, value in values.items() if not any(name in names for names in known)}
        read = [read_definition(target, own) for target, own in zip((first, second), given, strict=True)]
    specs = canonicalize(read[0].spec), canonicalize(read[1].spec)
    found = compare(*specs, simplify)
    if as_json:
        print_json({"a": first, "b": second, **difference_dict(found)})
    else:
        typer.echo(difference_text(first, second, specs, found))
    if not found.equal:
        raise typer.Exit(1)
