"""`attncc compile`: the kernels of variants for GPUs that need not be here, as a pack.

`make_verb` is given the function that emits the kernels of a pass; `emit_kernels` asks the pipeline for them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import combinations, product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from attncc.commands.arguments import Json, Params, Targets, read_pairs, read_params
from attncc.commands.cache import spell_bytes, spell_count
from attncc.commands.definition import read_definition
from attncc.commands.terminal import complain, complaints, console, note, print_json
from attncc.config import settings
from attncc.errors import AttnccError, InputError, InternalError
from attncc.ir import AttentionSpec, Scalar
from attncc.ir.spec import ANY_DIM

if TYPE_CHECKING:
    from attncc.emit.kernel import TritonKernel
    from attncc.runtime.pack import Pack
    from attncc.runtime.packing import Done, Task
    from attncc.runtime.triton_build import Built
    from attncc.schedule import Facts, Gradients, Problem

Build = Callable[["TritonKernel", str], "Built"]
#: From a variant, a problem and a target to every kernel that a call may build for a pass: the forward one where no
#: gradients are wanted. What it has to know of a kernel it learns by building it.
Emit = Callable[[AttentionSpec, "Problem", str, Build, Sequence[str]], Sequence["TritonKernel"]]

#: Sizes that a call may well have: they decide which reads of captures are proven to lie inside.
USUAL_BATCH, USUAL_HEADS, USUAL_LENGTH = 2, 8, 4096
#: What an open dimension is taken to hold: whatever its index can reach, so that only the index decides what is proven.
USUAL_DIM = 1 << 24
#: Tensors whose head sizes are multiples of this have strides and addresses that are, too.
ALIGNED = 16
#: Kinds of tensors by name: (whether they are aligned, whether they are wide).
LAYOUTS = {"aligned": ((True, False),), "any": ((False, False),), "wide": ((True, True), (False, True))}
#: Up to so many captured tensors take gradients in every combination; of more of them, all or none or one alone.
MOST_COMBINED = 3

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
#: float32 whose products round to TF32, as torch.backends.cuda.matmul.fp32_precision = "tf32" lets them.
TF32 = "tf32"
PACKED = {**DTYPES, TF32: TF32}
PASSES = ("forward", "backward")
#: What captured tensors are taken to be, where the command line does not say.
CAPTURED = {Scalar.FLOAT: "float32", Scalar.INDEX: "int64", Scalar.BOOL: "bool"}

Output = Annotated[Path, typer.Option("--output", "-o", help="The folder of the pack.", show_default=False)]
Architectures = Annotated[
    str | None,
    typer.Option("--target", "-t", help="GPUs, such as sm_80,sm_90,gfx942.", show_default="this machine's GPU"),
]
Dtypes = Annotated[str, typer.Option("--dtype", "-d", help=f"Of q, k and v: {', '.join(PACKED)}.")]
HeadDims = Annotated[str, typer.Option("--head-dim", "-D", help="Sizes of a head, such as 64,128.")]
ValueDims = Annotated[
    str | None, typer.Option("--value-dim", help="Sizes of a value.", show_default="that of the head")
]
Passes = Annotated[str, typer.Option("--pass", help="forward, backward, or both.")]
CaptureDtypes = Annotated[
    list[str] | None,
    typer.Option("--capture-dtype", metavar="NAME=DTYPE", help="A captured tensor that is not float32, int64 or bool."),
]
Layouts = Annotated[
    str,
    typer.Option(
        "--layout",
        help="Tensors: aligned (to 16 elements and bytes), any, wide (2 ** 30 elements and more for a head).",
    ),
]
Jobs = Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Processes.", show_default="one per core")]


@dataclass(frozen=True, slots=True)
class Request:
    """One pass of a variant for one problem and target; `labels` say so in the index of the pack."""

    spec: AttentionSpec
    problem: Problem
    target: str
    labels: dict[str, Any]
    layouts: tuple[str, ...] = ("aligned",)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line asks for, of every variant alike."""

    targets: tuple[str, ...]
    dtypes: tuple[str, ...]
    head_dims: tuple[int, ...]
    value_dims: tuple[int, ...]
    passes: tuple[str, ...]
    capture_dtypes: dict[str, str]
    layouts: tuple[str, ...] = ("aligned",)


