"""One call from tensors to results: checked once for each layout of tensors, then only looked up.

Whatever a check or a kernel depends on is part of a key: shapes, strides, dtypes, devices, alignment, options and
parameters. What the functions capture is read in each call. Where torch traces, transforms or intercepts operations,
each call is checked anew and goes through torch's operator.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from attncc.api.inputs import Inputs, check_inputs
from attncc.api.lowering import make_call, prepare, run
from attncc.api.options import BACKENDS, Options, check_options
from attncc.api.program import Reading
from attncc.api.values import locate
from attncc.errors import InputError
from attncc.runtime.eager import Layout, is_plain, layout_of
from attncc.runtime.op import wants_tf32

MAX_CHECKED: Final = 4096
MAX_PREPARED: Final = 1024
#: The options of calls that choose a back end at most.
USUAL: Final = {name: Options(name) for name in BACKENDS}

Read = Callable[[Mapping[str, Any] | None, torch.device | None], Reading]
Result = tuple[Tensor, Tensor | None]

#: The scale of calls whose q, k and v were found to fit, and go to kernels as they are.
_CHECKED: dict[tuple[Any, ...], float] = {}


def options_of(
    backend: object, block_m: object, block_n: object, deterministic: object, check_bounds: object, refine: object
) -> Options:
    """The checked options of a call."""
    if (
        block_m is block_n is deterministic is check_bounds is refine is None
        and type(backend) is str
        and backend in USUAL
    ):
        return USUAL[backend]
    return check_options(backend, block_m, block_n, deterministic, check_bounds, refine)


def attend(
    read: Read,
    q: Any,
    k: Any,
    v: Any,
    scale: object,
    options: Options,
    given: Mapping[str, Any] | None,
    return_lse: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    """The output, with `return_lse` also its lse. `read` gives the program and its values, of which some are given."""
    lse: Tensor | None
    if is_plain():
        out, lse = _attend(read, q, k, v, scale, options, given, bool(return_lse))
    else:
        inputs = check_inputs(q, k, v, scale)
        out, lse = run(make_call(read(given, inputs.q.device), inputs, options))
    return (out, lse) if return_lse and lse is not None else out


def _attend(
    read: Read,
    q: Any,
    k: Any,
    v: Any,
    scale: Any,
    options: Options,
    given: Mapping[str, Any] | None,
    with_lse: bool,
) -> Result:
    layouts = layout_of(q), layout_of(k), layout_of(v)
    key = checked = None
    if None not in layouts and (scale is None or type(scale) is float):
        key = (layouts, scale, _autocast(q.device.type))
        checked = _CHECKED.get(key)
    if checked is None:
        inputs = check_inputs(q, k, v, scale)
        if inputs.q is not q or inputs.k is not k or inputs.v is not v:
            q, k, v = inputs.q, inputs.k, inputs.v
            layouts = layout_of(q), layout_of(k), layout_of(v)
        elif key is not None:
            if len(_CHECKED) >= MAX_CHECKED:
                _CHECKED.clear()
            _CHECKED[key] = inputs.scale
    else:
        inputs = Inputs(q, k, v, checked)
    reading = read(given, q.device)
    try:
        return _run(reading, inputs, options, layouts, with_lse)
    except InputError as error:
        locate(error, reading.program.spec, reading.captures)
        raise


def _run(
    reading: Reading, inputs: Inputs, options: Options, layouts: tuple[Layout | None, ...], with_lse: bool
) -> Result:
    """A call on checked inputs: by what was prepared for the like of it, if anything was."""
    q, k, v = inputs.q, inputs.k, inputs.v
    program = reading.program
    captures = [reading.captures.get(each.name) for each in program.spec.captures]
    parameters = tuple(reading.parameters.get(each.name, each.value) for each in program.spec.parameters)
    held = tuple(map(layout_of, captures))
    if None in layouts or None in held or any(type(each) is not int for each in parameters):
        return run(make_call(reading, inputs, options))
    asked = options.checks_bounds(q.device.type), wants_tf32(q.dtype), options.is_deterministic
    key = (layouts, held, parameters, inputs.scale, options, asked)
    prepared = program.prepared.get(key)
    if prepared is None:
        call = make_call(reading, inputs, options)
        prepared = prepare(call)
        if prepared is None:
            return run(call)
        if any(new is not old for new, old in zip(call.captures, captures, strict=True)):
            return prepared(q, k, v, call.captures, with_lse)
        if len(program.prepared) >= MAX_PREPARED:
            program.prepared.clear()
        program.prepared[key] = prepared
    return prepared(q, k, v, captures, with_lse)  # type: ignore[arg-type]  # layouts are of tensors


def _autocast(kind: str) -> torch.dtype | None:
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
