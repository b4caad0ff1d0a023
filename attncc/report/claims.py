"""What is claimed about a mask's tiles and why each claim holds, in words and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attncc.analysis.bands import Dense
from attncc.analysis.certificate import Certificate, Claim, Verdict
from attncc.analysis.linear import Form, at_least_zero
from attncc.analysis.satisfy import Contradiction
from attncc.ir import Expr, postorder, print_expr

#: Cases of a proof that are written out in a terminal; `--json` has all of them.
SHOWN_CASES: Final = 3
#: Inequalities with more operations than this are named by their terms in one line all the same.
SHOWN_NODES: Final = 60


def claims_text(name: str, mask: Expr, found: Certificate, cases: int = SHOWN_CASES) -> str:
    """The certificate of a mask for people."""
    rows = [f"{name}: {summary(found)}", "", *(f"  {line}" for line in f"mask = {print_expr(mask)}".split("\n"))]
    if isinstance(found.shape, Dense):
        rows += ["", "  nothing is skipped: every tile is visited"]
    for claim in found.claims:
        rows += ["", f"  {claim.statement}", f"    {claim.verdict.value}{_numbers(claim.witness)}"]
        rows += _reasons(claim, cases)
    return "\n".join(rows)


def summary(found: Certificate) -> str:
    """How the claims stand, in one line."""
    counts = {
        "proven": sum(claim.is_proven for claim in found.claims),
        "tested only": sum(claim.verdict is Verdict.TESTED for claim in found.claims),
        "REFUTED": sum(claim.verdict is Verdict.REFUTED for claim in found.claims),
    }
    stands = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return f"{len(found.claims)} claims, {stands}; {found.pairs:,} pairs were looked at besides"


def claims_dict(name: str, found: Certificate) -> dict[str, object]:
    """The certificate for programs."""
    return {
        "name": name,
        "kind": type(found.shape).__name__.lower(),
        "proven": found.is_proven,
        "refuted": found.is_refuted,
        "pairs": found.pairs,
        "claims": [_claim_dict(claim) for claim in found.claims],
    }


def _claim_dict(claim: Claim) -> dict[str, object]:
    cases = () if claim.proof is None else claim.proof.contradictions
    return {
        "statement": claim.statement,
        "verdict": claim.verdict.name.lower(),
        "steps": 0 if claim.proof is None else claim.proof.steps,
        "cases": [
            {"sum": [[share, inequality(form)] for share, form in case.terms], "total": case.total} for case in cases
        ],
        "witness": claim.witness,
    }


def _reasons(claim: Claim, shown: int) -> list[str]:
    """Why a proven claim holds: for each case of its denial, inequalities that contradict each other."""
    if claim.proof is None:
        return []
    cases, steps = claim.proof.contradictions, claim.proof.steps
    if not cases:
        return ["    its denial is false by itself"]
    rows = [f"    bounds of the positions come from {steps} steps of elimination, each checked"] if steps else []
    rows += [
        "    if it did not hold, these would all hold, but in whole numbers they add up to a contradiction:"
        if len(cases) == 1
        else f"    if it did not hold, one of {len(cases)} cases would, but each adds up to a contradiction:"
    ]
    for number, case in enumerate(cases[:shown], 1):
        rows += [f"      case {number}"] if len(cases) > 1 else []
        rows += _case(case)
    return rows + ([f"      {len(cases) - shown} more; --json has them all"] if len(cases) > shown else [])


def _case(case: Contradiction) -> list[str]:
    lines = [(str(share), inequality(form)) for share, form in case.terms]
    width = max((len(share) for share, _ in lines), default=1)
    return [
        *(f"        {share:>{width}} x  {text}" for share, text in lines),
        f"        {'':>{width}}    {case.total} >= 0",
    ]


def inequality(form: Form) -> str:
    """form >= 0 as one line."""
    expr = at_least_zero(form)
    if len(postorder(expr)) <= SHOWN_NODES:
        text = print_expr(expr)
        if "\n" not in text:
            return text
    lines = print_expr(expr).split("\n")
    return f"{lines[-1]} where {', '.join(lines[:-1])}"


def _numbers(values: dict[str, int] | None) -> str:
    return "" if values is None else f": {spell_numbers(values)}"


def spell_numbers(values: dict[str, int], first: Sequence[str] = ("b", "h", "q_idx", "kv_idx")) -> str:
    """Names and numbers on one line, the pair before the rest."""
    names = [name for name in first if name in values] + [name for name in values if name not in first]
    return ", ".join(f"{name} = {values[name]}" for name in names)