def make_verb(emit: Emit) -> Callable[..., None]:
    """The verb `compile`, with the function that emits kernels."""

    def compile(
        variants: Targets,
        output: Output,
        target: Architectures = None,
        dtype: Dtypes = "bf16",
        head_dim: HeadDims = "64,128",
        value_dim: ValueDims = None,
        passes: Passes = "forward,backward",
        capture_dtype: CaptureDtypes = None,
        layout: Layouts = "aligned",
        param: Params = None,
        jobs: Jobs = None,
        as_json: Json = False,
    ) -> None:
        """
        Compile variants ahead of time into a pack; this machine needs no GPU.

        \b
          attncc compile window.attn --target sm_90 -o pack/
          attncc compile *.attn -t sm_80,sm_90,gfx942 --dtype bf16 --head-dim 64,128 -o pack/

        Started with ATTNCC_PACK=pack/, a program takes its kernels from there. With
        ATTNCC_DISABLE_JIT=1 too it compiles nothing, and says so where one is missing.
        A pack that was interrupted goes on where it stopped.
        """
        wanted = _read_wanted(target, dtype, head_dim, value_dim, passes, capture_dtype, layout)
        specs = [read_definition(name, read_params(param)).spec for name in variants]
        processes = jobs or os.cpu_count() or 1
        tasks = emit_tasks([one for spec in specs for one in requests_of(spec, wanted)], emit, output, processes)
        pack = _write(tasks, output, processes)
        if as_json:
            print_json({"folder": str(output), "triton": pack.triton, "kernels": list(pack.kernels)})
        else:
            _print(pack, output)

    return compile


def _read_wanted(
    target: str | None,
    dtype: str,
    head_dim: str,
    value_dim: str | None,
    passes: str,
    capture_dtype: list[str] | None,
    layout: str,
) -> Wanted:
    return Wanted(
        _read_targets(target),
        tuple(choose_name(name, PACKED, "--dtype") for name in split_names(dtype, "--dtype")),
        read_sizes(head_dim, "--head-dim"),
        () if value_dim is None else read_sizes(value_dim, "--value-dim"),
        tuple(choose_name(name, {one: one for one in PASSES}, "--pass") for name in split_names(passes, "--pass")),
        _read_capture_dtypes(capture_dtype),
        tuple(choose_name(name, {one: one for one in LAYOUTS}, "--layout") for name in split_names(layout, "--layout")),
    )


def requests_of(spec: AttentionSpec, wanted: Wanted) -> Iterator[Request]:
    """Every pass of a variant that is wanted; backward passes with and without gradients of captured tensors."""
    from attncc.schedule import Problem  # late: it brings the analysis
    from attncc.schedule.target import has_tf32  # late, as above

    unknown = wanted.capture_dtypes.keys() - {capture.name for capture in spec.captures}
    captured = tuple(wanted.capture_dtypes.get(one.name, CAPTURED[one.scalar]) for one in spec.captures)
    if unknown:
        raise InputError(f"{spec.name} captures no {', '.join(sorted(unknown))}")
    for target, dtype, head_dim in product(wanted.targets, wanted.dtypes, wanted.head_dims):
        for value_dim in wanted.value_dims or (head_dim,):
            held, rounds = ("float32", has_tf32(target)) if dtype == TF32 else (dtype, False)
            problem = Problem(held, head_dim, value_dim, USUAL_HEADS, USUAL_HEADS, captured, tf32=rounds)
            labels = {"variant": spec.name, "dtype": dtype, "head_dim": head_dim, "value_dim": value_dim}
            if "forward" in wanted.passes:
                yield Request(spec, problem, target, labels | {"pass": "forward"}, wanted.layouts)
            for gradients in _gradients(spec) if "backward" in wanted.passes else ():
                taking = [c.name for c, want in zip(spec.captures, gradients.captures, strict=True) if want]
                named = labels | {"pass": "backward", "gradients_of_captures": taking}
                yield Request(spec, replace(problem, gradients=gradients), target, named, wanted.layouts)


