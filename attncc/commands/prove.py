"""`attncc prove`: every claim about the tiles of a variant, why it holds, and what was tried against it."""

from __future__ import annotations

from typing import Annotated

import typer

from attncc.commands.arguments import Json, Params, Targets, read_params
from attncc.commands.definition import read_definition
from attncc.commands.terminal import note, print_json

Strict = Annotated[bool, typer.Option("--strict", help="Exit with 1 if a claim is only tested.")]
Cases = Annotated[int, typer.Option("--cases", min=0, help="Cases of each proof to write out.")]


def prove(
    targets: Targets, strict: Strict = False, param: Params = None, cases: Cases = 3, as_json: Json = False
) -> None:
    """
    Prove what is claimed about the tiles of variants, for every length, and look for a pair that refutes it.

    \b
      attncc prove window.attn
      attncc prove *.attn --strict               (for continuous integration)
      attncc prove mymodel.masks:window --json   (imports mymodel.masks: runs its code)

    A claim is proven by inequalities, tested only, or refuted with numbers. Exits with 1 if one is refuted.
    """
    from attncc.analysis.certificate import prove as certify
    from attncc.pipeline import canonicalize
    from attncc.report.claims import claims_dict, claims_text
    from attncc.report.emptiness import warn_of_emptiness

    records, failed = [], False
    for number, target in enumerate(targets):
        spec = canonicalize(read_definition(target, read_params(param)).spec)
        found = certify(spec.mask)
        warning = warn_of_emptiness(spec)
        failed |= found.is_refuted or (strict and not found.is_proven)
        records.append({"target": target, **claims_dict(spec.name, found), "warning": warning})
        if not as_json:
            typer.echo(("\n" if number else "") + claims_text(spec.name, spec.mask, found, cases))
        if warning is not None:
            note(f"warning: {warning}")
    if as_json:
        print_json(records)
    if failed:
        raise typer.Exit(1)
