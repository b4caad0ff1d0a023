"""`attncc tune`: the fastest schedules of a variant on this machine's GPU, measured and kept for later programs."""

from __future__ import annotations

import dataclasses
from itertools import product
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from attncc.commands.arguments import Captures, Json, KvLen, Params, Seed
from attncc.commands.bench import Batch, HeadDims, Heads, KvHeads, Length, Plan, make_plan, make_problem
from attncc.commands.compile import DTYPES, choose_name, split_names
from attncc.commands.terminal import console, note, print_json
from attncc.errors import InputError

if TYPE_CHECKING:
    from attncc.measure.contenders import Problem
    from attncc.measure.tune import Trial, Tuning
    from attncc.runtime.tuned import Winner

SCHEDULED = ("forward", "backward_q", "backward_kv", "backward_pairs")
ALL = ",".join(SCHEDULED)
Sizes = tuple[Any, Any, Any, Any, Any, Any, Any]  # both lengths, batch, both numbers of heads, head sizes, dtype
EFFORTS = ("quick", "full")

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[CASE]...", help="Cases of `attncc bench`, or variants.", show_default=False),
]
Kind = Annotated[str, typer.Option("--dtype", "-d", help=f"{', '.join(DTYPES)}.")]
Passes = Annotated[str, typer.Option("--pass", help=f"Of {', '.join(SCHEDULED)}.", show_default="all")]
Effort = Annotated[str, typer.Option("--effort", help="quick: the choices of the tables; full: everything that fits.")]
Budget = Annotated[float, typer.Option("--budget", min=0.0, help="Milliseconds to spend on each schedule.")]
List = Annotated[bool, typer.Option("--list", help="List what was found before; this needs no GPU.")]
Clear = Annotated[bool, typer.Option("--clear", help="Forget what was found: of the variants named, or all.")]


def tune(
    names: Names = None,
    q_len: Length = None,
    kv_len: KvLen = None,
    batch: Batch = None,
    heads: Heads = None,
    kv_heads: KvHeads = None,
    head_dim: HeadDims = "128",
    dtype: Kind = "bf16",
    passes: Passes = ALL,
    effort: Effort = "quick",
    budget: Budget = 100.0,
    capture: Captures = None,
    param: Params = None,
    seed: Seed = 0,
    list_winners: List = False,
    clear: Clear = False,
    as_json: Json = False,
) -> None:
    """
    Measure the schedules of a variant on this GPU; later programs on such a GPU take the fastest.

    \b
      attncc tune window.attn -q 32768 --effort full
      attncc tune causal alibi -D 64,128 --dtype fp16
      attncc tune --list
      attncc tune --clear
    """
    if list_winners or clear:
        _list_or_clear(names, clear, as_json)
        return
    sizes = (q_len, kv_len, batch, heads, kv_heads, head_dim, dtype)
    plan = _plan(names, sizes, budget)
    cases = product(names or (), plan.head_dims)
    problems = [(name, make_problem(name, plan.shape(dim), plan, capture, param, seed)) for name, dim in cases]
    _print(_tune_all(problems, plan, passes, effort), as_json)


def _plan(names: list[str] | None, sizes: Sizes, budget: float) -> Plan:
    if not names:
        raise InputError("which variant?", hint="name one, or a case of `attncc bench`; --list shows what was tuned")
    if not _has_gpu():
        raise InputError("tuning measures kernels on a GPU, and this machine has none", hint="attncc tune --list works")
    return make_plan("cuda", *sizes, passes="forward", beside="none", backend="triton", budget=budget)


def _print(found: list[tuple[str, int, Tuning]], as_json: bool) -> None:
    if as_json:
        print_json([{"case": name, "head_dim": dim, **dataclasses.asdict(tuning)} for name, dim, tuning in found])
    else:
        console().print(_tunings(found))


def _tune_all(
    problems: list[tuple[str, Problem]], plan: Plan, passes: str, effort: str
) -> list[tuple[str, int, Tuning]]:
    """What was found for each pass, with the name of the case and its head size."""
    from attncc.measure.gpu import tune_here  # late: torch

    chosen = [choose_name(name, {one: one for one in SCHEDULED}, "--pass") for name in split_names(passes, "--pass")]
    every = choose_name(effort, {one: one for one in EFFORTS}, "--effort") == "full"
    found: list[tuple[str, int, Tuning]] = []
    for name, problem in problems:
        done = tune_here(problem, plan.dtype, chosen, every, plan.budget, _observe)
        found += [(name, problem.shape.head_dim, tuning) for tuning in done]
    return found


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _observe(name: str, trial: Trial) -> None:
    from attncc.runtime.tuned import workers  # late: torch

    s = trial.schedule
    result = trial.note if trial.ms is None else f"{trial.ms:.3f} ms"
    note(f"{name}: {s.tile_q} x {s.tile_kv}, {workers(s)}: {result}")


def _tunings(found: list[tuple[str, int, Tuning]]) -> Table:
    from attncc.runtime.tuned import workers  # late: torch

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("variant", "D", "pass", "tiles", "run by", "ms", "before, ms", "tried"):
        table.add_column(title, justify="left" if title in ("variant", "pass") else "right")
    for name, dim, tuning in found:
        best, first = tuning.best, tuning.first
        if best is None or first is None:
            table.add_row(name, str(dim), tuning.name, "nothing fits", *[""] * 3, str(len(tuning.trials)))
            continue
        s = best.schedule
        sizes = (f"{s.tile_q} x {s.tile_kv}", workers(s))
        table.add_row(name, str(dim), tuning.name, *sizes, _ms(best), _ms(first), str(len(tuning.timed)))
    return table


def _ms(trial: Trial) -> str:
    return "" if trial.ms is None else f"{trial.ms:.3f}"


def _list_or_clear(names: list[str] | None, clear: bool, as_json: bool) -> None:
    from attncc.runtime.tuned import all_winners, forget  # late: the cache

    found = [(key, winner) for key, winner in all_winners() if not names or winner.variant in names]
    if clear:
        forget([key for key, _ in found])
    if as_json:
        print_json([{"key": key, **dataclasses.asdict(winner), "removed": clear} for key, winner in found])
        return
    if found:
        console().print(_winners([winner for _, winner in found]))
    count = "1 schedule" if len(found) == 1 else f"{len(found)} schedules"
    note(f"{count} {'removed' if clear else 'tuned'}")


def _winners(found: list[Winner]) -> Table:
    from attncc.runtime.tuned import workers  # late: the cache

    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("variant", "pass", "device", "date", "tiles", "run by", "ms", "before, ms", "measured on"):
        table.add_column(title)
    for w in found:
        s = w.schedule
        sizes = (f"{s.tile_q} x {s.tile_kv}", workers(s), f"{w.ms:.3f}")
        before = "" if w.first_ms is None else f"{w.first_ms:.3f}"
        table.add_row(w.variant, w.name, w.device, w.date, *sizes, before, w.shape)
    return table
