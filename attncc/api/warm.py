"""One call from tensors to results: checked once for each layout of tensors, then only looked up.

Whatever a check or a kernel depends on is part of a key: shapes, strides, dtypes, devices, alignment, options and
parameters. What the functions capture is read in each call. Where torch traces, transforms or intercepts operations,
each call is checked anew and goes through torch's operator.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final

import torch
from torch import Tensor

from attncc.api.inputs import Inputs, check_inputs
from attncc.api.lowering import make_call, prepare, run
from attncc.api.options import BACKENDS, Options, check_options
from attncc.api.program import Function, Program, Reading, latest
from attncc.api.values import locate
from attncc.errors import InputError
from attncc.frontend import Values
from attncc.runtime.eager import Attention, is_plain, layout_of
from attncc.runtime.op import wants_tf32

MAX_CHECKED: Final = 4096
MAX_PREPARED: Final = 1024
#: The options of calls that choose a back end at most.
USUAL: Final = {name: Options(name) for name in BACKENDS}

Read = Callable[[Mapping[str, Any] | None, torch.device | None], Reading]
Result = tuple[Tensor, Tensor | None]
Functions = tuple[Function | None, Function | None, str | None]

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
    functions: Functions | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The output, with `return_lse` also its lse. `read` gives the program and its values, of which some are given;
    `functions` are the score, the mask and the name that it reads, where nothing is given."""
    lse: Tensor | None
    if is_plain():
        out, lse = _attend(read, q, k, v, scale, options, given, bool(return_lse), functions)
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
    functions: Functions | None,
) -> Result:
    layouts = layout_of(q), layout_of(k), layout_of(v)
    known = None not in layouts and (scale is None or type(scale) is float)
    call = None
    if known:
        settings = _autocast("cuda" if q.is_cuda else q.device.type), options.is_deterministic, wants_tf32(q.dtype)
        call = (layouts, scale, settings)
    found = None if call is None or functions is None else latest(*functions, q.device)
    ready = None
    if found is not None:
        program, values = found
        held = tuple(map(layout_of, values.captures)) if values.captures else ()
        ready = (call, held, values.parameters, options, options.is_deterministic)
        prepared = program.ready.get(ready)
        if prepared is not None:
            return _located(program, values, prepared, q, k, v, with_lse)
    inputs = _checked(q, k, v, scale, call)
    reading = read(given, inputs.q.device)
    try:
        result, prepared, key = _run(reading, inputs, options, with_lse)
    except InputError as error:
        locate(error, reading.program.spec, reading.captures)
        raise
    if found is not None and key is not None and key == _key(*found, Inputs(q, k, v, inputs.scale), options):
        _keep(found[0].ready, ready, prepared)
    return result


def _located(
    program: Program, values: Values, prepared: Attention, q: Tensor, k: Tensor, v: Tensor, with_lse: bool
) -> Result:
    """A call that is ready, with the place of what it refuses."""
    try:
        return prepared(q, k, v, values.captures, with_lse)
    except InputError as error:
        captures = zip((each.name for each in program.spec.captures), values.captures, strict=True)
        locate(error, program.spec, dict(captures))
        raise


def _checked(q: Any, k: Any, v: Any, scale: Any, call: tuple[Any, ...] | None) -> Inputs:
    """The checked inputs of a call; what fits in one call fits in every other of its kind."""
    scale_of = None if call is None else _CHECKED.get(call)
    if scale_of is not None:
        return Inputs(q, k, v, scale_of)
    inputs = check_inputs(q, k, v, scale)
    if call is not None and inputs.q is q and inputs.k is k and inputs.v is v:
        _keep(_CHECKED, call, inputs.scale, MAX_CHECKED)
    return inputs


def _run(
    reading: Reading, inputs: Inputs, options: Options, with_lse: bool
) -> tuple[Result, Attention | None, Hashable | None]:
    """A call on checked inputs: by what was prepared for the like of it, if anything was. With what ran it, and the key
    by which others find that; None where only the operator runs it, or no other call shall find it."""
    q, k, v, program = inputs.q, inputs.k, inputs.v, reading.program
    captures: Any = tuple(reading.captures.get(each.name) for each in program.spec.captures)
    parameters = tuple(reading.parameters.get(each.name, each.value) for each in program.spec.parameters)
    key = _key(program, Values(captures, parameters), inputs, options)
    prepared = None if key is None else program.prepared.get(key)
    if prepared is None:
        call = make_call(reading, inputs, options)
        prepared = None if key is None else prepare(call)
        if prepared is None:
            return run(call), None, None
        if any(new is not old for new, old in zip(call.captures, captures, strict=True)):
            return prepared(q, k, v, call.captures, with_lse), None, None
        _keep(program.prepared, key, prepared)
    return prepared(q, k, v, captures, with_lse), prepared, key


def _key(program: Program, values: Values, inputs: Inputs, options: Options) -> Hashable | None:
    """All that what was prepared for a call depends on; None where tensors or numbers are not plain ones."""
    layouts = tuple(map(layout_of, (inputs.q, inputs.k, inputs.v)))
    held = tuple(map(layout_of, values.captures))
    if None in layouts or None in held or any(type(each) is not int for each in values.parameters):
        return None
    asked = options, options.is_deterministic, wants_tf32(inputs.q.dtype)
    return id(program), layouts, held, values.parameters, inputs.scale, asked


def _keep(memory: dict[Any, Any], key: Any, value: Any, limit: int = MAX_PREPARED) -> None:
    if len(memory) >= limit:
        memory.clear()
    memory[key] = value


def _autocast(kind: str) -> torch.dtype | None:
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
