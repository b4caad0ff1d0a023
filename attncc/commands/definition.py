"""The variant that a command line names: a file of `.attn` text, or a Python function.

Text is only read. A Python function is found by importing its module, or by running its file; either runs code, which
is what the help of every verb says.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from inspect import Parameter, signature
from pathlib import Path
from pkgutil import iter_modules
from types import FunctionType
from typing import TYPE_CHECKING, Any

from attncc.errors import AttnccError, InputError
from attncc.ir import AttentionSpec
from attncc.source import Source

if TYPE_CHECKING:
    from attncc.api import Variant

SCORE_ARGUMENTS = 5
MASK_ARGUMENTS = 4
WANTED = "a score function takes (score, b, h, q_idx, kv_idx), a mask function (b, h, q_idx, kv_idx)"
VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)


@dataclass(frozen=True, slots=True)
class Definition:
    """What a target means: its spec, and the Python functions it came from, if any."""

    target: str
    spec: AttentionSpec
    score_mod: Callable[..., Any] | None = None
    mask_mod: Callable[..., Any] | None = None
    values: Mapping[str, int | float | bool] = field(default_factory=dict)

    @property
    def is_python(self) -> bool:
        """Whether reading it ran code."""
        return self.score_mod is not None or self.mask_mod is not None

    def variant(self) -> Variant:
        """The variant, ready to be called."""
        from attncc.api import Variant, compile  # late: torch; `check` and `show` of a file do without it

        if self.is_python:
            return compile(self.score_mod, self.mask_mod, name=self.spec.name).bind(**self.values)
        return Variant(self.spec)


def read_definition(target: str, parameters: Mapping[str, int | float | bool] | None = None) -> Definition:
    """The variant that a target names, with these parameters. Raises InputError if there is none."""
    path, colon, names = target.rpartition(":")
    if target == "-" or target.endswith(".attn") or not colon or Path(target).is_file():
        from attncc.frontend import parse  # late: the grammar is loaded only where text is read

        return Definition(target, parse(_read_text(target), parameters))
    return _read_python(target, path, names, parameters or {})


def _read_text(target: str) -> Source:
    if target == "-":
        return Source("<stdin>", sys.stdin.read())
    if Path(target).suffix == ".py":
        raise InputError(f"{target}: which function?", hint=f"name it, as in {target}:causal")
    from attncc.frontend import read_source  # late: see read_definition

    return read_source(target)


def _read_python(target: str, path: str, names: str, parameters: Mapping[str, int | float | bool]) -> Definition:
    module = _run_file(Path(path)) if path.endswith(".py") else _import_module(path)
    found: dict[str, Callable[..., Any]] = {}
    left = dict(parameters)
    for name in names.split(","):
        value = _called(_find(module, name.strip(), target), name, left)
        for role, function in _roles(value, name).items():
            if role in found:
                raise InputError(f"{target} names two {role} functions", hint="give one of each, or compose them")
            found[role] = function
    return _trace(target, names, found, left)


def _trace(
    target: str, names: str, found: dict[str, Callable[..., Any]], parameters: Mapping[str, int | float | bool]
) -> Definition:
    from attncc.frontend import trace_functions  # late: torch

    score_mod, mask_mod = found.get("score"), found.get("mask")
    name = names.replace(",", "_").replace(".", "_")
    traced = trace_functions(score_mod, mask_mod, name if name.isidentifier() else None)
    return Definition(target, _set(traced.spec, parameters), score_mod, mask_mod, dict(parameters))


def _set(spec: AttentionSpec, values: Mapping[str, int | float | bool]) -> AttentionSpec:
    """The spec with other values of its parameters. Raises InputError for a name or a value that does not fit."""
    known = [parameter.name for parameter in spec.parameters]
    settings: dict[str, int] = {}
    for name, value in values.items():
        if name not in known:
            near = get_close_matches(name, known, 1)
            has = f"it has {', '.join(f'`{each}`' for each in known)}" if known else "it has none"
            hint = f"did you mean `{near[0]}`?" if near else has
            raise InputError(f"`{spec.name}` has no parameter `{name}`", hint=hint)
        if isinstance(value, bool) or not isinstance(value, int):
            raise InputError(f"the parameter `{name}` is an int, not {value!r}")
        settings[name] = value
    return replace(spec, parameters=tuple(replace(p, value=settings.get(p.name, p.value)) for p in spec.parameters))


def _import_module(name: str) -> Any:
    folder = str(Path.cwd())
    if folder not in sys.path:  # as `python -m` does
        sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    except AttnccError:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            hint = "a variant is file.attn, module:function or path.py:function"
            raise InputError(f"there is no module `{name}`", hint=hint) from None
        raise _broken_import(name, error) from error
    except (Exception, SystemExit) as error:  # whatever the user's module does
        raise _broken_import(name, error) from error


def _run_file(path: Path) -> Any:
    if not path.is_file():
        raise InputError(f"there is no file {path}", hint=f"paths start at {Path.cwd()}")
    name = path.stem
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(name, module)
    sys.path.insert(0, str(path.resolve().parent))  # as `python path.py` does
    try:
        spec.loader.exec_module(module)
    except AttnccError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's file does
        raise _broken_import(str(path), error) from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module


def _broken_import(name: str, error: BaseException) -> InputError:
    hint = "run it with Python first; --traceback shows where it happened"
    return InputError(f"importing {name} raised {type(error).__name__}: {error}", hint=hint)


def _find(module: Any, name: str, target: str) -> Any:
    value = module
    for part in name.split("."):
        if not hasattr(value, part):
            near = get_close_matches(part, dir(value), 1)
            inside = ", ".join(each.name for each in iter_modules(getattr(value, "__path__", ())))
            modules = f"its modules are {inside}: write {target.rpartition(':')[0]}.MODULE:{part}" if inside else None
            raise InputError(f"{target}: there is no `{part}`", hint=f"did you mean `{near[0]}`?" if near else modules)
        value = getattr(value, part)
    return value


def _called(value: Any, name: str, parameters: dict[str, int | float | bool]) -> Any:
    """What a function makes that is neither a score nor a mask but needs no arguments beside parameters.

    Those of `parameters` that it takes are taken out.
    """
    if not isinstance(value, FunctionType) or _positional(value) in (SCORE_ARGUMENTS, MASK_ARGUMENTS):
        return value
    wanted = signature(value).parameters
    needed = [p.name for p in wanted.values() if p.default is Parameter.empty and p.kind not in VARIADIC]
    missing = [each for each in needed if each not in parameters]
    if missing:
        shown = ", ".join(f"`{each}`" for each in missing)
        hint = f"{WANTED}; if it makes one of these from {shown}, name what it made: mine = {name}(...)"
        raise InputError(f"`{name}` takes {len(needed)} argument{'s' if len(needed) > 1 else ''}", hint=hint)
    try:
        made = value(**{each: parameters.pop(each) for each in wanted if each in parameters})
    except AttnccError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's function does
        raise InputError(f"{name}() raised {type(error).__name__}: {error}", hint=WANTED) from error
    if not callable(made):
        raise InputError(f"{name}() makes neither a score nor a mask, but {made!r}", hint=WANTED)
    return made


def _roles(value: Any, name: str) -> dict[str, Callable[..., Any]]:
    """The functions behind a name: of a Variant both, otherwise one, told apart by the number of its arguments."""
    if hasattr(value, "score_mod") and hasattr(value, "mask_mod"):  # a Variant
        both = {"score": value.score_mod, "mask": value.mask_mod}
        return {role: function for role, function in both.items() if function is not None}
    if not callable(value):
        raise InputError(f"`{name}` is not a function")
    count = _positional(value)
    if count == SCORE_ARGUMENTS:
        return {"score": value}
    if count == MASK_ARGUMENTS:
        return {"mask": value}
    raise InputError(f"`{name}` takes {count} arguments", hint=WANTED)


def _positional(function: Callable[..., Any]) -> int:
    return sum(1 for p in signature(function).parameters.values() if _is_positional(p))


def _is_positional(parameter: Parameter) -> bool:
    kinds = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    sizes = ("q_len", "kv_len", "batch", "heads")
    return parameter.kind in kinds and parameter.default is Parameter.empty and parameter.name not in sizes
