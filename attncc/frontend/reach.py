"""What a function reaches through closure cells, globals, defaults, attributes, items, bound objects and partials.

`reach` walks through a score and a mask function together, guided by the names in their code. The result changes with
everything that tracing could read, and with nothing else.
"""

from __future__ import annotations

import enum
import functools
import types
from typing import Any, Final

import torch

from attncc.frontend import reach_functions as plain
from attncc.frontend.declarations import declarations
from attncc.frontend.reach_objects import visit_class, visit_declaring, visit_object
from attncc.frontend.values import TracedTensor
from attncc.frontend.walk import Hint, Substitute, Visit, Walk

LIMIT: Final = 4096

HANDLERS: Final[dict[type, Visit]] = {
    type(None): plain.visit_none,
    type(Ellipsis): plain.visit_none,
    type(NotImplemented): plain.visit_none,
    bool: plain.visit_bool,
    int: plain.visit_int,
    torch.SymInt: plain.visit_open_int,
    float: plain.visit_float,
    complex: plain.visit_shown,
    str: plain.visit_text,
    bytes: plain.visit_text,
    range: plain.visit_range,
    slice: plain.visit_shown,
    set: plain.visit_set,
    frozenset: plain.visit_set,
    list: plain.visit_sequence,
    tuple: plain.visit_sequence,
    dict: plain.visit_mapping,
    types.MappingProxyType: plain.visit_mapping,
    torch.Tensor: plain.visit_tensor,
    torch.nn.Parameter: plain.visit_tensor,
    TracedTensor: plain.visit_opaque,
    torch.dtype: plain.visit_atom,
    torch.device: plain.visit_atom,
    torch.Size: plain.visit_shown,
    types.FunctionType: plain.visit_function,
    types.MethodType: plain.visit_method,
    functools.partial: plain.visit_partial,
    types.ModuleType: plain.visit_module,
    types.BuiltinFunctionType: plain.visit_built_in,
    types.WrapperDescriptorType: plain.visit_built_in,
    types.MethodDescriptorType: plain.visit_built_in,
    types.GetSetDescriptorType: plain.visit_built_in,
    types.MethodWrapperType: plain.visit_built_in,
    type(functools.lru_cache(lambda: None)): plain.visit_cached,
}
#: For what is not in `HANDLERS` itself: the first family that a type belongs to.
FAMILIES: Final[tuple[tuple[type, Visit], ...]] = (
    (torch.Tensor, plain.visit_tensor),
    (enum.Enum, plain.visit_atom),
    (functools.partial, plain.visit_partial),
    (tuple, plain.visit_sequence),
    (list, plain.visit_sequence),
    (dict, plain.visit_mapping),
    (type, visit_class),
    (torch.nn.Module, visit_object),
    (types.SimpleNamespace, visit_object),
)

_HINTS: dict[tuple[object, ...], Hint] = {}


def reach(functions: tuple[Any, ...], substitute: Substitute | None = None) -> tuple[Walk, tuple[Any, ...]]:
    """Walk through functions (or None) together; the walk, and the functions or what stands for them."""
    key = tuple(_root(function) for function in functions)
    hint = _HINTS.get(key) or Hint()
    while True:
        walk = Walk(hint, handler_of, substitute)
        found = tuple(_visited(walk, function) for function in functions)
        if not walk.more and not walk.again:
            return walk, found
        hint = Hint((*hint.names, *walk.more), walk.changes, walk.typed)
        if len(_HINTS) > LIMIT:
            _HINTS.clear()
        _HINTS[key] = hint


def _visited(walk: Walk, function: Any) -> object:
    # The dims that it declares for its captures become a part of the spec.
    walk.facts += declarations(function).items()
    return walk.visit(function, "function")


def handler_of(kind: type) -> Visit:
    """How a value of this type is gone through."""
    found = HANDLERS.get(kind)
    return found if found is not None else _family(kind)


@functools.lru_cache(maxsize=1024)
def _family(kind: type) -> Visit:
    if getattr(kind, "__attncc_captures__", None) is not None:
        return visit_declaring
    for base, handler in FAMILIES:
        if issubclass(kind, base):
            return handler
    origin = kind.__module__.partition(".")[0]
    fixed = callable(getattr(kind, "__hash__", None))
    if origin == "numpy":
        # An array holds numbers that may change; a scalar does not.
        return plain.visit_shown if fixed else plain.visit_opaque
    if origin in ("torch", "typing", "types"):
        return plain.visit_atom if fixed else plain.visit_opaque
    return visit_object


def _root(function: Any) -> object:
    """What tells one definition from another at a glance; nothing depends on it but speed."""
    for inner in ("__func__", "func", "function"):
        function = getattr(function, inner, function)
    code = getattr(function, "__code__", None)
    return code if isinstance(code, types.CodeType) else type(function).__qualname__
