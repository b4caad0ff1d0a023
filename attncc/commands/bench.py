"""`attncc bench`: variants beside other implementations of attention on this machine, each case in its own process."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from attncc.commands.arguments import Captures, Json, KvLen, Params, Seed
from attncc.commands.compile import DTYPES, PASSES, choose_name, read_sizes, split_names
from attncc.commands.prepare import prepare
from attncc.commands.terminal import console, note, print_json
from attncc.errors import InputError

if TYPE_CHECKING:
    from attncc.measure.cases import Shape
    from attncc.measure.contenders import Problem
    from attncc.report.benchmark import Timing


@dataclass(frozen=True, slots=True)
class Usual:
    """What is measured where the command line does not say; `width` is heads times head size."""

    batch: int
    width: int
    q_len: int
    head_dims: str
    dtype: str
    beside: str


#: On a GPU what docs/performance.md shows, on a CPU what takes seconds.
ON_GPU = Usual(2, 2048, 8192, "64,128", "bf16", "flex,cudnn,fa2,fa4")
ON_CPU = Usual(1, 256, 1024, "64", "fp32", "sdpa")

Cases = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[CASE]...",
        help="Cases by name, or variants: file.attn, module:function, path.py:function.",
        show_default="all cases",
    ),
]
Length = Annotated[int | None, typer.Option("--q-len", "-q", min=1, help="Number of queries.")]
Batch = Annotated[int | None, typer.Option("--batch", min=1, help="Batch size.")]
Heads = Annotated[int | None, typer.Option("--heads", min=1, help="Query heads.", show_default="by the head size")]
KvHeads = Annotated[int | None, typer.Option("--kv-heads", min=1, help="Key heads.", show_default="as query heads")]
HeadDims = Annotated[str | None, typer.Option("--head-dim", "-D", help="Sizes of a head, such as 64,128.")]
Dtype = Annotated[str | None, typer.Option("--dtype", "-d", help=f"{', '.join(DTYPES)}.")]
Passes = Annotated[str, typer.Option("--pass", help="forward, backward, or both.")]
Beside = Annotated[
    str | None, typer.Option("--beside", help="Of flex, sdpa, cudnn, fa2, fa4; `none` for attncc alone.")
]
Device = Annotated[str | None, typer.Option("--device", help="cuda or cpu.", show_default="cuda where there is one")]
Backend = Annotated[str, typer.Option("--backend", help="attncc's: auto, triton or torch.")]
Budget = Annotated[float, typer.Option("--budget", min=0.0, help="Milliseconds to spend on each time.")]
Limit = Annotated[float, typer.Option("--limit", min=1.0, help="Seconds that the process of a case may take.")]
Markdown = Annotated[bool, typer.Option("--markdown", help="Print a table for a page.")]
Alone = Annotated[bool, typer.Option("--alone", hidden=True, help="Measure here, one line of JSON for each result.")]


def bench(
    cases: Cases = None,
    q_len: Length = None,
    kv_len: KvLen = None,
    batch: Batch = None,
    heads: Heads = None,
    kv_heads: KvHeads = None,
    head_dim: HeadDims = None,
    dtype: Dtype = None,
    passes: Passes = "forward,backward",
    beside: Beside = None,
    device: Device = None,
    backend: Backend = "auto",
    budget: Budget = 200.0,
    limit: Limit = 300.0,
    capture: Captures = None,
    param: Params = None,
    seed: Seed = 0,
    as_json: Json = False,
    markdown: Markdown = False,
    alone: Alone = False,
) -> None:
    """
    Time variants beside other implementations: medians, TFLOP/s of visible pairs, the share of the matrix rate.

    \b
      attncc bench                                    the tables of the performance page
      attncc bench causal alibi -D 64,128 --pass forward
      attncc bench window.attn -q 32768 --beside flex --json
    """
    plan = make_plan(device, q_len, kv_len, batch, heads, kv_heads, head_dim, dtype, passes, beside, backend, budget)
    if alone:
        for name, dim in product(cases or (), plan.head_dims):
            _measure_here(name, plan.shape(dim), plan, capture, param, seed)
        return
    given = [*_repeated("--capture", capture), *_repeated("--param", param), f"--seed={seed}"]
    timings, about = _measure_all(cases, plan, given, limit)
    _print(timings, about, plan.dtype, as_json, markdown)


def _measure_all(
    cases: list[str] | None, plan: Plan, given: list[str], limit: float
) -> tuple[list[Timing], dict[str, Any]]:
    """All timings, and what was said about the machine."""
    from attncc.measure.cases import CASES  # late: torch

    wanted = [(name, dim) for dim in plan.head_dims for name in cases or CASES]
    timings: list[Timing] = []
    about: dict[str, Any] = {}
    for number, (name, dim) in enumerate(wanted, 1):
        note(f"{number} of {len(wanted)}: {name}, D {dim}")
        timings += _measure_apart(name, dim, plan, given, limit, about)
    return timings, about


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, of every case alike."""

    device: str
    batch: int
    heads: int | None
    width: int
    kv_heads: int | None
    q_len: int
    kv_len: int | None
    head_dims: tuple[int, ...]
    dtype: str
    passes: tuple[str, ...]
    rivals: tuple[str, ...]
    backend: str
    budget: float

    def shape(self, head_dim: int) -> Shape:
        """The sizes at one head size; without a number of heads, heads times head size stay the same."""
        from attncc.measure.cases import Shape  # late: torch

        heads = self.heads or max(1, self.width // head_dim)
        kv_len = self.q_len if self.kv_len is None else self.kv_len
        return Shape(self.batch, heads, self.kv_heads or heads, self.q_len, kv_len, head_dim)

    def arguments(self, head_dim: int) -> list[str]:
        """The same as a command line, for one head size."""
        shape = self.shape(head_dim)
        sizes: dict[str, Any] = {
            "q-len": shape.q_len,
            "kv-len": shape.kv_len,
            "batch": shape.batch,
            "heads": shape.heads,
        }
        sizes |= {"kv-heads": shape.kv_heads, "head-dim": head_dim, "dtype": self.dtype, "device": self.device}
        sizes |= {"pass": ",".join(self.passes), "beside": ",".join(self.rivals) or "none", "backend": self.backend}
        return [f"--{name}={value}" for name, value in {**sizes, "budget": self.budget}.items()]


def make_plan(
    device: str | None,
    q_len: int | None,
    kv_len: int | None,
    batch: int | None,
    heads: int | None,
    kv_heads: int | None,
    head_dim: str | None,
    dtype: str | None,
    passes: str,
    beside: str | None,
    backend: str,
    budget: float,
) -> Plan:
    """What the command line asks for, with what is usual on the device where it says nothing."""
    place = read_device(device)
    usual = ON_GPU if place.startswith("cuda") else ON_CPU
    return Plan(
        place,
        batch or usual.batch,
        heads,
        usual.width,
        kv_heads,
        q_len or usual.q_len,
        kv_len,
        read_sizes(head_dim or usual.head_dims, "--head-dim"),
        choose_name(dtype or usual.dtype, DTYPES, "--dtype"),
        tuple(choose_name(name, {one: one for one in PASSES}, "--pass") for name in split_names(passes, "--pass")),
        read_rivals(beside or usual.beside),
        backend,
        budget,
    )


def read_device(device: str | None) -> str:
    """The device to measure on. Raises InputError for a GPU that is not there."""
    import torch

    has = torch.cuda.is_available()
    if device is not None and device.startswith("cuda") and not has:
        raise InputError("this machine has no CUDA device", hint="leave --device out to measure on the CPU")
    return device or ("cuda" if has else "cpu")


def read_rivals(text: str) -> tuple[str, ...]:
    """What is measured beside attncc."""
    from attncc.measure.contenders import CONTENDERS  # late: torch

    names = [] if text == "none" else split_names(text, "--beside")
    return tuple(choose_name(name, {n: n for n in CONTENDERS if n != "attncc"}, "--beside") for name in names)


def title_of(name: str) -> str:
    """What tables call a case; a variant goes by its file or function."""
    from attncc.measure.cases import CASES  # late: torch

    return CASES[name][0] if name in CASES else Path(name.rpartition(":")[2]).stem


def _repeated(option: str, values: list[str] | None) -> list[str]:
    return [f"{option}={value}" for value in values or ()]


def _measure_here(
    name: str, shape: Shape, plan: Plan, capture: list[str] | None, param: list[str] | None, seed: int
) -> None:
    """Measure in this process and print each result at once, as a line of JSON."""
    from attncc.measure.bench import describe_machine, measure  # late: torch

    print(json.dumps(describe_machine(plan.dtype, plan.device, plan.budget)), flush=True)
    problem = make_problem(name, shape, plan, capture, param, seed)
    for timing in measure(title_of(name), problem, plan.dtype, plan.passes, ("attncc", *plan.rivals), plan.budget):
        print(json.dumps(dataclasses.asdict(timing)), flush=True)


def make_problem(
    name: str, shape: Shape, plan: Plan, capture: list[str] | None, param: list[str] | None, seed: int
) -> Problem:
    """The problem of a case by name, or of a variant."""
    from attncc.measure.cases import CASES  # late: torch
    from attncc.measure.problems import case_problem, variant_problem

    options = {"backend": plan.backend}
    if name in CASES:
        return case_problem(name, shape, plan.device, options)
    sizes = {"batch": shape.batch, "heads": shape.heads, "q_len": shape.q_len, "kv_len": shape.kv_len}
    prepared = prepare(name, capture, param, sizes, seed, plan.device)
    return variant_problem(prepared.variant, shape, plan.device, options)


def _measure_apart(
    name: str, head_dim: int, plan: Plan, given: list[str], limit: float, about: dict[str, Any]
) -> Iterator[Timing]:
    """Measure in a process that is ended after the limit; what it has found by then counts."""
    from attncc.measure.apart import TooSlow, run_apart
    from attncc.measure.contenders import CONTENDERS
    from attncc.report.benchmark import Timing  # late: tables

    command = [sys.executable, "-m", "attncc", "bench", "--alone", *plan.arguments(head_dim), *given, "--", name]
    titles = [CONTENDERS[each][0] for each in ("attncc", *plan.rivals)]
    missing = dict.fromkeys(product(titles, plan.passes))
    try:
        for found in run_apart(command, limit):
            if "case" not in found:
                about.update(found)
                continue
            timing = Timing(**found)
            missing.pop((timing.contender, timing.direction), None)
            yield timing
    except TooSlow:
        note(f"{name}: ended after {limit:g} s")
        for contender, direction in missing:
            reason = f"not measured: the case took longer than {limit:g} s"
            yield Timing(title_of(name), contender, head_dim, plan.q_len, direction, note=reason)


def _print(timings: list[Timing], about: dict[str, Any], dtype: str, as_json: bool, markdown: bool) -> None:
    from attncc.report import benchmark  # late: tables

    device, versions = (str(about.get(name, "unknown")) for name in ("device", "versions"))
    found = benchmark.Benchmark(device, versions, dtype, about.get("matrix_tflops"), tuple(timings))
    if as_json:
        print_json(benchmark.benchmark_dict(found))
    elif markdown:
        typer.echo(benchmark.benchmark_markdown(found), nl=False)
    else:
        console().print(benchmark.benchmark_table(found))
        for each in found.notes:
            note(each)