def _gradients(spec: AttentionSpec) -> list[Gradients]:
    """Which gradients a call may ask for: those of q, k and v have kernels of their own, so only captures are combined.

    Combinations that lower to the same kernels are compiled once.
    """
    from attncc.emit import differentiable  # late: it brings the analysis
    from attncc.schedule import Gradients

    places = [i for i, can in enumerate(differentiable(spec)) if can]
    if len(places) <= MOST_COMBINED:
        chosen = [frozenset(c) for size in range(len(places) + 1) for c in combinations(places, size)]
    else:
        chosen = [frozenset(), *(frozenset((place,)) for place in places), frozenset(places)]
    return [Gradients(captures=tuple(i in taking for i in range(len(spec.captures)))) for taking in chosen]


def emit_kernels(
    spec: AttentionSpec, problem: Problem, target: str, build: Build, layouts: Sequence[str] = ("aligned",)
) -> list[TritonKernel]:
    """The kernels that a call builds: with and without groups of heads, with reads of captures proven inside or not, on
    Hopper for few queries and many, and backward in one pass and in two.

    A call takes the first schedule that fits, so those that it tries before are among them.
    """
    from attncc.pipeline import lower  # late: the compiler
    from attncc.runtime.op import runs_gluon
    from attncc.runtime.triton_fit import settle_for
    from attncc.schedule import Target
    from attncc.schedule.gluon import SHORT

    kernels: dict[TritonKernel, None] = {}
    on_gpu = Target("triton", "cuda", target, gluon=runs_gluon(target), fast_math=settings().fast_math)

    def remember(kernel: TritonKernel, target: str) -> Built:
        built = build(kernel, target)
        kernels[kernel] = None  # none on which the compiler fails: its schedule gives way to another
        return built

    facts_of_calls = [*map(partial(_usual_facts, spec), (USUAL_LENGTH, *([SHORT] if on_gpu.gluon else []))), None]
    forms = (False, True) if on_gpu.gluon and problem.gradients is not None else (False,)
    for facts, kv_heads, same_bits in product(facts_of_calls, (USUAL_HEADS, USUAL_HEADS // 4), forms):
        posed = replace(problem, facts=facts, kv_heads=kv_heads, deterministic=same_bits)
        lowered = lower(spec, posed, on_gpu)
        programs = lowered.triton_forward if problem.gradients is None else lowered.triton_backward
        if programs is None:
            raise InternalError(f"{spec.name} has no Triton kernels for {target}")
        fits = problem.head_dim % ALIGNED == 0 and problem.value_dim % ALIGNED == 0
        for aligned, wide in dict.fromkeys((a and fits, w) for name in layouts for a, w in LAYOUTS[name]):
            program = settle_for(programs(aligned, wide), target, remember)
            for emitted in (*program.passes.values(), *program.lists.values()):
                remember(emitted.kernel, target)
    return list(kernels)


def _usual_facts(spec: AttentionSpec, length: int) -> Facts:
    """A call of usual sizes, in which a dimension that the variant leaves open holds whatever its index reaches."""
    from attncc.schedule import Facts  # late, as above

    sizes = {
        "batch": USUAL_BATCH,
        "heads": USUAL_HEADS,
        "q_len": length,
        "kv_len": length,
        ANY_DIM: USUAL_DIM,
    }
    shapes = tuple(
        tuple(dim if isinstance(dim, int) else sizes[dim] for dim in capture.dims) for capture in spec.captures
    )
    return Facts(USUAL_BATCH, length, length, shapes, tuple(one.value for one in spec.parameters))


def emit_tasks(requests: Sequence[Request], emit: Emit, folder: Path, jobs: int) -> list[Task]:
    """The kernels of all requests, in several processes, which build into the folder of the pack what they must know.

    Draws every error, then raises InputError if there was one.
    """
    from attncc.runtime.packing import Task, prepare, spread  # late: torch and the compiler's processes

    prepare(folder)
    calls = {number: (emit, request, folder) for number, request in enumerate(requests)}
    found: dict[int, Sequence[TritonKernel]] = {}
    with _progress("compiling", len(requests), "passes") as advance:
        for number, outcome in spread(_emit_one, calls, min(jobs, len(calls) or 1)):
            if isinstance(outcome, AttnccError):
                complain(outcome)
            else:
                found[number] = outcome
            advance()
    if len(found) < len(requests):
        wrong = len(requests) - len(found)
        raise InputError(f"{wrong} of {len(requests)} passes have no kernels", hint="leave these out, see above")
    return [
        Task(kernel, request.target, request.labels | {"kernel": kernel.entry})
        for number, request in enumerate(requests)
        for kernel in found[number]
    ]


def _emit_one(emit: Emit, request: Request, folder: Path) -> Sequence[TritonKernel]:
    from attncc.runtime.packing import build_into  # late, as above

    return emit(request.spec, request.problem, request.target, build_into(folder), request.layouts)


def _write(tasks: Sequence[Task], output: Path, jobs: int) -> Pack:
    from attncc.runtime.packing import write_pack  # late, as above

    count = len({(task.kernel, task.target) for task in tasks})
    with _progress("packing", count, "kernels") as advance:

        def observe(done: Done) -> None:
            advance()

        return write_pack(tasks, output, min(jobs, max(count, 1)), observe)


@contextmanager
def _progress(what: str, total: int, unit: str) -> Iterator[Callable[[], None]]:
    columns = (TextColumn(f"{what:<10}"), BarColumn(), MofNCompleteColumn(), TextColumn(unit), TimeElapsedColumn())
    terminal = complaints()
    with Progress(*columns, console=terminal, disable=not terminal.is_terminal) as progress:
        task = progress.add_task(what, total=total)
        yield lambda: progress.update(task, advance=1)


def _print(pack: Pack, output: Path) -> None:
    spilling = sorted(
        (_name(row), row["target"], row["registers"], row["spills"]) for row in pack.kernels if row["spills"]
    )
    if spilling:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("kernels that spill")
        table.add_column("target")
        table.add_column("registers", justify="right")
        table.add_column("bytes", justify="right")
        for name, target, registers, spills in spilling:
            table.add_row(Text(name), target, str(registers), str(spills))
        console().print(table)
    size = sum(found.size for found in pack.store.survey())
    targets = ", ".join(sorted({row["target"] for row in pack.kernels}))
    note(f"{spell_count(len(pack.kernels))} for {targets or 'nothing'}, {spell_bytes(size)}, in {output}")


def _name(row: Mapping[str, Any]) -> str:
    """What a kernel is for; where it serves several variants, the first of them."""
    label = row["for"][0]
    return " ".join(str(part) for part in (label["variant"], label["dtype"], label["head_dim"], row["entry"]))


def split_names(text: str, option: str) -> list[str]:
    """Names separated by commas. Raises typer.BadParameter for an empty or a repeated one."""
    items = [item.strip() for item in text.split(",")]
    if not all(items) or len(set(items)) < len(items):
        raise typer.BadParameter(f"{text!r} should be different names, separated by commas", param_hint=option)
    return items


def choose_name(name: str, choices: dict[str, str], option: str) -> str:
    """What a name, or its long form, stands for. Raises typer.BadParameter if it is none of the choices."""
    if name not in choices and name not in choices.values():
        raise typer.BadParameter(f"{name!r} is none of {', '.join(choices)}", param_hint=option)
    return choices.get(name, name)


def read_sizes(text: str, option: str) -> tuple[int, ...]:
    """Sizes separated by commas. Raises typer.BadParameter for anything else."""
    if not all(item.isdecimal() and int(item) > 0 for item in split_names(text, option)):
        raise typer.BadParameter(f"{text!r} should be sizes, separated by commas", param_hint=option)
    return tuple(int(item) for item in split_names(text, option))


def _read_capture_dtypes(options: list[str] | None) -> dict[str, str]:
    return {name: DTYPES.get(dtype, dtype) for name, dtype in read_pairs(options, "--capture-dtype").items()}


def _read_targets(text: str | None) -> tuple[str, ...]:
    """The targets of the command line, of the settings, or of this machine. Raises InputError if there are none."""
    from attncc.runtime.triton_version import parse_target  # late: torch is imported with this room

    found = settings().targets if text is None else tuple(split_names(text, "--target"))
    if not found:
        found = _own_target()
    for name in found:
        parse_target(name)
    return found


def _own_target() -> tuple[str, ...]:
    import torch

    if not torch.cuda.is_available():
        raise InputError("this machine has no GPU to compile for", hint="name GPUs, as in --target sm_80,sm_90,gfx942")
    from attncc.runtime.launch import target_of

    return (target_of(),)


compile_ahead = make_verb(emit_kernels)
