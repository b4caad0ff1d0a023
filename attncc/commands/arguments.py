"""The arguments and options that several verbs share, each declared once."""

from __future__ import annotations

from typing import Annotated

import typer

TARGET = (
    "file.attn, or module:function, or path.py:function (Python is imported: that runs its code; a function that makes "
    "the mask or the score is called, with its own defaults and --param)."
)

Target = Annotated[str, typer.Argument(metavar="VARIANT", help=TARGET, show_default=False)]
Targets = Annotated[list[str], typer.Argument(metavar="VARIANT...", help=TARGET, show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Captures = Annotated[
    list[str] | None,
    typer.Option(
        "--capture",
        "-c",
        metavar="NAME=FILE",
        help="A captured tensor: NAME=FILE.npy, or NAME=FILE.safetensors[:KEY]. Others get seeded example data.",
    ),
]
Params = Annotated[
    list[str] | None, typer.Option("--param", "-p", metavar="NAME=VALUE", help="A parameter, such as window=512.")
]
QLen = Annotated[int, typer.Option("--q-len", "-q", min=0, help="Number of queries.")]
KvLen = Annotated[
    int | None, typer.Option("--kv-len", "-k", min=0, help="Number of keys.", show_default="as many as queries")
]
Heads = Annotated[int, typer.Option("--heads", min=1, help="Query heads.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of the example data.")]


def read_pairs(options: list[str] | None, option: str) -> dict[str, str]:
    """The `name=value` options as a mapping. Raises typer.BadParameter for anything else, or for a name given twice."""
    pairs: dict[str, str] = {}
    for text in options or ():
        name, sign, value = text.partition("=")
        if not (sign and name and value):
            raise typer.BadParameter(f"{text!r} should be NAME=VALUE", param_hint=option)
        if name in pairs:
            raise typer.BadParameter(f"`{name}` is given twice", param_hint=option)
        pairs[name] = value
    return pairs


def read_params(options: list[str] | None) -> dict[str, int | float | bool]:
    """The `--param` options. Raises typer.BadParameter for a value that is no number, `true` or `false`."""
    return {name: _read_value(name, text) for name, text in read_pairs(options, "--param").items()}


def _read_value(name: str, text: str) -> int | float | bool:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for read in (lambda text: int(text, 0), float):
        try:
            return read(text)
        except ValueError:
            continue
    raise typer.BadParameter(f"`{name}` must be a number, true or false, not {text!r}", param_hint="--param")
