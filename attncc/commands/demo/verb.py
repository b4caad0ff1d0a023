"""The verb `attncc demo`: its options, its progress, what it prints and the folder that it leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from attncc.commands.arguments import Json
from attncc.commands.terminal import complaints, console, print_json
from attncc.errors import InputError, InternalError

if TYPE_CHECKING:
    from attncc.commands.demo.training import Run

MARKER = "results.json"
TOLERANCE = 1e-3
TOLERATED_STEPS = 50  # rounding grows with the steps: beyond these the two runs may part

Steps = Annotated[int, typer.Option("--steps", min=2, max=100_000, help="Steps of each of the two trainings.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="The folder for pictures, curves and the kernel.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the weights and of the text.")]


def demo(steps: Steps = 50, out: Out = Path("attncc-demo"), seed: Seed = 0, as_json: Json = False) -> None:
    """
    Train a small model on Python's own source files, with attncc and with dense attention, and compare.

    \b
      attncc demo
      attncc demo --steps 200 --out /tmp/demo
      attncc demo --json
    """
    prepare(out)
    results = _run(steps, seed, out)
    (out / MARKER).write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if as_json:
        print_json(results)
    else:
        _print(results, out)
    gap = results["largest_difference"]
    if not gap <= TOLERANCE:
        raise InternalError(
            f"the losses of the two trainings differ by {gap:.2g}, more than {TOLERANCE:g}",
            hint=f"please report this with {out / MARKER}",
        )


def prepare(out: Path) -> None:
    """Make the folder; one with files that no demo has left is refused."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file", hint="name a folder with --out")
    if out.is_dir() and any(out.iterdir()) and not (out / MARKER).is_file():
        raise InputError(f"the folder {out} holds other files", hint="name another folder with --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / MARKER).write_text("{}\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot write to {out}: {error.strerror}", hint="name another folder with --out") from None


def _run(steps: int, seed: int, out: Path) -> dict[str, Any]:
    import torch

    from attncc.commands.demo.model import Shape
    from attncc.commands.demo.report import leave, summarize
    from attncc.commands.demo.training import train

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    # Two minutes on two cores; a GPU is only busy with longer sequences.
    shape = Shape(length=4096, batch=1) if device.type == "cuda" else Shape()
    runs: dict[str, Run] = {}
    for backend, label in (("auto", "attncc"), ("reference", "dense reference")):
        with _progress(label, steps) as tick:
            runs[label] = train(shape, backend, steps, seed, device, tick)
    results = summarize(shape, device, seed, runs, TOLERATED_STEPS)
    results["files"] = leave(out, shape, device, seed, runs)
    results["tiles"] = results["files"].pop("tiles")
    return results


@contextmanager
def _progress(label: str, steps: int) -> Iterator[Any]:
    columns = (
        TextColumn("{task.description:<16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps   loss {task.fields[loss]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=complaints(), transient=False) as progress:
        task = progress.add_task(label, total=steps, loss="…")
        yield lambda loss: progress.update(task, advance=1, loss=f"{loss:.3f}")


def _print(results: dict[str, Any], out: Path) -> None:
    table = Table(title=Text(f"{results['steps']} steps on {results['device']}", style="bold"), title_justify="left")
    table.add_column("attention")
    for title in ("first loss", "last loss", "time of a step"):
        table.add_column(title, justify="right")
    for name, run in results["runs"].items():
        numbers = f"{run['losses'][0]:.4f}", f"{run['losses'][-1]:.4f}", f"{1000 * run['step_seconds']:.0f} ms"
        table.add_row(name, *numbers)
    terminal = console()
    terminal.print(table)
    tiles = results["tiles"]
    lines = [
        f"largest difference of the losses: {results['largest_difference']:.1e} (must stay below {TOLERANCE:g})",
        f"tiles visited: {tiles['visited']:,} of {tiles['total']:,} ({100 * tiles['visited'] / tiles['total']:.1f} %)",
        f"a step is {results['speedup']:.1f} times as fast as with dense attention",
        f"\nin {out}:",
        *(f"  {name:<16}{meaning}" for name, meaning in results["files"].items()),
    ]
    terminal.print(Text("\n".join(lines)))
