"""`attncc show`: a variant as attncc understands it, in `.attn` text, whichever way it was written."""

from __future__ import annotations

import typer

from attncc.commands.arguments import Json, Params, Target, read_params
from attncc.commands.definition import Definition, read_definition
from attncc.commands.terminal import print_json
from attncc.ir import print_spec


def show(target: Target, param: Params = None, as_json: Json = False) -> None:
    """
    Print a variant in its canonical .attn form, which can be read back.

    \b
      attncc show window.attn
      attncc show window.attn --param window=512
      attncc show mymodel.masks:window > window.attn     (imports mymodel.masks: runs its code)
      attncc show masks.py:alibi,window --json           (a score and a mask function together)
    """
    definition = read_definition(target, read_params(param))
    if as_json:
        print_json(describe(definition))
    else:
        typer.echo(print_spec(definition.spec), nl=False)


def describe(definition: Definition) -> dict[str, object]:
    """A variant for programs: its text, and what a call must bring."""
    spec = definition.spec
    return {
        "name": spec.name,
        "target": definition.target,
        "text": print_spec(spec),
        "captures": [{"name": c.name, "kind": str(c.scalar), "dims": list(c.dims)} for c in spec.captures],
        "parameters": [{"name": p.name, "value": p.value} for p in spec.parameters],
        "normalizer": spec.normalizer.value,
    }
